"""The clone's environment: torch's CPU build where no GPU is visible, the ordinary one elsewhere, the pins in both
cases; scripts that set it up by themselves; notebooks that merge cell by cell."""
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest
from clone import ROOT

NAMES = ('plain', "with space", "it's \"quoted\" & más $HOME")
PYTHON = r'''#!/usr/bin/env bash
case "$*" in
  *sys.version_info*) exit "${TOO_OLD:-0}";;
  --version) echo Python 3.12; exit 0;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit 0;;
  scripts/*) printf '%s\n' "$PWD" "$IUTOK_HERE" "$@"; exit 3;;
esac
echo "$*" >> "$CALLS"
case "$*" in *whl/cpu*) exit "${CPU_INDEX:-0}";; esac
'''

class Clone:
    "A fresh clone's scripts, with stand-ins for Python and nvidia-smi."
    def __init__(self, tmp_path, name='plain', gpu=False):
        self.root,self.tools,self.calls = tmp_path/name,tmp_path/'tools',tmp_path/'calls'
        (self.root/'scripts').mkdir(parents=True)
        for f in ROOT.glob('scripts/*'):
            if f.is_file(): shutil.copy(f, self.root/'scripts')
        for n in ('settings.ini', 'setup.py', '.gitattributes', '.gitignore'): shutil.copy(ROOT/n, self.root)
        self.tools.mkdir()
        self.tool('nvidia-smi', '#!/bin/sh\n' + ('echo "GPU 0: one"' if gpu else 'exit 9'))
        for version in ('3', '3.11', '3.12', '3.13'): self.tool(f'python{version}', PYTHON)

    def tool(self, name, text):
        (self.tools/name).write_text(text)
        (self.tools/name).chmod(0o755)

    def call(self, *command, cwd=None, **env):
        "Run a command where only the stand-ins and the system's own tools are found."
        mine = {k:v for k,v in os.environ.items() if k not in ('PYTHON', 'IUTOK_HERE', 'VIRTUAL_ENV', 'TORCH')}
        mine |= dict(PATH=f'{self.tools}:/usr/bin:/bin', CALLS=str(self.calls)) | env
        return subprocess.run(command, cwd=cwd, env=mine, capture_output=True, text=True)

    def set_up(self, **env):
        "Calls of pip, in order, and what a person sees."
        source = ['bash', '-euo', 'pipefail', '-c', 'source "$1"', '_', self.root/'scripts'/'setup.sh']
        r = self.call(*source, **env)
        assert r.returncode==0, r.stderr
        assert list((self.root/'.venv').glob('.installed-*'))
        return [c for c in self.calls.read_text().splitlines() if '-U pip' not in c],r.stdout+r.stderr

# --- which torch -----------------------------------------------------------------------------------------------------

gpu_here = bool(list(Path('/dev').glob('nvidia[0-9]*'))) or Path('/dev/kfd').exists()
no_gpu_here = pytest.mark.skipif(gpu_here, reason='a GPU is visible')

@no_gpu_here
@pytest.mark.parametrize('name', NAMES)
def test_without_a_gpu_the_cpu_build_of_the_pinned_torch_comes_first(tmp_path, name):
    (torch,rest),_ = Clone(tmp_path, name).set_up()
    assert torch.endswith('whl/cpu torch torchvision') and '-c scripts/constraints.txt' in torch
    assert rest.endswith('-c scripts/constraints.txt -e .[dev]')

@no_gpu_here
def test_an_unreachable_cpu_build_falls_back_without_noise(tmp_path):
    calls,said = Clone(tmp_path).set_up(CPU_INDEX='1')
    assert len(calls)==2 and 'whl/cpu' not in calls[1] and len(said.splitlines())==1

def test_a_visible_gpu_takes_the_ordinary_build(tmp_path):
    calls,_ = Clone(tmp_path, gpu=True).set_up()
    assert len(calls)==1 and 'whl/cpu' not in calls[0]

