"""What a run can be told: judged in milliseconds, before anything slow begins;
a recipe that is named is a recipe that is used."""
import json, os, subprocess, sys
from pathlib import Path
import pytest
from iutok.runs import asked,start_run
from iutok.settings import (EMOJI,MINI,NEEDS,PARAMETERS,RECIPES,anchored,check_places,default_recipe,parameter,
                            parse_words,resolve,rows_of,run_folder,run_name,takes)
from iutok.checks import PROFILES
from iutok.files import fingerprint, short_path

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted({r['notebook'] for r in RECIPES.values()})

def ask(notebook, *words): return resolve(notebook, parse_words(notebook, list(words)))

# --- recipes
# -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', RECIPES)
def test_a_named_recipe_is_taken_as_it_is(name):
    row,got = RECIPES[name],ask(RECIPES[name]['notebook'], f'recipe={name}')
    left = {'notebook'} | {k for k,of in NEEDS.items() if not row.get(of)}
    assert {k:v for k,v in got.items() if k in row}=={k:v for k,v in row.items() if k not in left}
    assert got['recipe']==name

def test_the_profile_chooses_where_no_recipe_is_named():
    for notebook in NOTEBOOKS:
        for profile in PROFILES:
            try: name = default_recipe(notebook, profile)
            except ValueError: continue
            assert ask(notebook, f'profile={profile}')==ask(notebook, f'recipe={name}')

def test_a_value_that_is_given_wins_over_the_recipe():
    got = ask('train_vqgan', 'recipe=llamagen-16384x8', 'n_codes=128')
    assert (got['n_codes'], got['dim'], got['sphere'], got['gan_gain'])==(128, 8, True, 0)

@pytest.mark.parametrize('notebook, recipe',
                         [('train_vqkd', 'vqkd-dino-8192'), ('train_vqgan', 'llamagen-16384x8'),
                          ('train_vqgan', 'vqgan-8192-stylegan2')])
def test_a_named_recipe_never_writes_into_the_tables_own_folder(notebook, recipe):
    named,own = ask(notebook, f'recipe={recipe}'),ask(notebook)
    assert recipe in run_name(named) and run_folder(named)!=run_folder(own)

def test_two_rows_of_one_notebook_never_share_a_folder():
    for notebook in NOTEBOOKS:
        folders = [run_folder(ask(notebook, f'recipe={name}')) for name in rows_of(notebook)
                   if notebook not in ('train_ar', 'train_nar') or RECIPES[name]['profile']!='paper']
        same = {f for f in folders if folders.count(f)>1}
        assert not same, same

@pytest.mark.parametrize('kind', MINI)
def test_smoke_and_quick_are_the_mini_row_with_other_sizes(kind):
    mini = RECIPES[f'mini-{kind}']
    for profile in ('smoke', 'quick'):
        row = RECIPES[f'{profile}-{kind}']
        differ = {k for k in row if row[k]!=mini.get(k)}
        sizes = {'profile', 'tokenizer', 'ars', 'train_images', 'held_images', 'probe_images', 'steps', 'batch_size',
                 'look_every', 'n_codes', 'dim',
                 'levels', 'mults', 'latent', 'disc_width', 'student_width', 'student_depth', 'student_heads',
                 'vit_width', 'vit_depth',
                 'vit_heads', 'vectors', 'iters', 'data'}
        assert differ<=sizes

def test_every_parameter_that_a_row_sets_has_a_type_and_a_sentence():
    for name,row in RECIPES.items():
        for k in set(row)-{'notebook'}: assert parameter(row['notebook'], k).help, (name, k)
    assert set(PARAMETERS)=={k for n in NOTEBOOKS for k in takes(n)}

def test_pixels_are_trained_alike_in_every_row_of_a_comparison():
    from iutok.recipes import PIXEL_KEYS
    for profile in ('smoke', 'quick', 'mini', 'emoji-smoke', 'emoji-quick', 'emoji-mini'):
        rows = [RECIPES[f'{profile}-{k}'] for k in ('vqgan', 'cvqvae', 'fsq', 'decoder')]
        shared = [k for k in PIXEL_KEYS if k!='body' and not k.startswith('vit')]
        for r in rows: assert {k:r[k] for k in shared}=={k:rows[0][k] for k in shared}

