"The main job at smoke size, in a copy of the clone: from nothing to the table, again, with another parameter."
import csv,json,os,random,re,shutil,signal,subprocess,sys,time
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from clone import script

ROOT = Path(__file__).parents[1]
PLACE = 'it\'s a "clone" & más {x} $HOME' # what people's folders are called, and worse

@pytest.fixture(scope='module')
def clone(tmp_path_factory): # what a user has after git clone, without the history
    d = tmp_path_factory.mktemp('clones')/PLACE
    d.mkdir()
    for n in ('iutok', 'nbs', 'scripts', 'settings.ini', 'README.md'):
        copy = shutil.copytree if (ROOT/n).is_dir() else shutil.copy
        copy(ROOT/n, d/n)
    return d

def env_of(clone): return os.environ | dict(PYTHONPATH=str(clone), COLUMNS='150')

def call(clone, *args, check=True):
    r = subprocess.run([sys.executable, *args], cwd=clone, env=env_of(clone), capture_output=True, text=True)
    if check: assert r.returncode==0, r.stdout[-3000:]+r.stderr[-3000:]
    return r

SMOKE = ['scripts/reproduce', '--profile', 'smoke']

def reproduce(clone, *args, **kw): return call(clone, *SMOKE, *args, **kw)

def begun(clone): # a call at work
    return subprocess.Popen([sys.executable, *SMOKE], cwd=clone, env=env_of(clone), stdout=subprocess.DEVNULL)

def finished(clone): # record of every finished run, as it is stored
    return {p.parent.name:p.read_bytes() for p in (clone/'runs'/'smoke').glob('*/record.json')}

def until(p, true, seconds=1200): # busy machines
    deadline = time.time()+seconds
    while not true():
        assert p.poll() is None and time.time()<deadline
        time.sleep(.1)

def workflow_of(p): # the process that it started
    return [int(x) for x in Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split()]

@pytest.fixture(scope='module')
def done(clone):
    """Stopped when its first runs are booked; killed three times, at random points, with the workflow it started and
    not what that runs; called again."""
    p,log = begun(clone),clone/'runs'/'smoke'/'workflow.log'
    until(p, lambda: log.exists() and re.search(r'^([2-9]|\d\d+) of \d+ steps', log.read_text(), re.M))
    second = reproduce(clone, check=False)
    assert second.returncode!=0 and 'another call is at work' in second.stderr
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=120)!=0
    early,draw = finished(clone),random.Random(0)
    for _ in range(3):
        p,before = begun(clone),len(finished(clone))
        until(p, lambda: len(finished(clone))>before)
        time.sleep(3*draw.random())
        for pid in [*workflow_of(p), p.pid]: os.kill(pid, signal.SIGKILL)
        p.wait()
        early |= {n:r for n,r in finished(clone).items() if n not in early}
    out = reproduce(clone).stdout
    now = finished(clone)
    assert len(early)<len(now) and all(now[k]==r for k,r in early.items()), 'a finished run was made again'
    return out

