"""The contract, kept by every quantizer:
shapes, gradients, state, compile, half precision, bad input, and ids that survive a round trip."""
import copy, json, math, warnings
import pytest, torch, torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from iutok.quantizers import (BSQ, CVQ, FSQ, FSQ_LEVELS, IBQ, IFSQ, LFQ, QUANTIZERS, VQ, Fixed, HealthMeter, NormEMA,
                              OnlineCluster, Quantized, Residual, SimVQ, codebook_health, straight_through)
from iutok.quantizers.base import flatten,unit
from iutok.quantizers.beyond import score_entropies
from iutok.quantizers.cvq import anchors, cvq_keep
from iutok.quantizers.ema import norm_ema
from iutok.quantizers.grid import fsq_bound, sign_entropies

torch.set_num_threads(1)
fast = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

def fixed(n=16, d=4, **kw): return Fixed.from_codebook(torch.randn(n, d), **kw)
MAKE = {'vq':lambda: VQ(16, 4), 'vq_kmeans':lambda: VQ(16, 4, init='kmeans'),
        'vq_cosine':lambda: VQ(16, 4, cosine=True), 'vq_sphere':lambda: VQ(16, 4, sphere=True),
        'vq_cosine_kmeans':lambda: VQ(16, 4, cosine=True, init='kmeans'), 'norm_ema':lambda: NormEMA(16, 4),
        'norm_ema_before':lambda: NormEMA(16, 4, lookup='before'), 'cvq':lambda: CVQ(16, 4),
        'cvq_cosine':lambda: CVQ(16, 4, cosine=True, sync=True),
        'cvq_multinomial':lambda: CVQ(16, 4, anchor='multinomial'), 'cvq_cached':lambda: CVQ(16, 4, anchor='cached'),
        'online_cluster':lambda: OnlineCluster(16, 4), 'fsq':lambda: FSQ([5, 4, 3, 2]),
        'ifsq':lambda: IFSQ([5, 4, 3, 2]), 'lfq':lambda: LFQ(16),
        'bsq':lambda: BSQ(16), 'simvq':lambda: SimVQ(16, 4), 'simvq_cosine':lambda: SimVQ(16, 4, cosine=True),
        'ibq':lambda: IBQ(16, 4), 'ibq_entropy':lambda: IBQ(16, 4, entropy=.05), 'fixed':fixed,
        'fixed_l2':lambda: fixed(cosine=False),
        'residual':lambda: Residual([VQ(8, 4, init='kmeans'), NormEMA(8, 4), FSQ([3, 3, 3, 3])]),
        'residual_scaled':lambda: Residual([LFQ(16), BSQ(16)], scale=.5)}
each = pytest.mark.parametrize('make', MAKE.values(), ids=MAKE)
LEARNS = ('vq', 'norm_ema', 'cvq', 'online_cluster', 'simvq', 'ibq')

def grids(): # (B, H, W), never square by construction
    return st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))

def test_table_names_every_class():
    assert set(QUANTIZERS)=={'vq', 'norm_ema', 'cvq', 'fsq', 'ifsq', 'lfq', 'bsq', 'simvq', 'ibq', 'residual', 'fixed',
                             'online_cluster'}
    assert all(c.kind==k for k,c in QUANTIZERS.items())

@each
@pytest.mark.parametrize('shape', [(2, 3, 5), (1, 1, 1), (1, 7, 2)])
@pytest.mark.parametrize('train', [True, False])
def test_contract(make, shape, train):
    torch.manual_seed(0)
    q = make().train(train)
    b,h,w = shape
    z = torch.randn(b, 4, h, w, requires_grad=True)
    out = q(z)
    assert isinstance(out, Quantized)
    assert out.z_q.shape==z.shape and out.z_q.dtype==z.dtype
    assert out.idx.shape==shape and out.idx.dtype==torch.int64 and 0<=out.idx.min() and out.idx.max()<q.n_codes
    assert out.loss.shape==() and out.loss.dtype==torch.float32 and out.loss.isfinite()
    back = q.decode(out.idx)
    assert back.shape==z.shape
    if not train or getattr(q, 'order', 'after')=='after':
        torch.testing.assert_close(back, out.z_q, rtol=0, atol=1e-6 if 'ibq' in q.kind else 0)
    (out.z_q.square().sum()+out.loss).backward()
    assert z.grad.isfinite().all()
    assert q.decode(torch.zeros(shape, dtype=torch.int32)).isfinite().all()

@each
def test_position_by_position(make):
    "Ids do not depend on where in the grid a latent stands: swapped axes would show."
    torch.manual_seed(0)
    q = make().eval()
    z = torch.randn(2, 4, 3, 5)
    idx = q(z).idx
    for b,i,j in ((0, 0, 4), (1, 2, 1), (1, 0, 3)): assert q(z[b:b+1,:,i:i+1,j:j+1]).idx.item()==idx[b,i,j]

