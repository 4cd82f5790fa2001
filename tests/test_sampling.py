"Sampling: the cache, the filters and the draws against slow or closed forms; guidance at its fixed points."
import json, math
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest, torch, torch.nn.functional as F
from hypothesis import given,settings,strategies as st
from torch import nn
from iutok.precision import fast_bfloat16
from iutok.proposals import AR,NAR,T2I
from iutok.sampling import draw, filter_logits, generate, greedy, guide, in_bfloat16, sample, scales, uniforms

ARCHS = ('llama', 'gpt2')

def random_ar(arch='llama', seed=0, **kw):
    "A network with an opinion."
    torch.manual_seed(seed)
    ar = AR(arch=arch, **dict(n_codes=13, n_classes=4, length=9, layers=2, width=24, heads=3) | kw)
    for p in ar.parameters():
        if p.ndim>1: nn.init.normal_(p, std=.4)
    if ar.pos is not None: nn.init.normal_(ar.pos.weight)  # or a tied head repeats its input
    return ar

LABELS = torch.arange(4).repeat(6)

# --- the cache
# ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('scale', (1., 2.5))
def test_cached_equals_uncached_greedy(arch, scale):
    ar = random_ar(arch).eval()
    z = torch.zeros(24, 9).long()
    for i in range(9):
        z[:,i] = guide(ar.logits(z, torch.full_like(LABELS, 4))[:,i], ar.logits(z, LABELS)[:,i], scale).argmax(-1)
    assert torch.equal(greedy(ar, LABELS, scale=scale), z)
    assert torch.equal(greedy(ar, LABELS, scale=scale, prefix=z[:,:4]), z)
    assert torch.equal(greedy(ar, LABELS, scale=scale, batch_size=7), z)
    assert len(z.unique(dim=0))>3                       # not one sequence for everything

@pytest.mark.parametrize('arch', ARCHS)
def test_cached_logits_equal_teacher_forced_logits(arch):
    ar,seen = random_ar(arch).eval(),[]
    def pick(logits, i):
        seen.append(logits)
        return draw(logits, uniforms(24, 9)[:,i])
    z = generate(ar, LABELS, pick)
    torch.testing.assert_close(torch.stack(seen, 1), ar.logits(z, LABELS).detach(), atol=1e-5, rtol=1e-4)

# --- guidance
# ----------------------------------------------------------------------------------------------------------

def test_guidance_at_0_and_1():
    ar = random_ar()
    null = torch.full_like(LABELS, ar.null)
    plain = sample(ar, LABELS, seed=2)
    assert torch.equal(sample(ar, LABELS, scale=1+1e-6, seed=2), plain)
    assert torch.equal(sample(ar, LABELS, scale=0., seed=2), sample(ar, null, seed=2))
    assert torch.equal(sample(ar, null, scale=3., seed=2), sample(ar, null, seed=2))  # the null class guided by itself
    assert not torch.equal(sample(ar, LABELS, scale=0., seed=2), plain)
    a,b = torch.randn(2, 5)
    torch.testing.assert_close(guide(a, b, 1.), b)
    torch.testing.assert_close(guide(a, b, 0.), a)
    torch.testing.assert_close(guide(a, b, 1.75), -.75*a+1.75*b)

@pytest.mark.parametrize('prefix', (0, 3))
def test_both_halves_carry_the_same_tokens_and_null_comes_first(prefix, monkeypatch):
    ar,seen = random_ar().eval(),[]
    run = ar.run
    monkeypatch.setattr(ar, 'run', lambda x, *a: seen.append(x) or run(x, *a))
    z = sample(ar, LABELS, scale=2., prefix=torch.ones(24, prefix).long() if prefix else None)
    x = torch.cat(seen, 1)
    assert x.shape==(48, 9, 24)                         # the class and all tokens but the last, each read once
    want = lambda y: ar.embed(ar.sequence(z, y)[:,:-1])
    assert torch.equal(x[:24], want(torch.full_like(LABELS, ar.null))) and torch.equal(x[24:], want(LABELS))

def test_without_a_null_class_its_id_is_refused():
    with pytest.raises(ValueError, match='labels must lie in'): sample(random_ar(drop_label=0), LABELS+1)

# --- the draw
# ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('how',
                         [dict(), dict(top_k=13, top_p=1., temperature=1.), dict(temperature=.5), dict(scale=1.75)])
