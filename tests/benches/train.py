"""One VQGAN training step against taming-transformers' modules: f16, 128 channels wide, 2 images of 128x128, float32,
two threads.

Both sides minimise L1 + hinge GAN with adaptive weight, generator then discriminator, Adam. `own code`: each side's
step as its code does it; taming runs the whole generator again for the discriminator's step, ours reuses the
reconstruction. `shared step`: one loop, written here, drives both sides' modules through a single forward, so that only
the modules differ. No perceptual network on either side.
"""
import importlib.util, os, sys
THREADS = 2
for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[k] = str(THREADS)
import torch
import torch.nn.functional as F
from torch import nn
from _measure import medians, missing, peak_extra, peak_in_child, row
from iutok.data import Batch
from iutok.losses.gan import PatchGAN, adaptive_weight, hinge_d, hinge_g
from iutok.nets.conv import ConvDecoder, ConvEncoder
from iutok.quantizers import VQ
from iutok.reconstruction import Discriminate, Reconstruct
from iutok.tokenizers import Connector, Tokenizer

torch.set_num_threads(THREADS)
HAVE = importlib.util.find_spec('taming') is not None
PEER = 'taming-transformers'
K,GAIN,BETAS = 1024,.8,(.5, .9)

def images():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=g)

def adam(net, lr=5.4e-5, **kw): return torch.optim.Adam(net.parameters(), lr=lr, betas=BETAS, **kw)

def our_modules():
    nets = ConvEncoder(), VQ(K, 256), ConvDecoder(), Connector([256, 256]), Connector([256, 256])
    tok = Tokenizer(*nets, image_size=128)
    return tok,PatchGAN(3)

class Taming(nn.Module):
    "taming's modules, called as its VQModel calls them."
    def __init__(self):
        super().__init__()
        from taming.modules.diffusionmodules.model import Decoder, Encoder
        from taming.modules.vqvae.quantize import VectorQuantizer2
        args = dict(ch=128, out_ch=3, ch_mult=(1, 1, 2, 2, 4), num_res_blocks=2, attn_resolutions=[16], in_channels=3,
                    resolution=256, z_channels=256, double_z=False)
        self.encoder,self.decoder,self.quantize = Encoder(**args),Decoder(**args),VectorQuantizer2(K, 256, .25)
        self.quant_conv,self.post_quant_conv = nn.Conv2d(256, 256, 1),nn.Conv2d(256, 256, 1)
    def forward(self, x):
        z_q,q_loss,_ = self.quantize(self.quant_conv(self.encoder(x)))
        return self.decoder(self.post_quant_conv(z_q)),q_loss

def their_modules():
    from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
    sys.stdout,out = open(os.devnull, 'w'),sys.stdout  # the decoder announces its size
    try: return Taming(),NLayerDiscriminator(3, n_layers=3).apply(weights_init)
    finally: sys.stdout = out

def ours_own():
    "Our phases, in the order `fit` runs them."
    tok,disc = our_modules()
    g = Reconstruct(tok, l1=1., disc=disc, gain=GAIN)
    phases = [(g, adam(tok, fused=True)), (Discriminate(disc, g), adam(disc, lr=4.32e-4, fused=True))]
    batch = Batch(images(), *[torch.arange(2)]*(len(Batch._fields)-1))
    for m,_ in phases: m.train()
    def run():
        for module,opt in phases:
            opt.zero_grad(set_to_none=True)
            module(batch, 0)[0].backward()
            opt.step()
    return run

def theirs_own():
    """taming's training_step for optimiser 0, then for optimiser 1.

    The other side's parameters are frozen meanwhile, as Lightning does."""
    vq,disc = their_modules()
    opt_g,opt_d = adam(vq),adam(disc)
    x = images().float()/127.5-1
    def run():
        disc.requires_grad_(False)
        x_hat,q_loss = vq(x)
        rec,gan = (x-x_hat).abs().mean(),-disc(x_hat).mean()
        last = vq.decoder.conv_out.weight
        r,g = (torch.autograd.grad(l, last, retain_graph=True)[0] for l in (rec, gan))
        lam = (r.norm()/(g.norm()+1e-4)).clamp(0, 1e4).detach()*GAIN
        opt_g.zero_grad()
        (rec+lam*gan+q_loss.mean()).backward()
        opt_g.step()
        disc.requires_grad_(True)
        vq.requires_grad_(False)
        x_hat,_ = vq(x)
        real,fake = disc(x),disc(x_hat.detach())
        loss = .5*(F.relu(1-real).mean()+F.relu(1+fake).mean())
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
        vq.requires_grad_(True)
    return run

