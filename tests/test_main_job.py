"The main job at smoke size, in a copy of the clone: from nothing to the table, then again, then with one parameter changed."
import csv,importlib.util,json,os,re,shutil,signal,subprocess,sys,time
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
PLACE = 'it\'s a "clone" & más {x} $HOME' # what people's folders are called, and worse

@pytest.fixture(scope='module')
def clone(tmp_path_factory): # what a user has after git clone, without the history
    d = tmp_path_factory.mktemp('clones')/PLACE
    d.mkdir()
    for n in ('iutok','nbs','scripts','settings.ini','README.md'):
        (shutil.copytree if (ROOT/n).is_dir() else shutil.copy)(ROOT/n, d/n)
    return d

def call(clone, *args, check=True):
    env = os.environ | dict(PYTHONPATH=str(clone), COLUMNS='150')
    r = subprocess.run([sys.executable, *args], cwd=clone, env=env, capture_output=True, text=True)
    if check: assert r.returncode==0, r.stdout[-3000:]+r.stderr[-3000:]
    return r

def reproduce(clone, *args, **kw): return call(clone, 'scripts/reproduce.py', '--profile', 'smoke', *args, **kw)

@pytest.fixture(scope='module')
def done(clone): # killed when its first runs are finished and booked, called again
    env = os.environ | dict(PYTHONPATH=str(clone))
    p = subprocess.Popen([sys.executable, 'scripts/reproduce.py', '--profile', 'smoke'], cwd=clone, env=env, stdout=subprocess.DEVNULL)
    deadline = time.time()+1200 # busy machines
    log = clone/'runs'/'smoke'/'workflow.log'
    while not (log.exists() and re.search(r'^([2-9]|\d\d+) of \d+ steps', log.read_text(), re.M)):
        assert p.poll() is None and time.time()<deadline
        time.sleep(.2)
    second = reproduce(clone, check=False)
    assert second.returncode!=0 and 'another call is at work' in second.stderr
    p.send_signal(signal.SIGTERM)
    assert p.wait(timeout=120)!=0
    early = {k:r['finished'] for k,r in records(clone).items()}
    out = reproduce(clone).stdout
    now = {k:r['finished'] for k,r in records(clone).items()}
    assert len(early)<len(now) and all(now[k]==t for k,t in early.items()), 'a finished run was made again'
    return out

def records(clone): return {p.parent.name:json.loads(p.read_text()) for p in (clone/'runs'/'smoke').glob('*/record.json')}

def test_a_workflow_that_will_not_stop_is_killed():
    spec = importlib.util.spec_from_file_location('workflow_of_main_job', Path(__file__).parents[1]/'scripts'/'reproduce.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    deaf = subprocess.Popen([sys.executable, '-c', 'import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)'], stdout=subprocess.PIPE, start_new_session=True)
    deaf.stdout.read(2)
    module.end(deaf, .3)
    assert deaf.returncode==-signal.SIGKILL

def test_prints_the_table_and_names_the_report(clone, done):
    for word in ('VQGAN','CVQ-VAE','FSQ','VQ-KD','Cluster','usage','AR, small','AR, large','PPL ↓','gFD-fashion ↓','consistency ↑','probe, grid','PSNR'): assert word in done, word
    page = (clone/'runs'/'smoke'/'report.html').read_text()
    assert page.count('data:image/png') >= 16 and 'http' not in re.sub('xmlns="[^"]*"', '', page)

def test_five_rows_and_no_empty_cell(clone, done):
    rows = list(csv.DictReader((clone/'runs'/'smoke'/'table1_tokenizers.csv').open()))
    assert [r['tokenizer'] for r in rows]==['VQGAN','CVQ-VAE','FSQ','VQ-KD (effnet)','Cluster (effnet)']
    alone = {f'{k}_large_spread' for k in ('ppl','gfd','isc','class_consistency')} & rows[0].keys() # the large network has one seed
    assert all(v!='' for r in rows for k,v in r.items()) and not alone
    assert all((r['seeds'], r['seeds_small'], r['seeds_large'])==('1', '1', '1') for r in rows)