# --- the world in colour
# -----------------------------------------------------------------------------------------------

GREY = json.loads((ROOT/'tests'/'data'/'grey_rows.json').read_text()) # recipe -> digest of its values and folder

@pytest.mark.parametrize('name', GREY)
def test_no_value_and_no_folder_of_a_row_in_grey_has_moved(name):
    "Whoever means to move one makes its committed runs again, and writes its new digest here."
    p = ask(RECIPES[name]['notebook'], f'recipe={name}')
    assert fingerprint(p, str(short_path(run_folder(p))))==GREY[name]

@pytest.mark.parametrize('kind', EMOJI)
@pytest.mark.parametrize('profile', ['smoke', 'quick', 'mini'])
def test_the_data_choose_the_row_in_colour(profile, kind):
    name = f'emoji-{profile}-{kind}'
    row = RECIPES[name]
    assert row.keys()>=RECIPES[f'{profile}-{kind}'].keys() and row['profile']==profile
    assert set(row) <= {*takes(row['notebook']), 'notebook'}
    if 'data' not in row: got = ask(row['notebook'], f'recipe={name}')
    else:
        got = ask(row['notebook'], f'profile={profile}', 'data=emoji')
        assert (got['recipe'], got['data'])==(name, 'emoji')
    assert run_folder(got).parent==ROOT/'runs'/f'emoji-{profile}'
    assert got.get('tokenizer', 'runs/emoji-').startswith('runs/emoji-')
    assert all(a.startswith(f'runs/emoji-{profile}/') for a in got.get('ars') or [])

