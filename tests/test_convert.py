"Converters: outputs of the public code (stored small tensors), the way back, and everything that must be refused."
import argparse,json,sys,types
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from iutok.convert import (architecture,fuse_qkv,from_beitv2,from_cvqvae,from_llamagen,from_lpips,from_taming,
                           read_checkpoint,to_beitv2,to_cvqvae,to_llamagen, to_lpips,to_taming)
from iutok.losses.gan import PatchGAN
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.nets.vit import ViT
from iutok.quantizers import CVQ,FSQ,VQ,NormEMA
from iutok.tokenizers import Connector,Tokenizer
from peers import DATA,back,conv_ours,fill,images,vit_ours

def whole(tok):
    return tok.state_dict() | ({} if tok.discriminator is None
                               else {f'discriminator.{k}':v for k,v in tok.discriminator.state_dict().items()})

def same(a, b):
    "Two tokenizers: same parts, same tensors, same tokens and images."
    assert {n:p.config() for n,p in a.named_children()}=={n:p.config() for n, p in b.named_children()}
    assert a.image_size==b.image_size
    s,t = whole(a),whole(b)
    assert sorted(s)==sorted(t)
    for k in s:
        if 'initialised' not in k: assert s[k].equal(t[k]), k
    x = images(2, a.image_size, a.image_size)/2+.5
    assert a.encode(x).equal(b.encode(x))
    if a.decoder is not None: assert a.decode(a.encode(x)).equal(b.decode(b.encode(x)))

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
@pytest.mark.parametrize('name,convert',
                         [('taming', from_taming), ('cvqvae', from_cvqvae), ('llamagen', from_llamagen)])
def test_conv_families_give_the_stored_outputs(name, convert):
    state,want = stored(name)
    agree(want, *conv_ours(convert(state), images(2, 16, 24), want))

@pytest.mark.parametrize('name,h,w,depth', [('beitv2', 32, 32, 1), ('beitv2_wide', 48, 64, 3)])
def test_beitv2_gives_the_stored_outputs(name, h, w, depth):
    state,want = stored(name)
    tok = from_beitv2({'model': state}, heads=2)
    assert len(tok.feature_decoder.blocks)==depth and tok.image_size==32
    agree(want, *vit_ours(tok, images(2, h, w), want))

def test_reading_taming_upside_down_is_noticed():
    """Without the reversed level order the weights do not even fit;
    with q and k swapped they fit and the outputs differ."""
    state,want = stored('taming')
    with pytest.raises(ValueError, match='do not fit|no rule'): from_llamagen(state)
    swapped = {k.replace('.q.', '.#.').replace('.k.', '.q.').replace('.#.', '.k.'):v for k,v in state.items()}
    got,_ = conv_ours(from_taming(swapped), images(2, 16, 24), want)
    assert (got['z']-want['z']).abs().max() > 1e-3

@pytest.mark.parametrize('name,there,home',
                         [('taming', from_taming, to_taming), ('cvqvae', from_cvqvae, to_cvqvae),
                          ('llamagen', from_llamagen, to_llamagen),
                          ('beitv2', partial(from_beitv2, heads=2), to_beitv2),
                          ('beitv2_wide', partial(from_beitv2, heads=2), to_beitv2)])
def test_the_way_back(name, there, home):
    state,_ = stored(name)
    if name=='llamagen': state['quantize.codebook_used'] = torch.zeros(65536)
    sums = [k for k in state if k.startswith('quantize') and not k.endswith(('embedding.weight', 'embed_prob'))]
    back(state, home(there(state)), sums)

# ours there and back
def vqgan(quantizer=None, attention=True, refine=True, disc=True):
    torch.manual_seed(0)
    return Tokenizer(ConvEncoder(width=32, mults=(1,1,2), n_res=2, out_channels=8, attention=attention, refine=refine,
                                 groups=32), quantizer or VQ(16, 4),
                     ConvDecoder(8, 32, (2,1,1), n_res=3, attention=attention, refine=refine, groups=32),
                     Connector([8, 4]), Connector([4, 8]), image_size=16, discriminator=PatchGAN(2, 8) if disc
                     else None).eval()

KINDS = dict(taming=(lambda: VQ(16, 4), to_taming, from_taming),
             llamagen=(lambda: VQ(16, 4, sphere=True), to_llamagen, from_llamagen),
             cvqvae=(lambda: CVQ(16, 4, cosine=True), to_cvqvae, from_cvqvae))

