"A wrong number is refused where it enters: one sentence, which names the argument. One table for all public doors."
import math
import pytest,torch
from iutok.checks import check_choice,check_count,check_integers,check_range,check_seed
from iutok.cost import Cost,StepCost,measured_rate,step_cost
from iutok.losses.gan import EqualConv,PatchGAN,StyleGAN2,adaptive_weight,batch_std,blur
from iutok.losses.recon import Perceptual,unit_length
from iutok.metrics.features import ConvBN,Features,get_extractor,inception_ready
from iutok.metrics.probe import linear_probe
from iutok.metrics.scores import class_consistency,reference_stats,score_images
from iutok.proposals.ar import AR
from iutok.quantizers import (BSQ,CVQ,FSQ,Fixed,HealthMeter,IBQ,LFQ,NormEMA,OnlineCluster,Residual,SimVQ,VQ,
                              codebook_entropy,codebook_health,codebook_perplexity,kmeans,usage)
from iutok.quantizers.beyond import score_entropies
from iutok.quantizers.cvq import anchors,cvq_keep
from iutok.quantizers.ema import norm_ema
from iutok.quantizers.grid import sign_entropies
from iutok.quantizers.health import entropy
from iutok.sampling import draw,filter_logits,generate,greedy,guide,sample,uniforms
from iutok.data import loader
from iutok.training import averaged,constant,decay_groups,fit,warmup_cosine
from iutok.viz import code_patches,compare_rows,image_grid,plot_curves,png,telling_codes,token_colours,tokens_grid

NAN,INF = math.nan,math.inf
COUNT = (0, -3, 2.5, True, NAN, '4')         # wrong for a count of at least 1
FROM_0 = (-1, .5, False, NAN)                # wrong for a count of at least 0
POSITIVE = (0, -1., NAN, INF, True, '1')     # wrong for a number above 0
NOT_NEGATIVE = (-1., NAN, INF, True)         # wrong for a number of at least 0
SHARE = (-.1, 1., 2, NAN, True)              # wrong for a number in [0, 1)
SEED = (-1, 1.5, NAN, 2**64)

images,ids = torch.zeros(4, 3, 8, 8),torch.zeros(4, 2, 2, dtype=torch.long)
u8 = images.to(torch.uint8)
z,codes = torch.randn(8, 2),torch.randn(4, 2)
rows,labels = torch.randn(20, 3),torch.arange(4).repeat(5)
logits = torch.randn(2, 4)
line = torch.nn.Linear(2, 2)
class Lazy: # made when the first case needs it
    @property
    def ar(self): return AR(8, 3, 4, layers=1, width=8, heads=2)
lazy = Lazy()
two = torch.tensor([0, 1])
def cost(**kw):
    return Cost(**dict(parameters={}, forward=1, step=StepCost(1, 1, 1), steps=1, batch_size=1, processes=1, rate=1.,
                       how='') | kw)
def train(**kw): return fit({}, [], **dict(steps=1, folder='never') | kw)