@pytest.mark.parametrize('profile', ['smoke', 'quick', 'mini'])
def test_rows_in_colour_have_64_pixels_and_64_tokens(profile):
    rows = {k:RECIPES[f'emoji-{profile}-{k}'] for k in EMOJI}
    assert {r['image_size'] for r in rows.values() if 'image_size' in r}=={64}
    for kind in ('vqgan', 'cvqvae', 'fsq', 'decoder'): assert 64//2**(len(rows[kind]['mults'])-1)==8
    assert (64//rows['vqkd']['patch'], rows['cluster']['grid'], rows['vqkd']['use_size'])==(8, 8, 64)

@pytest.mark.parametrize('profile', ['quick', 'mini'])
def test_every_row_in_colour_has_1024_codes(profile):
    from math import prod
    rows = {k:RECIPES[f'emoji-{profile}-{k}'] for k in ('vqgan', 'cvqvae', 'vqkd', 'cluster')}
    assert {r['n_codes'] for r in rows.values()}=={1024}
    assert prod(RECIPES[f'emoji-{profile}-fsq']['levels'])==1024

def test_a_row_in_grey_may_be_asked_to_see_colour():
    got = ask('train_vqgan', 'recipe=mini-vqgan', 'data=emoji')
    assert (got['image_size'], got['n_codes'], got['data'])==(32, 512, 'emoji')
    assert ask('train_vqgan', 'profile=paper', 'data=emoji')['recipe']=='vqgan-8192-dd2' # none of its own

# --- values
# ------------------------------------------------------------------------------------------------------------

WRONG = [ # a command, and a piece of the sentence that it earns
    ('train_vqgan', 'steps=0', 'steps must be a whole number of at least 1, got 0'),
    ('train_vqgan', 'steps=-3', 'steps must be'), ('train_vqgan', 'steps=2.5', 'steps must be int'),
         ('train_vqgan', 'steps=many', 'steps must be int'),
    ('train_vqgan', 'steps=true', 'steps must be int'), ('train_vqgan', 'steps=none', None),
    ('train_vqgan', 'n_codes=0', 'n_codes must be'), ('train_vqgan', 'n_codes=1', 'n_codes must be'),
         ('train_vqgan', 'dim=0', 'dim must be'),
    ('train_vqgan', 'image_size=-32', 'image_size must be'),
         ('train_vqgan', 'image_size=30', 'image_size=30 cannot be halved 2 times'),
    ('train_vqgan', 'mults=[]', 'mults must hold at least one number'),
         ('train_vqgan', 'mults=["a"]', 'every number of mults'),
    ('train_vqgan', 'mults=[0,1]', 'every number of mults'), ('train_vqgan', 'mults=3', 'mults must be list'),
         ('train_vqgan', 'mults=[1,2', 'mults must be list'),
    ('train_vqgan', 'seed=-1', 'seed must be a whole number from 0'),
         ('train_vqgan', 'seed=99999999999', 'seed must be'),
    ('train_vqgan', 'train_images=0', 'train_images must be a whole number of at least 1'),
         ('train_vqgan', 'train_images=-5', 'train_images must be'),
    ('train_vqgan', 'held_images=0', 'held_images must be'),
         ('train_vqgan', 'clip=-1', 'clip must be a finite number at least 0'),
    ('train_vqgan', 'look_every=-1', 'look_every must be'), ('train_vqgan', 'look_every=0', 'look_every must be'),
    ('train_vqgan', 'batch_size=0', 'batch_size must be'), ('train_vqgan', 'batch_size=-1', 'batch_size must be'),
    ('train_vqgan', 'lr=nan', 'lr must be a finite number above 0, got nan'),
         ('train_vqgan', 'lr=inf', 'lr must be a finite'), ('train_vqgan', 'lr=0', 'lr must be'),
    ('train_vqgan', 'lr=-1e-3', 'lr must be'), ('train_vqgan', 'lr=fast', 'lr must be float'),
         ('train_vqgan', 'lr_final=1.5', 'lr_final must be'),
    ('train_vqgan', 'warmup=2', 'warmup must be'), ('train_vqgan', 'warm=-0.1', 'warm must be'),
         ('train_vqgan', 'warm=nan', 'warm must be'),
    ('train_vqgan', 'betas=[0.9]', 'betas are the two of Adam'), ('train_vqgan', 'betas=[0.9,1.0]', 'each of betas'),
         ('train_vqgan', 'betas=[0.5,0.9,0.9]', 'betas are'),
    ('train_vqgan', 'beta=-1', 'beta must be'), ('train_vqgan', 'beta=nan', 'beta must be'),
         ('train_vqgan', 'init=zeros', 'init must be one of uniform, kmeans'),
    ('train_vqgan', 'sphere=perhaps', 'sphere must be bool'), ('train_vqgan', 'attention=2', 'attention must be bool'),
    ('train_vqgan', 'width=0', 'width must be'), ('train_vqgan', 'n_res=-1', 'n_res must be'),
         ('train_vqgan', 'latent=0', 'latent must be'),
    ('train_vqgan', 'transform=mild', 'transform must be one of'),
         ('train_vqgan', 'perceptual=vgg19', "got 'vgg19' (did you mean vgg?)"),
    ('train_vqgan', 'gan=-1', 'gan must be'), ('train_vqgan', 'gan_loss=hing', 'did you mean hinge'),
         ('train_vqgan', 'gan_start=1.01', 'gan_start must be'),
    ('train_vqgan', 'r1=-1', 'r1 must be'), ('train_vqgan', 'disc=patch', 'disc must be one of'),
         ('train_vqgan', 'disc_depth=0', 'disc_depth must be'),
    ('train_vqgan', 'disc_depth=4', 'disc_depth=4 takes images of at least 48 pixels'),
         ('train_vqgan', 'disc_lr=0', 'disc_lr must be'),
    ('train_vqgan', 'disc_forward=twice', 'disc_forward must be'), ('train_vqgan', 'ema=1.1', 'ema must be'),
         ('train_vqgan', 'workers=-1', 'workers must be'),
    ('train_vqgan', 'precision=fp16', 'precision must be one of auto, bf16, fp32'),
         ('train_vqgan', 'profile=huge', 'profile must be one of'),
    ('train_vqgan', 'name=a/../../esc', 'below run_root'), ('train_vqgan', 'name=/abs', 'below run_root'),
         ('train_vqgan', 'name=..', 'below run_root'),
    ('train_vqgan', 'name={nothing}', 'no format string'), ('train_vqgan', 'name={', 'no format string'),
         ('train_vqgan', 'name=', 'name is empty'),
    ('train_vqgan', 'recipe=vqgan-8193', 'did you mean vqgan-8192'),
         ('train_vqgan', 'recipe=fsq-8000', "is for train_fsq"),
    ('train_vqgan', 'stepz=3', "no parameter 'stepz'; did you mean 'steps'?"),
         ('train_vqgan', 'levels=[8,8]', "no parameter 'levels'"),
         ('train_vqgan', 'steps', 'not of the form name=value'),
    ('train_fsq', 'levels=[]', 'levels must hold'), ('train_fsq', 'levels=[8,1]', 'every number of levels'),
         ('train_fsq', 'levels=[8.5,5]', 'every number of levels'),
    ('train_cvqvae', 'anchor=far', 'anchor must be one of'), ('train_cluster', 'iters=0', 'iters must be'),
         ('train_cluster', 'iters=-3', 'iters must be'),
    ('train_cluster', 'vectors=-5', 'vectors must be a whole number of at least 0'),
         ('train_cluster', 'rule=loyd', 'did you mean lloyd'),
    ('train_cluster', 'grid=0', 'grid must be'), ('train_cluster', 'teacher=efnet', 'did you mean effnet'),
         ('train_vqkd', 'teacher=../x;y', 'teacher must be'),
    ('train_vqkd', 'patch=5', 'image_size=32 is no multiple of patch=5'),
         ('train_vqkd', 'student_heads=5', 'student_width=96 does not divide into student_heads=5'),
    ('train_vqkd', 'lookup=never', 'lookup must be'), ('train_vqkd', 'weight_decay=-1', 'weight_decay must be'),
         ('train_vqkd', 'feature_depth=-1', 'feature_depth must be'),
    ('train_vqgan', 'name=.', 'below run_root'), ('train_vqgan', 'name=cache', 'neither cache nor logs'),
         ('train_vqgan', 'run_root=', 'run_root is empty'),
    ('train_vqgan', 'data=nowhere', 'data must be one of'), ('train_vqgan', 'data=folder:', 'data must be one of'),
         ('train_ar', 'size=smal', 'did you mean small'), ('train_nar', 'size=small', 'size must be one of nar_small'),
    ('train_nar', 'mask_rate=cosin', 'did you mean cosine'), ('train_nar', 'smoothing=1', 'smoothing must be'),
    ('evaluate', 'nar_steps=0', 'nar_steps must be'), ('evaluate', 'nar_order=raster', 'nar_order must be one of'),
    ('evaluate', 'nars=[1]', 'nars is a list of folders'),
    ('train_vqkd', 'teacher=timm:', 'teacher must be'), ('train_vqkd', 'teacher=clipp', 'did you mean clip'),
    ('train_decoder', 'body=cov', 'did you mean conv'),
         ('train_decoder', 'vit_heads=7', 'does not divide into vit_heads=7'),
    ('train_ar', 'drop_label=2', 'drop_label must be'), ('train_ar', 'clip=nan', 'clip must be'),
         ('evaluate', 'temperature=0', 'temperature must be'),
    ('evaluate', 'temperature=nan', 'temperature must be'), ('evaluate', 'top_k=-1', 'top_k must be'),
         ('evaluate', 'top_p=0', 'top_p must be'),
    ('evaluate', 'scale=inf', 'scale must be'), ('evaluate', 'ars=[1]', 'ars is a list of folders'),
         ('train_teacher', 'teacher=effnet', 'teacher must be one of'),
    ('train_teacher', 'drop=1.5', 'drop must be'), ('train_teacher', 'profile=paper', "no profile 'paper'"),
         ('train_scorer', 'shift=-1', 'shift must be'),
]

@pytest.mark.parametrize('notebook, word, said', [w for w in WRONG if w[2]], ids=lambda v: str(v)[:30])
def test_a_wrong_value_earns_one_sentence_that_names_it(notebook, word, said):
    with pytest.raises(ValueError) as e: ask(notebook, word)
    assert said in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('teacher', ['dinov2', 'convnext', 'timm:resnet18', 'clip'])
def test_every_teacher_there_is_may_be_asked_for(teacher):
    assert ask('train_vqkd', f'teacher={teacher}')['teacher']==teacher

def test_a_batch_larger_than_the_images_is_refused():
    with pytest.raises(ValueError, match='batch_size=64 is more than train_images=50'):
        ask('train_vqgan', 'train_images=50')

@pytest.mark.parametrize('words, key, want',
                         [(['lr=1e-3'], 'lr', 1e-3), (['lr=1'], 'lr', 1.), (['attention=yes'], 'attention', True),
                          (['mults=[1,2]'], 'mults', [1, 2]),
                                              (['teacher_size=none'], 'teacher_size', None),
                          (['steps=0x10'], 'steps', 16)])
def test_words_on_the_command_line_mean_what_they_say(words, key, want):
    notebook = 'train_vqkd' if key=='teacher_size' else 'train_vqgan'
    got = ask(notebook, *words)[key]
    assert got==want and type(got) is type(want)

def test_teachers_known_without_torch_are_those_there_are():
    from iutok.pixels import TRANSFORMS
    from iutok.decoding import ORDERS
    from iutok.proposals.ar import AR_SIZES
    from iutok.proposals.nar import MASK_RATES,NAR_SIZES
    from iutok.settings import MINI_TEACHER_NAMES,NAR_SIZE_NAMES,SIZE_NAMES,TEACHER_NAMES,TRANSFORM_NAMES
    from iutok.teachers import teachers
    assert set(TEACHER_NAMES)=={*teachers('mini'), *teachers('paper')} and set(MINI_TEACHER_NAMES)<set(TEACHER_NAMES)
    assert set(TRANSFORM_NAMES)==set(TRANSFORMS) and set(SIZE_NAMES)==set(AR_SIZES)
    assert set(NAR_SIZE_NAMES)==set(NAR_SIZES)
    for name in MASK_RATES: assert ask('train_nar', f'mask_rate={name}')['mask_rate']==name
    for order in ORDERS: assert ask('evaluate', 'nars=["a"]', f'nar_order={order}')['nar_order']==order

def test_the_papers_proposal_networks_see_augmented_images_and_gpt2_starts_from_text():
    for name in ('ar-llama-medium', 'ar-gpt2-medium', 'ar-gpt2-xl'):
        row = ask('train_ar', f'recipe={name}')
        assert (row['transform'], row['seed'], row['workers'], row['precision'])==('weak', 3407, 5, 'fp32')
        assert row['text_weights']==(None if 'llama' in name else name.removeprefix('ar-'))
    assert ask('train_ar')['transform']=='none' # mini: one view, tokenised once

@pytest.mark.parametrize('word', ['views=emoji:6', 'order=random', 'ema=0.99'])
def test_what_is_optional_is_part_of_a_run_only_where_it_is_named(word):
    name,value = word.split('=')
    assert name not in ask('train_ar') and str(ask('train_ar', word)[name])==value

def test_a_masked_network_may_learn_from_stored_views():
    assert 'views' not in ask('train_nar') and ask('train_nar', 'views=ten_crop')['views']=='ten_crop'
    with pytest.raises(ValueError, match='views must be one of none, flip, ten_crop'): ask('train_nar', 'views=crop')

def test_views_are_known_kinds():
    for wrong in ('ten-crop', 'emoji:0', 'emoji', 'flip:2'):
        with pytest.raises(ValueError, match='views must be one of none, flip, ten_crop'):
            ask('train_ar', f'views={wrong}')

def test_without_masked_networks_evaluate_has_the_values_it_had_before_there_were_any():
    without,with_ = ask('evaluate'),ask('evaluate', 'nars=["runs/mini/vqgan-s0-nar_small-s0"]')
    theirs = {k for k,v in NEEDS.items() if v=='nars'}
    assert {k for k in with_ if k not in without}==theirs=={'nars', 'nar_order', 'nar_steps'}
    assert (with_['nar_order'], with_['nar_steps'])==('halton', 16)
    assert ask('evaluate', 'nars=[]', 'nar_steps=4')==without # nothing to fill

@pytest.mark.parametrize('world', ['fashion', 'emoji'])
@pytest.mark.parametrize('profile', ['smoke', 'quick', 'mini'])
def test_a_masked_network_stands_beside_the_ar_network_of_its_size_and_budget(profile, world):
    from iutok.proposals.ar import AR_SIZES
    from iutok.proposals.nar import NAR_SIZES
    ar,nar = (ask(f'train_{k}', f'profile={profile}', f'data={world}') for k in ('ar', 'nar'))
    shared = 'tokenizer seed train_images steps batch_size lr warmup clip drop_label transform'.split()
    assert {k:ar[k] for k in shared}=={k:nar[k] for k in shared}
    assert NAR_SIZES[nar['size']]==dict(form='maskgit', **AR_SIZES[ar['size']])
    assert (nar['betas'], nar['weight_decay'], nar['smoothing'], nar['mask_rate'])==([.9, .96], .03, .1, None)

def test_the_papers_masked_networks_follow_their_own_publications():
    mage,maskgit = (ask('train_nar', f'recipe=nar-{k}') for k in ('mage-base', 'maskgit'))
    images = 1_281_167
    assert (mage['size'], mage['batch_size'], mage['betas'], mage['weight_decay'], mage['clip'])==(
        'mage_base', 4096, [.9, .95], .05, 3)
    assert mage['lr']==pytest.approx(1.5e-4*4096/256) and mage['steps']==pytest.approx(1600*images/4096, rel=1e-5)
    assert mage['warmup']*1600==pytest.approx(40)
    assert (maskgit['size'], maskgit['batch_size'], maskgit['lr'], maskgit['betas'], maskgit['weight_decay'])==(
        'maskgit', 256, 1e-4, [.9, .96], .045)
    assert int(maskgit['warmup']*maskgit['steps'])==5000
    assert ask('train_nar', 'profile=paper')==ask('train_nar', 'recipe=nar-mage-base')
    assert ask('train_nar', 'recipe=nar-maskgit')['mask_rate']=='cosine' # r = cos(pi u/2), as MaskGIT draws it

# --- folders and paths
# -------------------------------------------------------------------------------------------------

def test_a_teachers_name_with_slashes_is_one_folder_of_its_own():
    a,b = (run_name(ask('train_vqkd', f'teacher={t}')) for t in ('timm:hf-hub:a/b-c', 'timm:hf-hub:a-b/c'))
    assert a!=b and '/' not in a+b and ':' not in a+b

def test_paths_are_relative_to_where_the_person_stands(tmp_path, monkeypatch):
    (tmp_path/'pics').mkdir()
    monkeypatch.chdir(tmp_path)
    got = anchored(dict(data='folder:pics', run_root='runs8', tokenizer='t', ars=['a', '/b'], teacher='effnet'))
    assert got==dict(data=f'folder:{tmp_path}/pics', run_root=f'{tmp_path}/runs8', tokenizer=f'{tmp_path}/t',
                     ars=[f'{tmp_path}/a', '/b'], teacher='effnet')
    monkeypatch.chdir('/')
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path)) # handed on by scripts/run, which works in the clone
    assert anchored(dict(run_root='runs8'))['run_root']==f'{tmp_path}/runs8'

