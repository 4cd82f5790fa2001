"Decoding: against a network whose images have a known distribution, and invariants over all orders and schedules."
import math
import numpy as np
import pytest, torch
import torch.nn.functional as F
from hypothesis import given,settings,strategies as st
from torch import nn
from iutok.decoding import ORDERS, SCHEDULES, _rising, fill, halton_order, masked_counts, order_nats
from iutok.proposals.nar import NAR
from iutok.sampling import GUIDANCE, guide

class Table(nn.Module):
    "Knows the probability of every image: (classes+1, K**L), the null class last."
    n_prefix = 1
    def __init__(self, k=3, length=4, classes=2, seed=0, null=True):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.n_codes,self.length,self.mask_id,self.null = k,length,k,classes if null else None
        self.images = torch.cartesian_prod(*[torch.arange(k)]*length)
        self.hot = F.one_hot(self.images, k).flatten(1).double()
        p = torch.randn(classes, len(self.images), generator=g).mul(2).double().softmax(1)
        self.p,self.asked = torch.cat([p, p.mean(0, keepdim=True)]),[]
    def check_cond(self, cond):
        if cond.ndim!=1 or cond.max()>=len(self.p): raise ValueError('cond must be one class per image.')
    def null_like(self, cond):
        if self.null is None: raise ValueError('This network has no null class.')
        return torch.full_like(cond, self.null)
    def weights(self, tokens, cond): # (B, images) joint probability of known tokens and each image
        known = F.one_hot(tokens, self.n_codes+1)[...,:-1].flatten(1).double()
        return (known@self.hot.T==known.sum(1, keepdim=True))*self.p[cond]
    def logits(self, tokens, cond):
        self.asked.append((tokens.clone(), cond.clone()))
        return (self.weights(tokens, cond)@self.hot).log().float().view(-1, self.length, self.n_codes)
    def number(self, z): return (z*self.n_codes**torch.arange(self.length-1, -1, -1)).sum(1)

def nar(length=9, form='maskgit', **kw):
    "A network with an opinion."
    torch.manual_seed(0)
    net = NAR(7, 3, length, form, layers=1, width=24, heads=3, **kw)
    for p in net.parameters():
        if p.ndim>1: nn.init.normal_(p, std=.4)
    return net

def chi2(net, z, p): # per degree of freedom, rare images together
    seen,want = net.number(z).bincount(minlength=len(p)).double(),len(z)*p
    rare = want<5
    seen,want = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (seen, want))
    want[-1].clamp_(min=1e-9)
    return ((seen-want)**2/want).sum().item()/(len(want)-1)

Y = torch.arange(3).repeat(5)

# --- the distribution

@pytest.mark.parametrize('order', ('halton', 'random', torch.tensor([2, 0, 3, 1])), ids=str)
def test_one_token_at_a_time_draws_from_the_joint_distribution(order):
    net,y = Table(),torch.ones(10000).long()
    assert chi2(net, fill(net, y, order=order, steps=4, batch_size=5000), net.p[1])<1.5
    assert chi2(net, fill(net, y, order=order, steps=1, batch_size=5000), net.p[1])>10

def test_one_step_draws_from_the_product_of_marginals():
    net,y = Table(),torch.zeros(10000).long()
    marginals = net.logits(torch.full((1, 4), 3), y[:1])[0].double().softmax(-1)
    product = marginals[torch.arange(4), net.images].prod(1)
    for order in ORDERS: assert chi2(net, fill(net, y, order=order, steps=1, batch_size=5000), product)<1.5

def test_two_steps_draw_from_the_chain_of_their_groups():
    net,y = Table(),torch.zeros(10000).long()
    first,second = halton_order(2, 2).split(2)
    q = torch.zeros(81).double()
    for i,x in enumerate(net.images):
        t = torch.full((1, 4), 3)
        q[i] = 1
        for group in (first, second):
            q[i] *= net.logits(t, y[:1])[0].double().softmax(-1)[group,x[group]].prod()
            t[0,group] = x[group]
    assert math.isclose(q.sum().item(), 1, abs_tol=1e-6)
    assert chi2(net, fill(net, y, steps=2, schedule='linear', batch_size=5000), q)<1.5
    kl = (net.p[0]*(net.p[0]/q).log()).sum().item()
    nats = lambda s: sum(p*order_nats(net, x[None], y[:1], s, schedule='linear')*4 for p,x in zip(net.p[0], net.images))
    assert math.isclose(nats(2)-nats(4), kl, abs_tol=1e-4) # what is lost is the divergence