def test_follows_the_multinomial(how):
    ar,n = random_ar(length=1, n_classes=2),40000
    y = torch.ones(n).long()
    with torch.no_grad():
        null,cond = (ar.eval().logits(torch.zeros(1, 1).long(), torch.tensor([c]))[0,0] for c in (2, 1))
    p = (guide(null, cond, how.get('scale', 1.))/how.get('temperature', 1.)).softmax(-1).double()
    counts = sample(ar, y, seed=7, batch_size=10000, **how)[:,0].bincount(minlength=13)
    big = n*p>5
    chi2 = (((counts-n*p)**2/(n*p))[big]).sum()
    assert chi2<big.sum()-1+4*(2*(big.sum()-1))**.5     # about four deviations of a chi-square
    assert counts[~big].sum()<=n*p[~big].sum()+5*(n*p[~big].sum())**.5+3

def test_second_token_depends_on_the_first_as_the_network_says():
    ar,n = random_ar(length=2, n_codes=3),30000
    z = sample(ar, torch.zeros(n).long(), seed=1, batch_size=n)
    pair = (z[:,0]*3+z[:,1]).bincount(minlength=9)/n
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    with torch.no_grad(): logp = ar.eval().logits(grid, torch.zeros(9).long()).log_softmax(-1)
    p = logp.gather(2, grid[...,None]).sum((1, 2)).exp()
    assert p.sum().item()==pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(pair, p, atol=4*.5/n**.5, rtol=0)

def test_class_ids_are_never_sampled():
    ar = random_ar()
    with torch.no_grad(): ar.head.weight[:ar.n_cond] *= 100  # classes would win almost every draw
    x = ar.run(ar.embed(ar.sequence(torch.zeros(24, 9).long(), LABELS)[:,:-1]))
    assert (F.linear(x, ar.output).argmax(-1)<ar.n_cond).float().mean()>.8
    for z in (sample(ar, LABELS), sample(ar, LABELS, scale=2., top_p=.5), greedy(ar, LABELS)):
        assert z.dtype==torch.int64 and z.shape==(24, 9) and 0<=z.min() and z.max()<13

@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.integers(0, 2**24-1))
@settings(max_examples=200, deadline=None)
def test_draw_is_the_inverse_distribution_function(weights, u):
    w = torch.tensor(weights)
    w[w<1e-6] = 0
    if w.sum()==0: w[0] = 1
    u = torch.tensor([u/2**24])
    k = draw(w.log()[None], u).item()
    F = np.cumsum(w.double().numpy()/w.double().sum().item())
    assert w[k]>0                                       # what has no probability is never drawn
    assert F[k]>u.item()-1e-5 and (F[k-1] if k else 0)<u.item()+1e-5

# --- the filters
# -------------------------------------------------------------------------------------------------------

def slow_filter(logits, t, k, p):
    "The rules, code by code, for one row of distinct numbers."
    v = [x/t for x in logits]
    alive = sorted(range(len(v)), key=lambda i: v[i])
    if 0<k<len(v): alive = alive[-k:]
    mass = {i:math.exp(v[i]-max(v)) for i in alive}
    total,gone = sum(mass.values()),0.
    for i in list(alive):
        gone += mass[i]/total
        if gone>1-p or len(alive)==1: break
        alive.remove(i)
    return set(alive)

@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(.3, 3), st.integers(0, 45), st.floats(.05, 1))
@settings(max_examples=300, deadline=None)
def test_filter_against_brute_force(seed, n, t, k, p):
    logits = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).float()
    got = set(filter_logits(logits, t, k, p).isfinite().nonzero().flatten().tolist())
    want = slow_filter(logits.tolist(), t, k, p)
    for eps in (1e-5, -1e-5):                           # a mass that lands on 1-p may fall either way
        if got==want: break
        want = slow_filter(logits.tolist(), t, k, min(1., p+eps))
    assert got==want

def test_filter_against_transformers():
    hf = pytest.importorskip('transformers', reason='transformers is not installed; the brute force stands in')
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))*2
    steps = [hf.TemperatureLogitsWarper(.8), hf.TopKLogitsWarper(12), hf.TopPLogitsWarper(.85)]
    ref = logits
    for s in steps: ref = s(None, ref)
    torch.testing.assert_close(filter_logits(logits, .8, 12, .85), ref)

def test_filter_edges():
    logits = torch.tensor([[1., 3., 2., 3.]])
    assert torch.equal(filter_logits(logits), logits)
    assert torch.equal(filter_logits(logits, top_k=4), logits) and torch.equal(filter_logits(logits, top_k=600), logits)
    assert filter_logits(logits, top_k=1).isfinite().tolist()==[[False, True, False, True]]  # equal codes, equal fate
    assert filter_logits(torch.zeros(1, 4), top_p=.5).isfinite().all()
    assert filter_logits(torch.tensor([[0., 5.]]), top_p=1e-9).isfinite().tolist()==[[False, True]]
    for kw in (dict(temperature=0.), dict(top_k=-1), dict(top_p=0.), dict(top_p=1.1)):
        with pytest.raises(ValueError): filter_logits(logits, **kw)