def test_a_run_of_the_clone_is_found_from_its_nbs_folder_too(tmp_path, monkeypatch):
    (tmp_path/'settings.ini').write_text('lib_name = iutok')
    (tmp_path/'nbs').mkdir()
    (tmp_path/'runs'/'mini'/'x').mkdir(parents=True)
    monkeypatch.chdir(tmp_path/'nbs')
    assert anchored(dict(tokenizer='runs/mini/x'))['tokenizer']==f'{tmp_path}/runs/mini/x'

@pytest.mark.parametrize('words, said', [
    (['tokenizer=nowhere'], "'.*nowhere' does not exist"), (['tokenizer=half'], 'holds no record.json: that run did '
        'not finish'),
    (['tokenizer=done', 'data=folder:nowhere'], 'data: .*nowhere is not a folder'),
        (['tokenizer=done', 'data=imagenet'], 'needs data_root'),
    (['tokenizer=done', 'data_root=nowhere'], 'data_root: .*nowhere does not exist'),
        (['tokenizer=done', 'run_root=file'], 'cannot be written to')])
def test_places_that_have_to_be_there_are_looked_for_before_anything_begins(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'half').mkdir()
    (tmp_path/'done').mkdir()
    (tmp_path/'done'/'record.json').write_text('{}')
    (tmp_path/'file').write_text('')
    params = resolve('train_ar', dict(run_root=str(tmp_path)) | anchored(parse_words('train_ar', words)))
    with pytest.raises(ValueError, match=said): check_places(params)