@pytest.mark.parametrize('q,there,home', KINDS.values(), ids=KINDS)
@pytest.mark.parametrize('switches', [{}, dict(attention=False, refine=False), dict(disc=False)],
                         ids=['full', 'plain', 'no discriminator'])
def test_ours_through_their_names(q, there, home, switches):
    tok = vqgan(q(), **switches)
    again = home(there(tok), image_size=16)
    same(again, tok)
    assert not again.training and (again.discriminator is None)==(switches.get('disc') is False)
    if again.discriminator is not None: assert not again.discriminator.training

def test_a_converted_tokenizer_is_saved_and_trained_like_any_other(tmp_path):
    tok = from_taming(to_taming(vqgan()), image_size=16)
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.about['source']=='taming-transformers'
    assert again.encode(images(1, 16, 16)/2+.5).equal(tok.encode(images(1, 16, 16)/2+.5))
    tok.train()
    before = tok.quantizer.codebook.detach().clone()
    x_hat,q = tok(images(2, 16, 16))
    assert tok.quantizer.codebook.equal(before)  # training does not start the codebook again
    (x_hat.mean()+q.loss).backward()
    assert all(p.grad is not None for p in tok.parameters())

def test_the_source_keeps_its_tensors():
    theirs = to_taming(vqgan())
    tok = from_taming(theirs, image_size=16)
    with torch.no_grad(): tok.encoder.conv_in.weight.zero_()
    assert theirs['encoder.conv_in.weight'].abs().sum()>0

def test_perceptual_network_is_dropped_and_ema_preferred():
    tok = vqgan()
    same(from_taming({'state_dict': {**to_taming(tok), 'loss.perceptual_loss.net.slice1.0.weight': torch.zeros(1)},
                      'epoch': 3}, image_size=16), tok)
    tok = vqgan(VQ(16, 4, sphere=True))
    lg = to_llamagen(tok)
    disc = {k:v for k,v in lg.items() if k.startswith('main.')}
    # as saved from within DistributedDataParallel
    model = {'module.'+k:v for k,v in lg.items() if not k.startswith('main.')}
    old = {k:torch.zeros_like(v) for k,v in model.items()}
    same(from_llamagen({'model': old, 'ema': model, 'discriminator': disc, 'steps': 7}, image_size=16), tok)
    style = {'blocks.0.weight': torch.zeros(1)}  # its other discriminator, which is not a PatchGAN
    with pytest.raises(ValueError, match='no rule for 1'): from_llamagen({'model': model, 'discriminator': style})
    assert from_llamagen({'model': model, 'discriminator': style}, discriminator=False).discriminator is None

def vqkd(c_t=20, depth=3):
    torch.manual_seed(0)
    vit = dict(grid=3, width=64, heads=1)
    return Tokenizer(ViT(patch=4, depth=1, **vit), NormEMA(16, 32),
                     feature_decoder=ViT(32, 1, depth=depth, out_channels=c_t, **vit), image_size=12).eval()

@pytest.mark.parametrize('c_t,teacher', [(512, dict(name='clip')), (768, dict(name='dino')), (20, None)])
def test_beitv2_names_its_teacher_and_keeps_the_feature_decoder_apart(c_t, teacher):
    tok = vqkd(c_t)
    theirs = {**to_beitv2(tok), 'teacher_model.visual.proj': torch.zeros(2), 'scaling_layer.shift': torch.zeros(3)}
    again = from_beitv2(theirs, heads=1)
    same(again, tok)
    assert again.decoder is None and again.about.get('teacher')==teacher
    assert from_beitv2(theirs, feature_decoder=False, heads=1).feature_decoder is None
    with pytest.raises(ValueError, match='incomplete: feature_decoder'):
        from_beitv2({k:v for k,v in theirs.items() if 'deco' not in k}, heads=1)

def test_only_what_their_code_computes_is_exported():
    with pytest.raises(ValueError, match='other tokens there'): to_taming(vqgan(VQ(16, 4, cosine=True)))
    with pytest.raises(ValueError, match='other tokens there'): to_taming(vqgan(FSQ([4, 4, 4, 4])))
    with pytest.raises(ValueError, match='other tokens there'): to_llamagen(vqgan())
    with pytest.raises(ValueError, match='other tokens there'): to_beitv2(vqgan())
    tok = vqgan()
    tok.post_encode = Connector([8, 8, 4])
    with pytest.raises(ValueError, match='no place for 2 of .*post_encode.1.weight'): to_taming(tok)