@pytest.mark.parametrize('word, n', [('cpu', 2), ('ordinary', 1)])
def test_the_build_can_be_named(tmp_path, word, n):
    calls,_ = Clone(tmp_path, gpu=word=='cpu').set_up(TORCH=word)
    assert len(calls)==n

# --- scripts that set up by themselves -------------------------------------------------------------------------------

SCRIPTS = ('run', 'reproduce', 'collect', 'verify')
WORDS = ('train', 'name=two words', '$HOME', 'a"b\'c', '')

@pytest.mark.parametrize('script', SCRIPTS)
def test_a_script_sets_up_and_hands_its_words_to_python_as_they_are(tmp_path, script):
    clone = Clone(tmp_path, NAMES[-1])
    there = tmp_path/'elsewhere é'
    there.mkdir()
    for call in ('first', 'second'):
        r = clone.call(clone.root/'scripts'/script, *WORDS, cwd=there)
        assert r.returncode==3 and r.stdout.splitlines()==[str(clone.root), str(there), f'scripts/{script}', *WORDS]
        assert ('Setting up' in r.stderr)==(call=='first')

def test_a_relative_name_will_do_and_a_place_that_is_handed_on_stays(tmp_path):
    clone = Clone(tmp_path)
    r = clone.call('./run', 'x', cwd=clone.root/'scripts', IUTOK_HERE='/place')
    assert r.stdout.splitlines()==[str(clone.root), '/place', 'scripts/run', 'x']

def test_python_can_be_named_where_the_systems_is_too_old(tmp_path):
    clone = Clone(tmp_path)
    r = clone.call(clone.root/'scripts'/'run', TOO_OLD='1')
    assert r.returncode==1 and 'iutok needs Python 3.11 or newer; none was found' in r.stderr
    clone.tool('mine', PYTHON.replace('"${TOO_OLD:-0}"', '0'))
    r = clone.call(clone.root/'scripts'/'run', TOO_OLD='1', PYTHON=str(clone.tools/'mine'))
    assert r.returncode==3 and 'Setting up' in r.stderr