def test_page_and_weights_of_a_run_lie_in_one_folder_where_the_person_stands(tmp_path):
    "As a user would: from another folder, with relative paths."
    from PIL import Image
    for split in ('train', 'test'):
        for c in 'ab':
            (tmp_path/'pics'/split/c).mkdir(parents=True)
            for i in range(40): Image.new('RGB', (32, 32), (6*i, 100, 50)).save(tmp_path/'pics'/split/c/f'{i}.png')
    words = 'profile=smoke data=folder:pics run_root=runs8 train_images=40 held_images=40 steps=1'.split()
    env = {k:v for k,v in os.environ.items() if k!='IUTOK_HERE'} | dict(PYTHONPATH=str(ROOT))
    command = [sys.executable, ROOT/'scripts'/'run', 'train_fsq', *words]
    r = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert r.returncode==0, r.stdout+r.stderr
    assert {'notebook.ipynb', 'record.json', 'tokenizer.json'}<={p.name for p in (tmp_path/'runs8'/'fsq-s0').iterdir()}
    assert 'Its record is' in r.stdout and not (ROOT/'nbs'/'runs8').exists()

# --- what a notebook says
# ------------------------------------------------------------------------------------------------

PAGE = "profile:str = 'mini'\nrecipe:str = None\nsteps:int = None\nname:str = None\nrun_root:str = None"