# function, its sound arguments, {argument: wrong values}
DOORS = [
    (VQ, dict(n_codes=4, dim=2), dict(n_codes=COUNT, dim=COUNT, beta=NOT_NEGATIVE, init=('zeros', 3), seed=SEED)),
    (NormEMA, dict(n_codes=4, dim=2),
     dict(n_codes=COUNT, dim=COUNT, beta=NOT_NEGATIVE, decay=(-.1, 1.1, 2, NAN), kmeans_iters=FROM_0, seed=SEED,
          lookup=('never',))),
    (CVQ, dict(n_codes=4, dim=2),
     dict(n_codes=COUNT, dim=COUNT, beta=NOT_NEGATIVE, decay=SHARE, seed=SEED, anchor=('far',))),
    (OnlineCluster, dict(n_codes=4, dim=2), dict(n_codes=COUNT, dim=COUNT, decay=SHARE)),
    (Fixed, dict(n_codes=4, dim=2), dict(n_codes=COUNT, dim=COUNT)),
    (SimVQ, dict(n_codes=4, dim=2), dict(n_codes=COUNT, dim=COUNT, beta=NOT_NEGATIVE)),
    (IBQ, dict(n_codes=4, dim=2),
     dict(n_codes=COUNT, dim=COUNT, beta=NOT_NEGATIVE, entropy=NOT_NEGATIVE, temperature=POSITIVE)),
    (FSQ, {}, dict(levels=([8.5, 5], [8, 1], [], 7, 8.5, [True, 5], [NAN, 3], ['8', 5], '85', [8]*30))),
    (LFQ, dict(n_codes=16),
     dict(n_codes=(0, -2, 1, 12, 16., True, 2**63), beta=NOT_NEGATIVE, entropy=NOT_NEGATIVE, gamma=NOT_NEGATIVE,
          temperature=POSITIVE, group=COUNT)),
    (BSQ, dict(n_codes=16), dict(n_codes=(0, 12, 16.), temperature=POSITIVE)),
    (Residual, dict(stages=[['vq', dict(n_codes=4, dim=2)]]), dict(scale=POSITIVE, stages=([], 3))),
    (kmeans, dict(x=rows, k=3), dict(k=COUNT, iters=FROM_0, batch=COUNT, seed=SEED, init=('best',), empty=('drop',))),
    (norm_ema, dict(codebook=codes, x=z, idx=torch.zeros(8, dtype=torch.long)), dict(decay=(-.1, 1.1, NAN))),
    (cvq_keep, dict(p=torch.rand(4)), dict(decay=SHARE)),
    (anchors, dict(codebook=codes, x=z), dict(how=('far', None))),
    (sign_entropies, dict(x=z, size=1.), dict(size=POSITIVE, temperature=POSITIVE, group=COUNT)),
    (score_entropies, dict(x=z, codebook=codes), dict(temperature=POSITIVE, rows=COUNT)),
    (usage, dict(idx=ids, K=4), dict(K=COUNT)),
    (codebook_entropy, dict(idx=ids, K=4), dict(K=COUNT)),
    (codebook_perplexity, dict(idx=ids, K=4), dict(K=COUNT)),
    (HealthMeter, dict(n_codes=4), dict(n_codes=COUNT, dead_after=COUNT)),
    (codebook_health, dict(idx=ids, n_codes=4), dict(n_codes=COUNT)),
    (filter_logits, dict(logits=logits),
     dict(temperature=(0, -1., 1e-38, NAN, INF, True), top_k=FROM_0, top_p=(0, -.1, 1.1, NAN))),
    (uniforms, dict(n=2, length=3), dict(n=FROM_0, length=COUNT, seed=SEED, first=FROM_0)),
    (draw, dict(logits=logits, u=torch.rand(2)),
     dict(u=(torch.tensor([.5, NAN]), torch.tensor([-1., .5]), torch.tensor([.5, 1.5]), torch.rand(3)),
          logits=(logits*NAN, logits[0]))),
    (guide, dict(null=logits, cond=logits, scale=1.), dict(scale=(NAN, INF, True, '1'))),
    (lambda **kw: sample(lazy.ar, **kw), dict(cond=two),
     dict(temperature=(0, 1e-38, NAN, INF), top_k=FROM_0, top_p=(0, 1.1, NAN), scale=(NAN, INF), seed=SEED,
          first=FROM_0, batch_size=COUNT,
          cond=(two.float(), two>0, two+9, two-1),
          prefix=(two[:,None]-1, two[:,None]+8, two[:,None]/2, two[:,None]>0))),
    (lambda **kw: greedy(lazy.ar, **kw), dict(cond=two),
     dict(scale=(NAN, INF), batch_size=COUNT, prefix=(two[:,None]-1,))),
    (lambda **kw: generate(lazy.ar.eval(), two, lambda l,j: l.argmax(-1), **kw), {}, dict(scale=(NAN, INF))),
    (image_grid, dict(x=images), dict(cols=COUNT, scale=COUNT, gap=FROM_0)),
    (tokens_grid, dict(idx=ids), dict(cols=COUNT, scale=COUNT, idx=(ids.float(), ids[0], [0, 1]))),
    (token_colours, dict(idx=ids), dict(idx=(ids/2, ids>0, ids[0]))),
    (compare_rows, dict(rows=dict(a=images)), dict(size=POSITIVE, rows=({},))),
    (code_patches, dict(images=u8, idx=ids, codes=[0]), dict(n=COUNT, context=POSITIVE)),
    (telling_codes, dict(images=u8, idx=ids), dict(n=COUNT, flat=NOT_NEGATIVE, idx=(ids/2, ids-1))),
    (plot_curves, dict(runs={}, columns=['loss']), dict(columns=([],))),
    (png, dict(picture=None), dict(dpi=POSITIVE)),
    (linear_probe, dict(train=rows, train_labels=labels, test=rows, test_labels=labels),
     dict(seed=SEED, epochs=COUNT, batch_size=COUNT, train_labels=(labels-1, labels/2),
          test_labels=(labels-1, labels/2, labels>0))),
    (lambda **kw: get_extractor()(u8, **kw), {}, dict(size=COUNT, batch_size=COUNT)),
    (reference_stats, dict(images=None), dict(size=COUNT)),
    (score_images, dict(images=None, reference=None), dict(size=COUNT)),
    (lambda **kw: class_consistency(Features(rows, torch.randn(20, 10), {}), **kw), dict(labels=labels),
     dict(labels=(labels-1, labels/2, labels+9))),
    (inception_ready, {}, dict(timeout=POSITIVE)),
    (ConvBN, dict(c_in=1, c_out=1), dict(c_in=COUNT, c_out=COUNT, stride=COUNT)),
    (step_cost, dict(phases=None, batch=None), dict(step=FROM_0)),
    (measured_rate, dict(block=None, shape=(1, 2)), dict(seconds=NOT_NEGATIVE, shape=((0, 2), (1, 2.5)))),
    (cost, {}, dict(steps=FROM_0, batch_size=COUNT, processes=COUNT, rate=POSITIVE)),
    (warmup_cosine, dict(lr=.1, steps=10),
     dict(lr=NOT_NEGATIVE, steps=FROM_0, warmup=(*FROM_0, 11), final=NOT_NEGATIVE, first=NOT_NEGATIVE)),
    (constant, dict(lr=.1), dict(lr=NOT_NEGATIVE)),
    (decay_groups, dict(module=line, weight_decay=.1), dict(weight_decay=NOT_NEGATIVE)),
    (averaged, dict(module=line, decay=.9), dict(decay=(-.1, 1., NAN))),
    (loader, dict(batches=[], start=0, stop=1), dict(start=FROM_0, stop=FROM_0, workers=FROM_0)),
    (train, {},
     dict(steps=COUNT, seed=SEED, workers=FROM_0, clip=NOT_NEGATIVE, ema=SHARE, log_every=FROM_0, save_every=FROM_0,
          look_every=FROM_0, stop_after=FROM_0, precision=('half', 16))),
    (PatchGAN, dict(width=2), dict(depth=COUNT, width=COUNT, in_channels=COUNT)),
    (StyleGAN2, dict(size=8, max_width=2), dict(size=(0, 4, 12, 8., True), max_width=COUNT, in_channels=COUNT)),
    (EqualConv, dict(c_in=1, c_out=1, kernel=1), dict(c_in=COUNT, c_out=COUNT, kernel=COUNT)),
    (batch_std, dict(x=images), dict(group=COUNT)),
    (blur, dict(x=images, pad=1), dict(pad=FROM_0, stride=COUNT)),
    (adaptive_weight, dict(r_loss=None, g_loss=None, weight=None), dict(gain=NOT_NEGATIVE)),
    (unit_length, dict(f=images), dict(eps=NOT_NEGATIVE)),
    (Perceptual, dict(features=lambda x: [x]), dict(size=COUNT)),
]
SAYS = {'idx':'idx|ids', 'K':'K', 'prefix':'prefix', 'rows':'rows', 'anchor':'anchor', 'logits':'logits',
        'decay':'decay|ema', 'columns':'columns', 'levels':'levels|FSQ_LEVELS', 'stages':'[Ss]tages',
        'n_codes':'n_codes', 'labels':'labels?', 'cond':'labels', 'how':'how'}
