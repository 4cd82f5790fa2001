"The masked proposal network: its masks, its loss, its sizes, and MAGE's own code."
import json, math
import numpy as np
import pytest, torch, torch.nn.functional as F
from peers import DATA,MAGE_SMALL,fill,mage_ours,mage_tokens
from iutok.proposals.ar import AR,AR_SIZES
from iutok.proposals.nar import MASK_RATES,NAR,NAR_SIZES,mask_count,masked_nats,random_ranks
from iutok.proposals.published import load_mage

def small(form='maskgit', seed=0, **kw):
    "A random network whose output is not constant."
    torch.manual_seed(seed)
    if form=='mage': kw = dict(decoder_layers=1) | kw
    net = NAR(**dict(n_codes=13, n_classes=4, length=9, form=form, layers=2, width=24, heads=3) | kw)
    if net.head is not None: torch.nn.init.normal_(net.head.weight, std=.5)
    return net

def batch(net, n=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(net.n_codes, (n, net.length), generator=g),torch.randint(net.n_classes, (n,), generator=g)

KINDS = dict(llama={}, gpt2=dict(arch='gpt2'), mage=dict(form='mage'))
kinds = pytest.mark.parametrize('kw', KINDS.values(), ids=KINDS)

# --- the contract

@kinds
def test_the_contract(kw):
    net = small(**kw)
    t,y = batch(net)
    assert (net.n_codes, net.length, net.n_prefix, net.mask_id)==(13, 9, 1, 13)
    again = NAR(**json.loads(json.dumps(net.config())))
    assert again.config()==net.config()
    again.load_state_dict(net.state_dict())
    net(t, y).backward()
    assert all(p.grad is not None for p in net.parameters())
    logits = net.eval().logits(t.masked_fill(t==2, net.mask_id), y)
    assert logits.shape==(5, 9, 13) and logits.dtype==torch.float32
    assert net.null_like(y).tolist()==[4]*5 and net.null_like(y).dtype==y.dtype
    assert net.logits(t, net.null_like(y)).isfinite().all()

@kinds
def test_integers_of_any_size_are_the_same_tokens(kw):
    net = small(**kw).eval()
    t,y = batch(net)
    torch.testing.assert_close(net.logits(t.byte(), y.int()), net.logits(t, y), atol=0, rtol=0)
    losses = [(torch.manual_seed(3), net.loss(a, b))[1] for a,b in ((t, y), (t.byte(), y.byte()))]
    assert losses[0]==losses[1]

@pytest.mark.parametrize('kw, off', [({}, 1e-5), (dict(arch='gpt2'), .3), (dict(form='mage', decoder_layers=1), .3)])
def test_the_first_loss_is_that_of_a_guess(kw, off):
    torch.manual_seed(0)
    net = NAR(512, 10, 16, layers=2, width=48, heads=3, **kw)
    assert math.isclose(net.loss(*batch(net, 64)).item(), math.log(512), abs_tol=off)

@kinds
def test_labels_are_dropped_in_training_as_often_as_asked(kw):
    net = small(drop_label=.25, **kw)
    y = torch.zeros(20_000, dtype=torch.long)
    dropped = (net.drop(y)==net.null).float().mean().item()
    assert abs(dropped-.25)<5*(.25*.75/20_000)**.5
    assert small(drop_label=0, **kw).drop(y) is y

# --- masks

@pytest.mark.parametrize('name', MASK_RATES)
def test_rates_follow_their_distribution(name):
    from scipy import stats
    m,n = MASK_RATES[name],50_000
    r = m.rate(torch.rand(n, generator=torch.Generator().manual_seed(1)))
    assert m.least<=r.min() and r.max()<=1
    cdf = dict(arccos=lambda x: 1-np.cos(np.pi*x/2), cosine=lambda x: 2/np.pi*np.arcsin(x), linear=lambda x: x,
               truncnorm=stats.truncnorm(-.2, 1.8, .55, .25).cdf)[name]
    assert stats.kstest(r.numpy(), cdf).pvalue>.01
    x = torch.linspace(m.least, 1, 50)
    np.testing.assert_allclose(m.cdf(x).numpy(), cdf(x.double().numpy()), atol=1e-5)
    # the mean of a distribution on [0, 1] is the area above its function
    x = np.linspace(m.least, 1, 100_001)
    assert math.isclose(m.least+np.trapezoid(1-cdf(x), x), m.mean, abs_tol=1e-5)
    assert math.isclose(r.mean().item(), m.mean, abs_tol=.006)

@pytest.mark.parametrize('name', MASK_RATES)
def test_the_ends_of_the_unit_interval_are_rates_too(name):
    r = MASK_RATES[name].rate(torch.tensor([0., 1e-7, 1-2**-24]))
    assert r.isfinite().all() and MASK_RATES[name].least<=r.min() and r.max()<=1

@pytest.mark.parametrize('r, length, n', [(0., 64, 1), (.001, 64, 1), (.25, 64, 16), (.251, 64, 17), (.5, 9, 5),
                                          (1., 64, 64), (1., 1, 1)])
def test_counts_round_up_and_are_at_least_one(r, length, n): assert int(mask_count(r, length))==n

def test_an_order_is_a_permutation_and_every_place_is_as_likely():
    ranks = random_ranks(4000, 6, generator=torch.Generator().manual_seed(0))
    assert ranks.sort(1).values.equal(torch.arange(6).expand(4000, 6))
    times = F.one_hot(ranks, 6).sum(0)
    assert ((times-4000/6)**2/(4000/6)).sum()<60 # about chi-square of 25 degrees of freedom, of which 52.6 is 99.9 %

@kinds
def test_every_image_draws_its_own_rate(kw):
    net = small(length=64, **kw)
    torch.manual_seed(0)
    masked,dropped = net.draw_masks(2000)
    n = masked.sum(1)
    assert len(n.unique())>20 and n.min()>=1 and n.max()<=64
    mean = MASK_RATES[net.mask_rate].mean
    assert abs(n.float().mean()/64-mean-.5/64)<.02 # rounded up, so half a token more
    if net.form=='maskgit': assert dropped is None
    else: assert (dropped.sum(1)==32).all() and not (dropped & ~masked).any() and n.min()>=32
    assert net.eval().draw_masks(10)[1] is None

@pytest.mark.parametrize('length', [1, 2, 7])
def test_mage_drops_exactly_half_rounded_up(length):
    net = small('mage', length=length)
    masked,dropped = net.draw_masks(50)
    assert (dropped.sum(1)==math.ceil(length/2)).all() and not (dropped & ~masked).any()
    assert net.loss(*batch(net, 50)).isfinite()

# --- the loss

def seen(net, monkeypatch):
    "Lists that fill with what the network reads and with the features that it scores."
    read,scored = [],[]
    features,scores = NAR.features,NAR.scores
    def f(self, tokens, cond, dropped=None):
        x = features(self, tokens, cond, dropped)
        x.retain_grad()
        read.append((tokens, cond, dropped, x))
        return x
    monkeypatch.setattr(NAR, 'features', f)
    monkeypatch.setattr(NAR, 'scores', lambda self, x: (scored.append(x), scores(self, x))[1])
    return read,scored

@kinds
def test_only_masked_tokens_count(kw, monkeypatch):
    net = small(smoothing=0, drop_label=0, dropout=0., **kw)
    read,scored = seen(net, monkeypatch)
    t,y = batch(net, 6)
    loss = net.loss(t, y)
    loss.backward()
    tokens,cond,dropped,x = read[0]
    masked = tokens==net.mask_id
    assert tokens[~masked].equal(t[~masked]) and cond.equal(y) and masked.any(1).all()
    assert (x.grad.norm(dim=2)[~masked]==0).all() and (x.grad.norm(dim=2)[masked]>0).all()
    logp = NAR.scores(net, x).log_softmax(2)
    torch.testing.assert_close(loss, -logp[masked].gather(1, t[masked][:,None]).mean())

@kinds
def test_smoothing_is_mages_formula_and_only_in_training(kw, monkeypatch):
    net = small(drop_label=0, dropout=0., **kw)
    read,_ = seen(net, monkeypatch)
    t,y = batch(net, 6)
    for mode in (True, False):
        net.train(mode)
        loss = net.loss(t, y)
        tokens,_,_,x = read[-1]
        logp = net.scores(x).log_softmax(2)[tokens==net.mask_id]
        nll,flat = -logp.gather(1, t[tokens==net.mask_id][:,None]).mean(),-logp.mean()
        torch.testing.assert_close(loss, .9*nll+.1*flat if mode else nll)

def test_evaluation_drops_no_class(monkeypatch):
    net = small(drop_label=.9).eval()
    read,_ = seen(net, monkeypatch)
    t,y = batch(net, 50)
    net.loss(t, y)
    assert read[0][1].equal(y)
    net.train().loss(t, y)
    assert (read[1][1]==net.null).float().mean()>.7

@kinds
def test_the_mask_is_never_a_target_and_has_no_score(kw):
    net = small(**kw)
    t,y = batch(net)
    t[2,3] = net.mask_id
    with pytest.raises(ValueError, match=r'tokens must lie in \[0, 13\), but span .* to 13'): net.loss(t, y)
    assert net.logits(t, y).shape[2]==net.n_codes

def test_the_loss_is_torch_s_generator_and_nothing_else():
    net = small('mage')
    t,y = batch(net)
    a,b,c = ((torch.manual_seed(s), net.loss(t, y).item())[1] for s in (1, 1, 2))
    assert a==b!=c

# --- the network

@kinds
def test_every_position_sees_every_known_token(kw):
    net = small(**kw).eval()
    t,y = batch(net, 2)
    t[:,3:6] = net.mask_id
    before = net.logits(t, y)
    for j in (0, 8):
        other = t.clone()
        other[:,j] = (t[:,j]+1)%net.n_codes
        assert ((net.logits(other, y)-before).abs().amax(2)>1e-6).all()
    assert ((net.logits(t, (y+1)%4)-before).abs().amax(2)>1e-6).all()

@kinds
def test_without_positions_it_does_not_know_the_order(kw):
    net = small(**kw).eval()
    for name,p in net.named_parameters():
        if 'pos' in name: p.data.zero_()
    t,y = batch(net, 3)
    t[:,::2] = net.mask_id
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.logits(t[:,order], y), net.logits(t, y)[:,order], atol=1e-5, rtol=1e-4)

