"Converters: outputs of the public code (stored small tensors), the way back, and everything that must be refused."
import argparse,json,sys,types
import numpy as np, pytest, torch
from torch import nn
from iutok.convert import (architecture,check_state,from_beitv2,from_llamagen,from_lpips,from_taming,read_checkpoint,to_beitv2,to_llamagen,to_lpips,to_taming)
from iutok.losses.gan import PatchGAN
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.nets.vit import ViT
from peers import DATA,back,conv_ours,fill,images,vit_ours

def same(a, b):
    assert sorted(a)==sorted(b)
    for k in a: assert a[k].equal(b[k]), k

def stored(name):
    d = np.load(DATA)
    out = {k.split('/')[1]:d[k] for k in d.files if k.startswith(name+'/')}
    state = fill({k:tuple(v) for k,v in json.loads(str(out.pop('shapes'))).items()})
    return state,{k:torch.from_numpy(v) for k,v in out.items()}

def agree(want, got, margin):
    assert margin.min() > 3e-5  # no code is nearly as near as another, so ids must be equal
    for k,v in want.items(): torch.testing.assert_close(got[k], v, atol=1e-5, rtol=0, msg=lambda m: f'{k}: {m}')
    assert all(v.float().std()>1e-3 for v in want.values())

# outputs of the public code
@pytest.mark.parametrize('name,convert,sphere', [('taming', from_taming, False), ('llamagen', from_llamagen, True)])
def test_conv_families_give_the_stored_outputs(name, convert, sphere):
    state,want = stored(name)
    agree(want, *conv_ours(convert(state), images(2, 16, 24), sphere))

@pytest.mark.parametrize('name,h,w', [('beitv2', 32, 32), ('beitv2_wide', 48, 64)])
def test_beitv2_gives_the_stored_outputs(name, h, w):
    state,want = stored(name)
    agree(want, *vit_ours(from_beitv2({'model': state}), images(2, h, w)))

def test_reading_taming_upside_down_is_noticed():
    "Without the reversed level order the weights do not even fit; with q and k swapped they fit and the outputs differ."
    state,want = stored('taming')
    with pytest.raises(ValueError, match='do not fit|no rule'): from_llamagen(state)
    swapped = {k.replace('.q.', '.#.').replace('.k.', '.q.').replace('.#.', '.k.'):v for k,v in state.items()}
    got,_ = conv_ours(from_taming(swapped), images(2, 16, 24), False)
    assert (got['z']-want['z']).abs().max() > 1e-3

@pytest.mark.parametrize('name,there,home', [('taming', from_taming, to_taming), ('llamagen', from_llamagen, to_llamagen), ('beitv2', from_beitv2, to_beitv2)])
def test_the_way_back(name, there, home):
    state,_ = stored(name)
    if name=='llamagen': state['quantize.codebook_used'] = torch.zeros(65536)
    sums = [k for k in state if k.startswith('quantize') and not k.endswith('embedding.weight')]
    back(state, there(state), home, sums)

# ours there and back
def vqgan(attention=True, refine=True, disc=True):
    torch.manual_seed(0)
    parts = dict(encoder=ConvEncoder(width=8, mults=(1,1,2), n_res=2, out_channels=8, attention=attention, refine=refine), post_encode=nn.Conv2d(8, 4, 1),
                 pre_decode=nn.Conv2d(4, 8, 1), decoder=ConvDecoder(8, 8, (2,1,1), n_res=3, attention=attention, refine=refine))
    if disc: parts['discriminator'] = PatchGAN(2, 8)
    return {**nn.ModuleDict(parts).state_dict(), 'quantizer.codebook': torch.randn(16, 4), 'quantizer.initialised': torch.tensor(True)}

@pytest.mark.parametrize('there,home', [(to_taming, from_taming), (to_llamagen, from_llamagen)], ids=['taming', 'llamagen'])
@pytest.mark.parametrize('switches', [{}, dict(attention=False, refine=False), dict(disc=False)], ids=['full', 'plain', 'no discriminator'])
def test_ours_through_their_names(there, home, switches):
    state = vqgan(**switches)
    same(home(there(state)), state)

def test_perceptual_network_is_dropped_and_ema_preferred():
    state = vqgan()
    theirs = to_taming(state)
    same(from_taming({'state_dict': {**theirs, 'loss.perceptual_loss.net.slice1.0.weight': torch.zeros(1)}, 'epoch': 3}), state)
    lg = to_llamagen(state)
    disc = {k:v for k,v in lg.items() if k.startswith('main.')}
    model = {k:v for k,v in lg.items() if not k.startswith('main.')}
    old = {k:torch.zeros_like(v) for k,v in model.items()}
    same(from_llamagen({'model': old, 'ema': model, 'discriminator': disc, 'steps': 7}), state)

