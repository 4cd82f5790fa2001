"Every training of the paper: which numbers, which networks, which optimisers; one real step at full size."
import json,math,os,subprocess,sys
from pathlib import Path
from types import SimpleNamespace
import pytest,torch
from torch import nn
from iutok.settings import resolve
from iutok.cost import count
from iutok.quantizers import CVQ,FSQ,NormEMA,OnlineCluster,VQ
from iutok.recipes import PIXEL_KEYS,RECIPES,build,pixel_phases,pixel_recipe
from iutok.training import warmup_cosine

ROOT = Path(__file__).parents[1]

# recipe: K, D, images, discriminator, gain, losses (l1, mse), batch, iterations, image size
V,L = ((1, 0), 96, 260_000),((0, 1), 128, 400_000)
PIXELS = {
    'vqgan-1024':                  (1024,  256, 'imagenet',         3,           .8,  *V, 256),
    'vqgan-8192':                  (8192,  256, 'imagenet',         3,           .8,  *V, 256),
    'vqgan-8192-dd2':              (8192,  256, 'imagenet',         2,           .75, *V, 256),
    'vqgan-8192-stylegan2':        (8192,  256, 'imagenet',         'stylegan2', .8,  *V, 256),
    'vqgan-8192-laion-aesthetics': (8192,  256, 'laion_aesthetics', 3,           .8,  *V, 256),
    'vqgan-8192-sa-med2d':         (8192,  256, 'sa_med2d',         3,           .8,  *V, 256),
    'vqgan-8192-satin':            (8192,  256, 'satin',            3,           .8,  *V, 256),
    'vqgan-16384':                 (16384, 256, 'imagenet',         3,           .8,  *V, 256),
    'vqgan-16384-dd2':             (16384, 256, 'imagenet',         2,           .75, *V, 256),
    'cvqvae-8192':                 (8192,  256, 'imagenet',         2,           .75, *V, 256),
    'fsq-8000':                    (8000,  5,   'imagenet',         3,           .8,  *V, 256),
    'fsq-64000':                   (64000, 6,   'imagenet',         3,           .8,  *V, 256),
    'llamagen-16384x8':            (16384, 8,   'imagenet',         3,           0,   *L, 256),
    'llamagen-16384x8-stylegan2':  (16384, 8,   'imagenet',         'stylegan2', 0,   *L, 256),
    'llamagen-16384x8-384':        (16384, 8,   'imagenet',         3,           0,   *L, 384),
    'llamagen-128x8-384':          (128,   8,   'imagenet',         3,           0,   *L, 384),
    'llamagen-256x8-f8':           (256,   8,   'imagenet',         3,           0,   *L, 256),
    'llamagen-128x16-f8':          (128,   16,  'imagenet',         3,           0,   *L, 256),
    'llamagen-16384x8-no-refine':  (16384, 8,   'imagenet',         3,           0,   *L, 256),
    'decoder-llamagen':            (None, None, 'imagenet',         3,           0,   *L, 256),
    'decoder-vqgan':               (None, None, 'imagenet',         2,           .75, *V, 256),
    'decoder-vit':                 (None, None, 'imagenet',         3,           0,   *L, 256),
    'decoder-vit-large':           (None, None, 'imagenet',         3,           0,   *L, 256)}
# recipe: K, data, teacher, its channels
VQKD = {
    'vqkd-clip-8192':                  (8192,  'imagenet',         'clip', 512),
    'vqkd-clip-8192-laion-aesthetics': (8192,  'laion_aesthetics', 'clip', 512),
    'vqkd-clip-8192-sa-med2d':         (8192,  'sa_med2d',         'clip', 512),
    'vqkd-clip-8192-satin':            (8192,  'satin',            'clip', 512),
    'vqkd-vit-8192':                   (8192,  'imagenet',         'vit', 768),
    'vqkd-vit-16384':                  (16384, 'imagenet',         'vit', 768),
    'vqkd-dino-8192':                  (8192,  'imagenet',         'dino', 768),
    'vqkd-mae-8192':                   (8192,  'imagenet',         'mae', 768),
    'vqkd-convnext-8192':              (8192,  'imagenet',         'convnext', 1024),
    'vqkd-evaclip-8192':               (8192,  'imagenet',         'evaclip', 768),
    'vqkd-openclip_L_14-8192':         (8192,  'imagenet',         'openclip_L_14', 768),
    'vqkd-openclip_bigG_14-8192':      (8192,  'imagenet',         'openclip_bigG_14', 1280)}
FEATURE_DECODER = {512:8_250_368, 768:8_447_232, 1024:8_644_096, 1280:8_840_960}

