"Copy what a page shows, and nothing more, from the run folders into nbs/results/."
import shutil, sys
from pathlib import Path
import pandas as pd
from PIL import Image
from iutok.analysis import label
from iutok.checks import PROFILES
from iutok.files import load_json,project_root,save_json
from iutok.data import load_images
from iutok.evaluation import ids_that_differ
from iutok.precision import arithmetic, cpu_kind
from iutok.budget import reference_rate
from iutok.tokenizers import Tokenizer

PAGES = dict( # page -> the tokenizers it compares, as patterns of run names
    losses=['vqgan-pixel-s?', 'vqgan-perceptual-s?', 'vqgan-gan-s?', 'vqgan-gentle-s?', 'vqgan-both-s?'],
    codebooks=['vqgan-k1024-*-s?', 'cvqvae-k1024-*-s?'])

def rows_of_table(runs, out): # the rows of table 1, the pictures of its first seed, and every run behind them
    names,seen,families = list(load_json(runs/'table1_tokenizers'/'record.json')['uses']),set(),set()
    for n in names:
        if (tokenizer := label(load_json(runs/n/'record.json'))) in seen: continue
        seen.add(tokenizer)
        (out/n).mkdir(parents=True)
        more = () if (family := tokenizer.split(' (')[0]) in families else ('reconstructions.png','patches.png') # of one tokenizer per family
        for f in ('strip.png', *more): shutil.copy(runs/n/f, out/n/f)
        families.add(family)
        made = Image.open(sorted((runs/n).glob('samples-*'))[-1]) # of the small network where there is one
        made.crop((0, 0, made.width//2, made.height)).quantize(32).save(out/n/'samples.png', optimize=True)
    for f in ('table1_tokenizers.csv','table1_tokenizers/tokenizers.png'): shutil.copy(runs/f, out/Path(f).name)
    def behind(n): # names of the runs that a run builds on, itself included
        return {n}.union(*(behind(u['run']) for u in load_json(runs/n/'record.json')['uses'].values()))
    return names,sorted(behind('table1_tokenizers'))

def tokenizers_alone(runs, out, page): # their reconstructions and learning curves
    trained = [p.parent.name for pattern in PAGES[page] for p in sorted(runs.glob(f'{pattern}/record.json'))]
    if not trained: sys.exit(f"scripts/collect: {runs.name} holds no finished run named like {', '.join(PAGES[page])}.")
    names = [f'{n}-scores' for n in trained]
    if missing := [n for n in names if not (runs/n/'record.json').exists()]: sys.exit(f"scripts/collect: not scored yet: {', '.join(missing)} (scripts/run evaluate ... ars=[]).")
    out.mkdir(parents=True)
    for n in trained:
        shutil.copy(runs/f'{n}-scores'/'strip.png', out/f'{n}.png')
        if page=='codebooks': shutil.copy(runs/f'{n}-scores'/'codebook.png', out/f'{n}-codebook.png')
        pd.read_csv(runs/n/'curves.csv').drop(columns='images_per_s').to_csv(out/f'{n}.csv', index=False, float_format='%.4g')
    return names,sorted(trained+names)

def other_arithmetic(runs, names): # share of ids that bfloat16 changes, for the first tokenizer of each kind
    out = {}
    for n in names:
        record = load_json(runs/n/'record.json')
        if label(record) in out: continue
        tok = Tokenizer.load(runs/n.removesuffix('-scores'))
        u8 = load_images(record['params']['data'], 'test').take(500).batch(range(500), tok.image_size)
        out[label(record)] = ids_that_differ(tok, u8)
    return out

def main(what='table1', profile='mini'):
    if what not in ('table1', *PAGES) or profile not in PROFILES: sys.exit(f"scripts/collect [table1|{'|'.join(PAGES)}] [{'|'.join(PROFILES)}]")
    root = project_root()
    runs,out = root/'runs'/profile,root/'nbs'/'results'/f'{what}_{profile}'
    new = out.with_name(out.name+'.new')
    shutil.rmtree(new, ignore_errors=True)
    names,behind = rows_of_table(runs, new) if what=='table1' else tokenizers_alone(runs, new, what)
    if what=='table1': save_json(new/'arithmetic.json', other_arithmetic(runs, names))
    if what=='table1': save_json(new/'cost.json', dict(rate=reference_rate(), arithmetic=arithmetic('auto'), **cpu_kind())) # of this machine, which made them
    save_json(new/'records.json', [load_json(runs/n/'record.json') for n in names])
    save_json(new/'runs.json', [load_json(runs/n/'record.json') for n in behind])
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    print(f'{len(names)} rows -> {out.relative_to(root)}')

if __name__=='__main__': main(*sys.argv[1:])
