"Losses and discriminators: closed forms, gradients by hand, the lpips package, official sizes."
import json
import pytest,torch
import torch.nn.functional as F
from torch import nn
from iutok.losses.gan import (EqualConv,GAN_LOSSES,PatchGAN,StyleGAN2,adaptive_weight,batch_std,blur,hinge_d,hinge_g,
                              r1_penalty,softplus_d,softplus_g)
from iutok.losses.recon import (Perceptual,VGG16,cosine_loss,l1_loss,load_vgg16,lpips_weights,mse_loss,
                                perceptual_effnet,perceptual_vgg,unit_length)
from iutok.nets.conv import ConvDecoder

def count(net): return sum(p.numel() for p in net.parameters())
def close(a, b, tol=1e-5): torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tol, rtol=tol)

# reconstruction
def test_pixel_losses():
    a,b = torch.randn(2, 3, 4, 4),torch.randn(2, 3, 4, 4)
    close(l1_loss(a, b), (a-b).abs().mean())
    close(mse_loss(a, b), (a-b).square().mean())
    for f in (l1_loss, mse_loss): assert f(a.bfloat16(), b).dtype == torch.float32

def test_cosine_loss_ignores_length_and_averages_positions():
    t = torch.randn(2, 6, 3, 4)
    close(cosine_loss(t*torch.rand(2, 1, 3, 4).add(.1), t), 0.)
    half = t.clone()
    half[:, :, :, 2:] *= -1
    close(cosine_loss(half, t), 1.)       # half the positions at 0, half at 2
    rows = lambda v: v.permute(0, 2, 3, 1).reshape(-1, 6)
    u = torch.randn_like(t)
    close(cosine_loss(u, t), F.cosine_embedding_loss(rows(u), rows(t), torch.ones(24)))
    with pytest.raises(ValueError, match='one shape'): cosine_loss(t, t[:1])
    with torch.autocast('cpu', torch.bfloat16): assert cosine_loss(u.bfloat16(), t).dtype == torch.float32

@pytest.fixture(scope='module')
def vgg():
    torch.manual_seed(0)
    return VGG16()

@pytest.mark.filterwarnings('ignore')
def test_lpips_equals_the_package(vgg):
    lpips = pytest.importorskip('lpips')
    theirs = lpips.LPIPS(net='vgg', pnet_rand=True, verbose=False)
    for p,q in zip(theirs.net.parameters(), vgg.parameters(), strict=True): p.data = q.data
    ours = perceptual_vgg(vgg).train()
    x = torch.rand(2, 3, 40, 56)*2-1
    x_hat = (x+.5*torch.randn_like(x)).clamp(-1, 1).requires_grad_()
    want = theirs(x_hat, x).flatten()
    close(ours.per_image(x_hat, x), want)
    a, = torch.autograd.grad(ours(x_hat, x), x_hat)
    b, = torch.autograd.grad(want.mean(), x_hat)
    close(a, b, 1e-6)
    assert want.min() > 1e-3 and a.abs().max() > 1e-5  # so that the equality says something

def test_lpips_weights_are_five_positive_vectors(tmp_path):
    pytest.importorskip('lpips')
    ws = lpips_weights()
    assert [len(w) for w in ws] == [64, 128, 256, 512, 512] and min(w.min() for w in ws) >= 0
    torch.save({'a': torch.ones(1)}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match="does not hold LPIPS' channel weights"): lpips_weights(tmp_path/'other.pth')

def test_gradient_at_silent_features_is_finite():
    f = torch.zeros(2, 3, 2, 2, requires_grad=True)
    unit_length(f).sum().backward()
    assert f.grad.isfinite().all()
    black = torch.zeros(1, 3, 4, 4, requires_grad=True)
    Perceptual(lambda x: [x.relu()])(black-1, torch.randn(1, 3, 4, 4)).backward()
    assert black.grad.isfinite().all()

def test_perceptual_keeps_its_network_frozen_and_to_itself(vgg):
    p = perceptual_vgg(vgg, weights=[1.]*5)
    assert not list(p.parameters()) and not p.state_dict() and not any(q.requires_grad for q in vgg.parameters())
    holder = nn.ModuleDict(dict(p=p))
    assert not holder.state_dict()
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    p = Perceptual(lambda x: [net(x)])
    q = Perceptual(nn.Sequential(net))
    q.train()
    assert not net.training                       # a frozen network has no training mode
    q.to('meta')
    assert next(net.parameters()).is_meta         # but it follows its owner's device