def test_completion_draws_from_the_conditional_distribution():
    net = Table()
    known = torch.tensor([[1, 3, 3, 0]]).expand(10000, -1)
    p = net.weights(known[:1], torch.tensor([0]))[0]
    z = fill(net, torch.zeros(10000).long(), known=known, steps=2, batch_size=5000)
    assert (z[:,0]==1).all() and (z[:,3]==0).all() and chi2(net, z, p/p.sum())<2

def test_guidance_and_temperature_bend_every_conditional():
    net,y = Table(length=1, k=6, seed=3),torch.zeros(10000).long()
    logits = guide(net.p[2].log(), net.p[0].log(), 1.75)/.7
    z = fill(net, y, steps=1, scale=1.75, temperature=.7, batch_size=5000)
    assert chi2(net, z, logits.softmax(0))<2.5

def test_noise_turns_confidence_into_a_random_order():
    net,y = Table(),torch.zeros(10000).long()
    got = [chi2(net, fill(net, y, order='confidence', steps=4, noise=n, batch_size=5000), net.p[0]) for n in (0, 1e6)]
    assert got[0]>5 and got[1]<1.5

# --- likelihoods

@pytest.mark.parametrize('order', ('halton', 'random', torch.tensor([3, 2, 1, 0])), ids=str)
def test_the_chain_rule_holds_in_any_order(order):
    net,y = Table(),torch.arange(3).repeat(27)
    want = -net.p[y,torch.arange(81)].log().mean().item()/4
    for kw in ({}, dict(batch_size=7), dict(steps=4, schedule='cosine')):
        assert math.isclose(order_nats(net, net.images, y, order=order, **kw), want, rel_tol=1e-5)
    assert math.isclose(order_nats(net, net.images.view(-1, 2, 2), y, order=order), want, rel_tol=1e-5)
    null = order_nats(net, net.images, torch.full_like(y, 2), order=order)
    assert math.isclose(order_nats(net, net.images, y, order=order, scale=0.), null, rel_tol=1e-6)

@pytest.mark.parametrize('roll', (False, True))
def test_likelihood_reads_in_the_order_in_which_fill_draws(roll):
    net = Table(length=9, k=2)
    y = torch.arange(3)
    z = fill(net, y, steps=5, roll=roll, seed=4)
    drawn,net.asked = net.asked,[]
    order_nats(net, z, y, 5, roll=roll, seed=4)
    assert len(drawn)==len(net.asked)==5 and all(a.equal(b) for (a,_),(b,_) in zip(drawn, net.asked))

# --- orders and counts

@pytest.mark.parametrize('h, w', ((1, 1), (1, 32), (5, 3), (8, 8), (16, 16), (32, 32)))
def test_haltons_order_visits_every_cell_once_and_spreads(h, w):
    order = halton_order(h, w)
    assert order.sort().values.equal(torch.arange(h*w))
    if h==w and h>=8: # each quarter of the picture gets its share of any beginning
        for n in (h, 2*h, 4*h):
            quarter = (order[:n]//w>=h//2)*2+(order[:n]%w>=w//2).long()
            assert (quarter.bincount(minlength=4)-n/4).abs().max()<=3

def test_haltons_order_is_the_definitions():
    def mirrored(n, b):
        x,f = 0.,1.
        while n: n,d,f = n//b,n%b,f/b; x += d*f
        return x
    cells = []
    for n in range(1, 5000):
        c = int(mirrored(n, 2)*16+1e-12)*16+int(mirrored(n, 3)*16+1e-12)
        if c not in cells: cells.append(c)
    assert halton_order(16, 16).tolist()==cells

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
       st.sampled_from(list(SCHEDULES)))
def test_masked_counts_fall_strictly_to_zero(sizes, schedule):
    n,steps = sizes
    left = [n]+masked_counts(n, steps, schedule)
    assert len(left)==steps+1 and left[-1]==0 and all(a>b for a,b in zip(left, left[1:]))

