"Data flows one way: a module imports only from modules above it in this list."
import ast
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
ORDER = ['checks', 'files', 'settings', 'precision', 'core', 'pixels', 'splits', 'images', 'emoji', 'data', 'viz', 'training', 'cost',
         'weights', 'teachers', 'text', 'captions', 'pretraining', 'mini_teachers', 'quantizers', 'nets', 'losses', 'tokenizers',
         'reconstruction', 'distillation', 'clustering', 'recipes', 'runners', 'convert', 'proposals', 'sampling', 'metrics', 'evaluation', 'analysis', 'verdict']
FILES = [p for p in sorted((ROOT/'iutok').rglob('*.py')) if p.name!='_modidx.py']

def imported(path): # modules of iutok that a file imports, as dotted names
    package = path.relative_to(ROOT).with_suffix('').parts[:-1]
    for n in ast.walk(ast.parse(path.read_text())):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names if a.name.startswith('iutok.'))
        if isinstance(n, ast.ImportFrom):
            base = package[:len(package)-n.level+1] if n.level else ()
            name = '.'.join([*base, *([n.module] if n.module else [])])
            if name=='iutok': yield from (f'iutok.{a.name}' for a in n.names)
            elif name.startswith('iutok.'): yield name

def place(name): # 'iutok.quantizers.vq' -> rank of quantizers
    part = name.split('.')[1]
    assert part in ORDER, f'{name} has no place in the layout; add it to ORDER'
    return ORDER.index(part)

@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_up_the_list(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if len(parts)==2 and parts[1]=='__init__': return
    me = place('.'.join(parts))
    late = [m for m in imported(path) if place(m)>me]
    assert not late, f'{path.name} imports from further down: {late}'

def test_importing_the_package_is_light():
    import subprocess,sys
    heavy = "timm open_clip torch_fidelity sklearn faiss accelerate lpips skimage transformers datasets".split()
    code = f"import sys, iutok.tokenizers, iutok.data, iutok.evaluation, iutok.analysis; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    assert out=='[]', f'heavy imports belong into the functions that need them: {out}'

def test_every_chapter_exports_to_the_module_of_its_name():
    import json
    for nb in (ROOT/'nbs').glob('[0-9][0-9]_*.ipynb'):
        first = next(''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type']=='code')
        assert first.strip()==f'#| default_exp {nb.stem[3:]}', nb.name