def test_top_k_1_is_greedy():
    ar = random_ar()
    assert torch.equal(sample(ar, LABELS, top_k=1, seed=9), greedy(ar, LABELS))
    assert torch.equal(sample(ar, LABELS, temperature=1e-4, seed=9), greedy(ar, LABELS))

# --- seeds
# -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
def test_independent_of_the_batch_size_and_of_the_process(arch):
    ar,y = random_ar(arch),torch.arange(4).repeat(75)
    kw = dict(scale=1.75, top_k=8, top_p=.92, seed=11)
    z = sample(ar, y, **kw)
    for bs in (1, 7, 64, 1000):
        if bs==1: assert torch.equal(sample(ar, y[:20], batch_size=1, **kw), z[:20])
        else: assert torch.equal(sample(ar, y, batch_size=bs, **kw), z)
    assert torch.equal(torch.cat([sample(ar, y[a:b], first=a, **kw) for a,b in ((0, 100), (100, 101), (101, 300))]), z)
    torch.manual_seed(99)
    assert torch.equal(sample(ar, y, **kw), z)          # torch's own generator has no say
    assert (sample(ar, y, **kw|dict(seed=12))!=z).any(1).float().mean()>.9

def test_uniform_rows_belong_to_images():
    u = uniforms(500, 64, seed=1)
    for n,first in ((1, 0), (1, 7), (3, 100), (100, 400)):
        assert torch.equal(uniforms(n, 64, seed=1, first=first), u[first:first+n])
    assert torch.equal(uniforms(2, 1, seed=1), uniforms(100, 1, seed=1)[:2])
    assert u.min()>=0 and u.max()<1 and abs(u.mean()-.5)<.01

def test_mode_is_put_back_and_sampling_is_in_eval_mode():
    ar = random_ar('gpt2', dropout=.5)
    ar.train()
    a = sample(ar, LABELS, seed=1)
    assert ar.training and torch.equal(sample(ar, LABELS, seed=1), a)
    ar.eval()
    sample(ar, LABELS)
    assert not ar.training

def test_prefix_is_kept_and_continued():
    ar = random_ar()
    z = sample(ar, LABELS, seed=1, scale=2.)
    # the same uniforms finish it the same way
    assert torch.equal(sample(ar, LABELS, seed=1, scale=2., prefix=z[:,:5]), z)
    with pytest.raises(ValueError, match='Want prefix'): sample(ar, LABELS, prefix=z)

def test_a_diverged_network_is_named():
    ar = random_ar()
    with torch.no_grad(): ar.head.weight[7] = math.nan
    with pytest.raises(ValueError, match='not finite'): sample(ar, LABELS)
    with pytest.raises(ValueError, match='B > 0'): sample(random_ar(), LABELS[:0])

def test_draw_gives_a_code_that_has_mass_at_every_u():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 40, generator=g)*4
    logits[:,30:] = -math.inf
    for u in (0., .5, 1-2**-24, 1.):
        z = draw(logits, torch.full((500,), u))
        assert z.min()>=0 and z.max()<30
    assert (draw(logits, torch.ones(500))>=20).all()
    assert draw(torch.tensor([[-math.inf, 0., -math.inf]]), torch.ones(1)).tolist()==[1]
    with pytest.raises(ValueError, match='all codes are dropped'): draw(torch.full((1, 3), -math.inf), torch.zeros(1))

def test_logits_that_turn_nan_later_are_named():
    ar = random_ar()
    with torch.no_grad(): ar.embed.weight[ar.n_cond:] = math.nan  # the first logits depend on the class alone
    for f in (sample, greedy):
        with pytest.raises(ValueError, match='not finite'): f(ar, LABELS)

# --- guidance over the sequence
# ----------------------------------------------------------------------------------------------------------

def slow_sample(ar, y, alphas, seed=0, prefix=None, **filters):
    "Without a cache: the whole sequence again for every token, both classes always computed."
    z,u = torch.zeros(len(y), ar.length).long(),uniforms(len(y), ar.length, seed)
    known = 0 if prefix is None else prefix.shape[1]
    if known: z[:,:known] = prefix
    with torch.no_grad():
        for j in range(known, ar.length):
            logits = guide(ar.logits(z, ar.null_like(y))[:,j], ar.logits(z, y)[:,j], alphas[j])
            z[:,j] = draw(filter_logits(logits, **filters), u[:,j])
    return z

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('how', [
    dict(guidance='linear'), dict(guidance='cosine', power=2.), dict(interval=(.3, .7)), dict(interval=(.3, 1.)),
    dict(interval=(0., .4)), dict(interval=(.5, .5)), dict(guidance='linear', interval=(.2, .8))])