@pytest.mark.parametrize('steps', (4, 8, 12, 16, 32))
@pytest.mark.parametrize('n', (64, 256))
def test_counts_are_those_of_the_papers(n, steps):
    t = np.arange(1, steps+1)/steps
    drawn = np.maximum(np.arange(1, steps+1), np.floor((1-np.arccos(t)/(np.pi/2))*n+1e-9))
    assert masked_counts(n, steps, 'arccos')==(n-drawn).astype(int).tolist()
    u,cosine = n,[] # MAGE's rule, which masks one token again after the last step
    for r in t:
        u = max(1, min(u-1, math.floor(n*math.cos(math.pi/2*r)+1e-9)))
        cosine.append(u)
    assert masked_counts(n, steps, 'cosine')==cosine[:-1]+[0]

# --- what holds for all of them

@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ORDERS), st.sampled_from(list(SCHEDULES)), st.sampled_from(GUIDANCE), st.integers(1, 5),
       st.sampled_from((0., 1., 2.)), st.integers(0, 2**20))
def test_every_way_fills_every_token_and_leaves_known_ones(order, schedule, guidance, steps, scale, seed):
    net = Table(k=2, length=9)
    g = torch.Generator().manual_seed(seed)
    known = torch.randint(2, (4, 9), generator=g)
    hidden = torch.rand(4, 9, generator=g).argsort(1)<torch.tensor([9, 5, 0, 7])[:,None] # one image knows all
    known[hidden] = 2
    z = fill(net, torch.tensor([0, 1, 0, 1]), order=order, schedule=schedule, guidance=guidance, steps=steps,
             scale=scale, known=known, seed=seed)
    assert z.dtype==torch.int64 and z.shape==(4, 9) and z.min()>=0 and z.max()<2
    assert z[~hidden].equal(known[~hidden]) and known[hidden].eq(2).all() # neither changed nor written to
    left = torch.stack([(t[-3:]==2).sum(1) for t,_ in net.asked]+[torch.zeros(3)])
    assert len(net.asked)==steps and (left[1:]<left[:-1]).all()
    want = torch.tensor([[n]+masked_counts(n, steps, schedule) for n in (9, 5, 7)]).T
    assert left.equal(want.to(left.dtype))

@pytest.mark.parametrize('kw', [dict(order=o) for o in ORDERS]+[dict(roll=True), dict(scale=2., guidance='linear')],
                         ids=str)
def test_an_image_depends_on_seed_and_number_alone(kw):
    net = nar()
    z = fill(net, Y, steps=4, seed=3, **kw)
    assert fill(net, Y, steps=4, seed=3, batch_size=4, **kw).equal(z)
    assert fill(net, Y[6:], steps=4, seed=3, first=6, **kw).equal(z[6:])
    assert not fill(net, Y, steps=4, seed=4, **kw).equal(z) and len(z.unique(dim=0))>10
    known = torch.full((15, 9), net.mask_id)
    known[::2] = z[::2] # others are known already: the rest stays as it is
    assert fill(net, Y, steps=4, seed=3, known=known, **kw).equal(z)

@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('form', ('maskgit', 'mage'))
def test_guidance_at_0_and_1(order, form):
    net = nar(form=form, **dict(decoder_layers=1) if form=='mage' else {})
    kw = dict(order=order, steps=4, seed=1)
    null = torch.full_like(Y, net.null)
    plain = fill(net, Y, **kw)
    assert fill(net, Y, scale=0., **kw).equal(fill(net, null, **kw)) and not plain.equal(fill(net, null, **kw))
    assert fill(net, Y, scale=1+1e-6, **kw).equal(plain)
    assert fill(net, Y, scale=1., guidance='linear', **kw).equal(plain)
    assert fill(net, null, scale=3., **kw).equal(fill(net, null, **kw))

def test_the_null_pass_is_skipped_where_it_is_not_needed():
    net,y = Table(),torch.tensor([0, 1])
    def sizes(**kw):
        net.asked = []
        fill(net, y, steps=4, **kw)
        return [len(t) for t,_ in net.asked]
    assert sizes()==sizes(scale=0.)==[2]*4 and sizes(scale=2.)==[4]*4
    assert sizes(scale=2., guidance='linear')==[2, 4, 4, 4]
    assert _rising(3., 5, 'linear')==[1, 1.5, 2, 2.5, 3] and _rising(3., 1, 'linear')==[3]
    assert _rising(3., 4, 'constant')==[3]*4

def test_only_needed_positions_are_scored_and_the_answer_is_the_same():
    class Bare(nn.Module): # the contract and no more
        def __init__(self, net):
            super().__init__()
            self.net = net
            for k in 'n_codes length mask_id null_like check_cond logits'.split(): setattr(self, k, getattr(net, k))
    net,rows = nar(),[]
    want = fill(Bare(net), Y, steps=3, scale=2.)
    scores,net.scores = net.scores,lambda x: rows.append(x.shape[0]) or scores(x)
    assert fill(net, Y, steps=3, scale=2.).equal(want)
    assert sum(rows)==2*want.numel()