def test_reproduce_explains_itself_before_anything_is_set_up(tmp_path):
    clone = Clone(tmp_path)
    r = clone.call(clone.root/'scripts'/'reproduce', 'full', '--help')
    assert r.returncode==0 and not (clone.root/'.venv').exists()
    command = [sys.executable, ROOT/'scripts'/'reproduce', '-h']
    of_python = subprocess.run(command, env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert r.stdout==of_python.stdout!=''

# --- notebooks that merge --------------------------------------------------------------------------------------------

def notebook(*cells):
    "A page of code cells; each is (source, output)."
    output = lambda text: [dict(output_type='stream', name='stdout', text=[text])]
    code = [dict(cell_type='code', id=f'c{i}', metadata={}, execution_count=None, source=[source], outputs=output(text))
            for i,(source,text) in enumerate(cells)]
    return json.dumps(dict(cells=code, metadata={}, nbformat=4, nbformat_minor=5), indent=1)

def cells_of(page): return [(''.join(c['source']), ''.join(c['outputs'][0]['text'])) for c in json.loads(page)['cells']]

BASE = ('seed = 1', 'at 0'),('a = 1', 'one'),('b = 2', 'two')
OURS = ('seed = 1', 'at 1'),('a = 10', 'ten'),('b = 2', 'two')
THEIRS = ('seed = 1', 'at 2'),('a = 1', 'one'),('b = 20', 'twenty')

class Repository(Clone):
    "A clone under git, set up, with the real environment in its .venv."
    def __init__(self, tmp_path, before=lambda self: None):
        super().__init__(tmp_path, NAMES[-1])
        self.git('init', '-q', '-b', 'main')
        before(self)
        self.set_up()
        shutil.rmtree(self.root/'.venv')
        (self.root/'.venv').symlink_to(sys.prefix)

    def git(self, *words, check=True):
        me = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false']
        r = self.call('git', *me, *words, cwd=self.root, HOME=str(self.tools), GIT_CONFIG_NOSYSTEM='1')
        if check: assert r.returncode==0, r.stdout+r.stderr
        return r

    def commit(self, cells):
        (self.root/'page.ipynb').write_text(notebook(*cells))
        self.git('add', 'page.ipynb', '.gitattributes')
        self.git('commit', '-qm', 'a page')

    def fork(self, base=BASE, ours=OURS, theirs=THEIRS):
        "Two branches of one page, on ours."
        self.commit(base)
        self.git('checkout', '-qb', 'theirs')
        self.commit(theirs)
        self.git('checkout', '-q', 'main')
        self.commit(ours)
        return self

    def driver(self): return self.git('config', '--get', 'merge.nbdev-merge.driver', check=False).stdout.strip()
    def page(self): return (self.root/'page.ipynb').read_text()

MERGED = [('seed = 1', 'at 1'), ('a = 10', 'ten'), ('b = 20', 'twenty')]

@pytest.fixture(scope='module')
def forked(tmp_path_factory): return Repository(tmp_path_factory.mktemp('merge')).fork()

def test_outputs_that_differ_are_no_conflict(forked):
    "Both sides changed a cell of their own and executed a third again; text alone cannot merge that."
    text = forked.git('-c', 'merge.nbdev-merge.driver=git merge-file %A %O %B', 'merge', '-q', 'theirs', check=False)
    assert text.returncode==1
    forked.git('merge', '--abort')
    forked.git('merge', '-q', '--no-edit', 'theirs')
    assert cells_of(forked.page())==MERGED
    forked.git('reset', '-q', '--hard', 'HEAD^')

def test_a_clone_that_was_moved_still_merges(forked):
    moved = forked.root.with_name('moved')
    forked.root = forked.root.rename(moved)
    forked.git('merge', '-q', '--no-edit', 'theirs')
    assert cells_of(forked.page())==MERGED
    forked.git('reset', '-q', '--hard', 'HEAD^')

def test_cells_that_both_changed_are_left_to_a_person_in_a_page_that_opens(tmp_path):
    repo = Repository(tmp_path).fork(theirs=(BASE[0], ('a = 3', 'three'), BASE[2]))
    assert repo.git('merge', '-q', 'theirs', check=False).returncode==1
    sources = [''.join(c['source']) for c in json.loads(repo.page())['cells']]
    assert sources==['seed = 1', '`<<<<<<< HEAD`', 'a = 10', '`=======`', 'a = 3', '`>>>>>>> theirs`', 'b = 2']

def test_without_an_environment_notebooks_merge_as_text(forked):
    "As in a worktree beside the clone."
    forked.git('worktree', 'add', '-q', '-b', 'beside', forked.root.with_name('beside'), 'main')
    r = forked.git('-C', str(forked.root.with_name('beside')), 'merge', '-q', 'theirs', check=False)
    page = (forked.root.with_name('beside')/'page.ipynb').read_text()
    assert r.returncode==1 and all(w in page for w in ('<<<<<<< HEAD', 'at 1', 'at 2', 'a = 10', 'b = 20'))

def test_a_driver_that_is_there_already_stays(tmp_path):
    own = lambda repo: repo.git('config', 'merge.nbdev-merge.driver', 'mine %O %A %B')
    assert Repository(tmp_path, own).driver()=='mine %O %A %B'

def test_only_a_checkout_of_its_own_is_configured(tmp_path):
    "An unpacked archive inside another repository leaves that one alone."
    clone = Clone(tmp_path)
    clone.call('git', 'init', '-q', str(tmp_path))
    clone.set_up()
    assert 'nbdev' not in (tmp_path/'.git'/'config').read_text()

def test_a_machine_without_git_is_set_up_too(tmp_path):
    clone = Clone(tmp_path)
    (clone.root/'.git').mkdir()
    for t in ('bash', 'dirname', 'cat', 'sha256sum', 'cut', 'uname', 'grep', 'mkdir', 'cp', 'rm', 'touch'):
        (clone.tools/t).symlink_to(shutil.which(t))
    clone.set_up(PATH=str(clone.tools))
