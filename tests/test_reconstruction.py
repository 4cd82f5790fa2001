"""The two phases of a pixel tokenizer:
what each minimises, what each moves, and the two orders of the discriminator's step."""
import copy
import pytest,torch
import torch.nn.functional as F
from torch import nn
from iutok.training import Phase,averaged,constant,fit,seed_everything
from iutok.data import Batches,load_images
from iutok.losses.gan import PatchGAN,adaptive_weight,hinge_d,hinge_g,r1_penalty,softplus_d,softplus_g
from iutok.losses.recon import Perceptual
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.nets.vit import ViT
from iutok.pixels import to_float
from iutok.quantizers import CVQ,VQ
from iutok.reconstruction import Discriminate,Reconstruct
from iutok.tokenizers import Connector,Tokenizer

PARTS = ('encoder','post_encode','quantizer','pre_decode','decoder','feature_decoder')
body = dict(width=8, n_res=1, attention=False, refine=False)
DECODERS = dict(conv=lambda: ConvDecoder(in_channels=8, mults=(2, 1), **body),
                vit=lambda: ViT(in_channels=8, patch=1, grid=16, width=16, depth=1, heads=2, out_channels=3,
                                out_patch=2))

def tokenizer(quantizer=None, decoder='conv', feature_decoder=False):
    seed_everything(0)
    return Tokenizer(ConvEncoder(out_channels=8, mults=(1, 2), **body), quantizer or VQ(16, 4), DECODERS[decoder](),
                     Connector([8, 4]), Connector([4, 8]),
                     feature_decoder=ViT(in_channels=4, patch=1, grid=16, width=8, depth=1, heads=1, out_channels=5)
                     if feature_decoder else None, image_size=32)

@pytest.fixture(scope='module')
def images(): return load_images('fashion', 'test').take(60)
@pytest.fixture(scope='module')
def batches(images): return Batches(images, 32, 8, seed=1)

def close(a, b, tol=1e-6): torch.testing.assert_close(a, b, atol=tol, rtol=tol)
def grads(m): return [None if p.grad is None else p.grad.clone() for p in m.parameters()]

def phases(g, disc, lr=1e-3, **kw):
    adam = lambda ps: torch.optim.Adam(ps, lr)
    return dict(g=Phase(g, adam(g.trainable), constant(lr)),
                d=Phase(Discriminate(disc, g, **kw), adam(disc.parameters()), constant(1e-3), start=g.disc_start))

# the generator's phase
@pytest.mark.parametrize('gan_loss,g_loss', [('hinge', hinge_g), ('softplus', softplus_g)])
@pytest.mark.parametrize('gain', [None, .75])
def test_loss_is_the_sum_of_its_terms(batches, gan_loss, g_loss, gain):
    tok,disc,b = tokenizer(),PatchGAN(1, 8).eval(),batches[0]
    perceptual = lambda a, b: (a-b).abs().amax()
    g = Reconstruct(tok, .5, 2., perceptual, disc, gain=gain, g_weight=.3, gan_loss=gan_loss)
    loss,logs = g(b, 0)
    x = to_float(b.u8)
    x_hat,q = tok(x)
    rec = .5*(x-x_hat).abs().mean() + 2*(x-x_hat).square().mean() + perceptual(x_hat, x)
    gan = g_loss(disc(x_hat))
    lam = adaptive_weight(rec, gan, tok.decoder.last_layer, gain)
    close(loss, rec+q.loss+.3*lam*gan)
    for k,v in dict(rec=rec, quantizer=q.loss, gan=gan, adaptive=lam, perceptual=perceptual(x_hat, x)).items():
        close(logs[k], v.detach())
    assert not any(v.requires_grad for v in logs.values()) and lam>0 and (gain is None)==(float(lam)==1)

@pytest.mark.parametrize('decoder', DECODERS)
@pytest.mark.parametrize('autocast', [False, True], ids=['fp32', 'bf16'])
def test_adaptive_weight_is_autograd_by_hand(batches, decoder, autocast):
    tok,disc,b = tokenizer(decoder=decoder),PatchGAN(1, 8).eval(),batches[0]
    g = Reconstruct(tok, disc=disc, gain=.8)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        loss,logs = g(b, 0)
        x_hat = tok(to_float(b.u8))[0].float()
        terms = F.l1_loss(x_hat, to_float(b.u8)),hinge_g(disc(x_hat))
    norms = []
    for t in terms: # backward into .grad, one term after the other
        tok.zero_grad()
        t.backward(retain_graph=True)
        norms.append(tok.decoder.last_layer.grad.norm())
    assert logs['adaptive'].dtype==torch.float32 and norms[1]>3e-4
    close(logs['adaptive'], .8*norms[0]/(norms[1]+1e-4), 1e-5)
    disc.zero_grad()
    loss.backward() # the graph is still there, and the discriminator is not in it
    assert all(p.grad is None and p.requires_grad for p in disc.parameters())