def test_records_say_what_they_were(clone, done):
    rs = records(clone)
    assert len(rs)==5+2+10+5+1 # tokenizers, decoders, networks, scores, the table
    for r in rs.values():
        assert {'id','params','metrics','git','versions','hardware','seconds','uses','profile'} <= set(r)
        assert str(clone) not in json.dumps(r)
    ar = rs['vqkd-effnet-s0-decoder-ar-small-s0']
    assert ar['uses']['tokenizer']['id']==rs['vqkd-effnet-s0-decoder']['id']
    frozen = [r['frozen'] for k,r in rs.items() if k.endswith('-ar-small-s0')]
    assert len(frozen)==5 and all(f==frozen[0] for f in frozen)

def test_a_second_call_runs_nothing(clone, done):
    before = {k:r['finished'] for k,r in records(clone).items()}
    began = time.time()
    out = reproduce(clone).stdout
    assert {k:r['finished'] for k,r in records(clone).items()}==before
    assert 'Cluster' in out and 'Nothing to be done' in (clone/'runs'/'smoke'/'workflow.log').read_text()

def planned(clone, profile='smoke', overrides={}, **choice): # folders of the runs that a call would make
    config = clone/'planned.json'
    config.write_text(json.dumps(dict(profile=profile, overrides=overrides) | choice))
    (clone/'runs'/profile).mkdir(parents=True, exist_ok=True)
    r = subprocess.run([sys.executable, '-m', 'snakemake', '-s', str(clone/'scripts'/'Snakefile'), '--directory', str(clone/'runs'/profile), '--cores', '1', '--dry-run',
                        '--rerun-triggers', 'mtime', 'params', 'input', '--configfile', str(config)], cwd=clone, env=os.environ | dict(PYTHONPATH=str(clone)), capture_output=True, text=True)
    assert r.returncode==0, r.stdout[-2000:]+r.stderr[-2000:]
    return set(re.findall(r'output: (\S+)/record.json', r.stdout+r.stderr))

def test_a_changed_parameter_reruns_what_depends_on_it(clone, done):
    assert planned(clone)==set()
    fsq = {'fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-ar-large-s0', 'fsq-s0-scores', 'table1_tokenizers'}
    assert planned(clone, overrides=dict(train_fsq=dict(steps=21)))==fsq
    rows = ('vqgan-s0', 'cvqvae-s0', 'fsq-s0', 'vqkd-effnet-s0-decoder', 'cluster-effnet-s0-decoder')
    assert planned(clone, overrides=dict(evaluate=dict(temperature=.9)))=={f'{n}-scores' for n in rows} | {'table1_tokenizers'}

def test_every_profile_has_its_rows(clone):
    mini = planned(clone, 'mini')
    rows = {n.removesuffix('-scores') for n in mini if n.endswith('-scores')}
    assert rows=={f'{t}-s{s}' for t in ('vqgan','cvqvae','fsq') for s in (0, 1)} | {f'{k}-{t}-s{s}-decoder' for k in ('vqkd','cluster') for t in ('effnet','clip','vit','dino','mae') for s in (0, 1)}
    assert {n for n in mini if '-ar-' in n}=={f'{r}-ar-{z}' for r in rows for z in (('small-s0','large-s0') if '-s0' in r else ('small-s1',))}
    paper = planned(clone, 'paper', data_root='IMAGENET')
    assert {n for n in paper if n.startswith('vqkd') and n.endswith('-scores')}=={f'vqkd-{t}-s3407-decoder-scores' for t in ('clip','vit','dino','mae')} and 'vqgan-s3407-ar-llama_medium-s3407' in paper
    assert planned(clone, 'mini', teachers=['clip_large'], seeds=[5])>{'vqkd-clip_large-s5-decoder-ar-large-s5','cluster-clip_large-s5-decoder-scores','vqgan-s5'}

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
    rows = [records(clone)[f'{n}-scores'] for n in ('vqgan-s0','fsq-s0')]
    rows[1]['frozen']['small-s0']['budget']['steps'] = 99 # both of seed 0
    with pytest.raises(ValueError, match='cannot stand in one table: small-s0.budget.steps is 20 and 99'): table1(rows)

@pytest.mark.parametrize('words,message', [
    (['train_vqgan', 'n_code=3'], "no parameter 'n_code'; did you mean 'n_codes'"), (['train_vqgan', 'n_codes=many'], "n_codes must be int (K, codebook size), got 'many'"),
    (['train_vqgan', 'profile=tiny'], 'profile must be one of smoke, quick, mini, paper'), (['train_gan'], "no runner notebook 'train_gan'"), (['train_vqgan', 'recipe=vqgan-819'], "no recipe 'vqgan-819'; did you mean vqgan-8192"),
    (['train_vqgan', 'recipe=fsq-8000'], "'fsq-8000' is for train_fsq"), (['train_vqgan', 'name={sead}'], 'no format string'), (['train_vqgan', 'seed'], 'not of the form name=value')])