@kinds
def test_images_of_a_batch_do_not_mix(kw):
    net = small(**kw).eval()
    t,y = batch(net, 6)
    t[:,::2] = net.mask_id
    alone = torch.cat([net.logits(a[None], b[None]) for a,b in zip(t, y)])
    torch.testing.assert_close(alone, net.logits(t, y), atol=1e-5, rtol=1e-4)

def test_mage_skips_what_it_dropped():
    net = small('mage').eval()
    t,y = batch(net, 3)
    masked = random_ranks(3, 9)<7
    dropped = random_ranks(3, 9).masked_fill(~masked, 99).argsort(1).argsort(1)<5
    lengths = []
    net.body.blocks[0].register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    x = net.features(t.masked_fill(masked, net.mask_id), y, dropped)
    assert lengths==[1+9-5] and x.shape==(3, 9, 24)
    net.features(t.masked_fill(masked, net.mask_id), y)
    assert lengths[1]==10

# --- against MAGE

def test_matches_stored_values_of_mage():
    d = {k.removeprefix('mage/'):v for k,v in np.load(DATA).items() if k.startswith('mage/')}
    state = fill(json.loads(str(d.pop('shapes'))))
    theirs = {k:torch.from_numpy(v) for k,v in d.items()}
    for drop in (0, .1): # their one class is our null class, too
        net = NAR(12, 1000, 16, 'mage', layers=2, width=16, heads=2, decoder_layers=1, decoder_heads=4,
                  drop_label=drop).eval()
        t = mage_tokens(3, 16, 12)
        mine = mage_ours(load_mage(net, state), t, theirs)
        for k in mine: torch.testing.assert_close(mine[k], theirs[k], atol=1e-5, rtol=0)
    tokens = t.masked_fill(theirs['masked'], 12)
    null,own = (net.logits(tokens, torch.full((3,), y)) for y in (1000, 1100-1024))
    torch.testing.assert_close(null, own, atol=0, rtol=0)
    assert MAGE_SMALL['n_codes']==net.n_codes

