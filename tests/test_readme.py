"""README cannot rot: every block of code runs, every command is tried in the form that costs least, every number that
was typed by hand is what the records or the code say."""
import json, os, re, shlex, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest
from PIL import Image
from clone import ROOT, script

README = (ROOT/'README.md').read_text()
RESULTS = ROOT/'nbs'/'results'
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```$', README, flags=re.S | re.M)
TOOLS = 'scripts/', 'papermill ', 'pip ', 'iutok ', 'jupyter '

def commands(): # of every bash block, and those in running text; what stands behind # is for people
    blocks = [l for kind,code in BLOCKS if kind=='bash' for l in code.splitlines()]
    prose = re.findall(r'`([^`\n]+)`', re.sub(r'^```.*?^```$', '', README, flags=re.S | re.M))
    lines = [l.partition(' #')[0].strip() for l in blocks] + [c for c in prose if c.startswith(TOOLS)]
    return [*dict.fromkeys(part.strip() for l in lines for part in l.split('&&') if part.strip())]

def python(*words, cwd=ROOT):
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True)

# --- what a command does when it is only tried -----------------------------------------------------------------------

def try_reproduce(words, monkeypatch, **_): # its plan
    module = script('reproduce')
    monkeypatch.setattr(sys, 'argv', ['scripts/reproduce', *words, '-n'])
    a = module.arguments()
    assert a.n and (module.chosen(a).plan() or 'report' in a.targets)

def try_verify(words, capsys, **_): # its plan
    script('verify').main(['-n', *words])
    assert re.search(r'\d+ runs to make; nothing was run', capsys.readouterr().out)

def try_run(words, capsys, monkeypatch, **_): # its parameters, after they were judged
    monkeypatch.setenv('IUTOK_HERE', str(ROOT))
    monkeypatch.chdir(ROOT)
    script('run').main([*words, '--help'])
    assert 'Parameters' in capsys.readouterr().out

def try_bash(name): return lambda words, **_: subprocess.run(['bash', '-n', ROOT/'scripts'/name], check=True)

def try_site(words, **_): assert not words and python('scripts/site', '--help').stdout.startswith('The book as web')

def try_papermill(words, tmp_path, capsys, monkeypatch): # the page with its parameters, and nothing executed
    page,out,*rest = words
    r = python('-m', 'papermill', ROOT/page, tmp_path/out, *rest, '--prepare-only', cwd=tmp_path)
    assert r.returncode==0, r.stderr[-1000:]
    cells = json.loads((tmp_path/out).read_text())['cells']
    put = next(''.join(c['source']) for c in cells if 'injected-parameters' in c['metadata'].get('tags', []))
    names = dict(zip(rest[1::3], rest[2::3], strict=True))
    assert set(rest[::3])=={'-p'} and all(f'{k} = "{v}"' in put for k,v in names.items())
    try_run([Path(page).stem, *(f'{k}={v}' for k,v in names.items())], capsys, monkeypatch) # it has such parameters

def try_pip(words, **_): # test_package makes and installs what `.` is
    assert words.pop(0)=='install'
    if '--index-url' in words:
        i = words.index('--index-url')
        assert f'CPU_BUILD={words[i+1]}' in (ROOT/'scripts'/'setup.sh').read_text().splitlines()
        del words[i:i+2]
    assert words in (['.'], ['torch', 'torchvision']) and (ROOT/'setup.py').exists()

def try_iutok(words, tmp_path, monkeypatch, capsys, **_):
    from iutok.cli import main
    (tmp_path/'pictures').mkdir()
    for i in range(2): Image.new('RGB', (40+i, 30), 'navy').save(tmp_path/'pictures'/f'{i}.png')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path))
    assert main(words)==0, capsys.readouterr().err
    assert (tmp_path/words[words.index('--out')+1]).is_file() and '2 pictures' in capsys.readouterr().out

def try_jupyter(words, **_): # tests/test_jupyterlab.py starts it
    import jupyterlab
    what,folder = words
    assert what=='lab' and jupyterlab.__version__ and any((ROOT/folder).glob('*.ipynb'))

TRIED = {
    'scripts/reproduce': try_reproduce, 'scripts/verify': try_verify, 'scripts/run': try_run,
    'scripts/test': try_bash('test'), 'scripts/site': try_site, 'papermill': try_papermill, 'pip': try_pip,
    'iutok': try_iutok, 'jupyter': try_jupyter}

@pytest.mark.parametrize('command', commands())
def test_a_command_of_the_readme_works(command, tmp_path, monkeypatch, capsys):
    name,*words = shlex.split(command)
    if name.startswith('scripts/'): assert os.access(ROOT/name, os.X_OK)
    TRIED[name](words, tmp_path=tmp_path, monkeypatch=monkeypatch, capsys=capsys)