def test_run_stops_at_once_on_wrong_words(clone, words, message):
    r = call(clone, 'scripts/run.py', *words, check=False)
    assert r.returncode!=0 and message in r.stderr and 'Traceback' not in r.stderr

def test_papermill_alone_stops_on_an_unknown_parameter(clone, tmp_path):
    import papermill as pm
    page = str(clone/'nbs'/'train_vqgan.ipynb').replace('{', '{{').replace('}', '}}') # papermill formats what it is given
    with pytest.raises(pm.PapermillExecutionError, match="no parameter 'n_code'; did you mean 'n_codes'"):
        pm.execute_notebook(page, tmp_path/'out.ipynb', dict(profile='smoke', n_code=3), cwd=clone/'nbs', progress_bar=False)

def test_a_failed_run_names_its_log(clone, done):
    r = reproduce(clone, 'train_cluster.teacher=timm:clap', check=False)
    assert r.returncode!=0
    assert re.search(r'train_cluster failed; its log is runs/smoke/logs/cluster-effnet-s\d.log', r.stdout) and "clap" in r.stdout and 'runs/smoke/workflow.log' in r.stderr

def test_unknown_override_is_refused_before_anything_runs(clone):
    r = reproduce(clone, 'train_ar.stepz=3', check=False)
    assert r.returncode!=0 and "did you mean 'steps'" in r.stderr

def test_readme_lines_run(clone, done):
    code = re.search(r'```python\n(.*?from iutok\.tokenizers import Tokenizer.*?)```', (ROOT/'README.md').read_text(), re.S)[1]
    assert len([l for l in code.strip().splitlines() if l.strip()])<=7
    script = clone/'readme.py'
    script.write_text(code.replace('runs/quick/', 'runs/smoke/'))
    call(clone, script.name)

def test_help_names_every_parameter_and_recipe(clone):
    from iutok.settings import RECIPES, parameter, takes
    out = call(clone, 'scripts/run.py', 'train_vqgan', '--help').stdout
    assert all(f'  {k}:{parameter("train_vqgan", k).type} = ' in out for k in takes('train_vqgan'))
    assert 'n_codes:int = 64 | 512 | 512 | 8192' in out
    assert all(k in out for k,r in RECIPES.items() if r['notebook']=='train_vqgan')
    assert 'dim:int = 8 ' in call(clone, 'scripts/run.py', 'train_vqgan', 'recipe=llamagen-16384x8', '--help').stdout

def test_two_processes_train_one_run(clone, done): # decoder: tokens are cached, batches shared
    words = ['scripts/run.py', 'train_decoder', 'profile=smoke', 'tokenizer=runs/smoke/vqkd-effnet-s0', 'name=both']
    shutil.rmtree(clone/'runs'/'smoke'/'cache'/'tokens')
    call(clone, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', *words)
    r,one = records(clone)['both'],records(clone)['vqkd-effnet-s0-decoder']
    assert r['processes']==2 and one['processes']==1 and r['id']==one['id'] and r['params']==one['params']
    curve = lambda n: [float(x['g_l1']) for x in csv.DictReader((clone/'runs'/'smoke'/n/'curves.csv').open())]
    assert curve('both')==pytest.approx(curve('vqkd-effnet-s0-decoder'), rel=.05)
    files = {p.name for p in (clone/'runs'/'smoke'/'both').iterdir()}
    assert {'tokenizer.safetensors','notebook.ipynb','record.json'} <= files and not any(f.startswith(('error','bad')) for f in files)
    shutil.rmtree(clone/'runs'/'smoke'/'both')

def test_a_failing_process_is_named(clone, done):
    r = call(clone, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'scripts/run.py', 'train_fsq', 'profile=smoke', 'batch_size=33', 'name=odd', check=False)
    assert r.returncode!=0 and 'batch_size=33 is the total of all ranks and must be a multiple of world=2' in r.stderr+r.stdout
    shutil.rmtree(clone/'runs'/'smoke'/'odd')