def kernel(*cells): # globals() after these cells
    ns = {'In':['', *cells]}
    for c in cells:
        try: exec(c, ns)
        except SyntaxError: pass
    return ns

def test_scratch_cells_change_nothing(tmp_path):
    "Magics, broken code, names of parameters used for something else, cells executed twice."
    plain = asked(kernel(PAGE))
    assert asked(kernel('%load_ext x', 'stepz = 3', PAGE, 'width:int = 3', 'x = (', 'lr = 1', 'steps = 7', PAGE,
                        'seed = "a"'))==plain
    start_run('train_vqgan', kernel('stepz = 1', PAGE, '# Parameters\nrun_root = %r' % str(tmp_path), 'def f(): pass'))

def test_papermills_cell_and_added_lines_count():
    assert asked(kernel(PAGE+'\nwidth = 8*4', '# Parameters\nteacher = "clip"\nsteps = 3')).items()>=dict(width=32,
        teacher='clip', steps=3).items()
    with pytest.raises(ValueError, match="did you mean 'teacher'"):
        resolve('train_vqkd', asked(kernel(PAGE, '# Parameters\ntecher = "clip"')))

def test_a_recipe_on_the_page_brings_its_own_profile():
    assert resolve('train_vqgan', asked(kernel(PAGE, '# Parameters\nrecipe = "vqgan-1024"')))['profile']=='paper'
    with pytest.raises(ValueError, match='leave profile=smoke out'):
        resolve('train_vqgan', asked(kernel(PAGE, '# Parameters\nrecipe = "vqgan-1024"\nprofile = "smoke"')))

