"The wheel that a user installs holds the modules and the data, and works away from the clone."
import configparser,fnmatch,re,subprocess,sys,zipfile
from importlib.metadata import PackageNotFoundError,metadata
from pathlib import Path
import numpy as np, pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    import shutil
    d = tmp_path_factory.mktemp('wheel')
    src = d/'src'; src.mkdir()
    for n in ('iutok','setup.py','settings.ini','pyproject.toml','MANIFEST.in','README.md','CHANGELOG.md','LICENSE',
              'CITATION.cff'):
        (shutil.copytree if (ROOT/n).is_dir() else shutil.copy)(ROOT/n, src/n)
    # the wheel is made of the sdist, so that what is missing there is missed
    def call(*words):
        r = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=src)
        assert r.returncode==0, r.stderr[-2000:]
    call('setup.py', '-q', 'sdist', '-d', d)
    call('-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', d, next(d.glob('*.tar.gz')))
    return next(d.glob('*.whl'))

def test_wheel_is_whole(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for p in (ROOT/'iutok').rglob('*'):
        if p.suffix in ('.py','.safetensors','.json','.xz','.zip','.txt') and '__pycache__' not in p.parts:
            assert p.relative_to(ROOT).as_posix() in names, p.name
    assert {'iutok/assets/emoji.zip', 'iutok/assets/emoji.LICENSE.txt', 'iutok/assets/LICENCES.txt',
            'iutok/py.typed', 'iutok/assets/pretrained/quick/vqkd-effnet/README.md'}<={*names}
    licences = {Path(n).name for n in names if '.dist-info/' in n}
    assert {'LICENSE', 'emoji.LICENSE.txt', 'fashion.LICENSE.txt', 'LICENCES.txt'}<=licences
    inside = zipfile.ZipFile(wheel)
    meta = inside.read(next(n for n in names if n.endswith('METADATA'))).decode()
    extras = 'dev', 'bench', 't2i', 'report', 'judges', 'teachers'
    assert {f'Provides-Extra: {e}' for e in extras}<={*meta.splitlines()}
    assert wheel.stat().st_size<40e6

@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory): # a folder that holds nothing but the installed package
    target = tmp_path_factory.mktemp('site')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(target), str(wheel)],
                   check=True)
    return target

