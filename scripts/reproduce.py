"Run the workflow of the main job, show how far it is, print the table, and hold it against the committed one."
import argparse, fcntl, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
from iutok.files import load_json
from iutok.settings import MINI_TEACHER_NAMES,TEACHER_NAMES,anchored,parse_words,resolve
from iutok.checks import PROFILES

ROOT = Path(__file__).resolve().parents[1]

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

def check_teachers(names, profile): # a typo is found before the first run
    known = TEACHER_NAMES if profile=='paper' else MINI_TEACHER_NAMES
    if wrong := [n for n in names or [] if n not in known]:
        sys.exit(f"scripts/reproduce: there is no teacher '{wrong[0]}' at profile {profile}; there are {', '.join(known)}.")

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

def end(p, patience=20.):
    "Stop the process and all it started. Snakemake can hang when the signal comes while it books a finished run, whose record is then made again."
    os.killpg(p.pid, signal.SIGTERM)
    try: p.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()

# --- what it will cost -------------------------------------------------------------------------------------------------

RATE = "from iutok.runners import reference_rate; print(reference_rate())"

def machine_rate(): # floating-point operations per second of one core, measured in a few seconds
    env = os.environ | dict(OMP_NUM_THREADS='1')
    return float(subprocess.run([sys.executable, '-c', RATE], env=env, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

def cost_line(runs, then, now, cores):
    "What the committed runs took, and what they would take here. runs: their records; then, now: rates of the two machines."
    seconds = sum(r['seconds'] for r in runs)
    here = seconds*then/now
    return (f'{len(runs)} runs. The committed ones took {seconds/60:.0f} minutes of one core on {runs[0]["hardware"]["cpu"]} at {then/1e9:.0f} GFLOP/s; '
            f'this machine does {now/1e9:.0f}, so expect about {here/60/cores:.0f} minutes on {cores} cores.')

def show_cost(folder, cores): # before hours of work
    known = folder/'cost.json'
    if not known.exists(): return
    print(cost_line(load_json(folder/'runs.json'), load_json(known)['rate'], machine_rate(), cores), flush=True)

# --- the workflow ------------------------------------------------------------------------------------------------------

def command(a, folder, config):
    return [sys.executable, '-m', 'snakemake', '-s', str(ROOT/'scripts'/'Snakefile'), '--directory', str(folder), '--cores', str(a.cores),
            '--keep-going', '--rerun-incomplete', '--nolock', '--rerun-triggers', 'mtime', 'params', 'input', '--configfile', str(config)]

def plan(cmd, committed): # what would be run, and what it took when the committed table was made
    r = subprocess.run([*cmd, '-n', '--quiet', 'progress'], capture_output=True, text=True)
    if r.returncode: sys.exit(f'{r.stdout[-2000:]}{r.stderr[-2000:]}\nscripts/reproduce: the plan could not be made.')
    took = {x['run']:x['seconds'] for x in load_json(committed/'runs.json')} if (committed/'runs.json').exists() else {}
    names = re.findall(r'output: (\S+)/record\.json', r.stdout)
    for n in names: print(f'  {n:50}' + (f'{took[n]:6.0f} s when the committed table was made' if n in took else ''))
    print(f'{len(names)} runs to make; nothing was run.')

def follow(p, folder, path, began): # until the workflow ends
    said,shown = 0.,set()
    while p.poll() is None:
        time.sleep(.5)
        text = path.read_text()
        finished = {f.parent.name for f in folder.glob('*/record.json') if f.stat().st_mtime>began}
        for name in sorted(finished-shown): print(f'[{clock(time.time()-began)}] {name} finished', flush=True)
        shown |= finished
        line = f'[{clock(time.time()-began)}] {status(folder, text)}'
        if sys.stdout.isatty(): print(f'\r\033[K{line}'[:150], end='', flush=True)
        elif time.time()-said>30:
            said = time.time()
            print(line, flush=True)
    if sys.stdout.isatty(): print('\r\033[K', end='')

def explain(folder, path, profile): # which rule failed, and the end of its log
    failed = re.findall(r'Error in rule (\w+):.*?log: (\S+)', path.read_text(), re.S)
    for rule,log in dict(failed).items():
        tail = (folder/log).read_text().strip().splitlines()[-12:] if (folder/log).exists() else []
        print(f'\n{rule} failed; its log is runs/{profile}/{log} and ends:\n  '+'\n  '.join(tail))
    sys.exit(f"\nThe workflow stopped; its log is runs/{profile}/workflow.log. Mend the cause and call scripts/reproduce again: finished runs are kept.")

# --- the table ---------------------------------------------------------------------------------------------------------

def judge(folder, committed): # against the committed table of the same sizes
    from iutok.runs import read_record
    from iutok.verdict import say_verdict, verdict
    name = committed.relative_to(ROOT).as_posix()
    if not (committed/'records.json').exists(): return f'No table of these sizes is committed ({name}), so nothing is compared.'
    uses = load_json(folder/'table1_tokenizers'/'record.json')['uses']
    mini = load_json(ROOT/'nbs'/'results'/'table1_mini'/'records.json') # several seeds, for sizes that have one
    try: cells = verdict([read_record(folder/u['run']) for u in uses.values()], load_json(committed/'records.json'), mini)
    except ValueError as e: return str(e)
    return f'Against {name}:\n{say_verdict(cells)}'

def show(folder, committed, profile, took):
    import pandas as pd
    from iutok.analysis import show_table
    p = load_json(folder/'table1_tokenizers'/'record.json')['protocol']
    df = pd.read_csv(folder/'table1_tokenizers.csv')
    print(show_table(df, p['fd']).to_string(line_width=shutil.get_terminal_size((160, 24)).columns))
    spread = ' ± is half the distance between the extremes of several seeds.' if (df.seeds>1).any() else ''
    print(f"\n{p['fd']}: features of {p['extractor']}, {p['n_images']:,} images against {p['n_reference']:,} of {p['reference']}.{spread}\n")
    print(judge(folder, committed))
    print(f"\nTable: runs/{profile}/table1_tokenizers.csv\nReport: runs/{profile}/report.html\nDone in {clock(took)}.")

def arguments():
    ap = argparse.ArgumentParser(prog='scripts/reproduce')
    ap.add_argument('--profile', choices=PROFILES)
    ap.add_argument('--cores', type=int, default=os.cpu_count())
    ap.add_argument('--teachers', type=lambda s: s.split(','))
    ap.add_argument('--seeds', type=lambda s: [int(x) for x in s.split(',')])
    ap.add_argument('--data_root')
    ap.add_argument('-n', action='store_true')
    ap.add_argument('words', nargs='*')
    a = ap.parse_args()
    full = a.words[:1]==['full']
    if full and a.profile not in (None, 'mini'): sys.exit('scripts/reproduce: full is the profile mini; leave one of the two out.')
    a.profile = a.profile or ('mini' if full else 'quick')
    a.words = a.words[full:]
    if a.cores<1: sys.exit('scripts/reproduce: --cores must be at least 1.')
    check_teachers(a.teachers, a.profile)
    return a

def main():
    a = arguments()
    folder,committed = ROOT/'runs'/a.profile,ROOT/'nbs'/'results'/f'table1_{a.profile}'
    folder.mkdir(parents=True, exist_ok=True)
    path,config = folder/'workflow.log',folder/'workflow.json' # a file keeps the types that a command line would lose
    root = anchored(dict(data_root=a.data_root))['data_root']
    config.write_text(json.dumps(dict(profile=a.profile, teachers=a.teachers, seeds=a.seeds, data_root=root, overrides=overrides(a.words))))
    cmd = command(a, folder, config)
    if a.n: return plan(cmd, committed)
    print(f"Profile {a.profile}, on {a.cores} cores. Finished runs are kept in runs/{a.profile}; the workflow's log is runs/{a.profile}/workflow.log.", flush=True)
    if a.profile=='mini': show_cost(committed, a.cores)
    lock = (folder/'.lock').open('w') # held by the workflow too, as long as one of the two lives
    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: sys.exit(f'scripts/reproduce: another call is at work in runs/{a.profile}. Wait until it has finished, or stop it.')
    def stop(*_): raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    began = time.time()
    with path.open('w') as log:
        p = subprocess.Popen(cmd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock.fileno()])
        try: follow(p, folder, path, began)
        except KeyboardInterrupt:
            end(p)
            sys.exit(f'\nStopped. Call scripts/reproduce --profile {a.profile} again and it continues where it was.')
    if p.returncode: explain(folder, path, a.profile)
    show(folder, committed, a.profile, time.time()-began)

if __name__=='__main__': main()