def test_perceptual_formula_with_numbers_and_vectors_as_weights():
    torch.manual_seed(0)
    a,b = torch.randn(2, 3, 4, 4),torch.randn(2, 3, 4, 4)
    w = torch.rand(3)
    u = (unit_length(a)-unit_length(b)).square()
    close(Perceptual(lambda x: [x], [w])(a, b), (u*w.view(3, 1, 1)).sum(1).mean())
    close(Perceptual(lambda x: [x, x[..., ::2]], [2, .5])(a, b), 2*u.sum(1).mean()+.5*u[..., ::2].sum(1).mean())
    close(Perceptual(lambda x: [x], shift=(1, 2, 3), scale=(2, 2, 2))(a, b),
          Perceptual(lambda x: [(x-torch.tensor([1., 2, 3]).view(3, 1, 1))/2])(a, b))
    with pytest.raises(ValueError, match='2 maps'): Perceptual(lambda x: [x, x], [1])(a, b)

def test_perceptual_stays_float32_and_resizes():
    sizes = []
    def net(x): sizes.append(tuple(x.shape[-2:])); return [x]
    x = torch.rand(2, 3, 8, 12)
    with torch.autocast('cpu', torch.bfloat16): out = Perceptual(net, size=16)(x, x)
    assert sizes == [(16, 24)]*2 and out.dtype == torch.float32 and out == 0

@pytest.mark.parametrize('side', range(40, 140, 3)) # some of which, times 64/side, fall just below 64
def test_perceptual_resizes_the_shorter_side_exactly(side):
    seen = []
    def net(x): seen.append(tuple(x.shape[-2:])); return [x]
    x = torch.zeros(1, 3, side, 2*side)
    Perceptual(net, size=64)(x, x)
    assert seen==[(64, 128)]*2

def test_effnet_form_takes_any_network_of_maps():
    net = lambda x: [F.avg_pool2d(x, 2**i) for i in range(1, 6)]
    p = perceptual_effnet(net, size=64)
    x = torch.randn(2, 3, 32, 32)
    assert p.kind == 'perceptual-effnet' and p(x, x) == 0 and p(torch.randn_like(x), x) > .1

def test_unreachable_vgg_is_one_clear_sentence(monkeypatch):
    from torchvision.models import VGG16_Weights
    def offline(*args, **kwargs): raise OSError('no route')
    monkeypatch.setattr(VGG16_Weights, 'get_state_dict', offline)
    with pytest.raises(RuntimeError, match="VGG16's weights are neither cached nor reachable.*effnet"): load_vgg16()

# GAN
def test_gan_losses():
    r,f = torch.randn(4, 1, 3, 3),torch.randn(4, 1, 3, 3)
    close(hinge_d(r, f), .5*((1-r).clamp(min=0).mean()+(1+f).clamp(min=0).mean()))
    close(softplus_d(r, f), .5*(-F.logsigmoid(r).mean()-F.logsigmoid(-f).mean()))
    close(hinge_g(f), -f.mean())
    close(softplus_g(f), -F.logsigmoid(f).mean())
    for d,g in GAN_LOSSES.values():  # right answers cost the discriminator less, and the generator wants the opposite
        assert d(r.abs()+1, -f.abs()-1) < d(-r.abs()-1, f.abs()+1) and g(f+1) < g(f)
        assert d(r.bfloat16(), f).dtype == g(f.bfloat16()).dtype == torch.float32

@pytest.mark.parametrize('autocast', [False, True])
def test_adaptive_weight_equals_autograd_by_hand(autocast):
    torch.manual_seed(0)
    dec,disc,x = ConvDecoder(4, 16, (1,1), n_res=1),PatchGAN(1, 8),torch.randn(2, 3, 16, 16)
    z = torch.randn(2, 4, 8, 8)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        x_hat = dec(z)
        r,g = l1_loss(x_hat, x),hinge_g(disc(x_hat))
        lam = adaptive_weight(r, g, dec.last_layer, gain=.75)
    dec.zero_grad()
    r.backward(retain_graph=True)
    gr = dec.last_layer.grad.float().norm().item()
    dec.zero_grad()
    g.backward(retain_graph=True)
    gg = dec.last_layer.grad.float().norm().item()
    assert lam.dtype == torch.float32 and not lam.requires_grad and gg > 1e-4
    close(lam, .75*gr/(gg+1e-4), 1e-5)
    close(adaptive_weight(9*r, g*0, dec.last_layer, gain=2.), 2e4)  # the clamp, before the gain
    close(adaptive_weight(r*0, g, dec.last_layer), 0.)
    close(adaptive_weight(r, g, dec.last_layer, gain=None), 1.)

@pytest.mark.parametrize('depth,n,side', [(3, 2_765_633, 30), (2, 663_361, 62)])
def test_patchgan_official_sizes(depth, n, side):
    with torch.device('meta'):
        net = PatchGAN(depth)
        assert count(net) == n and net(torch.empty(2, 3, 256, 256)).shape == (2, 1, side, side)