def shared(vq, disc, last):
    "One step for either side's modules: one forward, both updates."
    opt_g,opt_d = adam(vq),adam(disc)
    x = images().float()/127.5-1
    def run():
        x_hat,q = vq(x)
        rec,gan = F.l1_loss(x_hat, x),hinge_g(disc(x_hat))
        opt_g.zero_grad()
        (rec+adaptive_weight(rec, gan, last, GAIN)*gan+getattr(q, 'loss', q)).backward()
        opt_g.step()
        opt_d.zero_grad()
        hinge_d(disc(x), disc(x_hat.detach())).backward()
        opt_d.step()
    return run

def shared_ours():
    tok,disc = our_modules()
    return shared(tok, disc, tok.decoder.last_layer)

def shared_theirs():
    vq,disc = their_modules()
    return shared(vq, disc, vq.decoder.conv_out.weight)

# --- the proposal network

AR_LAYERS = int(os.environ.get('LAYERS', 24))

def ar_ours():
    from iutok.proposals.ar import AR, AR_SIZES
    torch.manual_seed(0)
    ar = AR(8192, 1000, 256, drop_label=0, **AR_SIZES['gpt2_medium'] | dict(layers=AR_LAYERS))
    return ar_step(ar, lambda t,y: ar(t, y))

def ar_theirs():
    import transformers as hf
    torch.manual_seed(0)
    net = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=9192, n_positions=1024, n_embd=1024, n_layer=AR_LAYERS, n_head=16,
                                           n_inner=4096, bos_token_id=None, eos_token_id=None)).train()
    def loss(t, y): # of the tokens; the class is read only
        ids = torch.cat([y[:,None], t+1000], 1)
        return net(input_ids=ids, labels=ids, use_cache=False).loss
    return ar_step(net, loss)

def ar_step(net, loss):
    g = torch.Generator().manual_seed(0)
    t,y = torch.randint(0, 8192, (4, 256), generator=g),torch.randint(0, 1000, (4,), generator=g)
    opt = torch.optim.AdamW(net.parameters(), 1e-4, fused=True)
    def run():
        opt.zero_grad(set_to_none=True)
        loss(t, y).backward()
        opt.step()
    return run

WORKS = {
    'VQGAN f16 step, own code': (ours_own, theirs_own, .8),
    'VQGAN f16 step, shared step': (shared_ours, shared_theirs, 1.)}
AR_WORK = f'AR step, GPT-2 medium, {AR_LAYERS} layers, batch 4'


def peak(work, side):
    "Peak memory that building and three steps add to this process."
    make = (WORKS | {AR_WORK:(ar_ours, ar_theirs)})[work][side=='theirs']
    def fn():
        run = make()
        for _ in range(3): run()
    return peak_extra(fn)

def rows():
    "All results, one after the other."
    peer,there = 'transformers GPT-2',importlib.util.find_spec('transformers') is not None
    seconds = medians(ar_ours(), ar_theirs(), runs=3) if there else (None, None)
    yield row(AR_WORK, peer, *seconds, 's', 1/1.1) if there else missing(AR_WORK, peer, 's', 1/1.1)
    memory = AR_WORK+', peak memory'
    yield (row(memory, peer, *(peak_in_child('train', AR_WORK, s) for s in ('ours', 'theirs')), 'MB', .8) if there else
           missing(memory, peer, 'MB', .8))
    for work,(ours,theirs,aim) in WORKS.items():
        if not HAVE:
            yield missing(work, PEER, 's', aim)
            yield missing(work+', peak memory', PEER, 'MB', 1.)
            continue
        yield row(work, PEER, *medians(ours(), theirs()), 's', aim)
        yield row(work+', peak memory', PEER, *(peak_in_child('train', work, s) for s in ('ours', 'theirs')), 'MB', 1.)
