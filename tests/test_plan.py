"The table of runs: names, what they are told, what builds on what; and what starts them."
import json, os, re, shlex, subprocess, sys, time
from pathlib import Path
import pytest
from clone import script
from iutok.checks import PROFILES, WORLDS
from iutok.files import save_json
from iutok.plan import ARTEFACTS, Choice, artefacts, choice_of, expected, filled, kind_of, launcher, lines_of
from iutok.plan import lists_of, needs, recorded, run_named, wanted
from iutok.settings import resolve, run_folder

ROOT = Path(__file__).parents[1]
SETS = [(p, w) for p in PROFILES for w in WORLDS if (p, w)!=('paper', 'emoji')]

@pytest.mark.parametrize('profile, world', SETS)
def test_every_run_of_every_artefact_is_told_what_its_notebook_takes(profile, world):
    c = Choice(profile, world, targets=['all'], data_root='IMAGENET' if profile=='paper' else None)
    done = set()
    for name,r in c.plan().items():
        assert set(r.uses)<=done, f'{name} comes before what it builds on'
        done.add(name)
        values = c.values(r) # a ValueError where a word means nothing
        assert run_folder(values)==c.folder/name, name
        told = [v for v in values.values() if isinstance(v, list) for v in v if isinstance(v, str)]
        told += [v for v in values.values() if isinstance(v, str)]
        assert {str(c.folder/u) for u in r.uses}<=set(told), f'{name} is not told what it builds on'

@pytest.mark.parametrize('profile, world', SETS)
def test_names_say_what_a_run_is(profile, world):
    names = [n for n,r in Choice(profile, world, targets=['all']).plan().items() if r.name!=r.notebook]
    lists = lists_of(profile, world)
    for n in names:
        values = resolve((r := run_named(n, lists)).notebook, Choice(profile, world).given(r))
        assert f"-s{values['seed']}" in n or r.notebook.startswith('evaluate')
        if 'teacher' in values: assert f"-{values['teacher']}-" in n
        if 'size' in values: assert f"-{values['size']}-" in n
        if m := re.search(r'-k(\d+)-d(\d+)-s\d+$', n): assert (values['n_codes'], values['dim'])==(int(m[1]), int(m[2]))

@pytest.mark.parametrize('name', [
    'vqgan', 'vqgan-sx', 'fsq-s0-ar-small-s1', 'fsq-s0-decoder-decoder-ar-huge', 'x/vqgan-s0', 'vqgan-s0-scores-scores',
    'fsq-s0-ar-small-s0-ar-small-s0', 'vqgan-s0-ar-small-s0-scores'])
def test_what_no_pattern_fits_is_no_run(name): assert run_named(name, lists_of('smoke')) is None

def test_words_ask_for_pages_and_runs():
    assert wanted(None)==wanted('table1')==wanted('table1_tokenizers')==['table1_tokenizers']
    assert wanted('vqgan-s5-scores')==['vqgan-s5-scores']
    assert set(wanted('all', 'smoke'))==set(artefacts('smoke'))
    with pytest.raises(ValueError, match="no table, figure or run 'tabel4'.*table1_tokenizers"): wanted('tabel4')

def test_every_list_that_an_artefact_names_is_there():
    for page,_,_,runs in lines_of(ARTEFACTS, 4):
        for profile,world in SETS: filled(runs, lists_of(profile, world))

def test_another_seed_or_teacher_is_of_table_1():
    c = Choice('mini', teachers=['clip_large'], seeds=[5])
    assert {'vqkd-clip_large-s5-decoder-ar-large-s5', 'cluster-clip_large-s5-decoder-scores', 'vqgan-s5'}<set(c.plan())
    assert not any('-s0' in n for n in c.plan())

def test_what_is_wanted_otherwise_is_of_a_notebook_or_of_one_run():
    c = Choice('smoke', overrides={'train_ar':dict(steps=7), 'fsq-s0-ar-large-s0':dict(steps=9)})
    steps = {n:c.values(r)['steps'] for n,r in c.plan().items() if r.notebook=='train_ar'}
    assert steps.pop('fsq-s0-ar-large-s0')==9 and set(steps.values())=={7}