def test_lpips_there_and_back(tmp_path):
    ws = [torch.rand(c) for c in (64, 128, 256, 512, 512)]
    torch.save(to_lpips(ws), tmp_path/'vgg.pth')
    for a,b in zip(from_lpips(tmp_path/'vgg.pth'), ws, strict=True): assert a.equal(b)

# strictness
@pytest.mark.parametrize('q,there,home', KINDS.values(), ids=KINDS)
def test_any_missing_tensor_is_noticed(q, there, home):
    theirs = there(vqgan(q()))
    for k in [k for k in theirs if k!='quantize.codebook_used'][::11]+['quantize.embedding.weight',
        'post_quant_conv.weight']:
        with pytest.raises(ValueError, match='missing|incomplete|do not fit'):
            home({n:v for n,v in theirs.items() if n!=k})

def test_surplus_and_misshapen_tensors_are_named():
    theirs = to_taming(vqgan())
    def fails(match, **extra):
        with pytest.raises(ValueError, match=match):
            from_taming(theirs | {k.replace('__', '.'):torch.zeros(s) for k,s in extra.items()})
    fails('no rule for 1 of .*quantize.proj.weight', quantize__proj__weight=1)
    fails('1 unknown .encoder.down.0.block.0.norm3.weight', encoder__down__0__block__0__norm3__weight=1)
    fails(r'1 of another shape .decoder.up.0.block.0.conv1.weight is \(32, 32, 5, 5\) instead of \(32, 32, 3, 3\)',
          decoder__up__0__block__0__conv1__weight=(32, 32, 5, 5))
    short = {k:v for k,v in theirs.items() if k!='decoder.up.2.attn.0.k.weight'}
    with pytest.raises(ValueError, match='decoder.up.2.attn.0.k.weight is missing'): from_taming(short)
    few = {k:v for k,v in theirs.items() if not k.startswith('encoder.down.0.block') or 'conv2.weight' in k}
    with pytest.raises(ValueError, match=r'\d+ missing .encoder.down.0.block.0.norm1.weight, .*\.\.\.'):
        from_taming(few)

@pytest.mark.parametrize('what', [{}, {'epoch': 3}, {'state_dict': {'a': 1}}])
def test_files_without_weights_are_refused(what):
    with pytest.raises(ValueError, match='no state dict found'): from_taming(what)

def test_architecture_of_the_published_sizes():
    with torch.device('meta'):
        parts = nn.ModuleDict(dict(encoder=ConvEncoder(groups=32), decoder=ConvDecoder(mults=(4,2,1,1), groups=32),
                                   discriminator=PatchGAN(3), post_encode=Connector([256, 256, 5])))
        vit = nn.ModuleDict(dict(encoder=ViT(), feature_decoder=ViT(32, 1, depth=3, out_channels=512)))
    got = architecture(parts.state_dict())
    for name,net in parts.items(): assert got[name] == dict(kind=net.kind, **net.config())
    got = architecture(vit.state_dict())
    for name,net in vit.items():
        assert {k:v for k,v in dict(kind=net.kind, **net.config()).items() if k!='out_patch'} == got[name]

# files
@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
def test_files_of_training_frameworks_are_read(tmp_path, zipped):
    tok = vqgan(disc=False)
    names = ['pytorch_lightning', 'pytorch_lightning.callbacks', 'pytorch_lightning.callbacks.model_checkpoint']
    for n in names: sys.modules[n] = types.ModuleType(n)
    cls = type('ModelCheckpoint', (), {'__module__': names[-1]})
    attrs = type('AttributeDict', (dict,), {'__module__': names[0]})
    sys.modules[names[-1]].ModelCheckpoint,sys.modules[names[0]].AttributeDict = cls,attrs
    thing = cls()
    thing.best = 3
    extra = {'callbacks': {cls: {'best_model_score': np.float64(1.5)}, 'x': thing},
             'hyper_parameters': attrs(lr=1., kind=int), 'args': argparse.Namespace(lr=1.)}
    try:
        torch.save({'state_dict': to_taming(tok), **extra}, tmp_path/'last.ckpt', _use_new_zipfile_serialization=zipped)
    finally:
        for n in names: del sys.modules[n]
    same(from_taming(tmp_path/'last.ckpt', image_size=16), tok)

@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin', '.safetensors'])
def test_every_kind_of_file_is_read(tmp_path, suffix):
    from safetensors.torch import save_file
    state,path = to_taming(vqgan()),tmp_path/f'm{suffix}'
    save_file({k:v.contiguous() for k,v in state.items()}, path) if suffix=='.safetensors' else torch.save(state, path)
    same(from_taming(path, image_size=16), vqgan())