@each
def test_state_restores_bit_equal_behaviour(make):
    torch.manual_seed(0)
    q,zs = make(),torch.randn(4, 2, 4, 3, 5)
    for z in zs[:2]: q(z)
    r = QUANTIZERS[q.kind](**json.loads(json.dumps(q.config())))
    r.load_state_dict({k:v.clone() for k,v in q.state_dict().items()})
    for z in zs[2:]:
        a,b = q(z),r(z)
        assert torch.equal(a.idx, b.idx) and torch.equal(a.z_q, b.z_q) and torch.equal(a.loss, b.loss)
    for k,v in q.state_dict().items(): assert torch.equal(v, r.state_dict()[k]), k
    c = copy.deepcopy(q).eval()
    assert torch.equal(c(zs[0]).idx, q.eval()(zs[0]).idx)

@each
def test_eval_changes_nothing(make):
    torch.manual_seed(0)
    q = make()
    q(torch.randn(2, 4, 3, 5))
    q.eval()
    before = {k:v.clone() for k,v in q.state_dict().items()}
    q(torch.randn(2, 4, 3, 5)); q.decode(torch.zeros(1, 2, 2, dtype=torch.long)); q.requantise(torch.randn(1, 4, 2, 2))
    assert all(torch.equal(v, before[k]) for k,v in q.state_dict().items())

@each
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(make, dtype):
    torch.manual_seed(0)
    q = make()
    q(torch.randn(2, 4, 3, 5))
    q.eval()
    z = torch.randn(2, 4, 3, 5).to(dtype).requires_grad_()
    out = q(z)
    assert out.z_q.dtype==dtype and out.loss.dtype==torch.float32
    assert torch.equal(out.idx, q(z.detach().double()).idx if dtype==torch.float64 else q(z.detach().float()).idx)
    with torch.autocast('cpu', dtype=torch.bfloat16): assert torch.equal(q(z).idx, out.idx)
    (out.z_q.sum()+out.loss).backward()
    assert z.grad.dtype==dtype and z.grad.isfinite().all()

@each
@pytest.mark.parametrize('train', [True, False])
def test_compiles_in_one_graph(make, train):
    torch.manual_seed(0)
    q = make()
    z = torch.randn(2, 4, 3, 5)
    q(z)  # a start from data looks at values, so it runs before compiling
    q.train(train)
    eager = copy.deepcopy(q)
    torch._dynamo.reset()
    zc,ze = z.clone().requires_grad_(),z.clone().requires_grad_()
    a,b = torch.compile(q, fullgraph=True, backend='aot_eager')(zc),eager(ze)
    assert torch.equal(a.idx, b.idx)
    torch.testing.assert_close(a.z_q, b.z_q); torch.testing.assert_close(a.loss, b.loss)
    (a.z_q.square().sum()+a.loss).backward(); (b.z_q.square().sum()+b.loss).backward()
    torch.testing.assert_close(zc.grad, ze.grad)
    for x,y in zip(q.state_dict().values(), eager.state_dict().values()): torch.testing.assert_close(x, y)

@each
def test_bad_input_gets_one_sentence(make):
    q = make()
    q(torch.randn(2, 4, 3, 5))
    nan = torch.randn(1, 4, 2, 2); nan[0,1,0,0] = math.nan
    inf = torch.randn(1, 4, 2, 2); inf[0,1,0,0] = math.inf
    for bad,error,words in [(torch.randn(1, 5, 2, 2), ValueError, 'dim=4'), (torch.randn(4, 2, 2), ValueError, 'shape'),
                            (nan, ValueError, 'NaN'), (inf, ValueError, 'infinity'),
                            (torch.randn(0, 4, 2, 2), ValueError, 'empty'),
                            (torch.randn(1, 4, 0, 2), ValueError, 'empty'),
                            (torch.ones(1, 4, 2, 2, dtype=torch.long), TypeError, 'floats'),
                            ([[1.]], TypeError, 'Tensor')]:
        with pytest.raises(error, match=words) as e: q(bad)
        assert str(e.value).count('\n')==0 and str(e.value).startswith(q.kind)
    for bad,error,words in [(torch.full((1, 2, 2), q.n_codes), ValueError, 'outside'),
                            (torch.full((1, 2, 2), -1), ValueError, 'outside'),
                            (torch.zeros(2, 2, dtype=torch.long), ValueError, 'B, H, W'),
                            (torch.zeros(1, 2, 2), TypeError, 'integers'),
                            (torch.zeros(1, 2, 2, dtype=torch.bool), TypeError, 'integers'), (0, TypeError, 'Tensor')]:
        with pytest.raises(error, match=words): q.decode(bad)

@each
def test_representation_reads_well(make):
    text = repr(make())
    assert type(make()).__name__ in text and 'codes' in text or 'levels' in text
    assert 'tensor' not in text.lower()

# ---- ids ----