def test_a_choice_survives_its_file(tmp_path):
    from dataclasses import asdict
    c = Choice('smoke', 'emoji', seeds=[3], overrides={'train_ar':dict(steps=7)}, targets=['all'], root=str(tmp_path))
    assert choice_of(json.loads(json.dumps(asdict(c) | dict(executor='local'))))==c

def test_a_record_of_other_parameters_is_outdated(tmp_path):
    c = Choice('smoke', root=str(tmp_path))
    runs = c.plan()
    for n in ('vqgan-s0', 'fsq-s0', 'fsq-s0-ar-small-s0'):
        (c.folder/n).mkdir(parents=True)
        params = {k:v for k,v in c.values(runs[n]).items() if k not in ('name', 'run_root', 'workers')}
        (c.folder/n/'record.json').write_text(json.dumps(dict(params=params)))
    assert c.outdated()==[]
    other = Choice('smoke', root=str(tmp_path), overrides={'train_fsq':dict(steps=3)})
    assert other.outdated()==['fsq-s0']

@pytest.fixture
def reproduce(tmp_path, monkeypatch): # called with words, in a clone of its own
    r = script('reproduce')
    monkeypatch.setattr(r, 'ROOT', tmp_path)
    def call(*words):
        monkeypatch.setattr(sys, 'argv', ['reproduce', '--profile', 'smoke', *words])
        r.main()
    call.script = r
    return call

def test_the_line_names_every_run_at_work(tmp_path):
    status = script('reproduce').status
    log = ''.join(f'localrule train_x:\n    wildcards: run={n}\n' for n in ('counts', 'prepares', 'done', 'broken'))
    log += 'Error in rule train_x:\n    jobid: 3\n    output: broken/record.json\n    log: logs/broken.log (check it)\n'
    for n in ('counts', 'done'): (tmp_path/n).mkdir()
    (tmp_path/'counts'/'progress.json').write_text('{"step": 5, "steps": 20, "images_per_s": 99.6, "eta": 61}')
    (tmp_path/'done'/'record.json').write_text('{}')
    assert status(tmp_path, log)=='starting; counts 5/20, 100 images/s, 1:01 left; prepares at work'
    assert status(tmp_path, log+'1 of 4 steps (25%) done\n').startswith('1 of 4 runs done; counts')

def test_who_is_refused_or_only_asks_leaves_a_workflow_at_work_as_it_was(tmp_path, monkeypatch, capsys, reproduce):
    monkeypatch.setattr(reproduce.script, 'planned', lambda cmd: [])
    folder = tmp_path/'runs'/'smoke'
    folder.mkdir(parents=True)
    (folder/'workflow.json').write_text('of the first')
    lock = reproduce.script.claim(folder)
    with pytest.raises(SystemExit, match='another call is at work'): reproduce('vqgan-s0', 'vqgan-s0.steps=3')
    reproduce('vqgan-s0', '-n')
    lock.close()
    assert (folder/'workflow.json').read_text()=='of the first' and '0 runs to make' in capsys.readouterr().out

def test_who_stopped_a_workflow_is_told_the_same_command_again(monkeypatch, reproduce): # all of its words
    told = []
    monkeypatch.setattr(reproduce.script, 'run', lambda cmd,folder,path,again,lock: told.append(again) or sys.exit())
    words = ['vqgan-s0', 'vqgan-s0.steps=3', '--seeds', '0,1', '--data_root', "it's here"]
    with pytest.raises(SystemExit): reproduce(*words)
    assert shlex.split(told[0])==['scripts/reproduce', '--profile', 'smoke', *words]

def test_options_and_values_may_stand_anywhere_between_words(monkeypatch, reproduce):
    ways = 'emoji table8 vqgan-s0.steps=3 --seeds 1 -n', 'emoji -n vqgan-s0.steps=3 --seeds 1 table8'
    def asked(line):
        monkeypatch.setattr(sys, 'argv', ['scripts/reproduce', *line.split()])
        return vars(reproduce.script.arguments())
    first,second = map(asked, ways)
    assert first==second and first['targets']==['table8'] and first['words']==['vqgan-s0.steps=3'] and first['n']