def test_islands_of_float32(batches):
    seen = {}
    class Seen(VQ):
        def assign(self, x): seen['latents'] = x.dtype; return super().assign(x)
    def perceptual(a, b): seen['perceptual'] = (a@b.transpose(2, 3)).dtype; return F.mse_loss(a, b)
    g = Reconstruct(tokenizer(Seen(16, 4)), perceptual=perceptual, disc=PatchGAN(1, 8))
    with torch.autocast('cpu', torch.bfloat16): loss,logs = g(batches[0], 0)
    assert set(seen.values())=={torch.float32}
    assert g.seen[1].dtype==loss.dtype==torch.float32
    assert {v.dtype for v in logs.values()}=={torch.float32}

def test_a_frozen_tokenizer_gives_the_codes_of_encode_under_autocast(batches):
    tok,seen = tokenizer(VQ(512, 4)),[]
    with torch.no_grad(): tok.quantizer.codebook.copy_(.3*torch.randn(512, 4)) # so fine that rounding changes codes
    g = Reconstruct(tok, frozen=True).train()
    tok.quantizer.register_forward_hook(lambda m,i,out: seen.append(out.idx))
    with torch.autocast('cpu', torch.bfloat16):
        g(batches[0], 0)[0].backward()
        rough = tok.quantize(to_float(batches[0].u8)).idx
    assert torch.equal(seen[0], tok.encode(batches[0].u8)) and not torch.equal(rough, seen[0])

def test_what_is_used_but_not_owned(images):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout())
    class Maps(nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x): return [self.net(x)]
    tokens = torch.zeros(len(images), 16, 16, dtype=torch.long)
    g = Reconstruct(tokenizer(), perceptual=Perceptual(Maps()), disc=PatchGAN(1, 8), tokens=tokens).train()
    assert all(k.startswith('tok.') for k in g.state_dict())
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    avg = averaged(g, .9).module
    # an average does not copy a VGG16 or a million token grids
    assert avg.tok is not g.tok and all(a is b for a,b in zip(avg._outside, g._outside))
    assert next(g.to('meta')._outside[0].net[0].parameters()).is_meta
    with pytest.raises(ValueError, match='hinge or softplus'): Reconstruct(tokenizer(), gan_loss='wgan')
    with pytest.raises(ValueError, match='hinge or softplus'): Discriminate(PatchGAN(1, 8), g, gan_loss='wgan')

# who moves
def moved(tok, disc, phases, batches, folder, steps=2):
    mods = {n:m for n in PARTS if (m := getattr(tok, n)) is not None} | dict(disc=disc)
    old = {n:[p.detach().clone() for p in m.parameters()] for n,m in mods.items()}
    fit(phases, batches, steps, folder, precision='fp32')
    return {n:[not torch.equal(a, b) for a,b in zip(old[n], m.parameters())] for n,m in mods.items()}

@pytest.mark.parametrize('given', ['learned', 'frozen', 'tokens'])
def test_each_phase_moves_its_own_parameters(batches, images, tmp_path, given):
    tok,disc = tokenizer(feature_decoder=given=='frozen'),PatchGAN(1, 8)
    g = Reconstruct(tok, mse=1., disc=disc, disc_start=1, frozen=given=='frozen',
                    tokens=torch.randint(16, (len(images), 16, 16)) if given=='tokens' else None)
    both = phases(g, disc, gan_loss='softplus') # the hinges of an undecided discriminator leave its last bias alone
    assert both['g'].module.find_unused is False
    only_g = moved(tok, disc, dict(g=both['g']), batches, tmp_path/'g', 1)
    still = {'disc','feature_decoder'} | (set() if given=='learned' else {'encoder','post_encode','quantizer'})
    for n,ms in only_g.items(): assert not any(ms) if n in still else all(ms), n
    asleep = moved(tok, disc, both, batches, tmp_path/'asleep', 1)
    assert not any(asleep['disc'])                                   # before its start step
    both['g'].lr = constant(0.)
    only_d = moved(tok, disc, both, batches, tmp_path/'d', 2)
    assert all(only_d.pop('disc')) and not any(m for ms in only_d.values() for m in ms)

def test_gan_starts_at_its_step(batches):
    g = Reconstruct(tokenizer(), disc=PatchGAN(1, 8), disc_start=3)
    assert ['gan' in g(batches[0], step)[1] for step in (0, 2, 3, 4)]==[False, False, True, True]