@each
def test_every_id_survives_decode_and_requantise(make):
    torch.manual_seed(0)
    q = make()
    q(torch.randn(4, 4, 6, 5))
    q.eval()
    ids = torch.arange(q.n_codes).view(1, 1, -1)
    assert torch.equal(q.requantise(q.decode(ids)), ids)
    # the four squash, score by product, or choose greedily
    if q.kind not in ('fsq', 'ifsq', 'ibq', 'residual'): assert torch.equal(q(q.decode(ids)).idx, ids)
    assert len(q.decode(ids)[0,:,0].T.unique(dim=0))==q.n_codes

@each
def test_assign_gives_a_list_of_latents_the_ids_of_forward(make):
    torch.manual_seed(0)
    q,z = make(),torch.randn(3, 4, 6, 5)
    q(z)
    assert torch.equal(q.eval().assign(flatten(z)), q(z).idx.flatten())

@fast
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=5), grid=grids(), seed=st.integers(0, 99))
def test_fsq_ids_are_a_bijection(levels, grid, seed):
    q = FSQ(levels)
    assert q.n_codes==math.prod(levels)
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, q.n_codes, grid, generator=g)
    codes = q.decode(ids)
    assert torch.equal(q.requantise(codes), ids)
    assert codes.min()>=-1 and codes.max()<=1
    digits = (ids[...,None]//torch.tensor([1, *levels[:-1]]).cumprod(0))%torch.tensor(levels)
    torch.testing.assert_close(codes.permute(0, 2, 3, 1), digits/torch.tensor(levels).div(2, rounding_mode='floor')-1)
    z = 4*torch.randn(grid[0], len(levels), *grid[1:], generator=g)
    out = q(z)
    assert torch.equal(out.z_q, q.decode(out.idx)) and out.loss==0

@fast
@given(bits=st.integers(1, 40), grid=grids(), seed=st.integers(0, 99), kind=st.sampled_from([LFQ, BSQ]))
def test_sign_ids_are_a_bijection(bits, grid, seed, kind):
    q,g = kind(2**bits),torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 2**bits, grid, generator=g)
    assert torch.equal(q(q.decode(ids)).idx, ids)
    z = torch.randn(grid[0], bits, *grid[1:], generator=g)
    # first channel least significant
    assert torch.equal(((q(z).idx[:,None]>>torch.arange(bits)[:,None,None])&1).bool(), z>0)

@fast
@given(n=st.integers(1, 300), k=st.integers(1, 40), d=st.integers(1, 9), seed=st.integers(0, 999), cosine=st.booleans())
def test_learned_ids_in_range_and_idempotent(n, k, d, seed, cosine):
    torch.manual_seed(seed)
    q = VQ(k, d, cosine=cosine and d>1)
    q.codebook.data = torch.randn(k, d)
    out = q.eval()(torch.randn(1, d, 1, n))
    assert 0<=out.idx.min() and out.idx.max()<k
    assert torch.equal(q(out.z_q.detach()).idx, out.idx)

@fast
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_residual_ids_fold_and_unfold(sizes, seed):
    q,g = Residual([VQ(n, 2) for n in sizes]),torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, n, (2, 3, 4), generator=g) for n in sizes]
    joint = q.join(ids)
    assert 0<=joint.min() and joint.max()<q.n_codes==math.prod(sizes)
    assert all(torch.equal(a, b) for a,b in zip(q.split(joint), ids))
    torch.testing.assert_close(q.decode(joint), sum(s.decode(i) for s,i in zip(q.stages, ids)))

# ---- gradients and losses ----

@pytest.mark.parametrize('make', [MAKE[k] for k in ('vq', 'cvq', 'simvq', 'lfq', 'fixed', 'residual')],
                         ids=('vq', 'cvq', 'simvq', 'lfq', 'fixed', 'residual'))
def test_straight_through_is_the_identity_backwards(make):
    q,z,g = make(),torch.randn(2, 4, 3, 5, requires_grad=True),torch.randn(2, 4, 3, 5)
    assert torch.equal(torch.autograd.grad(q(z).z_q, z, g)[0], g)

def test_straight_through_value_is_exact():
    z,code = 1e4*torch.randn(1000),1e-4*torch.randn(1000)
    assert torch.equal(straight_through(code, z), code)

@pytest.mark.parametrize('kind', ['norm_ema', 'vq_sphere', 'bsq'])
def test_sphere_gradient_is_the_one_of_normalising(kind):
    torch.manual_seed(0)
    q,z,g = MAKE[kind](),torch.randn(2, 4, 3, 5, requires_grad=True),torch.randn(2, 4, 3, 5)
    q(z.detach()); q.eval()
    want = torch.autograd.grad(F.normalize(z, dim=1), z, g)[0]
    torch.testing.assert_close(torch.autograd.grad(q(z).z_q, z, g)[0], want)

