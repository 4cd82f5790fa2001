"""Hold our networks against the public code they come from.

    python tests/peers.py --taming DIR --llamagen DIR --beit2 DIR [--write]

Each DIR is a clone: CompVis/taming-transformers, FoundationVision/LlamaGen, and the folder beit2 of microsoft/unilm. Every module there gets
pseudo-random weights, `iutok.convert` translates them, and the outputs of both sides are compared at full size. `--write` also runs small
versions and keeps their outputs in tests/data/peers.npz, which test_convert.py uses where the clones are not at hand.
"""
import argparse,importlib,json,sys,types,zlib
from pathlib import Path
import numpy as np, torch
from torch import nn
from iutok.convert import architecture,build_part,from_beitv2,from_llamagen,from_taming,to_beitv2,to_llamagen,to_taming

DATA = Path(__file__).parent/'data/peers.npz'

def fill(shapes):
    "Weights for any list of names and shapes, the same wherever numpy runs: small convolutions and matrices, norms near 1, codes of length 1."
    out = {}
    for name in shapes:
        u = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shapes[name]).astype('float32')
        if name.endswith('num_batches_tracked'): u = np.zeros(shapes[name], 'int64')
        elif name.endswith('initted'): u = u*0+1
        elif name.endswith('embedding.weight'): u /= np.linalg.norm(u, axis=1, keepdims=True)
        elif u.ndim>=2: u *= (3/np.prod(u.shape[1:]))**.5 if 'token' not in name and 'pos_embed' not in name else 1
        else: u = .1*u+(1 if name.endswith(('norm.weight', 'norm1.weight', 'norm2.weight', 'norm_out.weight', 'running_var')) else 0)
        out[name] = torch.from_numpy(np.asarray(u))
    return out

def images(b, h, w, seed=0): return torch.from_numpy(np.random.RandomState(seed).uniform(-1, 1, (b, 3, h, w)).astype('float32'))

def ours(state):
    "Every network that the state holds, and the codebook."
    out = {}
    for name,config in architecture(state).items():
        if name=='quantizer': continue
        out[name] = build_part(config).eval()
        out[name].load_state_dict({k[len(name)+1:]:v for k,v in state.items() if k.startswith(name+'.')})
    return out,state['quantizer.codebook']

def nearest(z, codebook, sphere):
    "Ids (B, h, w), codes (B, D, h, w), and the margin between the two nearest codes, in float64."
    f,e = z.permute(0, 2, 3, 1).double(),codebook.double()
    if sphere: f,e = nn.functional.normalize(f, dim=-1),nn.functional.normalize(e, dim=-1)
    two = torch.cdist(f.flatten(0, 2), e).topk(2, largest=False)
    idx = two.indices[:, 0].view(f.shape[:3])
    return idx,e[idx].permute(0, 3, 1, 2).to(z.dtype).contiguous(),(two.values[:, 1]-two.values[:, 0]).view(idx.shape)

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
    m,d,q = (importlib.import_module(f'taming.modules.{n}') for n in ('diffusionmodules.model', 'discriminator.model', 'vqvae.quantize'))
    args = dict(ch=width, out_ch=3, ch_mult=mults, num_res_blocks=n_res, attn_resolutions=[size>>(len(mults)-1)], in_channels=3, resolution=size,
                z_channels=z, double_z=False)
    net = nn.Module()
    net.encoder,net.decoder,net.quantize = m.Encoder(**args),m.Decoder(**args),q.VectorQuantizer2(n_codes, dim, .25)
    net.quant_conv,net.post_quant_conv = nn.Conv2d(z, dim, 1),nn.Conv2d(dim, z, 1)
    net.loss = nn.Module()
    net.loss.discriminator = d.NLayerDiscriminator(3, 64, depth)
    return load(net),net.loss.discriminator

def llamagen(folder, width=128, mults=(1,1,2,2,4), n_res=2, z=256, dim=8, n_codes=16384, depth=3):
    sys.path.insert(0, str(folder))
    m,d = (importlib.import_module(f'tokenizer.tokenizer_image.{n}') for n in ('vq_model', 'discriminator_patchgan'))
    net = m.VQModel(m.ModelArgs(codebook_size=n_codes, codebook_embed_dim=dim, z_channels=z, encoder_ch_mult=mults, decoder_ch_mult=mults))
    args = dict(z_channels=z, ch=width, ch_mult=mults, num_res_blocks=n_res)
    net.encoder,net.decoder = m.Encoder(**args),m.Decoder(**args)
    return load(net),load(d.NLayerDiscriminator(3, 64, depth))

