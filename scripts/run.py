"""Execute a runner notebook: judge its parameters first, choose its run folder, keep the executed page and the log there.

On several GPUs: accelerate launch --num_processes N scripts/run.py NOTEBOOK [name=value ...]
On GPUs or CPUs: torchrun --nproc_per_node N scripts/run.py NOTEBOOK [name=value ...]
(accelerate's launcher makes one process on a machine without GPUs, whatever N is.)
Each process executes the page; the first keeps it."""
import os, sys, textwrap, time
from pathlib import Path
from iutok.files import OtherRank, rank, short_path, world_size
from iutok.checks import PROFILES
from iutok.settings import RECIPES,anchored,check_places,default_recipe,parameter,parse_words,resolve,rows_of,run_folder,takes

ROOT = Path(__file__).resolve().parents[1]
USAGE = """scripts/run NOTEBOOK [name=value ...]

Notebooks:
{runners}

Parameters of one: scripts/run NOTEBOOK --help
Several processes: torchrun --nproc_per_node N scripts/run.py NOTEBOOK [name=value ...], on GPUs also
  accelerate launch --num_processes N scripts/run.py NOTEBOOK [name=value ...]"""

def fail(message): sys.exit(f'scripts/run: {message}')

def columns(notebook, given):
    "Every value, per profile; of one recipe where one was named."
    if given.get('recipe'): return {given['recipe']:resolve(notebook, given)}
    out = {}
    for profile in PROFILES:
        try: default_recipe(notebook, profile)
        except ValueError: continue # this notebook has no such profile
        out[profile] = resolve(notebook, given | dict(profile=profile))
    return out

def usage(notebook, given):
    "Print every parameter: its values, and what it is."
    cols = columns(notebook, given)
    print(f'scripts/run {notebook} [name=value ...]\n\nParameters, with their values for {" | ".join(cols)}:')
    show = lambda v: '-' if v is None else str(v).replace(' ', '')
    left = {}
    for k in takes(notebook):
        values = [show(c[k]) for c in cols.values()]
        left[k] = f"  {k}:{parameter(notebook, k).type} = {values[0] if len(set(values))==1 else ' | '.join(values)}"
    width = min(48, max(map(len, left.values())))
    for k,line in left.items():
        text = textwrap.wrap('# '+parameter(notebook, k).help, 150-width, subsequent_indent='  ')
        print(line.ljust(width) if len(line)<=width else line+'\n'+' '*width, ('\n'+' '*(width+1)).join(text))
    print('\nRecipes (recipe=NAME is taken as it is):')
    names = ', '.join(rows_of(notebook))
    print(textwrap.fill(names, 150, initial_indent='  ', subsequent_indent='  ', break_on_hyphens=False))

def literal(path):
    "As papermill wants a path that holds { or }: it formats what it is given."
    return path and str(path).replace('{', '{{').replace('}', '}}')

def execute(notebook, given, folder):
    "Run the page in its folder; the first process keeps it."
    # jsonschema's grammar of IRIs takes longer than all else that papermill imports, and pages have none
    sys.modules.setdefault('rfc3987_syntax', None)
    import papermill as pm
    folder.mkdir(parents=True, exist_ok=True)
    first = rank()==0
    among = f' on {world_size()} processes' if world_size()>1 else ''
    page = folder/'notebook.ipynb' if first else None
    error = folder/('error.txt' if first else f'error-{rank()}.txt')
    if first: print(f'{notebook} -> {short_path(folder)}{among}', flush=True)
    began,nbs = time.time(),ROOT/'nbs'
    show = first and sys.stderr.isatty()
    source,target = literal(nbs/f'{notebook}.ipynb'),literal(page)
    try: pm.execute_notebook(source, target, given, cwd=nbs, kernel_name='python3', progress_bar=show)
    except pm.PapermillExecutionError as e:
        if e.ename==OtherRank.__name__: return # this process has done its part
        error.write_text('\n'.join(e.traceback))
        kept = f'The page up to there is {short_path(page)}, the' if first else 'The'
        who = '' if first else f' in process {rank()}'
        fail(f'{notebook} failed{who} in cell {e.exec_count}: {e.ename}: {e.evalue}\n{kept} traceback {short_path(error)}.')
    for f in folder.glob('error*.txt'): f.unlink()
    print(f'{notebook} finished in {time.time()-began:.0f} s: {short_path(folder/"notebook.ipynb")}')
    print(f'Its record is {short_path(folder/"record.json")}; weights, where it has any, lie beside it.')

def main(args):
    os.environ.setdefault('IUTOK_HERE', os.getcwd()) # paths are meant from there
    os.chdir(ROOT)
    runners = sorted({r['notebook'] for r in RECIPES.values()})
    if not args or args[0] in ('-h', '--help'): return print(USAGE.format(runners='\n'.join(f'  {r}' for r in runners)))
    notebook,words = args[0],[a for a in args[1:] if a not in ('-h', '--help')]
    if notebook not in runners: fail(f"there is no runner notebook '{notebook}'. There are: {', '.join(runners)}.")
    try:
        given = anchored(parse_words(notebook, words))
        params = resolve(notebook, given)
        if len(words)<len(args)-1: return usage(notebook, given)
        check_places(params)
    except ValueError as e: fail(e)
    execute(notebook, {k:v for k,v in given.items() if v is not None}, run_folder(params))

if __name__=='__main__': main(sys.argv[1:])
