"""The library works with the oldest and with the newest of what it depends on, as far as these are small enough to be
installed by a test. scripts/oldest does it with all of them."""
import os, subprocess, sys
from configparser import ConfigParser
import pytest
from clone import ROOT, script

USE = """
import importlib, pkgutil, fastcore, iutok
for m in pkgutil.walk_packages(iutok.__path__, 'iutok.'): importlib.import_module(m.name)
from iutok import Tokenizer
from iutok.cli import COMMANDS, main, parser
tok = Tokenizer.from_pretrained('quick/fsq')
ids = tok.encode(['a.png'])
assert ids.shape==(1, 8, 8) and tok.decode(ids).shape==(1, 3, 32, 32)
for c in COMMANDS: assert parser(c).format_help().startswith(f'usage: iutok {c}')
assert main(['encode', 'a.png', '--tokenizer', 'quick/fsq'])==0
print(fastcore.__version__)"""

@pytest.mark.parametrize('wanted, version', [('fastcore==1.7.0', '1.7.0'), ('fastcore>=2', '2.')])
def test_fastcore_may_be_old_or_new(wanted, version, tmp_path):
    from PIL import Image
    floor = wanted.partition('==')[2].rpartition('.')[0]
    assert not floor or f'fastcore>={floor} ' in (ROOT/'settings.ini').read_text()
    put = ['-m', 'pip', 'install', '-q', '--no-deps', '--target', tmp_path/'there', wanted]
    done = subprocess.run([sys.executable, *put], capture_output=True, text=True)
    if done.returncode: pytest.skip(f'{wanted} could not be had: {done.stderr.strip().splitlines()[-1][:200]}')
    Image.new('RGB', (40, 30), 'navy').save(tmp_path/'a.png')
    env = os.environ | dict(PYTHONPATH=f"{tmp_path/'there'}:{ROOT}", IUTOK_HERE=str(tmp_path))
    r = subprocess.run([sys.executable, '-c', USE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]
    assert r.stdout.splitlines()[-1].startswith(version)

def test_the_oldest_are_the_floors_of_the_settings():
    oldest = script('oldest').oldest
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    wanted = ini['DEFAULT']['requirements'].split()
    floors = oldest(wanted)
    assert {'torch==2.6.*', 'torchvision==0.21.*', 'fastcore==1.7.*', 'torch-fidelity==0.4.*', 'numpy'}<={*floors}
    assert len(floors)==len(wanted) and not any('>' in f for f in floors)
    assert oldest(wanted, ['torch==2.13.*'])[0]=='torch==2.13.*' and oldest(wanted, ['torch==2.13.*'])[1:]==floors[1:]
    with pytest.raises(ValueError, match="'troch' is no requirement"): oldest(wanted, ['troch==1'])
