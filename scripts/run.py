"Execute a runner notebook: check its parameters first, choose its run folder, keep the executed page and the log there."
import ast, sys, time
from pathlib import Path
from iutok.core import project_root, read_parameters, resolve, run_folder, short_path

def fail(message): sys.exit(f'scripts/run: {message}')

def value(text, kind): # "3e-4" for a float, "[8, 8, 8]" for a list, "none" for None
    if text.lower()=='none': return None
    if kind=='str': return text
    if kind=='bool' and text.lower() in ('true','false','yes','no','1','0'): return text.lower() in ('true','yes','1')
    try: v = ast.literal_eval(text)
    except (SyntaxError, ValueError): return text # check_parameters says what was expected
    return float(v) if kind=='float' and isinstance(v, int) and not isinstance(v, bool) else v

def main(args):
    nbs = project_root()/'nbs'
    runners = sorted(p.stem for p in nbs.glob('*.ipynb') if '"parameters"' in p.read_text())
    if not args or args[0] in ('-h','--help'): return print('scripts/run NOTEBOOK [name=value ...]\n\nNotebooks:\n' + '\n'.join(f'  {r}' for r in runners) + '\n\nParameters of one: scripts/run NOTEBOOK --help')
    name,notebook = args[0],nbs/f'{args[0]}.ipynb'
    if name not in runners: fail(f"there is no runner notebook '{name}'. There are: {', '.join(runners)}.")
    declared,_ = read_parameters(notebook)
    if any(a in ('-h','--help') for a in args[1:]):
        return print('\n'.join(f'  {p.name}:{p.type} = {p.default!r}  # {p.help}' for p in declared.values()))
    wrong = [a for a in args[1:] if '=' not in a]
    if wrong: fail(f"'{wrong[0]}' is not of the form name=value.")
    given = {}
    for a in args[1:]:
        k,_,v = a.partition('=')
        given[k] = value(v, declared[k].type if k in declared else 'str')
    try: folder = run_folder(resolve(notebook, given))
    except ValueError as e: fail(e)
    import papermill as pm
    folder.mkdir(parents=True, exist_ok=True)
    print(f'{name} -> {short_path(folder)}', flush=True)
    began = time.time()
    try: pm.execute_notebook(notebook, folder/'notebook.ipynb', given, cwd=nbs, kernel_name='python3', progress_bar=sys.stderr.isatty())
    except pm.PapermillExecutionError as e:
        (folder/'error.txt').write_text('\n'.join(e.traceback))
        fail(f'{name} failed in cell {e.exec_count}: {e.ename}: {e.evalue}\nThe page up to there is {short_path(folder/"notebook.ipynb")}, the traceback {short_path(folder/"error.txt")}.')
    (folder/'error.txt').unlink(missing_ok=True)
    print(f'{name} finished in {time.time()-began:.0f} s: {short_path(folder/"notebook.ipynb")}')

if __name__=='__main__': main(sys.argv[1:])