CALLS = [(f, sound, name, v) for f,sound,bad in DOORS for name,values in bad.items() for v in values]

def short(v): return str(tuple(v.shape)) if torch.is_tensor(v) else repr(v)
def title(c): return f"{getattr(c[0], '__name__', 'call').strip('<>')}-{c[2]}-{short(c[3])}"

def test_the_table_is_large(): assert len(CALLS)>=400

@pytest.mark.parametrize('call', CALLS, ids=title)
def test_a_wrong_value_is_refused_in_one_sentence_that_names_it(call):
    f,sound,name,value = call
    with pytest.raises((ValueError, TypeError), match=f'(?i){SAYS.get(name, name)}') as e: f(**sound | {name:value})
    says = str(e.value)
    assert '\n' not in says and len(says)<300, says
    assert 'iutok' in str(e.traceback[-1].path), 'refused by somebody else'

@pytest.mark.filterwarnings('ignore:Only', 'ignore:The codebook')
@pytest.mark.parametrize('door',
                         [d for d in DOORS
                          if d[0] not in (train, png, plot_curves, reference_stats, score_images, inception_ready,
                                          step_cost, measured_rate, adaptive_weight)],
                         ids=lambda d: getattr(d[0], '__name__', 'call'))
def test_the_sound_call_passes(door):
    f,sound,_ = door
    f(**sound)