@pytest.fixture
def away(site, tmp_path): # runs Python outside the clone, without its home, without a network
    def run(*args):
        env = {'PYTHONPATH':str(site), 'PATH':'/usr/bin:/bin', 'HOME':str(tmp_path), 'HF_HUB_OFFLINE':'1',
               'OMP_NUM_THREADS':'1'}
        r = subprocess.run([sys.executable, *map(str, args)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert r.returncode==0, r.stderr[-2000:]
        return r.stdout
    return run

def test_wheel_works_alone(away, site):
    out = away('-c', '''import iutok,torch
assert iutok.__file__.startswith(%r), iutok.__file__
from iutok.data import load_images
from iutok.metrics.scores import score_images
from iutok.quantizers import FSQ
held = load_images('fashion', 'test').take(300)
print(score_images(held, load_images('fashion', 'train').take(300)), FSQ(8000).n_codes, held.classes[0])''' % str(
        site))
    assert 'FD-fashion' in out and '8000 T-shirt/top' in out

def test_five_lines_work_away_from_the_clone(away, tmp_path):
    from PIL import Image
    for i,side in enumerate(((90, 60), (32, 32))): Image.new('RGB', side, 'navy').save(tmp_path/f'{i}.png')
    out = away('-c', '''images = ['0.png', '1.png']
from iutok import Tokenizer
tok = Tokenizer.from_pretrained('quick/vqkd-effnet')
ids = tok.encode(images)
x = tok.decode(ids)
tok.show(ids).save('shown.png')
print(tuple(ids.shape), tuple(x.shape), float(x.min())>=0, float(x.max())<=1)''')
    assert out.strip()=='(2, 8, 8) (2, 3, 32, 32) True True' and (tmp_path/'shown.png').exists()

def test_the_command_works_away_from_the_clone(away, site, tmp_path):
    from PIL import Image
    for i in range(2): Image.new('RGB', (40+i, 30), 'navy').save(tmp_path/f'{i}.png')
    iutok = site/'bin'/'iutok'
    assert '2 pictures, 8x8 of 512 codes' in away(iutok, 'encode', '0.png', '1.png', '--picture', 'codes.png')
    assert '4 images' in away(iutok, 'sample', '--classes', 'Bag', '--n', 4)
    assert 'usage' in away(iutok, 'doctor', '--n', 60)
    assert {p.name for p in tmp_path.iterdir()}>={'codes.safetensors', 'codes.png', 'samples.png'}

def test_importing_the_package_brings_nothing_heavy():
    code = ('import sys, iutok\n'
            'print([m for m in ("torch", "numpy", "PIL") if m in sys.modules], "Tokenizer" in dir(iutok))')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip()=='[] True'

def test_the_readmes_five_lines_run_elsewhere(away, tmp_path):
    code = re.search(r'```python\n(from iutok import Tokenizer.*?)```', (ROOT/'README.md').read_text(), re.S)[1]
    assert len(code.strip().splitlines())==5
    g = np.random.default_rng(0)
    for name,size in (('a.png', (40, 60, 3)), ('b.jpg', (200, 90, 3))):
        Image.fromarray(g.integers(0, 256, size, np.uint8)).save(tmp_path/name)
    (tmp_path/'five.py').write_text(code+'print(tuple(ids.shape), tuple(images.shape))')
    assert away('five.py').split()==['(2,', '8,', '8)', '(2,', '3,', '32,', '32)']

def test_readme_is_the_index_page(tmp_path):
    subprocess.run([ROOT/'scripts'/'readme', tmp_path/'README.md'], check=True)
    assert (tmp_path/'README.md').read_text()==(ROOT/'README.md').read_text(), 'run scripts/readme and commit README.md'

# --- licences ---------------------------------------------------------------------------------------------------------

ASSETS = ROOT/'iutok'/'assets'
OURS,_,RUNS_ON = (ASSETS/'LICENCES.txt').read_text().partition('What the package runs on')
EXTRAS = 't2i', 'judges', 'teachers', 'report'

def wanted(): # names of what an installed package runs on
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini')
    told = [ini['DEFAULT'][f'{e}_requirements'.removeprefix('_')] for e in ('', *EXTRAS)]
    return {re.match(r'[\w.-]+', r)[0] for line in told for r in line.split()}

def test_every_bundled_file_has_a_licence_that_is_in_the_wheel(wheel):
    rows = [l.split()[0] for l in OURS.splitlines()[2:] if l[:1].strip()]
    names = zipfile.ZipFile(wheel).namelist()
    for n in names:
        if not n.startswith('iutok/assets/') or n.endswith(('LICENCES.txt', '.LICENSE.txt', '/')): continue
        assert any(fnmatch.fnmatch(n, f'iutok/assets/{r}') for r in rows), f'LICENCES.txt does not speak of {n}'
    for text in re.findall(r'see (\S+\.txt)', OURS): # whose text has to lie beside the data
        assert f'iutok/assets/{text}' in names and any(n.endswith(f'licenses/iutok/assets/{text}') or
                                                       '.dist-info/' in n and n.endswith(text) for n in names)
    assert all(any((ASSETS).glob(r)) for r in rows), 'LICENCES.txt speaks of what is not there'

def test_every_dependency_is_listed_with_the_licence_that_it_states():
    rows = dict(re.match(r'(\S+)\s+(.*)', l).groups() for l in RUNS_ON.splitlines()[1:] if l.strip() and '  ' in l)
    assert rows.keys()==wanted()
    for name,licence in rows.items():
        try: m = metadata(name)
        except PackageNotFoundError: continue # an extra that is not installed here
        says = ' '.join([m.get('License-Expression') or '', m.get('License') or '', *(m.get_all('Classifier') or [])])
        family = re.match(r'[A-Za-z]+', licence.replace('PSF', 'Python'))[0]
        assert licence.startswith('not stated') or family in says or 'UNKNOWN' in says, (name, licence, says[:200])
        assert 'GPL' not in licence