def test_every_command_is_found():
    assert len(commands())>=14 and {c.split()[0] for c in commands()}==TRIED.keys()
    assert {kind for kind,_ in BLOCKS}=={'bash', 'python'}

@pytest.mark.parametrize('command, error', [('scripts/reproduce table44', SystemExit),
                                            ('scripts/reproduce --sizes smoke', SystemExit),
                                            ('scripts/run train_vqkd teecher=clip', SystemExit),
                                            ('iutok encode pictures/ --outt x', AssertionError)])
def test_a_command_that_is_gone_is_noticed(command, error, tmp_path, monkeypatch, capsys):
    with pytest.raises(error): test_a_command_of_the_readme_works(command, tmp_path, monkeypatch, capsys)

@pytest.mark.parametrize('code', [code for kind,code in BLOCKS if kind=='python'], ids=lambda c: c.split('\n')[0])
def test_a_block_of_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path))
    for name in ('a.png', 'b.jpg'): Image.new('RGB', (40, 60), 'navy').save(name)
    names = {}
    exec(code, names)
    if '->' not in code: return
    said = [re.search(r'^%s = .*#.*(\([\d, ]+\))' % n, code, re.M)[1] for n in ('ids', 'images')]
    assert [str(tuple(names[n].shape)) for n in ('ids', 'images')]==said # as the comments have it

# --- what is said beside the commands --------------------------------------------------------------------------------

def test_what_is_said_of_commands_is_so(monkeypatch):
    from iutok.checks import PROFILES
    from iutok.cli import CLONE, COMMANDS
    from iutok.settings import parse_words, resolve, run_folder
    also = re.search(r'iutok encode.*# also (.*), \.\.\.', README)[1].split(', ')
    assert {*also}<={*COMMANDS, *CLONE}
    params = resolve('train_vqkd', parse_words('train_vqkd', ['teacher=clip']))
    assert f'`{run_folder(params).relative_to(ROOT)}`' in README.replace('\n', ' ')
    named = re.search(r'The profiles (.*?)\s+differ', README, re.S)[1]
    assert re.findall(r'`(\w+)`', named)==[*PROFILES] and params['profile']=='mini' and '`mini` (the default)' in named
    for words in (['all'], ['table4', '-n']): try_reproduce(words, monkeypatch) # of the comments

def test_papermill_wants_a_path_as_the_readme_says(tmp_path): # of a person at a terminal
    import pty
    assert 'papermill refuses to start without a path for the executed page' in README
    words = next(c for c in commands() if c.startswith('papermill')).split()[1:]
    terminal,end = pty.openpty()
    call = [sys.executable, '-m', 'papermill', str(ROOT/words[0]), *words[2:]]
    r = subprocess.run(call, cwd=tmp_path, stdin=end, stdout=end, stderr=subprocess.PIPE, text=True)
    for f in (terminal, end): os.close(f)
    assert r.returncode and "Missing argument 'OUTPUT_PATH'" in r.stderr

def test_an_own_quantizer_goes_where_the_readme_says():
    cells = json.loads((ROOT/'nbs'/'train_vqgan.ipynb').read_text())['cells']
    code = [''.join(c['source']) for c in cells if c['cell_type']=='code']
    line,dim = re.search(r'after `(.*?)` in \[train_vqgan\].*? set `dim` to (\d+)', README, re.S).groups()
    assert sum(line in c.splitlines() for c in code)==1
    assert any(re.search(r'^dim *(:\w+)? *=', c, re.M) for c in code) and f'dim={dim}' in README

def test_names_of_data_are_known():
    from iutok.settings import parse_words
    names = [n for n in re.findall(r"'(\w+:[A-Z]+)'", README)]
    assert len(names)==3
    for n in names: assert parse_words('train_vqgan', [f'data={n}'])=={'data':n}

# --- numbers that were typed -----------------------------------------------------------------------------------------

WORDS = 'zero one two three four five six seven eight nine ten'.split()
NUMBER = rf"(?<!\w)\d[\d.,]*\d|(?<!\w)\d|\b(?:{'|'.join(WORDS[2:])}|half|quarter|dozen|hundred|thousand)\b"
NAMES = r'arXiv \d+\.\d+|NeurIPS \d+|-Lite[02]|Apache-2\.0|CC-BY 4\.0' # numbers that are part of a name