@pytest.mark.parametrize('q',
                         [VQ(4, 2), NormEMA(4, 2), CVQ(4, 2), FSQ([2, 2]), LFQ(4), BSQ(4), SimVQ(4, 2), IBQ(4, 2),
                          Fixed(4, 2), Residual([VQ(2, 2), VQ(2, 2)])], ids=lambda q: q.kind)
def test_only_ids_are_decoded(q):
    assert q.decode(ids).shape==(4, 2, 2, 2)
    for bad,error in ((ids.float(), TypeError), (ids>0, TypeError), (ids.to(torch.complex64), TypeError),
                      (ids-1, ValueError), (ids+4, ValueError), (ids[0], ValueError), ([0], TypeError)):
        with pytest.raises(error, match=f'^{q.kind}: ') as e: q.decode(bad)
        assert '\n' not in str(e.value)

def test_what_are_not_ids_is_not_counted():
    for bad in (torch.tensor([1.7]), torch.tensor([True]), [1.7]):
        with pytest.raises(TypeError, match='ids must be'): usage(bad, 4)
    for bad in (torch.tensor([1., NAN]), torch.tensor([1., -1.])):
        with pytest.raises(ValueError, match='counts must be finite'): entropy(bad)

def test_checks_take_what_is_right_and_give_it_back():
    import numpy as np
    assert check_count('n', np.int64(3))==3 and type(check_count('n', np.uint8(3))) is int
    assert check_range('x', np.float32(.5), 0, 1)==.5
    assert check_range('x', 1, 0, 1)==1.
    assert check_range('x', -1e308)==-1e308
    assert check_seed(0)==0 and check_choice('body', 'conv', ('conv', 'vit'))=='conv'
    check_integers('ids', torch.tensor([0, 1], dtype=torch.uint8), 0)
    for bad in (NAN, INF, -INF, np.float64('nan'), True, np.bool_(True), '1', None, 1j, 10**400, torch.tensor(1.)):
        with pytest.raises(ValueError, match='^x must be a finite number, got'): check_range('x', bad)
    for bad in (NAN, 3., np.float32(3), True, np.bool_(True), '3', None, [3]):
        with pytest.raises(ValueError, match='^n must be a whole number of at least 1, got'): check_count('n', bad)
