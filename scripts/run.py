"""Execute a runner notebook: check its parameters first, choose its run folder, keep the executed page and the log there.

On several GPUs: accelerate launch --num_processes N scripts/run.py NOTEBOOK [name=value ...]; on GPUs or CPUs: torchrun --nproc_per_node N scripts/run.py ...
(accelerate's launcher makes one process on a machine without GPUs, whatever N is). Each process executes the page; the first keeps it."""
import ast, sys, textwrap, time
from pathlib import Path
from iutok.core import PROFILES, OtherRank, project_root, rank, read_parameters, resolve, run_folder, short_path, world_size
from iutok.recipes import RECIPES

def fail(message): sys.exit(f'scripts/run: {message}')

def value(text, kind): # "3e-4" for a float, "[8, 8, 8]" for a list, "none" for None
    if text.lower()=='none': return 'none' if kind=='str' else None
    if kind=='str': return text
    if kind=='bool' and text.lower() in ('true','false','yes','no','1','0'): return text.lower() in ('true','yes','1')
    try: v = ast.literal_eval(text)
    except (SyntaxError, ValueError): return text # check_parameters says what was expected
    return float(v) if kind=='float' and isinstance(v, int) and not isinstance(v, bool) else v

def usage(name, notebook, declared, given): # every parameter: its value at each profile, and what it is
    columns = [resolve(notebook, given | dict(profile=p), RECIPES) for p in PROFILES]
    show = lambda v: '-' if v is None else str(v).replace(' ', '')
    def values(k):
        vs = [show(c[k] if declared[k].default is None else given.get(k, declared[k].default)) for c in columns]
        return vs[0] if len(set(vs))==1 else ' | '.join(vs)
    left = {k:f'  {k}:{p.type} = {values(k)}' for k,p in declared.items()}
    w = min(48, max(map(len, left.values())))
    print(f'scripts/run {name} [name=value ...]\n\nParameters, with their values at the profiles smoke | mini | paper:')
    for k,l in left.items():
        text = textwrap.wrap('# '+declared[k].help, 150-w, subsequent_indent='  ')
        print(l.ljust(w) if len(l)<=w else l+'\n'+' '*w, ('\n'+' '*(w+1)).join(text))
    mine = [k for k,r in RECIPES.items() if r['notebook']==name]
    if 'recipe' in declared and mine:
        print('\nRecipes (add recipe=NAME before --help to see one as the column paper):')
        print(textwrap.fill(', '.join(mine), 150, initial_indent='  ', subsequent_indent='  ', break_on_hyphens=False))

def main(args):
    nbs = project_root()/'nbs'
    runners = sorted(p.stem for p in nbs.glob('*.ipynb') if '"parameters"' in p.read_text())
    if not args or args[0] in ('-h','--help'): return print('scripts/run NOTEBOOK [name=value ...]\n\nNotebooks:\n' + '\n'.join(f'  {r}' for r in runners) + '\n\nParameters of one: scripts/run NOTEBOOK --help\nSeveral processes: torchrun --nproc_per_node N scripts/run.py NOTEBOOK [name=value ...], on GPUs also accelerate launch --num_processes N ...')
    name,notebook = args[0],nbs/f'{args[0]}.ipynb'
    if name not in runners: fail(f"there is no runner notebook '{name}'. There are: {', '.join(runners)}.")
    declared,_ = read_parameters(notebook)
    words = [a for a in args[1:] if a not in ('-h','--help')]
    wrong = [a for a in words if '=' not in a]
    if wrong: fail(f"'{wrong[0]}' is not of the form name=value.")
    given = {}
    for a in words:
        k,_,v = a.partition('=')
        given[k] = value(v, declared[k].type if k in declared else 'str')
    try:
        if len(words)<len(args)-1: return usage(name, notebook, declared, given)
        folder = run_folder(resolve(notebook, given, RECIPES))
    except ValueError as e: fail(e)
    import papermill as pm
    folder.mkdir(parents=True, exist_ok=True)
    first,among = rank()==0,f' on {world_size()} processes' if world_size()>1 else ''
    page,error = (folder/'notebook.ipynb' if first else None),folder/('error.txt' if first else f'error-{rank()}.txt')
    if first: print(f'{name} -> {short_path(folder)}{among}', flush=True)
    began = time.time()
    try: pm.execute_notebook(notebook, page, given, cwd=nbs, kernel_name='python3', progress_bar=first and sys.stderr.isatty())
    except pm.PapermillExecutionError as e:
        if e.ename==OtherRank.__name__: return # this process has done its part
        error.write_text('\n'.join(e.traceback))
        fail(f'{name} failed{"" if first else f" in process {rank()}"} in cell {e.exec_count}: {e.ename}: {e.evalue}\n'+(f'The page up to there is {short_path(page)}, the' if first else 'The')+f' traceback {short_path(error)}.')
    for f in folder.glob('error*.txt'): f.unlink()
    print(f'{name} finished in {time.time()-began:.0f} s: {short_path(folder/"notebook.ipynb")}')

if __name__=='__main__': main(sys.argv[1:])