class Bomb:
    def __reduce__(self): return sys.exit, ('code was run',)

@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
def test_files_that_would_run_code_are_refused(tmp_path, zipped):
    torch.save({'state_dict': {'w': torch.ones(1)}, 'x': Bomb()}, tmp_path/'bad.ckpt',
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'bad.ckpt is refused: it wants to build sys.exit'):
        read_checkpoint(tmp_path/'bad.ckpt')

def test_damaged_and_absent_files(tmp_path):
    torch.save({'w': torch.ones(9)}, tmp_path/'good.pt')
    for name in ('cut.pt', 'cut.safetensors'):
        (tmp_path/name).write_bytes((tmp_path/'good.pt').read_bytes()[:200])
        with pytest.raises(ValueError, match='damaged'): read_checkpoint(tmp_path/name)
    with pytest.raises(ValueError, match='no file'): read_checkpoint(tmp_path/'nothing.pt')

def test_a_triple_must_be_whole():
    with pytest.raises(ValueError, match='a.v.weight is missing'):
        fuse_qkv({'a.q.weight': torch.ones(1), 'a.k.weight': torch.ones(1)})

# what people have

@pytest.mark.parametrize('wrap',
                         [lambda s: {f'module.{k}':v for k,v in s.items()},
                          lambda s: {f'_orig_mod.{k}':v for k,v in s.items()},
                          lambda s: {f'module._orig_mod.{k}':v for k,v in s.items()},
                          lambda s: {f'first_stage_model.{k}':v for k,v in s.items()}
                          | {'model.diffusion_model.x': torch.zeros(1)}, lambda s: s
                          | {'colorize': torch.zeros(3, 1, 1, 1), 'model_ema.decay': torch.zeros(()),
                             'model_ema.encoderconv_inweight': torch.zeros(2)}],
                         ids=['DDP', 'compiled', 'both', 'latent diffusion', 'with averages and a buffer'])
def test_weights_are_found_whatever_they_were_wrapped_in(wrap):
    tok = vqgan(disc=False)
    same(from_taming({'state_dict': wrap(to_taming(tok))}, image_size=16), tok)

@pytest.mark.parametrize('width', [32, 64, 128])
def test_norms_of_a_converted_network_have_taming_groups_at_every_width(width):
    "taming and LlamaGen normalise in 32 groups, whatever the width."
    tok = Tokenizer(ConvEncoder(width=width, mults=(1, 1), n_res=1, out_channels=8, groups=32), VQ(16, 4),
                    ConvDecoder(8, width, (1, 1), n_res=2, groups=32), Connector([8, 4]), Connector([4, 8]),
                    image_size=16).eval()
    again = from_taming(to_taming(tok), image_size=16)
    assert {m.num_groups for m in again.modules() if isinstance(m, nn.GroupNorm)}=={32}
    same(again, tok)

def test_a_network_whose_norms_taming_does_not_have_is_refused():
    small = Tokenizer(ConvEncoder(width=32, mults=(1, 1), n_res=1, out_channels=8), VQ(16, 4),
                      ConvDecoder(8, 32, (1, 1), n_res=2), Connector([8, 4]), Connector([4, 8]))
    with pytest.raises(ValueError, match='their norms have 32 groups, this network has 8 over 32 channels'):
        to_taming(small)
    odd = to_taming(vqgan(disc=False)) | {'encoder.down.0.block.0.conv2.weight': torch.zeros(24, 32, 3, 3)}
    with pytest.raises(ValueError, match='24 channels cannot have 32 groups|do not fit'): from_taming(odd)

@pytest.mark.parametrize('width, heads, want', [(96, 3, 3), (192, 6, 6), (768, None, 12), (1024, None, 16)])
def test_heads_are_those_of_the_published_files_or_asked_for(width, heads, want):
    with torch.device('meta'):
        state = nn.ModuleDict(dict(encoder=ViT(grid=2, patch=4, width=width, depth=1, heads=want))).state_dict()
    assert architecture(state, heads)['encoder']['heads']==want
    if heads:
        with pytest.raises(ValueError, match=f'how many attention heads a width of {width} has; say heads=N'):
            architecture(state)
        with pytest.raises(ValueError, match='does not divide into heads=7'): architecture(state, 7)

def test_a_torchscript_program_is_refused_with_what_to_do(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path/'net.pt')
    with pytest.raises(ValueError, match='is a TorchScript program.*torch.jit.load it and save its state_dict'):
        read_checkpoint(tmp_path/'net.pt')
