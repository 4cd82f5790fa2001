"The clone's environment: torch's CPU build where no GPU is visible, the ordinary one elsewhere, the pins in both cases."
import os, shutil, subprocess
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NAMES = ('plain', "with space", "it's \"quoted\" & más $HOME")
PYTHON = r'''#!/usr/bin/env bash
case "$*" in
  *sys.version_info*) exit 0;;
  --version) echo Python 3.12; exit 0;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit 0;;
esac
echo "$*" >> "$CALLS"
case "$*" in *whl/cpu*) exit "${CPU_INDEX:-0}";; esac
'''

def set_up(tmp_path, gpu=False, name='plain', **env):
    "Calls of pip that a fresh clone makes, in order, and what a person sees; Python and nvidia-smi are stand-ins."
    clone,tools = tmp_path/name,tmp_path/'tools'
    tools.mkdir()
    (clone/'scripts').mkdir(parents=True)
    for n in ('settings.ini', 'setup.py', 'scripts/setup.sh', 'scripts/constraints.txt'): shutil.copy(ROOT/n, clone/n)
    (tools/'nvidia-smi').write_text('#!/bin/sh\n' + ('echo "GPU 0: one"' if gpu else 'exit 9'))
    (tools/'python3').write_text(PYTHON)
    for f in tools.iterdir(): f.chmod(0o755)
    calls = tmp_path/'calls'
    env = os.environ | dict(PATH=f'{tools}:/usr/bin:/bin', CALLS=str(calls)) | env
    env.pop('PYTHON', None)
    r = subprocess.run(['bash', '-euo', 'pipefail', '-c', 'source "$1"', '_', str(clone/'scripts'/'setup.sh')], env=env, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    assert list((clone/'.venv').glob('.installed-*'))
    return [c for c in calls.read_text().splitlines() if '-U pip' not in c],r.stdout+r.stderr

no_gpu_here = pytest.mark.skipif(bool(list(Path('/dev').glob('nvidia[0-9]*'))) or Path('/dev/kfd').exists(), reason='a GPU is visible')

@no_gpu_here
@pytest.mark.parametrize('name', NAMES)
def test_without_a_gpu_the_cpu_build_of_the_pinned_torch_comes_first(tmp_path, name):
    (torch,rest),_ = set_up(tmp_path, name=name)
    assert torch.endswith('whl/cpu torch torchvision') and '-c scripts/constraints.txt' in torch
    assert rest.endswith('-c scripts/constraints.txt -e .[dev]')

@no_gpu_here
def test_an_unreachable_cpu_build_falls_back_without_noise(tmp_path):
    calls,said = set_up(tmp_path, CPU_INDEX='1')
    assert len(calls)==2 and 'whl/cpu' not in calls[1] and len(said.splitlines())==1

def test_a_visible_gpu_takes_the_ordinary_build(tmp_path):
    calls,_ = set_up(tmp_path, gpu=True)
    assert len(calls)==1 and 'whl/cpu' not in calls[0]

@pytest.mark.parametrize('word, n', [('cpu', 2), ('ordinary', 1)])
def test_the_build_can_be_named(tmp_path, word, n):
    assert len(set_up(tmp_path, gpu=word=='cpu', TORCH=word)[0])==n
