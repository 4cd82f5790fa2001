"""Nothing that comes from elsewhere is run, and nothing that is unpacked leaves its folder."""
import ast
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
def in_python(path): # scripts carry no suffix
    return path.is_file() and (path.suffix=='.py' or b'python' in path.read_bytes()[:600].lower())

FILES = sorted(p for d in ('iutok', 'scripts') for p in (ROOT/d).rglob('*')
               if '__pycache__' not in p.parts and in_python(p))

def calls(path): # (dotted name, keywords with constant values, line) of every call in a file
    try: tree = ast.parse(path.read_text())
    except SyntaxError: return [] # a shell script that hands nothing on to Python
    for n in ast.walk(tree):
        if isinstance(n, ast.Call):
            keywords = {k.arg:k.value.value for k in n.keywords if isinstance(k.value, ast.Constant)}
            yield ast.unparse(n.func),keywords,n.lineno

def unsafe(name, keywords):
    last = name.rpartition('.')[2]
    return (name in ('eval', 'exec', '__import__', 'os.system', 'pickle.load', 'pickle.loads', 'joblib.load')
            or name=='torch.load' and keywords.get('weights_only') is not True
            or name in ('np.load', 'numpy.load') and keywords.get('allow_pickle', False) is not False
            or last=='extractall' and keywords.get('filter')!='data'
            or last=='load' and name.startswith('yaml')
            or keywords.get('shell') is True or keywords.get('trust_remote_code') is True)

@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_untrusted_is_run(path):
    assert not [(name, line) for name,keywords,line in calls(path) if unsafe(name, keywords)]

@pytest.mark.parametrize('code,bad', [('torch.load(p)', True), ('torch.load(p, weights_only=True)', False),
    ('torch.load(p, weights_only=False)', True), ('eval(x)', True), ('net.eval()', False), ('np.load(p)', False),
    ('np.load(p, allow_pickle=True)', True), ('yaml.load(f)', True), ('yaml.safe_load(f)', False),
    ('tar.extractall(d)', True), ("tar.extractall(d, filter='data')", False), ('pickle.loads(b)', True),
    ('subprocess.run(c, shell=True)', True), ('ast.literal_eval(t)', False)])
def test_the_search_finds_what_it_is_for(tmp_path, code, bad):
    (tmp_path/'x.py').write_text(code)
    (name,keywords,_),*_ = calls(tmp_path/'x.py')
    assert unsafe(name, keywords)==bad