def test_load_mage_refuses_what_does_not_fit():
    state = fill(json.loads(str(np.load(DATA)['mage/shapes'])))
    sizes = dict(layers=2, width=16, heads=2, decoder_layers=1, decoder_heads=4)
    for kw,match in ((dict(layers=3), 'has no blocks.2'), (dict(mlp=32), 'mlp.fc1.weight is'),
                     (dict(n_codes=11), 'rows, but 1012'), (dict(length=9), 'position_embeddings.weight is')):
        args = dict(n_codes=12, n_classes=1000, length=16, form='mage') | sizes | kw
        with pytest.raises(ValueError, match=match): load_mage(NAR(**args), state)

# --- sizes

def size_of(size, k, drop=.1):
    with torch.device('meta'):
        return sum(p.numel() for p in NAR(k, 1000, 256, drop_label=drop, **NAR_SIZES[size]).parameters())

COUNTS = dict( # at K = 1024 and 8192
    nar_small=(649_920, 2_026_176), nar_large=(1_227_264, 3_062_272), maskgit=(171_863_808, 177_368_832),
    mage_base=(144_897_514, 150_409_706), mage_large=(407_789_546, 415_136_746))

@pytest.mark.parametrize('size', NAR_SIZES)
def test_parameter_counts(size): assert (size_of(size, 1024), size_of(size, 8192))==COUNTS[size]

