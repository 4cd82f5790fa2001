"Run the workflow of the main job, show how far it is, and print the table."
import argparse, fcntl, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
from iutok.files import load_json, project_root
from iutok.settings import PROFILES, anchored, parse_words, resolve

ROOT = project_root()

def overrides(words): # train_ar.steps=500 -> {'train_ar': {'steps': 500}}, judged as a run would
    out = {}
    for w in words:
        m = re.fullmatch(r'(\w+)\.(\w+=.*)', w)
        if not m: sys.exit(f"scripts/reproduce: '{w}' is not of the form NOTEBOOK.parameter=value, e.g. train_ar.steps=500.")
        notebook,word = m.groups()
        try:
            out.setdefault(notebook, {}).update(anchored(parse_words(notebook, [word])))
            resolve(notebook, out[notebook])
        except ValueError as e: sys.exit(f'scripts/reproduce: {e}')
    return out

def clock(s): return f'{int(s)//60}:{int(s)%60:02d}'

def status(folder, log): # one line: runs done, and where the current ones are
    done = re.findall(r'(\d+) of (\d+) steps', log)
    parts = [f'{done[-1][0]} of {done[-1][1]} runs done' if done else 'starting']
    for p in sorted(folder.glob('*/progress.json'), key=os.path.getmtime):
        if time.time()-p.stat().st_mtime<15 and not (p.parent/'record.json').exists():
            try: j = load_json(p)
            except ValueError: continue
            parts.append(f"{p.parent.name} {j['step']}/{j['steps']}, {j['images_per_s']:.0f} images/s, {clock(j['eta'])} left")
    return '; '.join(parts)

def end(p, patience=20.): # stop the process and all it started; snakemake can hang when the signal comes while it books a finished run, whose record is then made again
    os.killpg(p.pid, signal.SIGTERM)
    try: p.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()

def main():
    ap = argparse.ArgumentParser(prog='scripts/reproduce')
    ap.add_argument('--profile', default='mini', choices=PROFILES)
    ap.add_argument('--cores', type=int, default=os.cpu_count())
    ap.add_argument('--teachers', type=lambda s: s.split(','), help='of VQ-KD and Cluster, e.g. effnet,dino; default: a row for each that the profile has')
    ap.add_argument('--seeds', type=lambda s: [int(x) for x in s.split(',')], help='of tokenizers and proposal networks, e.g. 0 or 0,1,2; default: 0,1 (paper: 3407)')
    ap.add_argument('--data_root', help='folder of ImageNet, for the profile paper')
    ap.add_argument('overrides', nargs='*', help='NOTEBOOK.parameter=value')
    a = ap.parse_args()
    folder = ROOT/'runs'/a.profile
    folder.mkdir(parents=True, exist_ok=True)
    path = folder/'workflow.log'
    config = folder/'workflow.json' # a file keeps the types that a command line would lose
    config.write_text(json.dumps(dict(profile=a.profile, teachers=a.teachers, seeds=a.seeds, data_root=a.data_root, overrides=overrides(a.overrides))))
    cmd = [sys.executable, '-m', 'snakemake', '-s', str(ROOT/'scripts'/'Snakefile'), '--directory', str(folder), '--cores', str(a.cores), '--keep-going', '--rerun-incomplete', '--nolock',
           '--rerun-triggers', 'mtime', 'params', 'input', '--configfile', str(config)]
    print(f'The main job, profile {a.profile}, on {a.cores} cores. Finished runs are kept in runs/{a.profile}; the workflow\'s log is runs/{a.profile}/workflow.log.', flush=True)
    began,said,shown = time.time(),0.,set()
    lock = (folder/'.lock').open('w') # held by the workflow too, as long as one of the two lives
    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: sys.exit(f'scripts/reproduce: another call is at work in runs/{a.profile}. Wait until it has finished, or stop it.')
    def stop(*_): raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    with path.open('w') as log:
        p = subprocess.Popen(cmd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock.fileno()])
        try:
            while p.poll() is None:
                time.sleep(.5)
                text = path.read_text()
                finished = {f.parent.name for f in folder.glob('*/record.json') if f.stat().st_mtime>began}
                for name in sorted(finished-shown): print(f'[{clock(time.time()-began)}] {name} finished', flush=True)
                shown |= finished
                if sys.stdout.isatty(): print(f'\r\033[K[{clock(time.time()-began)}] {status(folder, text)}'[:150], end='', flush=True)
                elif time.time()-said>30: said = time.time(); print(f'[{clock(time.time()-began)}] {status(folder, text)}', flush=True)
        except KeyboardInterrupt:
            end(p)
            sys.exit(f'\nStopped. Call scripts/reproduce --profile {a.profile} again and it continues where it was.')
    if sys.stdout.isatty(): print('\r\033[K', end='')
    if p.returncode:
        text = path.read_text()
        failed = re.findall(r'Error in rule (\w+):.*?log: (\S+)', text, re.S)
        for rule,l in dict(failed).items():
            tail = (folder/l).read_text().strip().splitlines()[-12:] if (folder/l).exists() else []
            print(f'\n{rule} failed; its log is runs/{a.profile}/{l} and ends:\n  '+'\n  '.join(tail))
        sys.exit(f'\nThe workflow stopped; its log is runs/{a.profile}/workflow.log. Mend the cause and call scripts/reproduce again: finished runs are kept.')
    sys.path.insert(0, str(ROOT))
    import pandas as pd
    from iutok.analysis import show_table
    p = load_json(folder/'table1_tokenizers'/'record.json')['protocol']
    df = pd.read_csv(folder/'table1_tokenizers.csv')
    print(show_table(df, p['fd']).to_string(line_width=shutil.get_terminal_size((160, 24)).columns))
    print(f"\n{p['fd']}: features of {p['extractor']}, {p['n_images']:,} images against {p['n_reference']:,} of {p['reference']}. ± is half the distance between the extremes of several seeds.")
    print(f"Table: runs/{a.profile}/table1_tokenizers.csv\nReport: runs/{a.profile}/report.html\nDone in {clock(time.time()-began)}.")

if __name__=='__main__': main()