def records(clone):
    return {p.parent.name:json.loads(p.read_text()) for p in (clone/'runs'/'smoke').glob('*/record.json')}

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(1, flush=True)
time.sleep(100)"""

def test_a_workflow_that_will_not_stop_is_killed():
    deaf = subprocess.Popen([sys.executable, '-c', DEAF], stdout=subprocess.PIPE, start_new_session=True)
    deaf.stdout.read(2)
    script('reproduce').end(deaf, .3)
    assert deaf.returncode==-signal.SIGKILL

WORDS = ['VQGAN', 'CVQ-VAE', 'FSQ', 'VQ-KD', 'Cluster', 'usage', 'AR, small', 'AR, large', 'NAR, small', 'PPL ↓',
         'gFD-fashion ↓', 'consistency ↑', 'probe, grid', 'PSNR']

def test_prints_the_table_and_names_the_report(clone, done):
    for word in WORDS: assert word in done, word
    page = (clone/'runs'/'smoke'/'report.html').read_text()
    shown = page[page.index('<section id="table1_tokenizers"'):]
    assert shown.count('data:image/')>=10 and 'The page was made by a run of this set.' in shown
    assert not re.search('src="http|<script', page)

def test_five_rows_and_no_empty_cell(clone, done):
    rows = list(csv.DictReader((clone/'runs'/'smoke'/'table1_tokenizers.csv').open()))
    assert [r['tokenizer'] for r in rows]==['VQGAN', 'CVQ-VAE', 'FSQ', 'VQ-KD (effnet)', 'Cluster (effnet)']
    assert all(v!='' for r in rows for v in r.values())
    spreads = {f'{k}_large_spread' for k in ('ppl', 'gfd', 'isc', 'class_consistency')}
    assert not spreads & rows[0].keys() # the large network has one seed
    assert all((r['seeds'], r['seeds_small'], r['seeds_large'])==('1', '1', '1') for r in rows)

def test_records_say_what_they_were(clone, done):
    rs = records(clone)
    assert len(rs)==5+2+10+5+5+1 # tokenizers, decoders, AR and NAR networks, scores, the table
    for r in rs.values():
        assert {'id','params','metrics','git','versions','hardware','seconds','uses','profile'} <= set(r)
        assert str(clone) not in json.dumps(r)
    ar = rs['vqkd-effnet-s0-decoder-ar-small-s0']
    assert ar['uses']['tokenizer']['id']==rs['vqkd-effnet-s0-decoder']['id']
    for size in ('ar-small', 'nar_small'):
        frozen = [r['frozen'] for k,r in rs.items() if k.endswith(f'-{size}-s0')]
        assert len(frozen)==5 and all(f==frozen[0] for f in frozen)
    row = rs['fsq-s0-scores']
    assert [g['kind'] for g in row['generations']]==['ar', 'ar', 'nar']
    filling = dict(order='halton', steps=16, scale=1., temperature=1.)
    assert row['frozen']['nar_small-s0']['filling']==filling
    assert row['frozen']['nar_small-s0']['order']==row['frozen']['small-s0']['order'] # of images

def test_a_second_call_runs_nothing(clone, done):
    before = {k:r['finished'] for k,r in records(clone).items()}
    out = reproduce(clone).stdout
    assert {k:r['finished'] for k,r in records(clone).items()}==before
    assert 'Cluster' in out and 'Nothing to be done' in (clone/'runs'/'smoke'/'workflow.log').read_text()

def planned(clone, *words, profile='smoke', overrides={}, **options): # runs that a call would make
    words = [*words, '-n', '--profile', profile]
    for k,v in options.items(): words += [f'--{k}', v]
    words += [f'{n}.{k}={v}' for n,given in overrides.items() for k,v in given.items()]
    out = call(clone, 'scripts/reproduce', *words).stdout
    runs = set(re.findall(r'(?m)^  (\S+)', out))
    assert f'{len(runs)} runs to make; nothing was run.' in out
    return runs

def test_what_is_collected_is_the_table_and_every_run_behind_it(clone, done):
    call(clone, 'scripts/collect', 'table1', 'smoke')
    out,made = clone/'nbs'/'results'/'table1_smoke',records(clone)
    kept = {r['run']:r for r in json.loads((out/'runs.json').read_text())}
    assert kept.items()<=made.items() and {u['run'] for r in kept.values() for u in r['uses'].values()}<=set(kept)
    rows = [r['run'] for r in json.loads((out/'records.json').read_text())]
    assert rows==[u['run'] for u in made['table1_tokenizers']['uses'].values()]
    assert (out/'table1_tokenizers.csv').read_bytes()==(clone/'runs'/'smoke'/'table1_tokenizers.csv').read_bytes()
    assert {p.parent.name for p in out.glob('*/strip.png')}==set(rows) # one seed
    shutil.rmtree(out)

def test_the_wall_shows_what_the_runs_themselves_drew(clone, done, monkeypatch):
    collect,runs = script('collect'),clone/'runs'/'smoke'
    monkeypatch.setattr(collect, 'wall', lambda *given: given)
    names = [u['run'] for u in records(clone)['table1_tokenizers']['uses'].values()]
    x,rows,classes = collect.picture_of(runs, names)
    assert len(rows)==len(names) and len(classes)==10
    for name,(ids,again,drawn) in zip(names, rows.values()):
        strip = torch.from_numpy(np.array(Image.open(runs/name/'strip.png').convert('RGB')))
        strip = strip.unfold(0, 32, 32).unfold(1, 32, 32) # held-out images over reconstructions
        assert torch.equal(x, strip[0]) and (again*255-strip[1]).abs().max()<=1
        assert len(ids)==len(x) and drawn.shape[:2]==(2, 10)

def test_a_changed_parameter_reruns_what_depends_on_it(clone, done):
    assert planned(clone)==set()
    fsq = {'fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-ar-large-s0', 'fsq-s0-nar_small-s0', 'fsq-s0-scores',
           'table1_tokenizers'}
    assert planned(clone, overrides=dict(train_fsq=dict(steps=21)))==fsq
    assert planned(clone, overrides={'fsq-s0':dict(steps=21)})==fsq # of that run alone
    assert planned(clone, overrides={'fsq-s0-ar-large-s0':dict(steps=21)})==fsq-{
        'fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-nar_small-s0'}
    rows = ('vqgan-s0', 'cvqvae-s0', 'fsq-s0', 'vqkd-effnet-s0-decoder', 'cluster-effnet-s0-decoder')
    scored = {f'{n}-scores' for n in rows}
    assert planned(clone, overrides=dict(evaluate=dict(temperature=.9)))==scored | {'table1_tokenizers'}

def test_all_tables_and_figures_share_their_runs(clone, done):
    from iutok.plan import artefacts
    rest = planned(clone, 'all')
    assert set(artefacts('smoke'))-{'table1_tokenizers'}<=rest
    assert not rest & {'vqgan-s0', 'fsq-s0', 'fsq-s0-scores', 'table1_tokenizers'} # finished already

def scored_in(runs): return {n.removesuffix('-scores') for n in runs if n.endswith('-scores')}

def test_the_mini_table_has_its_rows(clone):
    mini = planned(clone, profile='mini')
    teachers = ('effnet', 'clip', 'vit', 'dino', 'mae')
    tokenizers = ['vqgan', 'cvqvae', 'fsq'] + [f'{kind}-{t}' for kind in ('vqkd', 'cluster') for t in teachers]
    rows = {f'{t}-s{s}' + ('-decoder' if '-' in t else '') for t in tokenizers for s in (0, 1)}
    assert scored_in(mini)==rows
    small = {f'{r}-ar-small-s{s}' for r in rows for s in (0, 1) if f'-s{s}' in r}
    large = {f'{r}-ar-large-s0' for r in rows if '-s0' in r}
    assert {n for n in mini if '-ar-' in n}==small | large
    assert {n for n in mini if '-nar_' in n}=={f'{r}-nar_small-s0' for r in rows if '-s0' in r}

def test_the_quick_table_in_colour_has_its_rows(clone):
    quick = planned(clone, 'emoji', profile='quick')
    rows = {'vqgan-s0', 'fsq-s0', *(f'{t}-s0-decoder' for t in ('vqkd-effnet', 'cluster-effnet', 'cluster-random'))}
    assert scored_in(quick)==rows
    assert {n for n in quick if '-ar-' in n}=={f'{r}-ar-small-s0' for r in rows} and not any('nar_' in n for n in quick)

def test_the_full_table_in_colour_has_its_rows_and_null_teachers(clone):
    full = planned(clone, 'emoji', profile='mini')
    teachers = ('effnet', 'clip', 'vit', 'dino', 'mae')
    taught = [f'vqkd-{t}' for t in (*teachers, 'random', 'shuffled')]
    taught += [f'cluster-{t}' for t in (*teachers, 'random', 'pixels', 'edges')]
    rows = {f'{t}-s{s}' for t in ('vqgan', 'cvqvae', 'fsq') for s in (0, 1)}
    rows |= {f'{t}-s{s}-decoder' for t in taught for s in (0, 1)}
    assert scored_in(full)==rows and len(rows)==36
    for size in ('ar-large', 'nar_small'):
        assert {n for n in full if f'-{size}-' in n}=={f'{r}-{size}-s0' for r in rows if '-s0' in r}

def test_the_papers_table_has_its_rows(clone):
    paper = planned(clone, profile='paper', data_root='IMAGENET')
    taught = {f'vqkd-{t}-s3407-decoder' for t in ('clip', 'vit', 'dino', 'mae')}
    assert {n for n in scored_in(paper) if n.startswith('vqkd')}==taught
    assert {'vqgan-s3407-ar-llama_medium-s3407', 'vqkd-clip-s3407-decoder-mage_base-s3407'}<=paper

def test_teachers_and_seeds_can_be_chosen(clone):
    chosen = planned(clone, profile='mini', teachers='clip_large', seeds='5')
    assert chosen>{'vqkd-clip_large-s5-decoder-ar-large-s5', 'cluster-clip_large-s5-decoder-scores', 'vqgan-s5'}

def test_a_run_on_a_gpu_is_planned_whatever_its_folder_is_called(clone): # {x} is no field of a format
    assert planned(clone, 'vqgan-s7', gpus='1')=={'vqgan-s7'}

def test_a_value_changed_in_the_recipes_reruns_what_depends_on_it(clone, done):
    settings = clone/'iutok'/'settings.py'
    text = settings.read_text()
    assert text.count('vit_grid=8, vit_width=96')==1
    settings.write_text(text.replace('vit_grid=8, vit_width=96', 'vit_grid=4, vit_width=96'))
    try: again = planned(clone)
    finally: settings.write_text(text)
    assert {'vqkd-effnet-s0-decoder', 'cluster-effnet-s0-decoder'} <= again
    assert not any(p.startswith(('vqgan', 'cvqvae', 'fsq')) or p=='vqkd-effnet-s0' for p in again)

def test_rows_that_differ_in_more_than_the_tokenizer_are_refused(clone, done):
    from iutok.analysis import table1
    rows = [records(clone)[f'{n}-scores'] for n in ('vqgan-s0', 'fsq-s0')]
    rows[1]['frozen']['small-s0']['budget']['steps'] = 99 # both of seed 0
    with pytest.raises(ValueError, match='cannot stand in one table: small-s0.budget.steps is 20 and 99'): table1(rows)

@pytest.mark.parametrize('words,message', [
    (['train_gan'], "no runner notebook 'train_gan'"),
    (['train_vqgan', 'n_code=3'], "no parameter 'n_code'; did you mean 'n_codes'"),
    (['train_vqgan', 'n_codes=many'], "n_codes must be int (K, codebook size), got 'many'"),
    (['train_vqgan', 'profile=tiny'], 'profile must be one of smoke, quick, mini, paper'),
    (['train_vqgan', 'recipe=vqgan-819'], "no recipe 'vqgan-819'; did you mean vqgan-8192"),
    (['train_vqgan', 'recipe=fsq-8000'], "'fsq-8000' is for train_fsq"),
    (['train_vqgan', 'name={sead}'], 'no format string'),
    (['train_vqgan', 'seed'], 'not of the form name=value')])
def test_run_stops_at_once_on_wrong_words(clone, words, message):
    r = call(clone, 'scripts/run', *words, check=False)
    assert r.returncode!=0 and message in r.stderr and 'Traceback' not in r.stderr

def test_papermill_alone_stops_on_an_unknown_parameter(clone, tmp_path):
    import papermill as pm
    page = script('run').literal(clone/'nbs'/'train_vqgan.ipynb')
    wrong = dict(profile='smoke', n_code=3)
    with pytest.raises(pm.PapermillExecutionError, match="no parameter 'n_code'; did you mean 'n_codes'"):
        pm.execute_notebook(page, tmp_path/'out.ipynb', wrong, cwd=clone/'nbs', progress_bar=False)

def test_a_failed_run_names_its_log(clone, done):
    r = reproduce(clone, 'train_cluster.teacher=timm:clap', check=False)
    assert r.returncode!=0
    assert re.search(r'train_cluster failed; its log is runs/smoke/logs/cluster-effnet-s\d.log', r.stdout)
    assert 'clap' in r.stdout and 'runs/smoke/workflow.log' in r.stderr
    last = r.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r'What failed is told in runs/smoke/logs/cluster-effnet-s\d.log', last)

def test_unknown_override_is_refused_before_anything_runs(clone):
    r = reproduce(clone, 'train_ar.stepz=3', check=False)
    assert r.returncode!=0 and "did you mean 'steps'" in r.stderr

def test_help_names_every_parameter_and_recipe(clone):
    from iutok.settings import RECIPES, parameter, takes
    out = call(clone, 'scripts/run', 'train_vqgan', '--help').stdout
    assert all(f'  {k}:{parameter("train_vqgan", k).type} = ' in out for k in takes('train_vqgan'))
    assert 'n_codes:int = 64 | 512 | 512 | 8192' in out
    assert all(k in out for k,r in RECIPES.items() if r['notebook']=='train_vqgan')
    assert 'dim:int = 8 ' in call(clone, 'scripts/run', 'train_vqgan', 'recipe=llamagen-16384x8', '--help').stdout

TWO = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']

def test_two_processes_train_one_run(clone, done): # decoder: tokens are cached, batches shared
    words = ['scripts/run', 'train_decoder', 'profile=smoke', 'tokenizer=runs/smoke/vqkd-effnet-s0', 'name=both',
             'look_every=10'] # the recipe's own, no line of the page's cell
    runs = clone/'runs'/'smoke'
    shutil.rmtree(runs/'cache'/'tokens')
    r = call(clone, *TWO, *words)
    assert 'unknown parameter' not in r.stdout+r.stderr
    both = records(clone)['both']
    one = records(clone)['vqkd-effnet-s0-decoder']
    assert (both['processes'], one['processes'])==(2, 1)
    assert both['id']==one['id'] and both['params']==one['params']
    curve = lambda n: [float(x['g_l1']) for x in csv.DictReader((runs/n/'curves.csv').open())]
    assert curve('both')==pytest.approx(curve('vqkd-effnet-s0-decoder'), rel=.05)
    files = {p.name for p in (runs/'both').iterdir()}
    assert {'tokenizer.safetensors', 'notebook.ipynb', 'record.json'} <= files
    assert not any(f.startswith(('error', 'bad')) for f in files)
    shutil.rmtree(runs/'both')

def test_a_failing_process_is_named(clone, done):
    r = call(clone, *TWO, 'scripts/run', 'train_fsq', 'profile=smoke', 'batch_size=33', 'name=odd', check=False)
    said = 'batch_size=33 is the total of all ranks and must be a multiple of world=2'
    assert r.returncode!=0 and said in r.stderr+r.stdout
    shutil.rmtree(clone/'runs'/'smoke'/'odd')
