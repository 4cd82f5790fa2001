"Data flows one way: a module imports only from chapters with a smaller number."
import ast,json
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = {nb.stem[3:]:int(nb.stem[:2]) for nb in (ROOT/'nbs').glob('[0-9][0-9]_*.ipynb')} # module -> number
FILES = [p for p in sorted((ROOT/'iutok').rglob('*.py')) if p.name!='_modidx.py' and p!=ROOT/'iutok'/'__init__.py']

def module(path): # iutok/quantizers/vq.py -> quantizers.vq
    return '.'.join(path.relative_to(ROOT/'iutok').with_suffix('').parts)

def number(name): # iutok.quantizers.vq or iutok.quantizers -> the chapter's number
    name = name.removeprefix('iutok.')
    for n in (name, f'{name}.__init__'):
        if n in CHAPTERS: return CHAPTERS[n]
    assert '.' in name, f'iutok.{name} has no chapter'
    return number(name.rpartition('.')[0]) # a name within a module

def imported(path): # modules of iutok that a file imports, as dotted names
    package = path.relative_to(ROOT).parts[:-1]
    for n in ast.walk(ast.parse(path.read_text())):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names if a.name.startswith('iutok.'))
        if isinstance(n, ast.ImportFrom):
            base = package[:len(package)-n.level+1] if n.level else ()
            name = '.'.join([*base, *([n.module] if n.module else [])])
            if name=='iutok': yield from (f'iutok.{a.name}' for a in n.names)
            elif name.startswith('iutok.'): yield name

def test_every_chapter_has_a_number_of_its_own():
    numbers = sorted(CHAPTERS.values())
    assert len(set(numbers))==len(numbers), [n for n in numbers if numbers.count(n)>1]

@pytest.mark.parametrize('path', FILES, ids=module)
def test_imports_point_to_earlier_chapters(path):
    if module(path) not in CHAPTERS:
        assert path.name=='__init__.py' and not path.read_text().strip(), f'{path.name} has no chapter'
        return
    late = [m for m in imported(path) if number(m)>=CHAPTERS[module(path)]]
    assert not late, f'{path.name} imports from a later chapter: {late}'

def test_importing_the_package_is_light():
    import subprocess,sys
    heavy = "timm open_clip torch_fidelity sklearn faiss accelerate lpips skimage transformers datasets".split()
    code = ('import sys, iutok.tokenizers, iutok.data, iutok.evaluation, iutok.analysis\n'
            f'print([m for m in {heavy!r} if m in sys.modules])')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                         cwd=ROOT).stdout.strip()
    assert out=='[]', f'heavy imports belong into the functions that need them: {out}'

def test_every_chapter_exports_to_the_module_of_its_name():
    for nb in (ROOT/'nbs').glob('[0-9][0-9]_*.ipynb'):
        first = next(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='code')
        assert first.strip()==f'#| default_exp {nb.stem[3:]}', nb.name