@pytest.mark.parametrize('word, says', [
    ('--seeds=-1', 'every number of seeds must be'), ('--seeds=0,x', 'whole numbers between commas'),
    ('--seeds=', 'whole numbers between commas'), ('--seeds=0,1,0', 'seeds must be different'),
    ('train_ar.name=x', 'leave name out'), ('vqgan-s0.run_root=x', 'leave run_root out')])
def test_reproduce_answers_with_one_sentence(reproduce, word, says):
    with pytest.raises(SystemExit, match=f'^scripts/reproduce: .*{says}') as e: reproduce(word, '-n')
    assert '\n' not in str(e.value)

def test_costs_are_those_of_the_records():
    records = recorded('quick')
    assert {r['profile'] for r in records}=={'quick'} and not any('emoji' in r['run'] for r in records)
    assert not any(r['params'].get('data')=='emoji' for r in records)
    lists = lists_of('quick')
    cost = expected([run_named(n, lists) for n in ('vqgan-s0', 'vqgan-s9', 'cvqvae-s0')], records)
    own = next(r['seconds'] for r in records if r['run']=='vqgan-s0')
    like = [r['seconds'] for r in records if kind_of(r['notebook'], r['params'])=='train_vqgan']
    mean = pytest.approx(sum(like)/len(like))
    assert cost=={'vqgan-s0':(own, 'its record'), 'vqgan-s9':(mean, f'{len(like)} of train_vqgan')}
    made = [dict(run='a', notebook='train_ar', seconds=100, params=dict(profile='quick', size='small', steps=250)),
            dict(run='b', notebook='train_ar', seconds=30, params=dict(profile='quick', size='small', steps=50))]
    names = 'vqgan-s0-ar-small-s0', 'vqgan-s0-ar-small-x500-s0'
    assert expected([run_named(n, lists) for n in names], made)=={ # in proportion to their steps
        n:(s, '2 of train_ar-small') for n,s in zip(names, (125, 250))}

def test_a_run_is_recorded_once_in_the_seconds_of_one_machine(tmp_path, monkeypatch):
    monkeypatch.setattr('iutok.plan.project_root', lambda: tmp_path)
    def put(table, rate, **seconds):
        folder = tmp_path/'nbs'/'results'/table
        folder.mkdir(parents=True)
        save_json(folder/'runs.json', [dict(id=k, run=k, seconds=v) for k,v in seconds.items()])
        if rate: save_json(folder/'cost.json', dict(rate=rate))
    put('table1_quick', 60e9, a=10.)
    put('table5_quick', 30e9, a=30., b=40.) # half as fast
    put('table6_quick', None, c=5.)
    put('table1_emoji_quick', 60e9, d=1.)
    assert {r['id']:r['seconds'] for r in recorded('quick')}==dict(a=10., b=20., c=5.)

# --- machines

def test_trainings_take_the_gpus_of_a_node_and_other_runs_one():
    c = Choice('paper', gpus=8, nodes=2)
    assert needs(c, 'train_vqgan')==dict(gres='gpu:8', nodes=2, mpi='srun', tasks=2, tasks_per_gpu=0)
    assert [needs(c, n)['gpu'] for n in ('evaluate', 'train_cluster', 'table1_tokenizers')]==[1, 1, 0]
    assert needs(Choice('mini'), 'train_vqgan')==dict(gpu=0, nodes=1)