@pytest.mark.parametrize('known', (0, 4))
def test_schedules_equal_the_slow_way(arch, how, known):
    ar = random_ar(arch).eval()
    prefix = torch.arange(24*known).view(24, known)%13 if known else None
    z = sample(ar, LABELS, scale=3., prefix=prefix, seed=5, min_p=.02, **how)
    assert torch.equal(z, slow_sample(ar, LABELS, scales(3., 9, **how), 5, prefix, min_p=.02))

def test_schedules_have_their_closed_forms():
    t = np.arange(64)/64
    for name,power,rise in (('constant', 1, 1+0*t), ('linear', 1, t), ('cosine', 1, (1-np.cos(np.pi*t))/2),
                            ('cosine', 2.75, (1-np.cos(np.pi*t**2.75))/2)):
        np.testing.assert_allclose(scales(4.5, 64, name, power), 1+3.5*rise, atol=1e-12)
    on = np.array(scales(2., 64, interval=(.25, .5)))
    assert (on[16:32]==2).all() and (on[:16]==1).all() and (on[32:]==1).all()
    assert scales(1., 64, 'cosine')==[1.]*64

def test_rows_keep_their_tokens_in_any_order():
    ar,u = random_ar().eval(),uniforms(24, 9, 3)
    def go(order): return generate(ar, LABELS[order], lambda l,j: draw(l, u[order,j]), [1.]*3+[2.]*6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(go(order), go(torch.arange(24))[order])

def test_min_p_against_its_definition():
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))*2
    for m in (.05, .5, 1.):
        p = logits.double().softmax(-1)
        assert torch.equal(filter_logits(logits, min_p=m).isfinite(), p>=m*p.amax(-1, keepdim=True)*(1-1e-12))
    hf = pytest.importorskip('transformers', reason='transformers is not installed; the definition stands in')
    torch.testing.assert_close(filter_logits(logits, min_p=.1), hf.MinPLogitsWarper(.1)(None, logits))
    both = filter_logits(logits, top_k=12, top_p=.85, min_p=.1)
    one = filter_logits(logits, top_k=12, top_p=.85).isfinite() & filter_logits(logits, min_p=.1).isfinite()
    assert torch.equal(both.isfinite(), one)

# --- bfloat16
# ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
def test_bfloat16_weights_and_cache_stay_close(arch):
    ar = random_ar(arch).eval()
    half,seen = in_bfloat16(ar),[]
    assert {p.dtype for p in half.parameters()}=={torch.bfloat16} and ar.embed.weight.dtype==torch.float32
    def pick(logits, j):
        seen.append(logits)
        return draw(logits, uniforms(24, 9)[:,j])
    z = generate(half, LABELS, pick)
    cached = torch.stack(seen, 1)
    with torch.no_grad(): whole,exact = half.logits(z, LABELS),ar.logits(z, LABELS)
    spread = exact.std()
    assert (cached-whole).abs().max()<.1*spread and (cached-exact).abs().mean()<.05*spread
    assert (cached-exact).abs().max()>0

@pytest.mark.filterwarnings('ignore:This CPU emulates')
def test_precision_of_sampling_is_a_choice_and_fp32_unless_named():
    ar = random_ar()
    plain,half = sample(ar, LABELS, seed=3),sample(ar, LABELS, seed=3, precision='bf16')
    assert torch.equal(sample(ar, LABELS, seed=3, precision='fp32'), plain)
    assert torch.equal(sample(ar, LABELS, seed=3, precision='auto'), half if fast_bfloat16() else plain)
    assert torch.equal(half, sample(in_bfloat16(ar), LABELS, seed=3)) and (half==plain).float().mean()>.5

# --- bad calls
# ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kw,said', [
    (dict(top_k=-1), 'top_k must be a whole number of at least 0'),
    (dict(temperature=0.), 'use greedy'), (dict(temperature=-1.), 'temperature'),
    (dict(temperature=math.nan), 'temperature'), (dict(top_p=0.), 'top_p'),
    (dict(min_p=-.1), 'min_p must be'), (dict(min_p=1.5), 'min_p must be'), (dict(min_p=math.nan), 'min_p must be'),
    (dict(guidance='cosin'), 'did you mean cosine'), (dict(power=0.), 'power'), (dict(scale=math.inf), 'scale'),
    (dict(interval=.5), 'interval must be two shares'), (dict(interval=(.5, .2)), 'must not end before'),
    (dict(interval=(0, 2)), 'each end of interval'), (dict(precision='half'), 'precision must be'),
    (dict(cond=LABELS+5), 'labels must lie in'), (dict(cond=LABELS[:,None]), 'Want labels'),
    (dict(cond=LABELS.float()), 'labels must be whole numbers')])