def test_known_pictures_bring_their_grid_and_full_ones_ask_nothing():
    net = Table(k=2, length=6)
    known = torch.full((2, 2, 3), 2)
    z = fill(net, torch.tensor([0, 1]), known=known, steps=6)
    assert z.equal(fill(net, torch.tensor([0, 1]), steps=6, grid=(2, 3)))
    net.asked = []
    assert fill(net, torch.tensor([0, 1]), known=z.view(2, 2, 3)).equal(z) and not net.asked

def test_mode_and_gradients_are_left_alone():
    net = nar().train()
    z = fill(net, Y, steps=2)
    assert net.training and not z.requires_grad and all(p.grad is None for p in net.parameters())
    assert order_nats(net, z, Y, 2)>0 and net.training

# --- bad calls

BAD = [
    (dict(order='raster'), ValueError, 'order must be one of halton, confidence, random'),
    (dict(order=torch.tensor([0, 0, 1, 2])), ValueError, 'each of the 4 positions once'),
    (dict(schedule='cos'), ValueError, 'schedule must be one of arccos'),
    (dict(guidance='rising'), ValueError, 'guidance must be one of constant, linear, cosine'),
    (dict(steps=0), ValueError, 'steps must be a whole number'),
    (dict(steps=2.), ValueError, 'steps must be a whole number'),
    (dict(steps=5), ValueError, '5 steps are too many for 4 unknown tokens'),
    (dict(temperature=0), ValueError, 'ruins FID'), (dict(temperature=math.nan), ValueError, 'finite'),
    (dict(noise=-1), ValueError, 'noise must be'), (dict(scale=math.inf), ValueError, 'scale must be'),
    (dict(batch_size=0), ValueError, 'batch_size must be'), (dict(seed=-1), ValueError, 'seed must be'),
    (dict(first=-1), ValueError, 'first must be'), (dict(grid=(2, 3)), ValueError, 'does not hold the 4 tokens'),
    (dict(order='random', roll=True), ValueError, "roll is for the order 'halton'"),
    (dict(known=torch.zeros(3, 4).long()), ValueError, r'Want known \(2, 4\)'),
    (dict(known=torch.zeros(2, 5).long()), ValueError, r'Want known \(2, 4\)'),
    (dict(known=torch.full((2, 4), 4)), ValueError, r'known must lie in \[0, 4\)'),
    (dict(known=torch.full((2, 4), -1)), ValueError, r'known must lie in \[0, 4\)'),
    (dict(known=torch.full((2, 4), 3.)), TypeError, 'known must be whole numbers'),
    (dict(known=torch.tensor([[0, 1, 3, 3], [3]*4]), steps=3), ValueError, '3 steps are too many for 2'),
    (dict(cond=torch.zeros(0).long()), ValueError, 'at least one condition'),
    (dict(cond=torch.tensor([7])), ValueError, 'cond must be')]

@pytest.mark.parametrize('kw, error, words', BAD, ids=lambda v: str(v)[:40])
def test_bad_calls_are_refused_in_one_sentence(kw, error, words):
    net = Table()
    with pytest.raises(error, match=words): fill(net, **dict(cond=torch.tensor([0, 1]), steps=2) | kw)
    assert not net.asked

def test_other_bad_calls():
    y = torch.tensor([0])
    with pytest.raises(ValueError, match='no null class'): fill(Table(null=False), y, steps=2, scale=2.)
    with pytest.raises(ValueError, match='no square'): fill(Table(length=3), y, steps=2)
    with pytest.raises(ValueError, match='halton, random'):
        order_nats(Table(), torch.zeros(1, 4).long(), y, order='confidence')
    with pytest.raises(ValueError, match='tokens must lie in'): order_nats(Table(), torch.full((1, 4), 3), y)
    for bad in (math.nan, -math.inf):
        net = Table()
        net.logits = lambda t,y: torch.full((1, 4, 3), bad)
        for order in ORDERS:
            with pytest.raises(ValueError, match='not finite'): fill(net, y, steps=2, order=order)
        with pytest.raises(ValueError, match='not finite'): order_nats(net, torch.zeros(1, 4).long(), y)