def test_mage_counts_as_its_own_code_does(): # without its tokenizer and what filling does not use: see peers.py
    assert (size_of('mage_base', 1024, 0), size_of('mage_large', 1024, 0))==(144_896_745, 407_788_521)

@pytest.mark.parametrize('size', ['small', 'large'])
def test_sizes_are_those_of_the_ar_but_for_rows_of_tables(size):
    ar,nar = AR(512, 10, 64, **AR_SIZES[size]),NAR(512, 10, 64, **NAR_SIZES[f'nar_{size}'])
    assert {k:v.shape for k,v in ar.blocks.state_dict().items()}=={
        k:v.shape for k,v in nar.body.blocks.state_dict().items()}
    n = [sum(p.numel() for p in net.parameters()) for net in (ar, nar)]
    assert n[1]-n[0]==(1+65-11)*ar.width # mask and positions, without scores of classes

@pytest.mark.parametrize('size', ['mage_base'])
def test_a_step_at_full_size(size):
    torch.manual_seed(0)
    net = NAR(8192, 1000, 256, **NAR_SIZES[size])
    before = net.body.blocks[0].attn.qkv.weight[0,:5].tolist()
    loss = net.loss(*batch(net, 1))
    loss.backward()
    torch.optim.SGD(net.parameters(), .1).step()
    assert abs(loss.item()-math.log(8192))<.5 and net.body.blocks[0].attn.qkv.weight[0,:5].tolist()!=before

# --- in the place of perplexity

@kinds
def test_at_rate_one_only_class_and_position_are_known(kw):
    net = small(**kw)
    t,y = batch(net, 40)
    with torch.no_grad():
        alone = net.eval().logits(torch.full((4, 9), net.mask_id), torch.arange(4)).log_softmax(2) # class, position
    want = -alone[y].gather(2, t[...,None]).mean().item()
    assert math.isclose(masked_nats(net.train(), t, y)['1'], want, rel_tol=1e-5) and net.training

@kinds
def test_masked_nats_depends_on_the_seed_and_not_on_the_batches(kw):
    net = small(**kw)
    t,y = batch(net, 30)
    a = masked_nats(net, t, y)
    assert list(a)==['0.25', '0.5', '0.75', '1'] and json.loads(json.dumps(a))==a
    torch.manual_seed(9)
    assert masked_nats(net, t.view(30, 3, 3).byte(), y.byte())==a
    for k,v in masked_nats(net, t, y, batch_size=7).items(): assert math.isclose(v, a[k], rel_tol=1e-5)
    b = masked_nats(net, t, y, seed=1)
    assert math.isclose(b['1'], a['1'], rel_tol=1e-6) and b['0.5']!=a['0.5']
    assert masked_nats(net, t, y, rates=[.5])=={'0.5':a['0.5']}

def test_masked_nats_of_the_first_images_does_not_change_when_more_follow():
    net = small()
    t,y = batch(net, 30)
    first,all_ = (masked_nats(net, t[:n], y[:n])['0.5'] for n in (10, 30))
    g = torch.Generator().manual_seed(0)
    masked = random_ranks(30, 9, generator=g)<5
    logits = net.eval().logits(t.masked_fill(masked, 13), y)
    nats = torch.stack([F.cross_entropy(l[m], a[m]) for l,a,m in zip(logits, t, masked)])
    assert math.isclose(nats[:10].mean().item(), first, rel_tol=1e-5)
    assert math.isclose(nats.mean().item(), all_, rel_tol=1e-5)