def test_beitv2_decoder_is_a_choice():
    parts = nn.ModuleDict(dict(encoder=ViT(patch=4, grid=3, width=64, depth=1, heads=1), decoder=ViT(32, 1, grid=3, width=64, depth=3, heads=1, out_channels=20)))
    state = {**parts.state_dict(), 'quantizer.codebook': torch.randn(16, 32), 'quantizer.initialised': torch.tensor(True)}
    theirs = {**to_beitv2(state), 'teacher_model.visual.proj': torch.zeros(2), 'scaling_layer.shift': torch.zeros(3)}
    same(from_beitv2(theirs), state)
    assert {k.split('.')[0] for k in from_beitv2(theirs, decoder=False)} == {'encoder', 'quantizer'}

def test_lpips_there_and_back(tmp_path):
    ws = [torch.rand(c) for c in (64, 128, 256, 512, 512)]
    torch.save(to_lpips(ws), tmp_path/'vgg.pth')
    for a,b in zip(from_lpips(tmp_path/'vgg.pth'), ws, strict=True): assert a.equal(b)

# strictness
@pytest.mark.parametrize('there,home', [(to_taming, from_taming), (to_llamagen, from_llamagen)], ids=['taming', 'llamagen'])
def test_any_missing_tensor_is_noticed(there, home):
    theirs = there(vqgan())
    for k in [k for k in theirs if k!='quantize.codebook_used'][::3]+['quantize.embedding.weight']:
        with pytest.raises(ValueError): home({n:v for n,v in theirs.items() if n!=k})

def test_surplus_and_misshapen_tensors_are_named():
    theirs = to_taming(vqgan())
    with pytest.raises(ValueError, match='no rule for 1 of .*quantize.proj.weight'): from_taming({**theirs, 'quantize.proj.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='encoder.levels.0.res.0.norm3.weight'): from_taming({**theirs, 'encoder.down.0.block.0.norm3.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='decoder.levels.2.res.0.conv1.weight'): from_taming({**theirs, 'decoder.up.0.block.0.conv1.weight': torch.zeros(8, 8, 5, 5)})
    with pytest.raises(ValueError, match='fit'): check_state({**vqgan(), 'encoder.more': torch.zeros(1)})

def test_architecture_of_the_published_sizes():
    with torch.device('meta'):
        parts = nn.ModuleDict(dict(encoder=ConvEncoder(), decoder=ConvDecoder(mults=(4,2,1,1)), discriminator=PatchGAN(3)))
        vit = nn.ModuleDict(dict(encoder=ViT(), decoder=ViT(32, 1, depth=3, out_channels=512)))
    got = architecture(parts.state_dict())
    for name,net in parts.items(): assert got[name] == dict(kind=net.kind, **net.config())
    got = architecture(vit.state_dict())
    for name,net in vit.items(): assert {k:v for k,v in dict(kind=net.kind, **net.config()).items() if k!='out_patch'} == got[name]

# files
def test_files_of_training_frameworks_are_read(tmp_path):
    state = to_taming(vqgan(disc=False))
    names = ['pytorch_lightning', 'pytorch_lightning.callbacks', 'pytorch_lightning.callbacks.model_checkpoint']
    for n in names: sys.modules[n] = types.ModuleType(n)
    cls = type('ModelCheckpoint', (), {'__module__': names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = cls
    thing = cls()
    thing.best = 3
    try: torch.save({'state_dict': state, 'callbacks': {cls: {'best_model_score': np.float64(1.5)}, 'x': thing}}, tmp_path/'last.ckpt')
    finally:
        for n in names: del sys.modules[n]
    same(from_taming(tmp_path/'last.ckpt'), vqgan(disc=False))
    torch.save({'model': to_llamagen(vqgan(disc=False)), 'args': argparse.Namespace(lr=1.), 'steps': 3}, tmp_path/'vq.pt')
    same(from_llamagen(tmp_path/'vq.pt'), vqgan(disc=False))

def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file
    save_file({k:v.contiguous() for k,v in to_taming(vqgan()).items()}, tmp_path/'m.safetensors')
    same(from_taming(tmp_path/'m.safetensors'), vqgan())

class Bomb:
    def __reduce__(self): return sys.exit, ('code was run',)

def test_files_that_would_run_code_are_refused(tmp_path):
    torch.save({'state_dict': {'w': torch.ones(1)}, 'x': Bomb()}, tmp_path/'bad.ckpt')
    with pytest.raises(ValueError, match=r'bad.ckpt is refused: it wants to build sys.exit'): read_checkpoint(tmp_path/'bad.ckpt')
    torch.save({'w': Bomb()}, tmp_path/'old.ckpt', _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match='old.ckpt is refused'): read_checkpoint(tmp_path/'old.ckpt')
    (tmp_path/'cut.pt').write_bytes((tmp_path/'bad.ckpt').read_bytes()[:100])
    with pytest.raises(ValueError, match='damaged'): read_checkpoint(tmp_path/'cut.pt')
    with pytest.raises(ValueError, match='no file'): read_checkpoint(tmp_path/'nothing.pt')
