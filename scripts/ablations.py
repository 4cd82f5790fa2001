"Train the tokenizers of the ablation page, without decoders and proposal networks, and read classes off their codes."
import json, subprocess, sys
from pathlib import Path
from iutok.files import load_json,project_root,save_json
from iutok.runs import read_record
from iutok.data import load_images
from iutok.evaluation import probe_codes
from iutok.proposals.tokens import tokens_of
from iutok.tokenizers import Tokenizer

ROOT = project_root()
HERE,RUNS = ROOT/'nbs'/'results'/'ablations',ROOT/'runs'/'ablations'

def main(names):
    plan = load_json(HERE/'plan.json')
    if wrong := [n for n in names if n not in plan]: sys.exit(f"scripts/ablations: the plan has no {', '.join(wrong)}; it has {', '.join(plan)}.")
    for name in names or plan:
        out,row,run = HERE/f'{name}.json',plan[name],RUNS/name
        if out.exists(): print(f'{name}: recorded already'); continue
        words = [f'{k}={json.dumps(v) if not isinstance(v, str) else v}' for k,v in row['params'].items()]
        done = subprocess.run([sys.executable, ROOT/'scripts'/'run.py', row['notebook'], *words, f'name={name}', f'run_root={RUNS}'])
        if done.returncode: print(f'{name}: failed'); continue
        tok,record = Tokenizer.load(run),read_record(run)
        train,held = (tokens_of(tok, load_images(record['params']['data'], s), RUNS/'cache') for s in ('train', 'test'))
        save_json(out, {k:v for k,v in record.items() if k!='folder'} | dict(metrics=record['metrics'] | probe_codes(tok, train, held)))

if __name__=='__main__': main(sys.argv[1:])