def typed(): # README's prose as somebody typed it: without code, links, and what the index page computes
    cells = json.loads((ROOT/'nbs'/'index.ipynb').read_text())['cells']
    texts = {k:[''.join(c['source']) for c in cells if c['cell_type']==k] for k in ('markdown', 'code')}
    quoted = re.findall(r'f"""(.*?)"""', '\n'.join(texts['code']), re.S)
    text = '\n\n'.join([*texts['markdown'], *(re.sub(r'\{[^}]*\}', ' ', q) for q in quoted)])
    text = re.sub(r'^```python.*?^```$', '', text, flags=re.S | re.M) # these are executed
    text = re.sub(r'^```bash\n(.*?)^```$', lambda m: re.sub(r'(?m)^.*?( #|$)', '', m[1]), text, flags=re.S | re.M)
    return ' '.join(re.sub(r'`[^`]*`|\]\([^)]*\)', ' ', text).split())

def records(name, kind='records'): return json.loads((RESULTS/name/f'{kind}.json').read_text())

def cardinal(n): return WORDS[n] if n<=10 else f'{WORDS[n//100]} hundred' if n%100==0 and n<=1000 else f'{n:,}'

def the(values): # one value that all agree on
    value, = {*values}
    return value

def seeds_of(rows): return {r['trained']['seed'] for r in rows}

def minutes(name): # of two cores, for a call with one seed
    return sum(r['seconds'] for r in records(name, 'runs'))/60/len(seeds_of(records(name)))/2

def sizes(name): # pixels, side of the grid, codes: the same in all runs of a table
    runs = [r['params'] for r in records(name, 'runs')]
    return [the(p[k] for p in runs if p.get(k) is not None) for k in ('image_size', 'grid', 'n_codes')]

def facts(): # phrases, each as records and code have it
    from iutok.data import load_images
    from iutok.pretrained import shipped
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini')
    mini,quick = records('table1_mini'),records('table1_quick')
    yield f"Python {ini['DEFAULT']['min_python']} or newer"
    yield f"{cardinal(len({r['run'].replace('-s1', '-s0') for r in quick}))} rows with fewer steps"
    assert 7<minutes('table1_quick')<20
    yield 'in a quarter of an hour of two cores'
    assert 20<minutes('table1_emoji_quick')<40
    yield '(half an hour)'
    from iutok.analysis import label
    of_table1 = cardinal(len({label(r) for r in records('table1_emoji_quick')}))
    yield f'makes {of_table1} of these rows'
    longer,usual = (the(r['params']['steps'] for r in records(page, 'runs') if r['notebook']=='train_vqgan')
                    for page in ('controls_emoji_quick', 'table1_emoji_quick'))
    assert longer%usual==0
    yield f'With {cardinal(longer//usual)} times the steps'
    pixels,side,codes = sizes('table1_mini')
    yield f'Fashion-MNIST at {pixels} pixels, {side}×{side} of {codes} codes'
    trained = [r for r in records('table1_mini', 'runs') if r['notebook'] in ('train_vqgan', 'train_vqkd', 'train_ar')]
    n,seeds = (cardinal(len(v)) for v in (load_images('fashion', 'test').classes, seeds_of(mini)))
    yield f"{n} classes, {seeds} seeds, {cardinal(the(r['params']['steps'] for r in trained))} steps"
    yield f'distance between {seeds} seeds'
    train,held = ({*load_images('emoji', s).concepts} for s in ('train', 'test'))
    assert not train & held # tested on concepts never seen
    pixels,side,codes = sizes('table1_emoji_quick')
    yield f'emoji of {len(train | held):,} concepts, {pixels} pixels, {side}×{side} of {codes:,} codes'
    yield f'{cardinal(len(shipped()))} tokenizers with networks'
    chapters = re.search(r'chapters \(`jupyter lab nbs`\).*?\[Glossary\]', README, re.S)[0]
    yield f"{cardinal(len(re.findall(r'nbs/[0-9]{2}_', chapters))).capitalize()} chapters"
    # a definition; the paper's size; tested above; a title; the paper's tables
    yield from ('is half the', 'at 256 pixels on ImageNet', 'to 9.', 'Why do two FIDs differ?', 'Tables 5 to 8,')
    assert seeds_of([r for r in records('table1_mini_s0', 'runs') if r['notebook']=='evaluate'])=={0} # one seed

def test_every_typed_number_is_what_it_should_be():
    left = re.sub(NAMES, ' ', typed())
    for phrase in facts():
        assert phrase in left, f'README does not say: {phrase}'
        left = left.replace(phrase, ' ')
    assert not [left[max(0, m.start()-30):m.end()+30] for m in re.finditer(NUMBER, left)] # facts() lacks these
