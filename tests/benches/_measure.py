"Timing and memory for the benchmarks."
import gc, json, os, statistics, subprocess, sys, time
from pathlib import Path

def medians(*fns, runs=5, warmup=1):
    "Median seconds of each function; the functions take turns, so that a busy moment hits all of them."
    for f in fns:
        for _ in range(warmup): f()
    ts = [[] for _ in fns]
    for _ in range(runs):
        for f,t in zip(fns, ts):
            start = time.perf_counter()
            f()
            t.append(time.perf_counter()-start)
    return [statistics.median(t) for t in ts]

def memory_of_process(key):
    "What Linux says of this process, in MB."
    lines = Path('/proc/self/status').read_text().splitlines()
    return int(next(l for l in lines if l.startswith(key)).split()[1])/1024

def peak_extra(fn):
    "Peak resident memory that fn adds to what the process holds already, in MB (Linux)."
    gc.collect()
    Path('/proc/self/clear_refs').write_text('5')  # resets the high-water mark
    before = memory_of_process('VmRSS')
    fn()
    return memory_of_process('VmHWM')-before

def peak_in_child(bench, work, side):
    "peak_extra of one side of one work, in a fresh process where nothing has grown yet."
    script = Path(__file__).parents[2]/'scripts'/'bench'
    command = [sys.executable, str(script), bench, '--peak', work, side]
    out = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(VIRTUAL_ENV=sys.prefix))
    if out.returncode: raise RuntimeError(out.stderr.strip().splitlines()[-1])
    return float(out.stdout.strip().splitlines()[-1])

def row(work, peer, ours, theirs, unit, target=None):
    "One result; the ratio is ours/theirs and should be at most the target."
    ratio = None if None in (ours, theirs) else ours/theirs
    ok = None if None in (ratio, target) else ratio<=target
    return dict(work=work, peer=peer, ours=ours, theirs=theirs, unit=unit, ratio=ratio, target=target, ok=ok)

def near(work, peer, ours, theirs, unit, room, again):
    """One result that should agree with the other to a share `room`, in either direction. `again` is the other one's
    ratio to itself, measured anew where nothing but chance differs: what moves by more than the room cannot judge."""
    r = row(work, peer, ours, theirs, unit, 1+room) | dict(least=1-room, note='')
    if not abs(again-1)<=room:
        return r | dict(ok=None, note=f'not judgeable: the other moves by {abs(again-1):.0%} against itself')
    return r | dict(ok=1-room<=r['ratio']<=1+room)

def child(file, name):
    "The last line that a bench prints of one row, in a process of its own."
    root = Path(__file__).parents[2]
    env = os.environ | dict(PYTHONPATH=f'{root}:{Path(__file__).parent}')
    done = subprocess.run([sys.executable, file, name], check=True, capture_output=True, text=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])

def missing(work, peer, unit, target):
    "A row for a peer that is not installed."
    return row(work, f'{peer} (not installed)', None, None, unit, target)
