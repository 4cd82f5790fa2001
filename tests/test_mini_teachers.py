"The small teachers: what ships is what was measured, and every objective trains, resumes and repeats."
import csv,json,subprocess,sys
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from safetensors import safe_open
from iutok.data import Batches,load_images
from iutok.metrics.probe import linear_probe
from iutok.mini_teachers import MINI_TEACHERS,OBJECTIVES,grid_features,pretraining
from iutok.teachers import load_teacher,read_info,teacher_file
from iutok.pretraining import MultiCrop,small_vit
from iutok.training import Phase,constant,decay_groups,fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT/'nbs'/'results'/'teachers'
TRAIN,HELD = load_images('fashion', 'train'),load_images('fashion', 'test')

def tabulated(name): # accuracy of the small probe, as the table page found it
    with (RESULTS/'probes.csv').open() as f: return next(float(r['quick']) for r in csv.DictReader(f) if r['teacher']==name)

@pytest.mark.parametrize('name', list(MINI_TEACHERS))
def test_file_says_what_it_is(name):
    path,row = teacher_file(name),MINI_TEACHERS[name]
    assert path.stat().st_size<=1.5e6
    with safe_open(path, 'pt') as f:
        config,info = (json.loads(f.metadata()[k]) for k in ('config','info'))
        assert {f.get_tensor(k).dtype for k in f.keys()}=={torch.float16}
    assert config==small_vit(row.width, row.depth, row.heads, project=row.project) and info['objective']==OBJECTIVES[row.objective]
    record = json.loads((RESULTS/f'{name}.json').read_text())
    assert info['record']==record['id'] and not record['git']['dirty'] and record['params']['teacher']==name
    assert all(abs(info[k]-record['metrics'][k])<1e-3 for k in ('probe_mean','probe_grid'))

@pytest.fixture(scope='module')
def quick(): # accuracies of the small probe, measured again
    train,held = TRAIN.take(2000),HELD.take(1000)
    vec = lambda t,s: grid_features(t, s).float().mean((2, 3))
    return {n:linear_probe(vec(t, train), train.labels, vec(t, held), held.labels) for n in MINI_TEACHERS for row in [MINI_TEACHERS[n]]
            for t in [load_teacher(n, project=False if row.project else None, fast=False)]}

@pytest.mark.parametrize('name', list(MINI_TEACHERS))
def test_tabulated_probe_is_what_the_weights_give(name, quick): assert abs(quick[name]-tabulated(name))<.015

def test_every_teacher_knows_more_than_random_weights(quick):
    floor = tabulated('random ViT')
    assert all(v>floor+.1 for v in quick.values()), (floor, quick)

def test_what_was_asked_for_shows_in_the_mean_feature(quick):
    assert min(quick[n] for n in ('vit','clip','clip_large'))>max(quick[n] for n in ('dino','mae'))

def tiny(objective, seed=0): # a run of a few seconds
    return SimpleNamespace(width=16, depth=1, heads=2, project=8 if objective=='captions' else 0, drop=.5 if objective=='labels' else 0., image_size=32, patch=4, transform='none' if objective=='views' else 'strong',
                           batch_size=8, steps=6, seed=seed)

def trained(objective, folder, stops=(None,)):
    run = tiny(objective)
    for stop in stops:
        torch.manual_seed(0)
        module,batches = pretraining(run, objective, TRAIN.take(400))
        fit(dict(teacher=Phase(module, torch.optim.AdamW(decay_groups(module, .05)), constant(1e-3))), batches, run.steps, folder, 'x', precision='fp32', stop_after=stop)
    return module.state_dict()

@pytest.mark.parametrize('objective', OBJECTIVES)
def test_a_resumed_training_is_the_same_to_the_bit(objective, tmp_path):
    whole,parts = trained(objective, tmp_path/'a'),trained(objective, tmp_path/'b', (3, None))
    assert whole.keys()==parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)

def test_crops_of_a_step_do_not_depend_on_the_ranks():
    whole = MultiCrop(Batches(TRAIN, 32, 8, seed=5))[7]
    parts = [MultiCrop(Batches(TRAIN, 32, 8, seed=5, rank=r, world=2))[7] for r in range(2)]
    assert all(torch.equal(w, torch.cat(p)) for w,p in zip(whole, zip(*parts)))

def test_captions_depend_on_the_step_alone():
    runs = [pretraining(tiny('captions'), 'captions', TRAIN.take(400))[1] for _ in range(2)]
    assert torch.equal(runs[0][3].tokens, runs[1][3].tokens) and not torch.equal(runs[0][3].tokens, runs[0][4].tokens)

def test_wrong_objective_is_refused():
    with pytest.raises(ValueError, match='labels, captions, views, masking'): pretraining(tiny('labels'), 'guess', TRAIN.take(40))

def test_runner_trains_and_refuses(tmp_path):
    call = lambda *a: subprocess.run([sys.executable, ROOT/'scripts'/'run', 'train_teacher', f'run_root={tmp_path}', *a], cwd=ROOT, capture_output=True, text=True)
    done = call('teacher=clip', 'profile=smoke', 'steps=3')
    assert done.returncode==0, done.stderr[-2000:]
    record = json.loads((tmp_path/'teacher-clip-s0'/'record.json').read_text())
    assert {'probe_mean','probe_grid','zero_shot'} <= record['metrics'].keys() and record['params']['width']==64
    file = tmp_path/'teacher-clip-s0'/'teacher.safetensors'
    assert load_teacher('clip', weights=file)(HELD.batch([0, 1], 32)).shape==(2, 64, 8, 8) and len(read_info(file)['classes'])==10
    refused = call('profile=paper')
    assert refused.returncode!=0 and 'load_teacher' in refused.stderr