def test_bad_calls_are_refused_in_one_sentence(kw, said):
    with pytest.raises((ValueError, TypeError), match=said) as e: sample(random_ar(), **dict(cond=LABELS) | kw)
    assert '\n' not in str(e.value)

def test_guidance_needs_a_null_class_and_an_interval_without_tokens_does_not():
    with pytest.raises(ValueError, match='drop_label > 0'): sample(random_ar(drop_label=0), LABELS, scale=1.5)
    ar = random_ar(drop_label=0)
    assert torch.equal(sample(ar, LABELS, scale=1.5, interval=(.5, .5)), sample(ar, LABELS))

# --- the page of samples

PAGE = Path(__file__).parents[1]/'nbs'/'sample.ipynb'
CELLS = [''.join(c['source']) for c in json.loads(PAGE.read_text())['cells']]

@pytest.mark.parametrize('make, side, how', [(AR, 4, {}), (AR, 4, dict(order='spiral')), (NAR, 3, {})])
def test_what_is_given_stays_where_it_was(make, side, how):
    torch.manual_seed(0)
    z,shown = torch.randint(8, (2, side, side)),[]
    net = make(8, 3, side*side, layers=1, width=16, heads=2, **how).eval()
    u8 = torch.full((2, 3, 12, 12), 9, dtype=torch.uint8)
    ns = dict(torch=torch, F=F, net=net, z=z, u8=u8, said=False,
              tok=SimpleNamespace(grid=lambda: (side, side)), some=SimpleNamespace(labels=torch.tensor([0, 2])),
              run=SimpleNamespace(scale=1., temperature=1., top_k=0, top_p=1., seed=0, folder=Path()),
              painted=lambda ids: ids.view(-1, side, side),
              compare_rows=shown.append, save_png=lambda *_: None)
    start, = (c for c in CELLS if 'def painted(' in c)
    exec(start[start.index("masked = "):], ns)
    for cell in (c for c in CELLS if 'compare_rows({\'original\'' in c): # half an image, then a hole
        exec(cell, ns)
        if ns['masked'] or len(shown)==1:
            given = F.interpolate((shown[-1]['given']==9)[:,:1].float(), size=(side, side))[:,0].bool()
            drawn = [v for k,v in shown[-1].items() if 'seed' in k]
            assert len(drawn)==2 and not drawn[0].equal(drawn[1]) and (given.any() or side==3)
            for d in drawn: assert d[given].equal(z[given])
    assert len(shown)==1+ns['masked']

@pytest.mark.parametrize('kind', ['ar', 'nar'])
def test_the_last_picture_of_a_network_without_null_captions_or_with_few_tokens(kind):
    page = json.loads((PAGE.parent/'train_t2i.ipynb').read_text())
    cell, = (s for c in page['cells'] if 'drawn = ' in (s := ''.join(c['source'])))
    net = T2I(kind, 8, 9, 4, 3, layers=1, width=16, heads=2, drop_caption=0.).eval()
    ns = dict(torch=torch, net=net, said_held=torch.rand(5, 3, 4), held=range(5), says=lambda h: ['a cat']*len(h),
              run=SimpleNamespace(kind=kind, drop_label=0., seed=0), tv=SimpleNamespace(tokens=torch.zeros(5, 3, 3)),
              tok=SimpleNamespace(grid=lambda: (3, 3), decoder=None))
    exec(cell, ns)
    assert ns['drawn'].shape==(8, 3, 3) and 0<=ns['drawn'].min()<=ns['drawn'].max()<8

def test_labels_of_the_smallest_type_that_holds_them_have_room_for_the_null_class():
    for net in (AR(5, 256, 4, layers=1, width=8, heads=2), NAR(5, 256, 4, layers=1, width=8, heads=2)):
        y,tokens = torch.tensor([0, 255], dtype=torch.uint8),torch.zeros(2, 4, dtype=torch.uint8)
        assert net.null_like(y).tolist()==[256, 256] and net.train().loss(tokens, y).isfinite()
        assert net.eval().sample(y, scale=1.5, **dict(steps=2) if hasattr(net, 'mask_id') else {}).shape==(2, 4)
