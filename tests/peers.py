"""Hold our networks against the public code they come from.

    python tests/peers.py --taming DIR --llamagen DIR --beit2 DIR --cvqvae DIR --mage DIR [--write]

Each DIR is a clone: CompVis/taming-transformers, FoundationVision/LlamaGen, the folder beit2 of microsoft/unilm,
lyndonzheng/CVQ-VAE (whose quantizer is put into taming's body, so it needs both), and LTH14/mage. Every module there
gets pseudo-random weights, `iutok.convert` turns its state dict into a tokenizer (`load_mage` into a masked network),
the outputs of both sides are compared at full size, and the way back must load strictly. `--write` also runs small
versions and keeps their outputs in tests/data/peers.npz, which test_convert.py and test_nar.py use where the clones
are not at hand. """
import argparse,importlib,json,sys,types,zlib
from functools import partial
from pathlib import Path
import numpy as np, torch
from torch import nn
from iutok.convert import from_beitv2,from_cvqvae,from_llamagen,from_taming,to_beitv2,to_cvqvae,to_llamagen,to_taming
from iutok.proposals.nar import NAR,NAR_SIZES
from iutok.proposals.published import load_mage

DATA = Path(__file__).parent/'data/peers.npz'

def fill(shapes):
    """Weights for any list of names and shapes, the same wherever numpy runs:
    small convolutions and matrices, norms near 1, codes of length 1."""
    out = {}
    for name in shapes:
        u = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shapes[name]).astype('float32')
        if name.endswith('num_batches_tracked'): u = np.zeros(shapes[name], 'int64')
        elif name.endswith('initted'): u = u*0+1
        elif name.endswith('embedding.weight'): u /= np.linalg.norm(u, axis=1, keepdims=True)
        elif u.ndim>=2: u *= (3/np.prod(u.shape[1:]))**.5 if 'token' not in name and 'pos_embed' not in name else 1
        else:
            norms = 'norm.weight', 'norm1.weight', 'norm2.weight', 'norm_out.weight', 'running_var'
            u = .1*u+(1 if name.endswith(norms) else 0)
        out[name] = torch.from_numpy(np.asarray(u))
    return out

def images(b, h, w, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).uniform(-1, 1, (b, 3, h, w)).astype('float32'))

def margin(z, codebook, cosine):
    "How much nearer the nearest code is than the next, (B, h, w), in float64: where this is nothing, ids may differ."
    f,e = z.permute(0, 2, 3, 1).double(),codebook.double()
    if cosine: f,e = nn.functional.normalize(f, dim=-1),nn.functional.normalize(e, dim=-1)
    two = torch.cdist(f.flatten(0, 2), e).topk(2, largest=False).values
    return (two[:, 1]-two[:, 0]).view(f.shape[:3])

def stub(name, **names):
    m = sys.modules[name] = types.ModuleType(name)
    vars(m).update(names)

def load(net):
    net.load_state_dict(fill({k:tuple(v.shape) for k,v in net.state_dict().items()}))
    return net.eval()

# %% their side
def taming(folder, width=128, mults=(1,1,2,2,4), n_res=2, z=256, dim=256, n_codes=1024, depth=3, size=256):
    sys.path.insert(0, str(folder))
    stub('taming.modules.util', ActNorm=nn.Identity)
    m,d,q = (importlib.import_module(f'taming.modules.{n}')
             for n in ('diffusionmodules.model', 'discriminator.model', 'vqvae.quantize'))
    args = dict(ch=width, out_ch=3, ch_mult=mults, num_res_blocks=n_res, attn_resolutions=[size>>(len(mults)-1)],
                in_channels=3, resolution=size, z_channels=z, double_z=False)
    net = nn.Module()
    net.encoder,net.decoder,net.quantize = m.Encoder(**args),m.Decoder(**args),q.VectorQuantizer2(n_codes, dim, .25)
    net.quant_conv,net.post_quant_conv = nn.Conv2d(z, dim, 1),nn.Conv2d(dim, z, 1)
    net.loss = nn.Module()
    net.loss.discriminator = d.NLayerDiscriminator(3, 64, depth)
    return load(net),net.loss.discriminator

def cvqvae(folder, taming_folder, **sizes):
    net,disc = taming(taming_folder, **sizes)
    sys.path.insert(0, str(folder))
    q = net.quantize
    net.quantize = importlib.import_module('quantise').VectorQuantiser(q.n_e, q.e_dim, .25)
    return load(net),disc

