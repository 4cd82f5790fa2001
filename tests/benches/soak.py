"""A training of the mini table that is killed thirty times, every third time in the middle of a save, against one that
was left alone: the same weights, to the last bit.

IUTOK_KILLS=3 kills less often. IUTOK_PROFILE=smoke trains less, and saves at its end alone. Killed is all that
`scripts/run` started."""
import json, os, random, subprocess, sys, tempfile, time
from contextlib import suppress
from pathlib import Path
import psutil
from _measure import row

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get('IUTOK_KILLS', 30))
PROFILE = os.environ.get('IUTOK_PROFILE', 'mini')

def start(root, name):
    "The training, in a process of its own."
    words = [f'profile={PROFILE}', f'run_root={root}', f'name={name}', 'data=fashion']
    log = (root/f'{name}.log').open('a')
    env = os.environ | dict(OMP_NUM_THREADS='1', IUTOK_HERE=str(ROOT), PYTHONPATH=str(ROOT))
    return subprocess.Popen([sys.executable, str(ROOT/'scripts'/'run'), 'train_vqgan', *words], cwd=ROOT, env=env,
                            stdout=log, stderr=log)

def kill(p):
    "SIGKILL to all of it at once; the page's process is in no group of ours."
    whole = psutil.Process(p.pid)
    for child in [*whole.children(recursive=True), whole]:
        with suppress(psutil.NoSuchProcess): child.kill()
    p.wait()

def saves(folder): return list(folder.glob('.checkpoint.pt.*')) # being written

def wait(p, until, seconds):
    "Whether it came true before the training ended, or time ran out."
    ends = time.time()+seconds
    while p.poll() is None and time.time()<ends:
        if until(): return True
        time.sleep(.002)
    return False

def reached(folder, began):
    "The step that a process started after `began` says it is at; -1 before it says anything."
    path = folder/'progress.json'
    try: return json.loads(path.read_text())['step'] if path.stat().st_mtime>began else -1
    except (FileNotFoundError, ValueError): return -1

def killed(root, name, steps):
    "Trains, killed at KILLS steps, which ascend; how many kills it got, and how many of them hit a save."
    rng,kills,in_a_save = random.Random(0),0,0
    folder = root/name
    for k,s in enumerate(sorted(rng.randrange(steps) for _ in range(KILLS))):
        p,began = start(root, name),time.time()
        wait(p, lambda: reached(folder, began)>=s, 600)
        if k%3==0: in_a_save += wait(p, lambda: saves(folder), 600) # of the next checkpoint
        if p.poll() is not None: break
        kill(p)
        kills += 1
    return kills,in_a_save

def finish(root, name):
    "To its end, without a kill."
    if start(root, name).wait(): raise RuntimeError((root/f'{name}.log').read_text()[-2000:])

def weights(folder):
    from safetensors.torch import load_file
    return load_file(folder/'tokenizer.safetensors')

def rows():
    "The share of equal weights."
    import torch
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        finish(root, 'whole')
        record = json.loads((root/'whole'/'record.json').read_text())
        steps = record['params']['steps']
        kills,hit = killed(root, 'killed', steps)
        finish(root, 'killed')
        a,b = weights(root/'whole'),weights(root/'killed')
        same = sum(int(torch.eq(a[k], b[k]).sum()) for k in a)
        n = sum(t.numel() for t in a.values())
    work = f'{PROFILE} vqgan, {kills} SIGKILLs, {hit} in a save'
    ok = kills==KILLS and a.keys()==b.keys() and same==n
    yield row(work, 'itself, undisturbed', same/n, 1., 'equal', 1.) | dict(least=1., note='', ok=ok)