def run_shell(line, **env):
    r = subprocess.run(['bash', '-c', line], env=os.environ | env, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return r.stdout

def fake(folder, **programs): # name -> what it does in a shell
    for n,text in programs.items():
        (folder/n).write_text(f'#!/bin/bash\n{text}\n')
        (folder/n).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"

def test_one_process_per_gpu_and_one_accelerate_per_node(tmp_path):
    path = fake(tmp_path, accelerate='echo accelerate "$@"', scontrol='echo first; echo second',
                srun='echo srun $1 $2 $3 $4; for n in 0 1; do SLURM_NODEID=$n SLURM_JOB_NODELIST=x "${@:7}"; done')
    words = " scripts/run train_vqgan 'name=a b'"
    assert launcher(dict(gpu=0, nodes=1))=='python' and launcher(dict(gpu=1, nodes=1), cluster=True)=='python'
    one = run_shell(launcher(dict(gpu=8, nodes=1), cluster=True)+words, PATH=path)
    assert '--num_machines 1 --num_processes 8' in one and one.endswith('scripts/run train_vqgan name=a b\n')
    lines = run_shell(launcher(dict(gres='gpu:8', nodes=2), cluster=True)+words, PATH=path).splitlines()
    assert lines[0]=='srun --nodes 2 --ntasks 2'
    for i,line in enumerate(lines[1:]):
        machine = f'--machine_rank {i} --main_process_ip first '
        for said in ('--num_machines 2 --num_processes 16', machine, 'name=a b'): assert said in line, line

def test_gpus_are_handed_out_one_by_one(tmp_path):
    def start(n, seconds):
        show = f'echo $CUDA_VISIBLE_DEVICES; sleep {seconds}'
        command = [sys.executable, ROOT/'scripts'/'with_gpus', str(n), 'bash', '-c', show]
        env = os.environ | dict(CUDA_VISIBLE_DEVICES='a,b,c', TMPDIR=str(tmp_path))
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    first = start(2, 3)
    assert first.stdout.readline().strip()=='a,b'
    second = start(1, 0)
    assert second.communicate()[0].strip()=='c'
    began,third = time.time(),start(3, 0)
    assert third.communicate()[0].strip()=='a,b,c' and first.wait()==0, time.time()-began

def test_more_gpus_than_there_are_is_said(tmp_path):
    r = subprocess.run([sys.executable, ROOT/'scripts'/'with_gpus', '2', 'true'], capture_output=True, text=True,
                       env=os.environ | dict(CUDA_VISIBLE_DEVICES='0', TMPDIR=str(tmp_path)))
    assert r.returncode!=0 and '2 GPUs are wanted, and this machine has 1.' in r.stderr

def test_a_run_ends_with_the_workflow_that_started_it():
    code = "import clone, os, time; clone.script('run').end_with(os.getppid()); print(1, flush=True); time.sleep(100)"
    parent = subprocess.Popen([sys.executable, '-c', f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE)
child.stdout.read(1)
print(child.pid, flush=True)
child.wait()"""], stdout=subprocess.PIPE, text=True, env=os.environ | dict(PYTHONPATH=f'{ROOT}:{ROOT/"tests"}'))
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    stat = Path(f'/proc/{child}/stat')
    def gone(): return not stat.exists() or stat.read_text().rpartition(')')[2].split()[0]=='Z'
    for _ in range(100):
        if gone(): return
        time.sleep(.1)
    raise AssertionError('it goes on')

def test_the_papers_captions_are_cocos_and_lie_in_their_own_folder():
    c = Choice('paper', targets=['table3'], data_root='IMAGENET', coco_root='COCO')
    runs = c.plan()
    root = {n:c.given(r).get('data_root') for n,r in runs.items()}
    assert {n for n,v in root.items() if v=='COCO'}=={n for n in runs if '-t2i-' in n or n.endswith('-coco-scores')}
    assert root['vqgan-s3407']==root['vqkd-clip-s3407-decoder-scores']=='IMAGENET'
    drawn = c.values(runs['fsq-s3407-t2i-ar-llama_medium-s3407-scores'])
    assert (drawn['n'], drawn['extractor'], drawn['matcher'])==(30_000, 'inception', 'clip')
    assert c.values(runs['fsq-s3407-coco-scores'])['data']=='coco'
    alone = Choice('paper', targets=['table3'], data_root='IMAGENET') # another set's folder is not handed on
    assert 'data_root' not in alone.given(alone.plan()['fsq-s3407-coco-scores'])
