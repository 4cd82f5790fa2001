"""The perceptual losses:
the lpips package on the same weights, what must not change them, and where their weights come from."""
import types
import pytest,torch
import torch.nn.functional as F
import iutok.losses.recon as recon
from iutok.convert import to_lpips
from iutok.losses.recon import Perceptual,VGG16,load_vgg16,lpips_weights,perceptual_vgg,unit_length

@pytest.fixture(scope='module')
def both():
    "Ours and the package's, on one VGG16 with random weights."
    import lpips,lpips.pretrained_networks as pn
    torch.manual_seed(0)
    vgg = VGG16().eval()
    for m in vgg.layers:  # torch's start lets the features fade with depth; this keeps their size
        if isinstance(m, torch.nn.Conv2d): torch.nn.init.kaiming_normal_(m.weight, nonlinearity='relu')
    # spares the classifier's 120 million numbers
    whole,pn.tv.vgg16 = pn.tv.vgg16,lambda pretrained: types.SimpleNamespace(features=list(vgg.layers))
    try: theirs = lpips.LPIPS(net='vgg', pnet_rand=True, verbose=False)
    finally: pn.tv.vgg16 = whole
    return perceptual_vgg(vgg),theirs

def pair(h, w):
    x = torch.rand(2, 3, h, w)*2-1
    return (x+.3*torch.randn_like(x)).clamp(-1, 1),x

@pytest.mark.parametrize('h,w', [(32, 32), (48, 64), (16, 80)])
def test_equals_the_package(both, h, w):
    ours,theirs = both
    x_hat,x = pair(h, w)
    with torch.no_grad(): a,b = ours.per_image(x_hat, x),theirs(x_hat, x).flatten()
    assert b.min() > .01
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(x_hat, x), a.mean())

def test_gradient_equals_the_packages(both):
    ours,theirs = both
    x_hat,x = pair(32, 32)
    grads = [torch.autograd.grad(f(x_hat, x).mean(), x_hat)[0] for x_hat in [x_hat.requires_grad_()]
             for f in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-6, rtol=1e-4)

def test_training_mode_and_autocast_change_nothing(both):
    """The official training keeps a dropout of one half on the squared differences;
    here there is none, and no half precision either."""
    ours,_ = both
    x_hat,x = pair(32, 32)
    with torch.no_grad():
        want = ours(x_hat, x)
        assert ours.train()(x_hat, x).equal(want)
        with torch.autocast('cpu', torch.bfloat16): got = ours(x_hat, x)
        assert got.dtype==torch.float32 and got.equal(want)
        # rounded images, exact arithmetic
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(ours(x_hat.bfloat16(), x), want, atol=.01, rtol=.05)

def test_the_root_has_a_gradient_at_zero():
    f = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit_length(f).square().sum().backward()
    assert f.grad.isfinite().all()
    n = torch.logspace(-2, 2, 9).view(-1, 1, 1, 1)  # inside or outside the root: the same but for tiny features
    torch.testing.assert_close(unit_length(n), n/(n+1e-10), rtol=1e-6, atol=0)

def test_nothing_of_the_network_is_trained_or_saved(both):
    ours,_ = both
    assert not ours.state_dict()
    assert not list(ours.parameters())
    assert not any(p.requires_grad for p in ours.net[0].parameters())

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_vgg16_from_a_file(both, tmp_path, suffix):
    from safetensors.torch import save_file
    state = {k.replace('layers.', 'features.'):v for k,
             v in both[0].net[0].state_dict().items()} | {'classifier.0.bias': torch.zeros(3)}
    path = tmp_path/f'vgg16{suffix}'
    save_file(state, path) if suffix=='.safetensors' else torch.save(state, path)
    x_hat,x = pair(32, 32)
    with torch.no_grad(): assert perceptual_vgg(path)(x_hat, x).equal(both[0](x_hat, x))
    torch.save({k:v for k,v in state.items() if k!='features.28.bias'}, tmp_path/'part.pth')
    with pytest.raises(ValueError, match="part.pth does not hold VGG16's weights: features.28.bias"):
        load_vgg16(tmp_path/'part.pth')
    with pytest.raises(ValueError, match='no file nowhere.pth'): perceptual_vgg(tmp_path/'nowhere.pth')

def test_vgg16_out_of_reach_says_what_is_wanted(monkeypatch):
    from torchvision.models import VGG16_Weights
    def fail(*args, **kw): raise OSError('no route')
    monkeypatch.setattr(VGG16_Weights, 'get_state_dict', fail)
    with pytest.raises(RuntimeError, match="vgg16-397923af.pth.*'effnet'"): load_vgg16()

def test_channel_weights_from_a_file(tmp_path):
    ws = [torch.rand(c) for c in (64, 128, 256, 512, 512)]
    torch.save(to_lpips(ws), tmp_path/'vgg.pth')
    assert all(a.equal(b) for a,b in zip(lpips_weights(tmp_path/'vgg.pth'), ws, strict=True))
    torch.save({'w': ws[0]}, tmp_path/'other.pth')
    with pytest.raises(ValueError, match='lin0.model.1.weight is missing'): lpips_weights(tmp_path/'other.pth')

def test_the_two_networks_are_told_apart():
    "EfficientNet-Lite0 has no learned channel weights, so its distance must not be called LPIPS."
    net = lambda x: [x, F.avg_pool2d(x, 2), x, x, x]
    kinds = {recon.perceptual_effnet(net).kind,Perceptual(net).kind,perceptual_vgg(VGG16()).kind}
    assert kinds=={'perceptual-effnet', 'perceptual', 'lpips-vgg'}
    x_hat,x = pair(8, 8)
    torch.testing.assert_close(recon.perceptual_effnet(net)(x_hat, x), Perceptual(net, [.2]*5)(x_hat, x))