def test_patchgan_layers_and_start():
    torch.manual_seed(0)
    net = PatchGAN(3)
    assert [type(m).__name__ for m in net.main] == ['Conv2d', 'LeakyReLU', *['Conv2d', 'BatchNorm2d', 'LeakyReLU']*3,
                                                    'Conv2d']
    convs,norms = ([m for m in net.main if isinstance(m, c)] for c in (nn.Conv2d, nn.BatchNorm2d))
    assert [c.bias is None for c in convs] == [False, True, True, True, False]
    assert [c.stride[0] for c in convs] == [2, 2, 2, 1, 1]
    for c in convs[1:4]: assert abs(c.weight.std()/.02-1) < .02
    for m in norms: assert abs(m.weight.mean()-1) < .01 and .01 < m.weight.std() < .03 and m.bias.abs().max() == 0

def test_patchgan_receptive_field():
    for depth,side in ((2, 34), (3, 70)):
        x = torch.randn(1, 3, 128, 128, requires_grad=True)
        out = PatchGAN(depth, 4).eval()(x)
        out[0, 0, out.shape[2]//2, out.shape[3]//2].backward()
        hit = x.grad.abs().sum((0, 1))
        assert int((hit.sum(0)>0).sum()) == side == int((hit.sum(1)>0).sum())

def test_r1_is_the_squared_gradient_per_image():
    torch.manual_seed(0)
    net,x = PatchGAN(1, 4),torch.randn(3, 3, 12, 12)
    got = r1_penalty(net, x)
    net.eval()
    each = [torch.autograd.functional.jacobian(lambda v: net(v).sum(), x[i:i+1]).square().sum() for i in range(3)]
    close(got, sum(each)/3)
    net.train()
    before = net.main[3].num_batches_tracked.item()
    r1_penalty(net, x).backward()
    assert net.training and net.main[3].num_batches_tracked == before and net.main[0].weight.grad.abs().sum() > 0

def test_stylegan2_official_size():
    with torch.device('meta'):
        net = StyleGAN2(256)
        assert count(net) == 28_864_129 and net(torch.empty(2, 3, 256, 256)).shape == (2, 1)
        assert [m.weight.shape[0] for b in net.body[1:] for m in [b.body[1]]] == [256, 512, 512, 512, 512, 512]
    for bad in (4, 100):
        with pytest.raises(ValueError, match='power of two'): StyleGAN2(bad)

def test_blur_and_equal_convolution():
    torch.manual_seed(0)
    k = torch.tensor([1., 3, 3, 1])
    kernel = (k[:, None]*k/64).expand(2, 1, 4, 4)
    x = torch.randn(2, 2, 8, 10)
    close(blur(x, 2), F.conv2d(x, kernel, padding=2, groups=2))
    close(blur(x, 1, stride=2), F.conv2d(x, kernel, padding=1, groups=2)[..., ::2, ::2])
    for kernel_size,pad in ((3, 2), (1, 1)):
        conv = EqualConv(2, 5, kernel_size, down=True, act=False)
        w = conv.weight/(2*kernel_size**2)**.5
        close(conv(x), F.conv2d(F.conv2d(x, kernel, padding=pad, groups=2), w, stride=2))
    act = EqualConv(2, 5, 3)
    act.bias.data.normal_()
    close(act(x), F.leaky_relu(F.conv2d(x, act.weight/18**.5, act.bias, padding=1), .2)*2**.5)
    assert abs(EqualConv(64, 64, 3).weight.std()-1) < .02

def test_batch_std_groups():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 2, 5)
    out = batch_std(x)
    assert out.shape == (8, 4, 2, 5) and out[:, :3].equal(x)
    for i in range(2):  # eight images in groups of four: 0 2 4 6 and 1 3 5 7
        want = (x[i::2].var(0, correction=0)+1e-8).sqrt().mean()
        close(out[i::2, 3], want.expand(4, 2, 5))
    assert batch_std(x[:6]).shape == (6, 4, 2, 5)  # groups of three

@pytest.mark.parametrize('make', [lambda: PatchGAN(2, 8), lambda: StyleGAN2(16, 16)], ids=['patchgan', 'stylegan2'])
def test_discriminators_rebuild_and_learn(make):
    torch.manual_seed(0)
    net = make()
    again = type(net)(**json.loads(json.dumps(net.config())))
    again.load_state_dict(net.state_dict())
    real,fake = torch.randn(8, 3, 16, 16),.3*torch.randn(8, 3, 16, 16)
    opt = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(.5, .9))
    first = None
    for _ in range(30):
        loss = hinge_d(net(real), net(fake))
        first = first or loss.item()
        opt.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
        opt.step()
    assert loss < .5*first