def beitv2(folder, size=224, patch=16, width=768, depth=12, heads=12, dim=32, n_codes=8192, c_t=512):
    sys.path.insert(0, str(folder))
    stub('utils')
    stub('vqkd_teacher', clip=None, get_dino_vit_base=None)
    m = importlib.import_module('modeling_vqkd')
    enc,dec = m.get_model_default_params(),m.get_model_default_params()
    enc.update(img_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=0)
    dec.update(img_size=size//patch, patch_size=1, in_chans=dim, embed_dim=width, depth=1, num_heads=heads, num_classes=0)
    return load(m.VQKD(enc, dec, n_codes, dim, teacher_model_type='none', decoder_out_dim=c_t))

# %% both sides
@torch.no_grad()
def conv_outputs(net, disc, x, sphere):
    z = net.quant_conv(net.encoder(x))
    _,z_q,_ = nearest(z, net.quantize.embedding.weight, sphere)
    x_hat = net.decoder(net.post_quant_conv(z_q))
    return dict(z=z, idx=net.quantize(z)[2][2].view(len(z), *z.shape[2:]), x_hat=x_hat, logits=disc(x_hat))

@torch.no_grad()
def conv_ours(state, x, sphere, x_hat=None):
    nets,codebook = ours(state)
    z = nets['post_encode'](nets['encoder'](x))
    idx,z_q,margin = nearest(z, codebook, sphere)
    mine = nets['decoder'](nets['pre_decode'](z_q))
    return dict(z=z, idx=idx, x_hat=mine, logits=nets['discriminator'](mine if x_hat is None else x_hat)),margin

@torch.no_grad()
def vit_outputs(net, x):
    h,w = (s//net.patch_size for s in x.shape[2:])
    z = net.encode_task_layer(net.encoder(x, return_patch_tokens=True)).transpose(1, 2).unflatten(2, (h, w))
    z_q,_,idx = net.quantize(z)
    return dict(z=z, idx=idx.view(len(x), h, w), t_hat=net.decode(z_q).transpose(1, 2).unflatten(2, (h, w)))

@torch.no_grad()
def vit_ours(state, x):
    nets,codebook = ours(state)
    z = nets['encoder'](x)
    idx,z_q,margin = nearest(z, codebook, True)
    return dict(z=z, idx=idx, t_hat=nets['decoder'](z_q)),margin

def report(title, theirs, mine, margin, tol=1e-5):
    "Largest differences; ids may differ only where two codes are nearly equally far."
    gap = {k:(mine[k]-v).abs().max().item() for k,v in theirs.items() if k!='idx'}
    tie = (mine['idx']!=theirs['idx'])
    print(f'{title:32}', ' '.join(f'{k} {v:.1e}' for k,v in gap.items()), f'ids differ {int(tie.sum())} of {tie.numel()}', flush=True)
    assert max(gap.values())<=tol and not (tie & (margin>tol)).any(), title

def back(their_state, state, to, extra=()):
    "The way back gives their names and values again."
    got = to(state)
    assert sorted(got)==sorted(their_state), set(got)^set(their_state)
    assert all(got[k].equal(v) for k,v in their_state.items() if k not in extra)

def main():
    p = argparse.ArgumentParser()
    for n in ('taming', 'llamagen', 'beit2'): p.add_argument('--'+n, type=Path)
    p.add_argument('--write', action='store_true')
    a = p.parse_args()
    keep = dict(np.load(DATA)) if DATA.exists() else {}
    def store(name, state, outs):
        keep[f'{name}/shapes'] = np.array(json.dumps({k:list(v.shape) for k,v in state.items()}))
        for k,v in outs.items(): keep[f'{name}/{k}'] = v.numpy()
    small = dict(mults=(1,2,2), n_res=1, z=16, dim=4, n_codes=32, depth=2)
    if a.taming:
        for depth,sizes in ((3, (64, 256)), (2, (64,))):
            net,disc = taming(a.taming, depth=depth)
            state = from_taming({'state_dict': net.state_dict()})
            back(net.state_dict(), state, to_taming)
            for s in sizes:
                theirs = conv_outputs(net, disc, images(2, s, s), False)
                report(f'taming f16, depth {depth}, {s}x{s}', theirs, *conv_ours(state, images(2, s, s), False, theirs['x_hat']))
        if a.write:
            net,disc = taming(a.taming, size=16, **small)
            store('taming', net.state_dict(), conv_outputs(net, disc, images(2, 16, 24), False))
    if a.llamagen:
        for f,mults,k in ((16, (1,1,2,2,4), 16384), (8, (1,2,2,4), 256)):
            net,disc = llamagen(a.llamagen, mults=mults, n_codes=k)
            state = from_llamagen({'model': net.state_dict(), 'discriminator': disc.state_dict()})
            back({**net.state_dict(), **disc.state_dict()}, state, to_llamagen, ['quantize.codebook_used'])
            for s in (64, 256):
                theirs = conv_outputs(net, disc, images(2, s, s), True)
                report(f'llamagen f{f}, {s}x{s}', theirs, *conv_ours(state, images(2, s, s), True, theirs['x_hat']))
        if a.write:
            net,disc = llamagen(a.llamagen, **small)
            both = {**net.state_dict(), **disc.state_dict()}
            both.pop('quantize.codebook_used')
            store('llamagen', both, conv_outputs(net, disc, images(2, 16, 24), True))
    if a.beit2:
        for c_t in (512, 768):
            net = beitv2(a.beit2, c_t=c_t)
            state = from_beitv2({'model': net.state_dict()})
            sums = [k for k in net.state_dict() if k.startswith('quantize') and not k.endswith('embedding.weight')]
            back(net.state_dict(), state, to_beitv2, sums)
            for h,w in ((224, 224), (256, 256), (224, 320)):
                x = images(2, h, w)
                report(f'beitv2, C_t {c_t}, {h}x{w}', vit_outputs(net, x), *vit_ours(state, x))
        if a.write:
            net = beitv2(a.beit2, size=32, patch=8, width=128, depth=2, heads=2, dim=8, n_codes=32, c_t=20)
            for name,(h,w) in dict(beitv2=(32, 32), beitv2_wide=(48, 64)).items(): store(name, net.state_dict(), vit_outputs(net, images(2, h, w)))
    if a.write:
        DATA.parent.mkdir(exist_ok=True)
        np.savez_compressed(DATA, **keep)
        print(f'wrote {DATA.name}, {DATA.stat().st_size/1e3:.0f} kB')

if __name__=='__main__': main()