def test_every_row_is_there():
    paper = {k for k,r in RECIPES.items() if r['profile']=='paper'
             and r['notebook'] not in ('train_ar', 'train_nar', 'train_t2i', 'evaluate', 'evaluate_t2i', 'sample')
             and not r['notebook'].startswith(('fig_', 'table', 'doctor', 'errata'))}
    assert paper=={*PIXELS, *VQKD, 'cluster-clip-8192'}

def paper(name): return resolve(RECIPES[name]['notebook'], dict(recipe=name)) # what a run of this recipe would use

@pytest.mark.parametrize('name', PIXELS)
def test_pixel_rows(name):
    k,d,data,disc,gain,(l1,mse),batch,steps,size = PIXELS[name]
    p = paper(name)
    vq = l1==1
    assert (p['data'], p['l1'], p['mse'], p['batch_size'], p['steps'], p['image_size'], p['gan_gain'])==(data, l1, mse,
        batch, steps, size, gain)
    assert (p['disc'], p['disc_depth'])==(('stylegan2', 3) if disc=='stylegan2' else ('patchgan', disc))
    assert (p['lr'], p['disc_lr'], p['betas'])==((5.4e-5, 4.32e-4, [.5, .9]) if vq else (1e-4, 1e-4, [.9, .95]))
    assert (p['gan'], p['disc_weight'], round(p['gan_start']*steps))==((1, 1, 0) if vq else (.5, .5, 20_000))
    assert (p['perceptual'], p['gan_loss'], p['transform'], p['lr_final'], p['warmup'], p['warm'], p['clip'], p['ema'],
            p['r1'])==('vgg', 'hinge', 'strong', 1, 0, 0, 0, 0, 0)
    assert (p['seed'], p['precision'])==(3407, 'fp32')

@pytest.mark.parametrize('name', PIXELS)
def test_pixel_networks(name):
    k,d,_,disc,_,(l1,_),_,_,size = PIXELS[name]
    tok = build(name, 'meta')
    assert all(p.is_meta for p in [*tok.parameters(), *tok.discriminator.parameters()])
    assert count(tok.discriminator)=={3:2_765_633, 2:663_361, 'stylegan2':28_864_129}[disc]
    assert not any('discriminator' in n for n in tok.state_dict()) and tok.image_size==size
    if name.startswith('decoder'):
        assert count(tok.encoder)==86_404_640
        assert tok.feature_decoder is None
        assert (tok.n_codes, tok.quantizer.dim)==(8192, 32)
        assert count(tok.decoder)=={'decoder-vit':86_405_376, 'decoder-vit-large':632_558_848}.get(name, 42_449_795)
        width = 32 if 'vit' in name else 256
        assert [tuple(c.weight.shape) for c in tok.pre_decode]==[(width, 32, 1, 1)]
        return
    f8,bare = 'f8' in name,'refine' in name
    assert (count(tok.encoder), count(tok.decoder))==((26_345_728, 38_316_163) if f8 else (16_699_904, 28_799_875)
                                                      if bare else (29_298_176, 42_449_795))
    assert (tok.n_codes, tok.quantizer.dim)==(k, d)
    assert type(tok.quantizer)==(CVQ if 'cvq' in name else FSQ if 'fsq' in name else VQ)
    assert len(tok.post_encode)==len(tok.pre_decode)==(2 if 'fsq' in name else 1)
    if 'fsq' not in name: assert tok.quantizer.beta==.25 and count(tok.quantizer)==k*d
    if type(tok.quantizer)==VQ: assert tok.quantizer.sphere==(l1==0) and not tok.quantizer.cosine
    if 'cvq' in name:
        assert (tok.quantizer.cosine, tok.quantizer.anchor, tok.quantizer.sync, tok.quantizer.decay)==(False, 'nearest',
            False, .99)

@pytest.mark.parametrize('name', VQKD)
def test_vqkd_rows(name):
    k,data,teacher,c = VQKD[name]
    p = paper(name)
    assert (p['data'], p['teacher'], p['n_codes'], p['dim'], p['image_size'], p['transform'], p['batch_size'],
            p['steps'])==(data, teacher, k, 32, 224, 'default', 512, 250_000)
    assert (p['lr'], p['betas'], p['weight_decay'], p['lookup'], p['warm'])==(2e-4, [.9, .99], 1e-4, 'after', 0)
    tok = build(name, 'meta')
    assert (count(tok.encoder), count(tok.feature_decoder), tok.n_codes, tok.quantizer.dim)==(86_404_640,
        FEATURE_DECODER[c], k, 32)
    assert isinstance(tok.quantizer, NormEMA)
    assert tok.quantizer.beta==1
    assert tok.decoder is None
    assert tok.discriminator is None