# --- bad input

BAD = [ # arguments of NAR, and what is said
    (dict(form='bert'), "form must be one of maskgit, mage, got 'bert'"),
    (dict(form='mgae'), r'did you mean mage\?'),
    (dict(arch='gpt3'), r'arch must be one of llama, gpt2.*did you mean gpt2\?'),
    (dict(form='mage', arch='gpt2'), 'arch is for the form maskgit'),
    (dict(decoder_layers=2), 'decoder_layers and decoder_heads are for the form mage'),
    (dict(decoder_heads=2), 'decoder_layers and decoder_heads are for the form mage'),
    (dict(form='mage', decoder_layers=0), 'decoder_layers must be a whole number of at least 1, got 0'),
    (dict(heads=5), '5 heads do not fit a width of 24'),
    (dict(form='mage', decoder_heads=5), '5 heads do not fit a width of 24'),
    (dict(layers=0), 'layers must be a whole number of at least 1, got 0'),
    (dict(width=24.), 'width must be a whole number'),
    (dict(n_codes=0), 'n_codes must be'), (dict(n_classes=0), 'n_classes must be'), (dict(length=0), 'length must be'),
    (dict(mlp=0), 'mlp must be'),
    (dict(drop_label=1), 'drop_label must be'), (dict(drop_label=-.1), 'drop_label must be'),
    (dict(dropout=1.), 'dropout must be'), (dict(smoothing=1.), 'smoothing must be'),
    (dict(smoothing=float('nan')), 'smoothing must be'),
    (dict(mask_rate='cosin'), r'mask_rate must be one of .*did you mean cosine\?'),
    (dict(form='mage', mask_rate='arccos'), 'mage drops half of the tokens, but arccos may mask fewer')]
@pytest.mark.parametrize('kw, match', BAD)
def test_sizes_that_do_not_fit_are_refused(kw, match):
    with pytest.raises(ValueError, match=match): small(**kw)

T,Y = torch.zeros(2, 9, dtype=torch.long),torch.zeros(2, dtype=torch.long)
BAD_CALLS = [ # tokens, cond, what is said
    (T[:,:8], Y, r'Want tokens \(B, 9\)'), (T.view(2, 3, 3), Y, r'Want tokens \(B, 9\)'), (T[:1], Y, 'Want tokens'),
    (T-1, Y, 'tokens must lie in .* but span -1 to -1'), (T+14, Y, 'tokens must lie in .* but span 14 to 14'),
    (T.float(), Y, 'tokens must be whole numbers, not float32'), (T, Y.float(), 'must be whole numbers, not float32'),
    (T, Y+5, 'must lie in .* but spans? 5 to 5'), (T, Y-1, 'must lie in .* but spans? -1 to -1'),
    (T, Y[:,None], r'\(B,\), not \(2, 1\)')]
@pytest.mark.parametrize('tokens, cond, match', BAD_CALLS)
def test_wrong_tokens_and_conditions_are_refused(tokens, cond, match):
    net = small()
    for call in (net.loss, net.logits):
        with pytest.raises((ValueError, TypeError), match=match): call(tokens, cond)

def test_a_network_without_a_null_class_says_so():
    with pytest.raises(ValueError, match='no null class.*drop_label > 0'): small(drop_label=0).null_like(Y)

@pytest.mark.parametrize('kw, match', [
    (dict(rates=()), 'at least one rate'), (dict(rates=(0.,)), 'rates must be'), (dict(rates=(1.1,)), 'rates must be'),
    (dict(seed=-1), 'seed must be'), (dict(seed=.5), 'seed must be'), (dict(batch_size=0), 'batch_size must be'),
    (dict(tokens=T[:0], cond=Y[:0]), 'at least one image'), (dict(cond=Y[:1]), 'a condition for each')])
def test_masked_nats_refuses(kw, match):
    with pytest.raises(ValueError, match=match): masked_nats(small(), **dict(tokens=T, cond=Y) | kw)
