"Intervals and the best of a column: against simulations whose truth is known, and scipy's own tests."
import numpy as np, pytest, torch
from scipy import stats
from iutok.intervals import best_of,bootstrap,fd_difference,fd_interval,is_interval,paired_ratio
from iutok.metrics.features import Features
from iutok.metrics.scores import fd_infinity
from iutok.metrics.statistics import frechet_distance,statistics

def features(n, d=6, scale=1.2, seed=0):
    x = scale*torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return Features(x, None, dict(extractor='none'))

REFERENCE = statistics(features(20_000, scale=1., seed=9))

def test_bootstrap_of_a_mean_is_students():
    x = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    i = bootstrap(lambda k: x[k].mean().item(), 400, draws=2000)
    half = stats.norm.ppf(.975)*x.std().item()/20
    assert i.value==x.mean().item() and abs(i.shift)<.005
    assert i.high-i.value==pytest.approx(half, rel=.08) and i.value-i.low==pytest.approx(half, rel=.08)

def test_what_resampling_adds_is_what_few_images_add():
    x = features(200)
    i,limit = fd_interval(x, REFERENCE, draws=150),fd_infinity(x, REFERENCE)
    assert i.value==frechet_distance(statistics(x), REFERENCE) and i.low<i.value<i.high
    assert i.shift==pytest.approx(limit.slope/200, rel=.35) and i.shift>0
    a,b,c = (fd_interval(x, REFERENCE, draws=20, seed=s) for s in (0, 0, 1))
    assert a==b!=c

def test_the_width_is_that_of_fresh_sets():
    fresh = np.std([frechet_distance(statistics(features(200, seed=s)), REFERENCE) for s in range(50, 150)])
    sets = [fd_interval(features(200, seed=s), REFERENCE, draws=80) for s in range(4)]
    widths = [(i.high-i.low)/2/1.96 for i in sets]
    assert np.mean(widths)==pytest.approx(fresh, rel=.3)

def test_pairs_are_drawn_together():
    x = features(200)
    same = fd_difference(x, x, REFERENCE, draws=5)
    assert same[:3]==(0, 0, 0)
    near = x._replace(f=x.f*1.01)
    assert fd_difference(near, x, REFERENCE, draws=40).low>0 # each alone is far less sure

def test_an_inception_score_has_an_interval_too():
    logits = 3*torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    i = is_interval(logits, draws=20)
    assert 1<i.low<i.value<i.high<5

def test_ratio_of_pairs_is_the_paired_t_test():
    a,b = {0:3., 1:4., 2:5.5, 9:1.},{0:3.3, 1:4.6, 2:5.6, 8:1.}
    i = paired_ratio(a, b)
    t = stats.ttest_rel(*[np.log([d[s] for s in (0, 1, 2)]) for d in (a, b)])
    low,high = t.confidence_interval(.95)
    assert (i.low, i.high)==pytest.approx((np.exp(low), np.exp(high))) and i.value==pytest.approx(np.exp((low+high)/2))

def test_two_rows_are_students_t_test_twice_as_strict():
    v = dict(a={0:1., 1:1.1, 2:1.05}, b={0:1.2, 1:1.3, 2:1.22})
    p = stats.ttest_ind(*[np.log([*r.values()]) for r in v.values()]).pvalue
    b = best_of(v)
    assert (b.row, b.significant)==('a', True) and b.p==pytest.approx(p) # both sides, for either might have won
    pairs = best_of(v, paired=True)
    assert pairs.p==pytest.approx(stats.ttest_rel(*[np.log([*r.values()]) for r in v.values()]).pvalue)

def test_stricter_than_dunnett_and_not_by_much():
    rng = np.random.default_rng(0)
    v = {k:dict(enumerate(m+.1*rng.standard_normal(3))) for k,m in dict(a=1., b=1.35, c=1.5, d=1.4).items()}
    ours = best_of({k:{s:-x for s,x in r.items()} for k,r in v.items()}, smaller=False) # negative: no logarithms
    rest = [[*v[k].values()] for k in 'bcd']
    theirs = max(stats.dunnett(*rest, control=[*v['a'].values()], alternative='greater', rng=rng).pvalue)
    assert theirs<ours.p<2.5*theirs and 'logarithms' not in ours.test

def test_larger_may_be_better_and_seeds_may_be_missing():
    v = dict(a={0:20., 1:20.2}, b={0:21., 1:21.1}, c={0:18.})
    assert best_of(v, smaller=False)[:2]==('b', True) and best_of(v)[0]=='c'
    assert best_of({k:{0:r[0]} for k,r in v.items()})[1:3]==(False, pytest.approx(np.nan, nan_ok=True))

x = features(20)
BAD = [(lambda: bootstrap(len, 1), 'n must be'), (lambda: bootstrap(len, 9, draws=1), 'draws'),
       (lambda: bootstrap(len, 9, share=1), 'share'),
       (lambda: fd_difference(x, features(19), REFERENCE), '20 images and b 19'),
       (lambda: fd_interval(x._replace(made_by=dict(extractor='b')), REFERENCE), 'extractor is b here and none there'),
       (lambda: paired_ratio({0:1.}, {0:2.}), 'at least two seeds'),
       (lambda: paired_ratio({0:1, 1:0}, {0:2, 1:1}), 'positive'),
       (lambda: best_of({}), 'at least two rows'), (lambda: best_of(dict(a={}, b={0:1})), 'finite number'),
       (lambda: best_of(dict(a={0:1.}, b={1:1.}), paired=True), 'all rows share'),
       (lambda: best_of(dict(a={0:np.nan}, b={0:1.})), 'finite number'),
       (lambda: best_of(dict(a={0:1.}, b={0:1.}), level=0), 'level')]
@pytest.mark.parametrize('call, said', BAD, ids=[s for _,s in BAD])
def test_bad_calls_say_why(call, said):
    with pytest.raises(ValueError, match=said): call()