def test_vqkd_learning_rate():
    p = paper('vqkd-clip-8192')
    rate = warmup_cosine(p['lr'], p['steps'], round(p['warmup']*p['steps']), final=p['lr']*p['lr_final'],
                         first=p['lr']*1e-8)
    # iterations count from 1
    for iteration,lr in ((1, 2e-12), (25_001, 2e-4), (250_000, 1e-5)):
        assert rate(iteration-1)==pytest.approx(lr, rel=1e-5)

def test_cluster_row():
    p = paper('cluster-clip-8192')
    assert (p['data'], p['n_codes'], p['batch_size'], p['steps'], p['lr'], p['betas'], p['rule'], p['cosine'],
            p['project'], p['image_size'], p['transform'])== \
           ('imagenet', 8192, 256, 100_000, 5.4e-5, [.5, .9], 'online', True, False, 256, 'strong')
    tok = build('cluster-clip-8192', 'meta')
    assert isinstance(tok.quantizer, OnlineCluster)
    assert (tok.n_codes, tok.quantizer.dim, tok.quantizer.cosine, tok.decoder)==(8192, 768, True, None)

@pytest.mark.parametrize('name,d_from', [('vqgan-8192-dd2', 0), ('llamagen-16384x8', 20_000), ('decoder-vit', 20_000)])
def test_optimisers(name, d_from):
    run = SimpleNamespace(**RECIPES[name])
    with torch.device('meta'):
        tok = build(name, 'meta')
        phases = pixel_phases(run, tok, frozen=name.startswith('decoder'), perceptual=nn.Identity())
    g,d = phases['g'],phases['d']
    for p,lr in ((g, run.lr), (d, run.disc_lr)):
        o, = p.optimizer.param_groups
        assert type(p.optimizer)==torch.optim.Adam and o['betas']==tuple(run.betas) and o['weight_decay']==0
        assert [p.lr(s) for s in (0, 1, run.steps//2, run.steps-1)]==[lr]*4
    assert (g.start, d.start, g.module.disc_start)==(0, d_from, d_from)
    trained = ('decoder', 'pre_decode') if name.startswith('decoder') else ('encoder', 'post_encode', 'quantizer',
        'pre_decode', 'decoder')
    assert {id(p) for p in g.parameters}=={id(p) for n in trained for p in getattr(tok, n).parameters()}
    assert {id(p) for p in d.parameters}=={id(p) for p in d.module.disc.parameters()}

# ---- small profiles

MINI = dict(data='fashion', image_size=32, width=16, mults=[1, 2, 2], n_res=1, latent=32, attention=False,
            transform='none', steps=500, batch_size=64, lr=2e-3, lr_final=0, betas=[.5, .9], warmup=.05, warm=.1,
            l1=1, mse=1, perceptual='none', gan=1, gan_loss='hinge', gan_start=.5, gan_gain=.2, r1=0, disc='patchgan',
            disc_depth=2, disc_width=32, disc_lr=5e-4, disc_weight=1, disc_forward='reuse', clip=0, ema=0,
            precision='auto')

@pytest.mark.parametrize('kind', ['vqgan', 'cvqvae', 'fsq', 'decoder'])
def test_mini_pixels_are_the_same_for_all(kind):
    for profile in ('smoke', 'quick', 'mini'):
        runs = [resolve(f'train_{k}', dict(profile=profile)) for k in ('vqgan', kind)]
        a,b = [pixel_recipe(SimpleNamespace(params=p)) for p in runs]
        assert a==b and set(a)==set(k for k in PIXEL_KEYS if not k.startswith('vit'))
    assert {k:runs[1][k] for k in MINI}==MINI and runs[1]['seed']==0

@pytest.mark.parametrize('kind', ['vqgan', 'cvqvae', 'fsq', 'decoder'])
def test_pixels_in_colour_are_the_same_for_all(kind):
    for profile in ('smoke', 'quick', 'mini'):
        a,b = (resolve(f'train_{k}', dict(profile=profile, data='emoji')) for k in ('vqgan', kind))
        assert pixel_recipe(SimpleNamespace(params=a))==pixel_recipe(SimpleNamespace(params=b))

@pytest.mark.parametrize('kind', ['vqgan', 'cvqvae', 'fsq', 'vqkd'])
@pytest.mark.parametrize('profile', ['smoke', 'quick', 'mini'])
def test_networks_in_colour_give_64_tokens(profile, kind):
    tok = build(f'emoji-{profile}-{kind}', 'meta')
    z = tok.eval().latents(torch.zeros(1, 3, 64, 64, device='meta'))
    assert z.shape==(1, tok.quantizer.dim, 8, 8) and tok.n_codes==(64 if profile=='smoke' else 1024)
    if kind=='vqkd': assert tok.feature_decoder(z).shape==(1, 112, 8, 8) # effnet's channels
    else: assert tok.decode_latents(z).shape==(1, 3, 64, 64)

def test_a_teacher_is_asked_at_the_side_that_gives_eight_by_eight_cells():
    from iutok.tokenizers import teacher_side
    row = RECIPES['emoji-mini-cluster']
    assert (row['teacher_size'], teacher_side('effnet', row['grid'], 'mini'))==(None, 128)

def test_a_mini_row_keeps_its_kind():
    assert resolve('train_cvqvae', dict(cosine=True))['cosine'] and not resolve('train_cvqvae')['cosine']
    assert resolve('train_decoder', dict(body='vit'))['vit_width']==96 and resolve('train_decoder')['gan_loss']=='hinge'

def test_a_vit_body_is_part_of_what_is_frozen():
    a,b = [pixel_recipe(SimpleNamespace(params=resolve('train_decoder', dict(body='vit', vit_depth=n))))
           for n in (1, 2)]
    assert a!=b and a['body']=='vit'

# ---- words

@pytest.mark.parametrize('call,says', [
    (lambda: build('vqgan-819'), "no recipe 'vqgan-819'; did you mean vqgan-8192"),
        (lambda: build('zzz'), "no recipe 'zzz'. They are: vqgan-1024, "),
    (lambda: build('fsq-8000', 'meta', n_codes=9), "'fsq-8000' has no parameter n_codes"),
        (lambda: build('decoder-vit', 'meta', body='gru'), 'body must be one of conv, vit'),
    (lambda: build('decoder-vit', 'meta', tokenizer='vqkd-clap-8192'), 'did you mean vqkd-clip-8192'),
    (lambda: build('vqgan-8192', 'meta', disc_depth=7), 'disc_depth=7 takes images of at least 384 pixels'),
    (lambda: build('vqgan-8192', 'meta', disc='biggan'), 'disc must be patchgan or stylegan2'),
    (lambda: pixel_phases(SimpleNamespace(**RECIPES['vqgan-1024'] | dict(disc_forward='twice')), None),
     'disc_forward must be reuse or repeat'),
    (lambda: pixel_phases(SimpleNamespace(**RECIPES['vqgan-1024'] | dict(perceptual='vgg19')),
                          build('vqgan-1024', 'meta')), 'perceptual must be none, vgg or effnet'),
    (lambda: resolve('train_fsq', dict(recipe='vqgan-1024')),
     "The recipe 'vqgan-1024' is for train_vqgan. train_fsq knows: fsq-8000, fsq-64000")])
def test_wrong_words(call, says):
    with pytest.raises(ValueError) as e: call()
    assert says in str(e.value) and '\n' not in str(e.value)

def test_a_decoder_whose_mults_do_not_fit_the_grid_is_refused_before_it_is_trained():
    from iutok.recipes import check_grid, fsq
    run = SimpleNamespace(levels=[4, 4], width=8, mults=[1, 1, 1], n_res=1, latent=8, attention=False, image_size=32)
    tok = fsq(run)
    check_grid(run, tok)
    run.mults = [1, 1]
    with pytest.raises(ValueError, match='8x8 codes for 32 pixels, which 2 mults enlarge to 16x16'):
        check_grid(run, tok)

def test_build_changes_and_runs():
    tok = build('llamagen-256x8-f8', width=32, latent=32, n_codes=64, image_size=64).eval()
    ids = tok.encode(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert ids.shape==(2, 8, 8)
    assert tok.decode(ids).shape==(2, 3, 64, 64)
    assert tok.discriminator(torch.zeros(2, 3, 64, 64)).shape[0]==2

# ---- the real thing

def test_one_step_of_the_main_baseline_at_full_size():
    "In a process of its own, whose memory is given back."
    r = json.loads(subprocess.run([sys.executable, 'tests/benches/full.py', 'vqgan-8192-dd2'], check=True,
                                  capture_output=True, text=True, cwd=ROOT, env=os.environ
                                  | dict(PYTHONPATH=str(ROOT))).stdout.splitlines()[-1])
    print(f"peak memory {r['peak_mb']:.0f} MB, {r['seconds']:.1f} s, losses {r['losses']}")
    assert r['wrong']==[]
    assert r['moved']==r['should']<r['parameters']
    assert all(map(math.isfinite, r['losses'].values()))
    assert r['peak_mb']>1000