# the discriminator's phase
@pytest.mark.parametrize('gan_loss,d_loss', [('hinge', hinge_d), ('softplus', softplus_d)])
def test_discriminator_loss_and_r1_by_hand(batches, gan_loss, d_loss):
    disc = PatchGAN(1, 8)
    g = Reconstruct(tokenizer(), disc=disc)
    g(batches[0], 0)
    (x,x_hat),twin = g.seen,copy.deepcopy(disc)
    loss,logs = Discriminate(disc, g, weight=.5, gan_loss=gan_loss, r1=10.)(batches[0], 0)
    fake,real = twin(x_hat),twin(x)
    twin.eval()
    def penalty(): # of every image on its own
        rows = [v.clone().requires_grad_() for v in x.split(1)]
        return sum(torch.autograd.grad(twin(v).sum(), v, create_graph=True)[0].square().sum() for v in rows)/len(rows)
    close(logs['r1'], penalty().detach(), 1e-5)
    want = .5*d_loss(real, fake) + 10/2*penalty()
    close(loss, want, 1e-5)
    for a,b in zip(torch.autograd.grad(loss, disc.parameters()), torch.autograd.grad(want, twin.parameters())):
        close(a, b, 1e-5)
    # and its derivative, against a difference quotient
    got, = torch.autograd.grad(r1_penalty(twin, x), twin.main[0].weight)
    w,i,around = twin.main[0].weight.data.view(-1),got.reshape(-1).abs().argmax(),[]
    for step in (1e-3, -2e-3):
        w[i] += step
        around.append(penalty().detach())
    close(got.reshape(-1)[i], (around[0]-around[1])/2e-3, 2e-2)

def test_batch_norm_sees_real_and_fake_apart(batches):
    disc = PatchGAN(1, 8)
    g = Reconstruct(tokenizer(), disc=disc)
    g(batches[0], 0)
    x,x_hat = g.seen
    before = disc.main[3].running_mean.clone()
    inputs = []
    hook = disc.main[3].register_forward_hook(lambda m,i,o: inputs.append(i[0].detach().mean((0, 2, 3))))
    Discriminate(disc, g)(batches[0], 0)
    hook.remove()
    apart = before.lerp(inputs[0], .1).lerp(inputs[1], .1) # two updates: the reconstructions', then the photographs'
    assert len(inputs)==2
    close(disc.main[3].running_mean, apart)
    close(inputs[0], disc.main[2](disc.main[1](disc.main[0](x_hat)).clone()).detach().mean((0, 2, 3)), 1e-5)
    assert (apart-before.lerp((inputs[0]+inputs[1])/2, .1)).abs().max()>1e-4

# reuse or repeat
def one_step(batches, folder, repeat, lr, quantizer=None, steps=1):
    tok,disc = tokenizer(quantizer),PatchGAN(1, 8)
    g = Reconstruct(tok, mse=1., disc=disc)
    fit(phases(g, disc, lr, repeat=repeat), batches, steps, folder, precision='fp32')
    return tok,disc,grads(g),grads(disc)

def test_both_orders_agree_where_the_generator_stands_still(batches, tmp_path):
    reuse,repeat = (one_step(batches, tmp_path/str(r), r, lr=0.) for r in (False, True))
    for a,b in zip(reuse[2]+reuse[3], repeat[2]+repeat[3]): close(a, b)
    assert max(g.abs().max() for g in reuse[3])>1e-4

def test_orders_differ_by_the_generators_step(batches, tmp_path):
    reuse,repeat = (one_step(batches, tmp_path/str(r), r, lr=1e-2) for r in (False, True))
    # the generator's gradients of the step are the same
    for a,b in zip(reuse[2], repeat[2]): assert torch.equal(a, b)
    assert max((a-b).abs().max() for a,b in zip(reuse[3], repeat[3]))>1e-4     # the discriminator judged another image

def test_repeat_judges_what_the_updated_generator_draws(batches):
    tok,disc = tokenizer(),PatchGAN(1, 8).eval()
    g = Reconstruct(tok, disc=disc)
    opt = torch.optim.SGD(g.trainable, .1)
    g(batches[0], 0)[0].backward()
    opt.step()
    x = to_float(batches[0].u8)
    with torch.no_grad(): new = tok(x)[0]
    assert (new-g.seen[1]).abs().max()>1e-3
    close(Discriminate(disc, g, repeat=True)(batches[0], 0)[0], hinge_d(disc(x), disc(new)))
    close(Discriminate(disc, g)(batches[0], 0)[0], hinge_d(disc(x), disc(g.seen[1])))
    assert all(p.grad is not None for p in tok.decoder.parameters())
    old = grads(tok)
    Discriminate(disc, g, repeat=True)(batches[0], 0)[0].backward()
    for a,b in zip(old, grads(tok)): assert a is None or torch.equal(a, b)     # and nothing of it reaches the generator

def test_repeat_runs_cvqs_average_twice(batches, tmp_path):
    for repeat,times in ((False, 1), (True, 2)):
        tok,*_ = one_step(batches, tmp_path/str(repeat), repeat, lr=1e-3, quantizer=CVQ(16, 4), steps=3)
        # shares sum to 1, so their average sums to 1-decay^n
        close(tok.quantizer.share.sum(), torch.tensor(1-.99**(3*times)))
        assert tok.quantizer.steps==3*times

def test_repeat_leaves_a_frozen_tokenizer_alone(batches, tmp_path):
    tok,disc = tokenizer(CVQ(16, 4)),PatchGAN(1, 8)
    old = {k:v.clone() for k,v in tok.quantizer.state_dict().items()}
    fit(phases(Reconstruct(tok, disc=disc, frozen=True), disc, repeat=True), batches, 2, tmp_path)
    for k,v in tok.quantizer.state_dict().items(): assert torch.equal(v, old[k])