@pytest.mark.parametrize('notebook', [n for n in NOTEBOOKS if n!='table_teachers'])
def test_every_runner_declares_what_it_takes_in_one_cell(notebook):
    import ast, json
    cells = json.loads((ROOT/'nbs'/f'{notebook}.ipynb').read_text())['cells']
    tagged = [''.join(c['source']) for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged)==1 and not any('sizes' in c['metadata'].get('tags', []) for c in cells)
    for n in ast.parse(tagged[0]).body:
        assert n.target.id in takes(notebook) and ast.unparse(n.annotation)==parameter(notebook, n.target.id).type

def test_scripts_judge_without_torch():
    code = "import sys, clone; clone.script(sys.argv[1]); print(*sys.modules)"
    env = os.environ | dict(PYTHONPATH=f'{ROOT}:{ROOT/"tests"}')
    for name in ('run', 'reproduce'):
        loaded = subprocess.run([sys.executable, '-c', code, name], env=env, capture_output=True, text=True, check=True)
        assert not {'torch', 'numpy', 'pandas'} & {*loaded.stdout.split()}

def test_a_run_answers_with_the_value_of_every_parameter(tmp_path):
    "But for its name and folder, which are those it writes as and to; what the notebook was told stands in `params`."
    from dataclasses import fields
    from iutok.runs import Run
    own = {f.name for f in fields(Run)} | {k for k in dir(Run) if not k.startswith('_')}
    assert own & set(PARAMETERS)=={'name', 'folder'}
    run = Run('table_ablations', {k:f'told {k}' for k in PARAMETERS}, tmp_path/'here')
    assert all(getattr(run, k)==f'told {k}' for k in set(PARAMETERS)-own) and run.images==[]
    assert (run.name, run.folder, run.params['folder'])==('here', tmp_path/'here', 'told folder')