def test_fsq_gradient_against_finite_differences():
    q,z = FSQ([8, 5, 4]),torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    got, = torch.autograd.grad(q(z).z_q.sum(), z)
    L = q.L.double()
    bound = lambda z: (fsq_bound(z.permute(0, 2, 3, 1), L)/(q.L//2)).permute(0, 3, 1, 2)
    want = (bound(z.detach()+1e-6)-bound(z.detach()-1e-6))/2e-6
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)

def test_vq_losses_against_finite_differences():
    "The encoder feels beta times the commitment term, the chosen codes the codebook term."
    torch.manual_seed(0)
    q = VQ(6, 3, beta=.4).double().eval()
    q.codebook.data.normal_()
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    idx = q(z).idx
    e = q.decode(idx).detach()
    gz,ge = torch.autograd.grad(q(z).loss, (z, q.codebook))
    torch.testing.assert_close(gz, .4*2*(z.detach()-e)/z.numel(), rtol=1e-4, atol=1e-7)
    rows = flatten(z).detach()
    want = torch.zeros_like(q.codebook).index_add_(0, idx.flatten(),
                                                   2*(q.codebook.detach()[idx.flatten()]-rows)/rows.numel())
    torch.testing.assert_close(ge, want, rtol=1e-4, atol=1e-7)

def test_cluster_pulls_codes_to_the_mean_of_their_members():
    "Cosine assignment, Euclidean pull: the resting point keeps the length of the features."
    torch.manual_seed(0)
    x = torch.tensor([[2., .2], [4., -.2], [-1., .1], [-3., -.1]])
    q = OnlineCluster(2, 2)
    q.codebook.data = torch.tensor([[1., 0.], [-1., 0.]])
    q.share.fill_(1.)  # busy codes: anchors have no say
    opt = torch.optim.Adam(q.parameters(), .05)
    z = x.T[None,:,:,None]
    for _ in range(400): opt.zero_grad(); q(z).loss.backward(); opt.step()
    torch.testing.assert_close(q.codebook.detach(), torch.tensor([[3., 0.], [-2., 0.]]), rtol=0, atol=.02)

def test_norm_ema_by_hand():
    e = norm_ema(torch.eye(2), torch.tensor([[.96, .28], [.6, .8]]), torch.tensor([0, 0]), .5)
    m = torch.tensor([.78, .54]); m = m/m.norm()
    want = .5*torch.tensor([1., 0.])+.5*m
    torch.testing.assert_close(e, torch.stack([want/want.norm(), torch.tensor([0., 1.])]))

@pytest.mark.parametrize('lookup', ['after', 'before'])
def test_norm_ema_order_by_hand(lookup):
    """Two codes, both latents choose the first;
    decay one half moves it to the direction of e + mean, and the order says which of the two is returned."""
    q = NormEMA(2, 2, decay=.5, kmeans_iters=0, lookup=lookup)
    q.codebook.copy_(torch.tensor([[1., 0.], [0., -1.]]))
    x = torch.tensor([[.96, .28], [.6, .8]])
    z = (3*x).T[None,:,:,None].requires_grad_()
    out = q(z)
    mean = torch.tensor([.78, .54])/math.hypot(.78, .54)
    new = torch.tensor([1., 0.])+mean; new = new/new.norm()
    assert out.idx.flatten().tolist()==[0, 0]
    torch.testing.assert_close(q.codebook, torch.stack([new, torch.tensor([0., -1.])]))
    e = new if lookup=='after' else torch.tensor([1., 0.])
    torch.testing.assert_close(out.z_q[0,:,:,0].T, e.expand(2, 2))
    torch.testing.assert_close(out.loss, ((2-2*(x@e))/2).mean())
    want = torch.autograd.grad(F.mse_loss(F.normalize(z[0,:,:,0].T, dim=1), e.expand(2, 2)), z)[0]
    torch.testing.assert_close(torch.autograd.grad(out.loss, z)[0], want)
    assert torch.equal(q.eval()(z.detach()).z_q[0,:,0,0], q.codebook[0])  # in eval there is one codebook only

def test_norm_ema_order_is_the_papers_by_default():
    assert NormEMA(4, 2).config()['lookup']=='after'
    with pytest.raises(ValueError, match="'after' or 'before'"): NormEMA(4, 2, lookup='never')

def test_resume_does_not_restart_kmeans():
    torch.manual_seed(0)
    for make in (MAKE['norm_ema'], MAKE['vq_kmeans']):
        q,fresh = make(),make()
        assert not q.initialised
        q(torch.randn(2, 4, 6, 6))
        assert q.initialised
        fresh.load_state_dict(q.state_dict())
        start = q.codebook.detach().clone()
        fresh.train()(5+torch.randn(2, 4, 6, 6))  # data from elsewhere: k-means would jump there
        assert (fresh.codebook.detach()-start).norm(dim=1).max()<.1
        blank = make(); blank(torch.randn(2, 4, 6, 6))
        blank.load_state_dict(make().state_dict())  # an untrained state makes it start again
        blank(torch.randn(2, 4, 6, 6))
        assert blank.initialised

def test_eval_forward_before_training_does_not_eat_the_start():
    q = NormEMA(16, 4)
    before = q.codebook.clone()
    q.eval()(torch.randn(2, 4, 6, 6))
    assert torch.equal(q.codebook, before) and not q.initialised
    q.train()(torch.randn(2, 4, 6, 6))
    assert q.initialised

def test_start_with_fewer_latents_than_codes():
    torch.manual_seed(0)
    q = NormEMA(64, 4, decay=1.)
    random = q.codebook.clone()
    z = torch.randn(1, 4, 2, 3)
    q(z)
    torch.testing.assert_close(q.codebook[:6], F.normalize(flatten(z), dim=-1))
    torch.testing.assert_close(q.codebook[6:], random[6:])

def test_sphere_codes_are_normalised_at_lookup():
    q = VQ(16, 4, sphere=True)
    q.codebook.data *= 7
    ids = torch.arange(16).view(1, 4, 4)
    torch.testing.assert_close(q.decode(ids).norm(dim=1), torch.ones(1, 4, 4))
    n = NormEMA(16, 4)
    n.codebook *= 3
    torch.testing.assert_close(n.decode(ids).norm(dim=1), torch.ones(1, 4, 4))

@pytest.mark.parametrize('k', [64, 16384])
def test_every_code_on_the_sphere_learns_from_the_start(k):
    q = VQ(k, 8, sphere=True) # LlamaGen's size: uniform in +-1/K, half of its codes would be shorter than 1e-4
    torch.testing.assert_close(q.codebook.norm(dim=1), torch.ones(k))
    x = q.codebook.detach()[:512]
    out = q((x+.01*torch.randn_like(x)).T[None,:,:,None])
    out.loss.backward()
    learned = q.codebook.grad.norm(dim=1)>0
    assert torch.equal(learned.nonzero()[:,0], out.idx.unique())

# ---- CVQ ----

def test_cvq_keep_factor():
    k = 64
    torch.testing.assert_close(cvq_keep(torch.zeros(k)), torch.full((k,), 1-math.exp(-1e-3)))
    assert abs(cvq_keep(torch.zeros(k))[0].item()-.001)<1e-6
    torch.testing.assert_close(cvq_keep(torch.full((k,), 1/k)), torch.ones(k))
    p = torch.full((k,), 1/(k*1000))  # exponent -1 - 1e-3
    torch.testing.assert_close(cvq_keep(p), torch.full((k,), 1-math.exp(-1.001)))

@pytest.mark.parametrize('cosine', [True, False])
def test_cvq_step_by_hand(cosine):
    torch.manual_seed(0)
    q = CVQ(12, 3, cosine=cosine)
    e,z = q.codebook.detach().clone(),torch.randn(2, 3, 2, 4)
    x = flatten(z)
    n = (lambda v: v/v.norm(dim=-1, keepdim=True)) if cosine else (lambda v: v)
    d = torch.cdist(n(x).double(), n(e).double())
    q(z)
    share = .01*torch.bincount(d.argmin(1), minlength=12)/16
    torch.testing.assert_close(q.share, share)
    keep = 1-torch.exp(-share*12*1000-1e-3)[:,None]
    torch.testing.assert_close(q.codebook.detach(), keep*e+(1-keep)*x[d.argmin(0)])

def test_multinomial_anchors_prefer_near_latents():
    e = torch.zeros(20000, 1)
    x = torch.tensor([[0.], [1.], [2.]])
    a = anchors(e, x, 'multinomial', gen=torch.Generator().manual_seed(0))[:,0]
    share = torch.stack([(a==v).float().mean() for v in (0., 1., 2.)])
    torch.testing.assert_close(share, torch.tensor([0., -1., -2.]).softmax(0), rtol=0, atol=.015)

def test_cached_anchors_come_from_the_batch_then_from_the_cache():
    x,cache = torch.randn(5, 2),torch.randn(8, 2)
    a = anchors(torch.zeros(8, 2), x, 'cached', cache=cache, gen=torch.Generator().manual_seed(0))
    assert torch.equal(a[:5].sort(0).values, x.sort(0).values) and torch.equal(a[5:], cache[:3])
    a = anchors(torch.zeros(3, 2), x, 'cached', cache=cache, gen=torch.Generator().manual_seed(0))
    assert len(a.unique(dim=0))==3 and all((x==r).all(1).any() for r in a)

# ---- entropy losses ----

def test_entropy_loss_rewards_confidence_and_diversity():
    corners = 2.*(torch.arange(16)[:,None]>>torch.arange(4)&1)-1
    loss = lambda x: (lambda each,total: (each-total).item())(*sign_entropies(x, 1., 1.))
    assert loss(5*corners)<loss(.1*corners)<0 and loss(5*corners)<loss(5*corners[:1].repeat(16, 1))-2
    assert abs(loss(9*corners)+4*math.log(2))<1e-3
    z = .3*torch.randn(1, 4, 8, 8)
    z.requires_grad_()
    q = LFQ(16, beta=0., temperature=1.)
    step = torch.autograd.grad(q(z).loss, z)[0]
    each = lambda z: sign_entropies(flatten(z), 1., 1.)[0]
    assert q(z-step).loss<q(z).loss and each(z-20*step)<each(z)  # descent makes the choices firmer

@fast
@given(n=st.integers(1, 20), d=st.integers(1, 7), group=st.integers(1, 8), seed=st.integers(0, 99))
def test_sign_entropies_against_the_table(n, d, group, seed):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    codes = 2.*(torch.arange(2**d)[:,None]>>torch.arange(d)&1)-1
    p = (-torch.cdist(x.double(), codes.double()).square()/.9).softmax(1)
    h = lambda p: -torch.xlogy(p, p).sum(-1)
    each,total = sign_entropies(x, 1., .9, group)
    torch.testing.assert_close(each.double(), h(p).mean(), rtol=1e-4, atol=1e-5)
    if group>=d: torch.testing.assert_close(total.double(), h(p.mean(0)), rtol=1e-4, atol=1e-5)
    else: assert total.double()>=h(p.mean(0))-1e-5

def test_score_entropies_against_the_table():
    torch.manual_seed(0)
    x,e = torch.randn(11, 3, requires_grad=True),torch.randn(7, 3, requires_grad=True)
    p = (x@e.T/.5).softmax(1)
    want = -torch.xlogy(p, p).sum(1).mean(),-torch.xlogy(p.mean(0), p.mean(0)).sum()
    got = score_entropies(x, e, .5, rows=4)
    for a,b in zip(got, want):
        torch.testing.assert_close(a, b)
        for g,w in zip(torch.autograd.grad(a, (x, e), retain_graph=True),
                       torch.autograd.grad(b, (x, e), retain_graph=True)):
            torch.testing.assert_close(g, w)

def test_ibq_gradient_reaches_every_code():
    q = IBQ(10, 4)
    q(torch.randn(1, 4, 3, 5)).z_q.sum().backward()
    assert (q.codebook.grad.norm(dim=1)>0).all()

# ---- FSQ against the paper's numbers and the field's reference ----

def test_fsq_numbers_of_the_specification():
    q = FSQ(8000)
    assert q.levels==[8, 8, 5, 5, 5] and q(torch.zeros(1, 5, 1, 1)).idx.item()==4004
    assert torch.equal(q(torch.zeros(1, 5, 1, 1)).z_q, torch.zeros(1, 5, 1, 1))
    assert torch.equal(q.decode(torch.zeros(1, 1, 1, dtype=torch.long)), -torch.ones(1, 5, 1, 1))
    assert q.codebook[:,0].unique().tolist()==[-1, -.75, -.5, -.25, 0, .25, .5, .75]
    assert q.codebook[:, 4].unique().tolist()==[-1, -.5, 0, .5, 1]
    assert FSQ(64000).n_codes==64000 and FSQ(64000).dim==6
    shift = math.atanh(1/(7*(1-1e-3)))
    assert abs(shift-math.tan(1/(7*(1-1e-3))))<1e-5
    x = torch.tensor([-9., -.3, 0., .4, 9.])
    u = .5*(torch.tanh(x+shift)*7*(1-1e-3)-1)
    assert torch.equal(FSQ([8])(x.view(1, 1, 1, 5)).z_q.flatten(), u.round()/4)

def test_fsq_in_half_precision_decides_in_float32():
    "Next to a step bfloat16 arithmetic would round to the other side."
    q = FSQ([5])
    z = torch.linspace(-2, 2, 4001).bfloat16().view(1, 1, 1, -1)
    assert torch.equal(q(z).idx, q(z.float()).idx)
    u16 = fsq_bound(z.flatten(), torch.tensor([5.], dtype=torch.bfloat16))
    assert not torch.equal(u16.round().long()+2, q(z).idx.flatten())  # so the test can fail

@pytest.mark.parametrize('levels', [FSQ_LEVELS[8000], FSQ_LEVELS[64000], (5, 4, 3), (7, 6)])
def test_fsq_equals_vector_quantize_pytorch_where_definitions_agree(levels):
    """Ids, order of digits and code values are the same for all codes.  What differs, and is asserted below: the peer
    widens the range, (L-1)(1+eps), where
    the paper's code narrows it, (L-1)(1-eps), so latents within about 1e-3 of a step may fall on either side; the
    peer returns int32 ids; and it refuses two levels, which this one allows."""
    vqp = pytest.importorskip('vector_quantize_pytorch', reason="vector-quantize-pytorch is not installed; pip install "
                                                                "-e '.[bench]' brings it")
    peer,q = vqp.FSQ(levels=list(levels)),FSQ(levels)
    ids = torch.arange(q.n_codes)
    torch.testing.assert_close(q.lookup(ids), peer._indices_to_codes(ids), rtol=0, atol=0)
    assert torch.equal(q.behind(q.codebook), peer.codes_to_indices(q.codebook).long())
    z = 2*torch.randn(4, len(levels), 16, 20, generator=torch.Generator().manual_seed(0))
    values,peer_ids = peer(z)
    out = q(z)
    u = fsq_bound(flatten(z), q.L.float())
    clear = ((u-u.floor()-.5).abs()>.01).all(1).view(out.idx.shape)
    assert clear.float().mean()>.7 and peer_ids.dtype==torch.int32
    assert torch.equal(out.idx[clear], peer_ids.long()[clear])
    torch.testing.assert_close(out.z_q.permute(0, 2, 3, 1)[clear], values.permute(0, 2, 3, 1)[clear])

def test_lfq_equals_vector_quantize_pytorch_up_to_bit_order():
    vqp = pytest.importorskip('vector_quantize_pytorch', reason="vector-quantize-pytorch is not installed; pip install "
                                                                "-e '.[bench]' brings it")
    z = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    for spherical,kind in ((False, LFQ), (True, BSQ)):
        peer = vqp.LFQ(codebook_size=64, dim=6, spherical=spherical, entropy_loss_weight=1., commitment_loss_weight=0.)
        q = kind(64, beta=0., entropy=1., temperature=1.)
        out,(values,ids,loss) = q(z),peer(z, inv_temperature=1.)
        torch.testing.assert_close(out.z_q, values)
        bits = (out.idx[...,None]>>torch.arange(6))&1
        # the peer's first channel is the most significant
        assert torch.equal((bits*2**torch.arange(5, -1, -1)).sum(-1), ids.long())
        torch.testing.assert_close(out.loss, loss.float(), rtol=1e-3, atol=1e-4)

# ---- health ----

def test_health_names_a_collapse_and_stays_silent_when_well():
    with pytest.warns(UserWarning, match='collapsed.*kmeans.*NormEMA.*FSQ'):
        h = codebook_health(torch.randint(0, 3, (50, 4, 4)), 64)
    assert h.usage==3/64 and h.dead==61
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        h = codebook_health(torch.randint(0, 64, (100, 4, 4)), 64, torch.randn(64, 3))
    assert h.usage==1 and not h.warnings and 'usage 100.0%' in repr(h)

def test_health_closed_forms():
    idx = torch.arange(4).repeat(8).view(2, 4, 4)
    h = codebook_health(idx, 8, torch.eye(8), warn=False)
    assert math.isclose(h.entropy, math.log(4)) and math.isclose(h.perplexity, 4) and h.usage==.5 and h.duplicates==0
    assert h.position_entropy.shape==(4, 4) and h.position_entropy.abs().max()==0  # both images say the same
    e = torch.randn(8, 3); e[7] = e[2]*(1+1e-6)
    assert codebook_health(idx, 8, e, warn=False).duplicates==1
    with pytest.raises(ValueError, match='outside'): codebook_health(idx, 3)

def test_health_age():
    m = HealthMeter(4, dead_after=2)
    for i in (0, 1, 2, 2): m.update(torch.full((1, 1, 2), i))
    h = m.result(warn=False)
    assert h.age.tolist()==[3, 2, 0, 4] and h.dead==3
    with pytest.raises(ValueError, match='grid changed'): m.update(torch.zeros(1, 2, 2, dtype=torch.long))

def test_health_counts_any_layout_and_nothing_of_nothing():
    idx = torch.randint(0, 8, (4, 3, 5))
    m,turned = HealthMeter(8),HealthMeter(8)
    m.update(idx.mT.contiguous())
    for part in (idx[:0], idx, idx[:0]): turned.update(part.mT)
    a,b = m.result(warn=False),turned.result(warn=False)
    assert turned.batches==1 and torch.equal(a.counts, b.counts) and torch.equal(a.age, b.age)
    assert torch.equal(a.position_entropy, b.position_entropy)
    h = codebook_health(idx[:0], 8, warn=False)
    assert (h.usage, h.entropy, h.dead)==(0, 0, 8) and 'Only 0 tokens' in h.warnings[0]

def test_a_grid_of_another_size_leaves_the_meter_as_it_was():
    m = HealthMeter(4)
    m.update(torch.zeros(2, 3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match='grid changed'): m.update(torch.ones(2, 2, 2, dtype=torch.long))
    assert m.batches==1 and m.counts.tolist()==[18, 0, 0, 0]

def test_health_plot_draws():
    import matplotlib
    matplotlib.use('Agg')
    assert len(codebook_health(torch.randint(0, 8, (4, 3, 5)), 8, warn=False).plot().axes)==4

def test_asking_residual_for_ids_trains_no_stage():
    q = Residual([NormEMA(8, 4), CVQ(8, 4), VQ(8, 4)])
    q.stages[2].eval()
    q(torch.randn(2, 4, 6, 6))
    before,x = {k:v.clone() for k,v in q.state_dict().items()},torch.randn(50, 4)
    ids = q.assign(x)
    assert all(torch.equal(v, before[k]) for k,v in q.state_dict().items())
    assert [m.training for m in (q, *q.stages)]==[True, True, True, False]
    assert torch.equal(ids, q.eval()(x.T[None,:,:,None]).idx.flatten())

@pytest.mark.parametrize('stage', ['fsq', 'lfq', 'vq'])
def test_codes_of_residual_lie_where_its_stages_do(stage):
    q = Residual([dict(fsq=lambda: FSQ([3, 3]), lfq=lambda: LFQ(4), vq=lambda: VQ(4, 2))[stage]() for _ in range(2)])
    assert q.codebook.device.type=='cpu' and q.to('meta').codebook.device.type=='meta'

def test_fsq_has_no_more_codes_than_an_id_can_name():
    q = FSQ([8]*20)  # 2**60 codes: the largest id is right
    assert q.n_codes==2**60
    top = q(torch.full((1, 20, 1, 1), 99.)).idx
    assert top.item()==2**60-1 and torch.equal(q.requantise(q.decode(top)), top)
    with pytest.raises(ValueError, match='30 levels is 1.24e[+]27 codes, more than the 2[*][*]62'): FSQ([8]*30)

def test_decay_of_1_keeps_the_codebook_and_0_forgets_it():
    x = torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    e = torch.nn.functional.normalize(torch.randn(2, 3), dim=1)
    idx = torch.arange(50)%2
    torch.testing.assert_close(norm_ema(e, x, idx, 1.), e)
    torch.testing.assert_close(norm_ema(e, x, idx, 0.),
                               torch.nn.functional.normalize(torch.stack([x[::2].sum(0), x[1::2].sum(0)]), dim=1))

def test_a_collapsed_codebook_warns_each_time():
    import warnings
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        for _ in range(3): codebook_health(torch.zeros(40, 4, 4, dtype=torch.long), 8)
    assert sum('collapsed' in str(w.message) for w in seen)==3

def test_unit_is_normalize_and_a_zero_vector_gets_no_gradient():
    x = torch.tensor([[3., 4.], [0., 0.], [1e-9, 0.]], requires_grad=True)
    u,w = unit(x),torch.tensor([1., 2.])
    assert torch.equal(u, F.normalize(x, dim=-1))
    (u*w).sum().backward()
    a = torch.tensor([3., 4.])
    closed = w/5-a*(a@w)/125 # (I - u u') w / |a|
    torch.testing.assert_close(x.grad, torch.stack([closed, torch.zeros(2), torch.zeros(2)]))

@pytest.mark.parametrize('make', [lambda: VQ(16, 4, sphere=True), lambda: NormEMA(16, 4), lambda: BSQ(16)])
def test_zero_latents_send_no_gradient_through_the_sphere(make):
    torch.manual_seed(0)
    q = make()
    z = torch.zeros(1, 4, 2, 2, requires_grad=True)
    r = q(z)
    (r.z_q.sum()+r.loss).backward()
    assert z.grad.abs().max()<1e4

# ---- iFSQ, and quantizers by name ----

def test_ifsq_is_fsq_with_another_squash():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)[:, None]
    want = (2*torch.sigmoid(1.6*x)-1)*(9-1)*(1-1e-3)/2
    torch.testing.assert_close(IFSQ([9]).bound(x), want)
    q,p,z = IFSQ([8, 5, 4]),FSQ([8, 5, 4]),torch.randn(2, 3, 4, 5)
    assert torch.equal(q.codebook, p.codebook) and torch.equal(q(z).idx, p(.8*z).idx)
    out = q(z.requires_grad_())
    slope, = torch.autograd.grad(out.z_q.sum(), z)
    want, = torch.autograd.grad(p(.8*z).z_q.sum(), z)
    torch.testing.assert_close(slope, want)

@pytest.mark.parametrize('k, levels', [(2, [2]), (8, [8]), (16, [4, 4]), (64, [8, 8]), (128, [8, 4, 4]),
                                       (512, [8, 8, 8]), (1024, [8, 8, 4, 4]), (8192, [8, 8, 8, 4, 4])])
def test_levels_of_a_power_of_two(k, levels):
    from iutok.quantizers import even_levels
    assert even_levels(k)==levels and math.prod(levels)==k

@pytest.mark.parametrize('k', [1, 0, 3, 1000])
def test_other_sizes_have_no_even_levels(k):
    from iutok.quantizers import even_levels
    with pytest.raises(ValueError, match='n_codes'): even_levels(k)

def test_every_named_quantizer_has_as_many_codes():
    from iutok.parameters import QUANTIZER_NAMES
    from iutok.quantizers import NAMED, quantizer_of
    assert NAMED==QUANTIZER_NAMES
    for kind in NAMED:
        q = quantizer_of(kind, 64, 5)
        assert (q.kind, q.n_codes, q(torch.randn(2, q.dim, 4, 4)).idx.shape)==(kind, 64, (2, 4, 4))
    with pytest.raises(ValueError, match='quantizer must be'): quantizer_of('residual')
    with pytest.raises(ValueError, match='power of two'): quantizer_of('bsq', 100)
