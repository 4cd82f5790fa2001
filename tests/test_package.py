"The wheel that a user installs holds the modules and the data, and works away from the clone."
import subprocess,sys,zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    import shutil
    d = tmp_path_factory.mktemp('wheel')
    src = d/'src'; src.mkdir()
    for n in ('iutok','setup.py','settings.ini','pyproject.toml','README.md','LICENSE'):
        (shutil.copytree if (ROOT/n).is_dir() else shutil.copy)(ROOT/n, src/n)
    r = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(d),
                        str(src)], capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]
    return next(d.glob('*.whl'))

def test_wheel_is_whole(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for p in (ROOT/'iutok').rglob('*'):
        if p.suffix in ('.py','.safetensors','.json','.xz','.zip','.txt') and '__pycache__' not in p.parts:
            assert p.relative_to(ROOT).as_posix() in names, p.name
    assert {'iutok/assets/emoji.zip', 'iutok/assets/emoji.LICENSE.txt'}<={*names}
    assert wheel.stat().st_size<40e6

def test_wheel_works_alone(wheel, tmp_path):
    target = tmp_path/'site'
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(target), str(wheel)],
                   check=True)
    code = '''import iutok,torch
assert iutok.__file__.startswith(%r), iutok.__file__
from iutok.data import load_images
from iutok.metrics.scores import score_images
from iutok.quantizers import FSQ
held = load_images('fashion', 'test').take(300)
print(score_images(held, load_images('fashion', 'train').take(300)), FSQ(8000).n_codes, held.classes[0])''' % str(
    target)
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path,
                       env={'PYTHONPATH':str(target), 'PATH':'/usr/bin:/bin', 'HOME':str(tmp_path)},
                       capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]
    assert 'FD-fashion' in r.stdout and '8000 T-shirt/top' in r.stdout

def test_readme_is_the_index_page(tmp_path):
    subprocess.run([ROOT/'scripts'/'readme', tmp_path/'README.md'], check=True)
    assert (tmp_path/'README.md').read_text()==(ROOT/'README.md').read_text(), 'run scripts/readme and commit README.md'