def llamagen(folder, width=128, mults=(1,1,2,2,4), n_res=2, z=256, dim=8, n_codes=16384, depth=3):
    sys.path.insert(0, str(folder))
    m,d = (importlib.import_module(f'tokenizer.tokenizer_image.{n}') for n in ('vq_model', 'discriminator_patchgan'))
    net = m.VQModel(m.ModelArgs(codebook_size=n_codes, codebook_embed_dim=dim, z_channels=z, encoder_ch_mult=mults,
                                decoder_ch_mult=mults))
    args = dict(z_channels=z, ch=width, ch_mult=mults, num_res_blocks=n_res)
    net.encoder,net.decoder = m.Encoder(**args),m.Decoder(**args)
    return load(net),load(d.NLayerDiscriminator(3, 64, depth))

def beitv2(folder, size=224, patch=16, width=768, depth=12, heads=12, dim=32, n_codes=8192, c_t=512, decoder_depth=1):
    sys.path.insert(0, str(folder))
    stub('utils')
    stub('vqkd_teacher', clip=None, get_dino_vit_base=None)
    m = importlib.import_module('modeling_vqkd')
    enc,dec = m.get_model_default_params(),m.get_model_default_params()
    enc.update(img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
    dec.update(img_size=size//patch, patch_size=1, in_chans=dim, embed_dim=width, depth=decoder_depth, num_heads=heads,
               num_classes=0)
    return load(m.VQKD(enc, dec, n_codes, dim, teacher_model_type='none', decoder_out_dim=c_t))

def mage(folder, side=16, n_codes=1024, name=None, **sizes):
    "MAGE without its tokenizer: what it calls images are the tokens, and the mask rate is .8."
    sys.path.insert(0, str(folder))
    np.float = float
    torch.Tensor.cuda = lambda self, *_, **__: self
    tokenizer = lambda **_: types.SimpleNamespace(parameters=list, encode=lambda t: (t, None, (0, 0, t.clone())))
    config = types.SimpleNamespace(model=types.SimpleNamespace(params=types.SimpleNamespace(
        ddconfig=None, n_embed=n_codes, embed_dim=None)))
    stub('taming.models.vqgan', VQModel=tokenizer)
    stub('omegaconf', OmegaConf=types.SimpleNamespace(load=lambda _: config))
    m = importlib.import_module('models_mage')
    norm = partial(nn.LayerNorm, eps=1e-6) # as theirs with a name
    net = (getattr(m, name)(img_size=16*side) if name else
           m.MaskedGenerativeEncoderViT(img_size=16*side, norm_layer=norm, **sizes))
    net.token_emb = m.BertEmbeddings(n_codes+1001, net.pos_embed.shape[2], side*side+1)
    net.mask_ratio_generator = types.SimpleNamespace(rvs=lambda n: [.8])
    load(net).token_emb.position_ids.copy_(torch.arange(side*side+1)) # a buffer that `fill` cannot know
    return net

# %% both sides
@torch.no_grad()
def mage_outputs(net, tokens):
    torch.manual_seed(0)
    latent,_,dropped,masked = net.forward_encoder(tokens)
    logits = net.forward_decoder(latent, dropped, masked)
    return dict(masked=masked[:,1:].bool(), dropped=dropped[:,1:].bool(), loss=net.forward_loss(tokens, logits, masked),
                logits=logits[:,1:,:net.codebook_size])

@torch.no_grad()
def mage_ours(net, tokens, theirs):
    "The same of our network, with their masks; loss as in training, but without dropout."
    import torch.nn.functional as F
    masked = theirs['masked']
    y = torch.full((len(tokens),), 1100-1024)
    logits = net.scores(net.features(tokens.masked_fill(masked, net.mask_id), y, theirs['dropped']))
    return dict(logits=logits, loss=F.cross_entropy(logits[masked], tokens[masked], label_smoothing=net.smoothing))

def mage_tokens(n, length, n_codes, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randint(n_codes, size=(n, length)))

MAGE_SMALL = dict(side=4, n_codes=12, embed_dim=16, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=4)
MAGE_UNUSED = 'patch_embed', 'cls_token', 'pos_embed', 'mask_token', 'decoder_pos_embed', 'decoder_pred' # by filling

def codes(q, idx):
    "Their codes without the rounding that z + (z_q - z) adds, (B, D, h, w)."
    e = q.embedding.weight
    return (nn.functional.normalize(e, dim=-1) if getattr(q, 'l2_norm', False) else e)[idx].permute(0, 3, 1,
        2).contiguous()

@torch.no_grad()
def conv_outputs(net, disc, x):
    z = net.quant_conv(net.encoder(x))
    idx = net.quantize(z)[2][2].view(len(z), *z.shape[2:])
    x_hat = net.decoder(net.post_quant_conv(codes(net.quantize, idx)))
    return dict(z=z, idx=idx, x_hat=x_hat, logits=disc(x_hat))

@torch.no_grad()
def conv_ours(tok, x, theirs):
    """The same of a tokenizer;
    what comes after the codes starts from their codes, so that one tie does not hide the rest."""
    q = tok.quantizer
    z = tok.latents(x)
    return dict(z=z, idx=q(z).idx, x_hat=tok.decode_latents(q.decode(theirs['idx'])),
                logits=tok.discriminator(theirs['x_hat'])),margin(z, q.codebook, q.cosine
                                                                  or getattr(q, 'sphere', False))

@torch.no_grad()
def vit_outputs(net, x):
    h,w = (s//net.patch_size for s in x.shape[2:])
    z = net.encode_task_layer(net.encoder(x, return_patch_tokens=True)).transpose(1, 2).unflatten(2, (h, w))
    idx = net.quantize(z)[2].view(len(x), h, w)
    return dict(z=z, idx=idx, t_hat=net.decode(codes(net.quantize, idx)).transpose(1, 2).unflatten(2, (h, w)))

@torch.no_grad()
def vit_ours(tok, x, theirs):
    z = tok.latents(x)
    return dict(z=z, idx=tok.quantizer(z).idx, t_hat=tok.feature_decoder(tok.quantizer.decode(theirs['idx']))),margin(z,
        tok.quantizer.codebook, True)

def report(title, theirs, mine, margin, tol=1e-5):
    "Largest differences; ids may differ only where two codes are nearly equally far."
    gap = {k:(mine[k]-v).abs().max().item() for k,v in theirs.items() if k!='idx'}
    tie = (mine['idx']!=theirs['idx'])
    print(f'{title:32}', ' '.join(f'{k} {v:.1e}' for k,v in gap.items()),
          f'ids differ {int(tie.sum())} of {tie.numel()}', flush=True)
    assert max(gap.values())<=tol and not (tie & (margin>tol)).any(), title

def back(their_state, got, extra=()):
    "The way back gives their names and values again."
    assert sorted(got)==sorted(their_state), set(got)^set(their_state)
    assert all(got[k].equal(v) for k,v in their_state.items() if k not in extra)

def loads(net, state): net.load_state_dict({k:v for k,v in state.items() if not k.startswith('main.')}, strict=True)

def main():
    p = argparse.ArgumentParser()
    for n in ('taming', 'llamagen', 'beit2', 'cvqvae', 'mage'): p.add_argument('--'+n, type=Path)
    p.add_argument('--write', action='store_true')
    a = p.parse_args()
    keep = dict(np.load(DATA)) if DATA.exists() else {}
    def store(name, state, outs):
        keep[f'{name}/shapes'] = np.array(json.dumps({k:list(v.shape) for k,v in state.items()}))
        for k,v in outs.items(): keep[f'{name}/{k}'] = v.numpy()
    small = dict(mults=(1,2,2), n_res=1, z=16, dim=4, n_codes=32, depth=2)
    if a.taming:
        for k,depth,sizes in ((1024, 3, (64, 256)), (16384, 2, (64,))):
            net,disc = taming(a.taming, n_codes=k, depth=depth)
            tok = from_taming({'state_dict': net.state_dict()})
            back(net.state_dict(), to_taming(tok))
            loads(net, to_taming(tok))
            for s in sizes:
                theirs = conv_outputs(net, disc, images(2, s, s))
                report(f'taming f16, K {k}, depth {depth}, {s}x{s}', theirs, *conv_ours(tok, images(2, s, s), theirs))
        if a.write:
            net,disc = taming(a.taming, size=16, **small)
            store('taming', net.state_dict(), conv_outputs(net, disc, images(2, 16, 24)))
    if a.taming and a.cvqvae:
        net,disc = cvqvae(a.cvqvae, a.taming)
        tok = from_cvqvae(net.state_dict())
        back(net.state_dict(), to_cvqvae(tok))
        loads(net, to_cvqvae(tok))
        theirs = conv_outputs(net, disc, images(2, 64, 64))
        report('CVQ-VAE on taming f16, 64x64', theirs, *conv_ours(tok, images(2, 64, 64), theirs))
        if a.write:
            net,disc = cvqvae(a.cvqvae, a.taming, size=16, **small)
            store('cvqvae', net.state_dict(), conv_outputs(net, disc, images(2, 16, 24)))
    if a.llamagen:
        for f,mults,k in ((16, (1,1,2,2,4), 16384), (8, (1,2,2,4), 16384)):
            net,disc = llamagen(a.llamagen, mults=mults, n_codes=k)
            tok = from_llamagen({'model': net.state_dict(), 'discriminator': disc.state_dict()})
            back({**net.state_dict(), **disc.state_dict()}, to_llamagen(tok), ['quantize.codebook_used'])
            loads(net, to_llamagen(tok))
            for s in (64, 256):
                theirs = conv_outputs(net, disc, images(2, s, s))
                report(f'llamagen f{f}, {s}x{s}', theirs, *conv_ours(tok, images(2, s, s), theirs))
        if a.write:
            net,disc = llamagen(a.llamagen, **small)
            both = {**net.state_dict(), **disc.state_dict()}
            both.pop('quantize.codebook_used')
            store('llamagen', both, conv_outputs(net, disc, images(2, 16, 24)))
    if a.beit2:
        for depth,c_t,sizes in ((1, 512, ((224, 224), (256, 256), (224, 320))), (3, 512, ((224, 224),)),
                                (1, 768, ((256, 256),)), (3, 768, ((224, 224),))):
            net = beitv2(a.beit2, c_t=c_t, decoder_depth=depth)
            tok = from_beitv2({'model': net.state_dict()})
            sums = [k for k in net.state_dict() if k.startswith('quantize') and not k.endswith('embedding.weight')]
            back(net.state_dict(), to_beitv2(tok), sums)
            loads(net, to_beitv2(tok))
            for h,w in sizes:
                x = images(2, h, w)
                theirs = vit_outputs(net, x)
                report(f'beitv2, C_t {c_t}, depth {depth}, {h}x{w}', theirs, *vit_ours(tok, x, theirs))
        if a.write:
            for depth,name,(h,w) in ((1, 'beitv2', (32, 32)), (3, 'beitv2_wide', (48, 64))):
                net = beitv2(a.beit2, size=32, patch=8, width=128, depth=2, heads=2, dim=8, n_codes=32, c_t=20,
                             decoder_depth=depth)
                store(name, net.state_dict(), vit_outputs(net, images(2, h, w)))
    if a.mage:
        for name in ('base', 'large'):
            net,t = mage(a.mage, name=f'mage_vit_{name}_patch16'),mage_tokens(2, 256, 1024)
            ours = NAR(1024, 1000, 256, drop_label=0, **NAR_SIZES[f'mage_{name}']).eval()
            used = sum(p.numel() for n,p in net.named_parameters() if n.split('.')[0] not in MAGE_UNUSED)
            assert used==sum(p.numel() for p in ours.parameters()), used
            theirs = mage_outputs(net, t)
            mine = mage_ours(load_mage(ours, net.state_dict()), t, theirs)
            gap = {k:(mine[k]-theirs[k]).abs().max().item() for k in mine}
            print(f'mage {name}, {used} parameters,', ' '.join(f'{k} {v:.1e}' for k,v in gap.items()), flush=True)
            assert max(gap.values())<=1e-5
        if a.write:
            net = mage(a.mage, **MAGE_SMALL)
            state = {k:v for k,v in net.state_dict().items() if k.split('.')[0] not in MAGE_UNUSED}
            store('mage', state, mage_outputs(net, mage_tokens(3, 16, 12)))
    if a.write:
        DATA.parent.mkdir(exist_ok=True)
        np.savez_compressed(DATA, **keep)
        print(f'wrote {DATA.name}, {DATA.stat().st_size/1e3:.0f} kB')

if __name__=='__main__': main()
