"Nearest code and k-means against brute force in float64."
import math, sys
import pytest, torch, torch.nn.functional as F
from hypothesis import HealthCheck, given, settings, strategies as st
from iutok.quantizers import Fixed, kmeans, nearest_code
from iutok.quantizers.kmeans import cluster_means
from iutok.quantizers.search import best_code, largest_product

torch.set_num_threads(1)
fast = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

search = sys.modules['iutok.quantizers.search']

@pytest.fixture(params=['bfloat16', 'float32'], autouse=True)
def sieve(request, monkeypatch):
    "Every test of this file runs with the bfloat16 sieve (also on a CPU that is slow at it) and without."
    monkeypatch.setattr(search, 'fast_bfloat16', lambda: request.param=='bfloat16')
    return request.param

def scores(z, e, how):
    "All scores in float64."
    z,e = z.double(),e.double()
    if how=='dot': return z@e.T
    if how=='cosine': return F.normalize(z, dim=1)@F.normalize(e, dim=1).T
    return -torch.cdist(z, e, compute_mode='donot_use_mm_for_euclid_dist')

def check(z, e, ids, how, tol=1e-5):
    "Every id is the best one, or as good as the best up to float32."
    s = scores(z, e, how)
    assert ids.shape==(len(z),) and ids.dtype==torch.int64
    best,got = s.max(1).values,s[torch.arange(len(z)), ids]
    scale = s.abs().amax(1).clamp(min=1e-12)
    assert (best-got<=tol*scale).all(), (best-got).max()
    two = s.topk(min(2, len(e)), dim=1).values
    clear = two[:,0]-two[:,-1]>tol*scale if len(e)>1 else torch.ones(len(z), dtype=torch.bool)
    assert torch.equal(ids[clear], s.argmax(1)[clear])
    return clear

@fast
@given(n=st.integers(1, 700), k=st.integers(1, 5000), d=st.integers(1, 20),
       how=st.sampled_from(['l2', 'cosine', 'dot']), seed=st.integers(0, 999))
def test_ids_equal_brute_force_away_from_ties(n, k, d, how, seed):
    g = torch.Generator().manual_seed(seed)
    z,e = torch.randn(n, d, generator=g),torch.randn(k, d, generator=g)
    ids = best_code(z, e, how)
    clear = check(z, e, ids, how)
    if d>4 and how=='l2': assert clear.float().mean()>.9  # the test looks at something

@pytest.mark.parametrize('n,k,d',
                         [(300, 2048, 8), (300, 2049, 8), (300, 4096, 3), (1100, 33000, 4), (50, 70000, 2),
                          (16390, 70, 3), (3, 1, 5), (5, 64, 1)])
def test_every_path_and_its_edges(n, k, d):
    g = torch.Generator().manual_seed(n+k)
    z,e = torch.randn(n, d, generator=g),torch.randn(k, d, generator=g)
    for lo in range(0, n, 2000): check(z[lo:lo+2000], e, nearest_code(z, e)[lo:lo+2000], 'l2')

def test_many_parts_of_a_codebook(monkeypatch):
    "A wide codebook is taken in parts; the first of equal codes must win across them too."
    g = torch.Generator().manual_seed(0)
    z,e = torch.randn(20, 6000, generator=g),torch.randn(3000, 6000, generator=g)
    assert (1<<23)//6001<len(e)
    e[2900] = e[17]; z[0] = e[17]
    ids = nearest_code(z, e)
    check(z, e, ids, 'l2'); assert ids[0]==17

@fast
@given(k=st.integers(1, 300), d=st.integers(1, 9), copies=st.integers(2, 20), seed=st.integers(0, 999),
       cosine=st.booleans())
def test_first_index_on_ties(k, d, copies, seed, cosine):
    g = torch.Generator().manual_seed(seed)
    e,z = torch.randn(k, d, generator=g),torch.randn(64, d, generator=g)
    many = e.repeat(copies, 1)
    ids = nearest_code(z, many, cosine)
    assert (ids<k).all()
    assert torch.equal(ids,
                       nearest_code(z, e, cosine)) or (scores(z, e, 'cosine' if cosine
                                                              else 'l2').topk(min(2, k)).values.diff().abs()<1e-5).any()

def test_shuffled_copies_of_one_code_give_the_first():
    e = torch.randn(1, 5).repeat(9000, 1)
    assert (nearest_code(torch.randn(600, 5), e)==0).all()
    assert (nearest_code(torch.zeros(600, 5), torch.randn(9000, 5), cosine=True)==0).all()  # no direction: all tie

@pytest.mark.parametrize('shift,scale', [(0, 1/8192), (1000, 1), (-30, .01)])
def test_codes_near_the_origin_and_far_from_it(shift, scale):
    """A fresh codebook hugs the origin; some features live far from it.
    Squared distances of float32 would drown in the lengths."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 16, generator=g)*(1 if shift==0 else scale)+shift
    e = (2*torch.rand(1024, 16, generator=g)-1)*scale+shift
    s = scores(z, e, 'l2')
    got = s[torch.arange(2000), nearest_code(z, e)]
    spread = s.max(1).values-s.min(1).values
    assert ((s.max(1).values-got)/spread).max()<1e-3
    assert (nearest_code(z, e)==s.argmax(1)).float().mean()>.995

def test_one_far_code_does_not_spoil_the_rest():
    z,e = torch.randn(500, 8),torch.randn(600, 8)
    e[3] = 1e6
    check(z, e, nearest_code(z, e), 'l2')

SHAPES = [(60, 8, 3000), (2100, 32, 500), (30, 300, 2600), (70, 16, 1), (1, 1, 1), (600, 1, 4500), (300, 64, 260)]
DATA = dict(plain=lambda z,e: (z, e), fresh=lambda z,e: (z, e/3000), far=lambda z,e: (z+1000, e+1000), tiny=lambda z,
            e: (z*1e-25, e*1e-25), huge=lambda z,e: (z*1e20, e*1e20), twice=lambda z,e: (z, torch.cat([e, e])),
            near=lambda z,e: (e[torch.arange(len(z))%len(e)]+1e-6*z, torch.cat([e, e+1e-6*e.flip(1)])), same=lambda z,
            e: (z, e[:1].expand(len(e), -1)), outlier=lambda z,e: (z, torch.cat([1e6*e[:1], e])), latent_far=lambda z,
            e: (1e6*z, e), half=lambda z,e: (z.half(), e.bfloat16()), double=lambda z,e: (z.double(), e.double()+1e-9))

@pytest.mark.parametrize('name', DATA)
@pytest.mark.parametrize('n,d,k', SHAPES)
def test_hard_data(name, n, d, k):
    "Ids of the float64 table, to its last digit: the least distance, and of equal codes the first."
    g = torch.Generator().manual_seed(n+k)
    z,e = DATA[name](torch.randn(n, d, generator=g), torch.randn(k, d, generator=g))
    ids,s = nearest_code(z, e),scores(z, e, 'l2')
    best,got = s.amax(1),s[torch.arange(n), ids]
    assert (best-got<=1e-12*best.abs()).all(), ((best-got)/best.abs()).max()
    first = (e[ids][:,None]==e[None,:len(e)//2+1]).all(2).float().argmax(1) if k*n*d<2e6 and name in ('twice',
        'same') else ids
    assert (first>=ids).all()

@fast
@given(n=st.integers(1, 40), k=st.integers(1, 3000), d=st.integers(1, 40), scale=st.floats(-12, 12),
       shift=st.floats(-3, 3), how=st.sampled_from(['l2', 'cosine', 'dot']), seed=st.integers(0, 999))
def test_no_bound_is_above_its_cost(n, k, d, scale, shift, how, seed):
    "What the sieve throws away could not have won: the bound, as bfloat16 shows it, against costs in float64."
    g = torch.Generator().manual_seed(seed)
    z,e = torch.randn(n, d, generator=g),10**scale*torch.randn(k, d, generator=g)+10**shift
    mid = search.typical(e)
    z,e = search.lift_z(z, mid, how),search.lift_e(e, mid, how)
    size,longest = z[:,:-1].norm(dim=1),e[:,:-1].norm(dim=1).max()
    low,c = search.bound_z(z, size, longest, how)
    bits = (low@search.bound_e(e).T).view(torch.int16)
    cost = z.double()@e.double().T
    assert (bits<=torch.stack([search.bound_limit(v.float().nextafter(torch.tensor(torch.inf)), c) for v in cost.T],
                              1)).all()

def test_the_sieve_leaves_little(sieve, monkeypatch):
    """Work, not time:
    how many blocks are looked at per latent, and that a codebook too dense for bfloat16 is sieved in float32."""
    seen,fine,look = [],[],search.Candidates.take_blocks
    monkeypatch.setattr(search.Candidates, 'take_blocks', lambda self, part, rows,
                        blocks: (seen.append(len(rows)), look(self, part, rows, blocks))[1])
    minima = search.block_minima
    monkeypatch.setattr(search, 'block_minima', lambda z, *a: (fine.append(z.dtype), minima(z, *a))[1])
    g = torch.Generator().manual_seed(0)
    z,e = torch.randn(1000, 32, generator=g),torch.randn(8192, 32, generator=g)
    nearest_code(z, e)
    assert sum(seen)<1.5*len(z) and set(fine)=={torch.bfloat16 if sieve=='bfloat16' else torch.float32}
    seen.clear(); fine.clear()
    nearest_code(z, e[:1]+1e-4*e)
    assert sum(seen)<1.5*len(z)
    seen.clear(); fine.clear()
    z,e = 30+torch.randn(1000, 8, generator=g),torch.randn(8192, 8, generator=g)*torch.tensor([1e-4]+[1.]*7)
    e[:,1:] *= (torch.arange(8192)%2==0)[:,None]  # half the codes lie on a short line
    assert torch.equal(nearest_code(z*0+e[1:2], e), scores(z*0+e[1:2], e, 'l2').argmax(1))

def test_half_precision_and_autocast_compare_in_float32():
    g = torch.Generator().manual_seed(0)
    z,e = torch.randn(512, 32, generator=g),torch.randn(2048, 32, generator=g)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(nearest_code(z, e, True), nearest_code(z.float(), e, True))
    for dt in (torch.bfloat16, torch.float16):
        check(z.to(dt), e, nearest_code(z.to(dt), e), 'l2')
        low = (F.normalize(z, dim=1).to(dt)@F.normalize(e, dim=1).to(dt).T).argmax(1)
        # what a search in bfloat16 would have answered
        if dt==torch.bfloat16: assert (low!=nearest_code(z, e, True)).any()
    assert torch.equal(nearest_code(z.double(), e), scores(z, e, 'l2').argmax(1))

def test_search_is_one_node_in_a_graph():
    seen = []
    def backend(gm, _): seen.extend(n.target for n in gm.graph.nodes if n.op=='call_function'); return gm.forward
    torch._dynamo.reset()
    z,e = torch.randn(30, 4),torch.randn(9, 4)
    assert torch.equal(torch.compile(nearest_code, fullgraph=True, backend=backend)(z, e), nearest_code(z, e))
    assert sum('best_code' in str(t) for t in seen)==1

def test_bad_input_gets_one_sentence():
    z,e = torch.randn(4, 3),torch.randn(5, 3)
    for a,b,error,words in [(z, e[:,:2], ValueError, 'D=2'), (z.long(), e, TypeError, 'float'),
                            (z, e.int(), TypeError, 'codebook'), (z[:0], e, ValueError, 'empty'),
                            (z[0], e, ValueError, 'rows'), (z*math.nan, e, ValueError, 'NaN'),
                            (z, e/0, ValueError, 'codebook contains'), ([[1.]], e, TypeError, 'list')]:
        with pytest.raises(error, match=words): nearest_code(a, b)
    with pytest.raises(ValueError, match='D=2'): largest_product(z, e[:,:2])

# ---- several threads ----

@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)

def nearest_in_child(z, e, queue): queue.put(nearest_code(z, e)[:5].tolist())

@pytest.mark.parametrize('n,k,d', [(1024, 70, 5), (5000, 300, 9), (3001, 9000, 4), (60000, 20, 3)])
def test_threads_change_nothing(n, k, d, three_threads):
    g = torch.Generator().manual_seed(n)
    z,e = torch.randn(n, d, generator=g),torch.randn(k, d, generator=g)
    many = nearest_code(z, e)
    assert torch.get_num_threads()==3
    torch.set_num_threads(1)
    assert torch.equal(many, nearest_code(z, e))
    assert torch.equal(many[:500], scores(z[:500], e, 'l2').argmax(1))

def test_threads_in_inference_mode_under_autocast_and_in_a_thread(three_threads):
    from concurrent.futures import ThreadPoolExecutor
    z,e = torch.randn(4000, 6),torch.randn(500, 6)
    want = nearest_code(z, e)
    with torch.inference_mode(), torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(nearest_code(z*1., e*1.), want)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(r, want) for r in pool.map(lambda _: nearest_code(z, e), range(4)))
    q = torch.nn.Parameter(z.clone())
    assert torch.equal(nearest_code(q, e), want) and not nearest_code(q, e).requires_grad

def test_a_failure_gives_the_cores_back(three_threads, monkeypatch):
    def fail(*_): raise RuntimeError('no')
    monkeypatch.setattr(search, 'lift_z', fail)
    with pytest.raises(RuntimeError, match='no'): nearest_code(torch.randn(4000, 6), torch.randn(500, 6))
    assert torch.get_num_threads()==3

@pytest.mark.skipif(sys.platform!='linux', reason='forks')
def test_a_forked_process_starts_its_own_threads(three_threads):
    import torch.multiprocessing as mp
    z,e = torch.randn(4000, 6),torch.randn(500, 6)
    want = nearest_code(z, e)[:5].tolist()
    ctx = mp.get_context('fork')
    queue = ctx.SimpleQueue()
    p = ctx.Process(target=nearest_in_child, args=(z, e, queue))
    torch.set_num_threads(1)  # as in a DataLoader worker
    p.start(); p.join(60)
    assert p.exitcode==0 and queue.get()==want

def test_kmeans_on_threads(three_threads):
    x = torch.randn(40000, 5, generator=torch.Generator().manual_seed(0))
    many = kmeans(x, 20, iters=4)
    torch.set_num_threads(1)
    one = kmeans(x, 20, iters=4)
    torch.testing.assert_close(many.centroids, one.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(many.ids, one.ids)

@pytest.mark.skipif(sys.platform!='linux', reason='reads the high-water mark of /proc')
def test_memory_stays_bounded(sieve):
    """65,536 x 262,144 scores would be 64 GB;
    one part in eight of the rows is enough to see the bound, since rows are taken 16,384 at a time."""
    if sieve=='float32': pytest.skip('the child chooses for itself')
    import subprocess
    code = '''
import torch, pathlib
from iutok.quantizers import nearest_code
torch.set_num_threads(1)
z,e = torch.randn(2048, 16),torch.randn(262144, 16)
nearest_code(z[:8], e[:8])
def read(key): # MB
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return int(next(l for l in lines if l.startswith(key)).split()[1])/1024
pathlib.Path('/proc/self/clear_refs').write_text('5')
before = read('VmRSS')
nearest_code(z, e)
print(read('VmHWM')-before)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode==0, out.stderr
    assert float(out.stdout)<256

# ---- k-means ----

def lloyd(x, seeds, iters, cosine=False, keep=True):
    "A slow k-means in float64."
    x,c = x.double(),seeds.double()
    if cosine: x,c = F.normalize(x, dim=1),F.normalize(c, dim=1)
    for _ in range(iters):
        ids = torch.cdist(x, c).argmin(1)
        c = torch.stack([x[ids==k].mean(0) if (ids==k).any() else c[k] for k in range(len(c))])
        if cosine: c = F.normalize(c, dim=1)
    return c,torch.cdist(x, c).argmin(1)

@pytest.mark.parametrize('cosine', [False, True])
def test_kmeans_equals_a_slow_lloyd_from_the_same_seeds(cosine):
    x = torch.randn(600, 5, generator=torch.Generator().manual_seed(3))+2
    seeds = kmeans(x, 12, iters=0, cosine=cosine, seed=7).centroids
    assert all((torch.isclose(F.normalize(x, dim=1) if cosine else x, s, atol=1e-6).all(1)).any() for s in seeds)
    assert len(seeds.unique(dim=0))==12
    c,ids,inertia = kmeans(x, 12, iters=6, cosine=cosine, seed=7, empty='keep')
    want,want_ids = lloyd(x, seeds, 6, cosine)
    torch.testing.assert_close(c.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(ids, want_ids)
    y = F.normalize(x, dim=1) if cosine else x
    assert math.isclose(inertia, (y-c[ids]).square().sum().item(), rel_tol=1e-4)

@fast
@given(n=st.integers(2, 200), k=st.integers(1, 20), d=st.integers(1, 6), seed=st.integers(0, 99), cosine=st.booleans(),
       init=st.sampled_from(['random', 'k-means++']), empty=st.sampled_from(['keep', 'farthest']))
def test_kmeans_invariants(n, k, d, seed, cosine, init, empty):
    k = min(k, n)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    log = []
    c,ids,inertia = kmeans(x, k, iters=5, cosine=cosine, seed=seed, init=init, empty=empty, history=log)
    assert c.shape==(k, d) and ids.shape==(n,) and len(log)==5 and isinstance(inertia, float)
    if empty=='keep': assert all(b<=a*(1+1e-4)+1e-4 for a,b in zip(log, [*log[1:], inertia]))
    if cosine: torch.testing.assert_close(c.norm(dim=1), torch.ones(k))
    again = kmeans(list(x.split(37)), k, iters=5, cosine=cosine, seed=seed, init=init, empty=empty)
    torch.testing.assert_close(again.centroids, c, rtol=1e-4, atol=1e-4)

def test_empty_clusters():
    "Equal rows leave centroids without members: they keep their seed, or move to the farthest rows."
    x = torch.cat([torch.zeros(100, 2), torch.tensor([[9., 0.], [0., 9.], [-9., 0.]])])
    kept,moved = (kmeans(x, 4, iters=10, seed=0, empty=e) for e in ('keep', 'farthest'))
    seeds = kmeans(x, 4, iters=0, seed=0).centroids
    assert (seeds==0).all()
    assert kept.ids.unique().numel()<4 and torch.equal(kept.centroids[2:], seeds[2:])
    assert moved.ids.unique().numel()==4 and moved.inertia<1e-6

def test_kmeans_pp_spreads_its_seeds():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(500, 2, generator=g), torch.randn(20, 2, generator=g)+100])
    far = lambda init: sum(bool((kmeans(x, 3, iters=0, seed=s, init=init).centroids>50).any()) for s in range(20))
    assert far('k-means++')==20 and far('random')<10

@pytest.mark.parametrize('stream', [False, True])
def test_minibatches_come_close_to_lloyd(stream):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 6, generator=g)
    full,few = kmeans(x, 10, iters=20),[]
    c,ids,inertia = kmeans(list(x.split(500)) if stream else x, 10, iters=60, batch=250, history=few)
    assert inertia<1.05*full.inertia and len(few)==60 and ids.shape==(3000,)
    assert abs(few[-1]/inertia-1)<.2  # scaled up to all rows

def test_minibatches_revive_centroids_that_nobody_chooses():
    x = torch.cat([torch.zeros(400, 2), torch.tensor([[9., 0.], [0., 9.], [-9., 0.]])])
    assert (kmeans(x, 4, iters=0, seed=0).centroids==0).all()
    kept,moved = (kmeans(x, 4, iters=200, batch=101, seed=0, empty=e) for e in ('keep', 'farthest'))
    assert moved.inertia<1e-3<10<kept.inertia

def test_stream_never_holds_more_than_a_piece():
    "Pieces are made when asked for and dropped; at most a few are alive at a time."
    import weakref
    class Pieces:
        def __init__(self): self.refs,self.most = [],0
        def __iter__(self):
            for i in range(12):
                p = torch.randn(200, 3, generator=torch.Generator().manual_seed(i))
                self.refs.append(weakref.ref(p))
                yield p
                del p
                self.most = max(self.most, sum(r() is not None for r in self.refs))
    pieces = Pieces()
    c,ids,_ = kmeans(pieces, 5, iters=3)
    assert ids.shape==(2400,) and pieces.most<=2
    whole = torch.cat(list(pieces))
    torch.testing.assert_close(kmeans(whole, 5, iters=3).centroids, c, rtol=1e-4, atol=1e-4)

def test_progress_is_printed(capsys):
    kmeans(torch.randn(50, 2), 3, iters=2, progress=True)
    out = capsys.readouterr().out.splitlines()
    assert len(out)==2 and out[0].startswith('k-means 1/2: inertia')

def test_kmeans_bad_input():
    x = torch.randn(20, 3)
    for bad,kw,error,words in [(x[:3], dict(k=4), ValueError, '3 rows'),
                               (x, dict(k=0), ValueError, 'k must be a whole number of at least 1, got 0'),
                               (x.long(), dict(k=2), TypeError, 'float'), (x[0], dict(k=2), ValueError, 'rows'),
                               (x*math.nan, dict(k=2), ValueError, 'NaN'),
                               ((p for p in [x]), dict(k=2), TypeError, 'generator'),
                               (x, dict(k=2, init='best'), ValueError, 'k-means'),
                               (x, dict(k=2, empty='drop'), ValueError, 'farthest'),
                               (x[:0], dict(k=2), ValueError, '0 rows')]:
        with pytest.raises(error, match=words): kmeans(bad, **kw)

def test_fixed_codebook_decodes_unnormalised_means():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))*torch.linspace(.1, 5, 400)[:,None]
    q = Fixed.fit(x.split(90), 8, cosine=True)
    c,ids,_ = kmeans(x, 8, cosine=True)
    torch.testing.assert_close(q.codebook, torch.stack([x[ids==k].mean(0) for k in range(8)]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cluster_means(x, ids, c), q.codebook, rtol=1e-4, atol=1e-5)
    assert not list(q.parameters()) and (q.codebook.norm(dim=1)>1.2).any()
    l2 = Fixed.fit(x, 8, cosine=False)
    torch.testing.assert_close(l2.codebook, kmeans(x, 8).centroids)

def test_pieces_are_made_with_all_cores():
    "A teacher that makes the pieces is not held to one core by the search that takes them."
    class Pieces:
        def __iter__(self):
            for i in range(5):
                seen.append(torch.get_num_threads())
                yield torch.randn(300, 4, generator=torch.Generator().manual_seed(i))
    was,seen = torch.get_num_threads(),[]
    torch.set_num_threads(3)
    try: kmeans(Pieces(), 7, iters=2)
    finally: torch.set_num_threads(was)
    assert set(seen)=={3} and len(seen)>=5*4

@pytest.mark.parametrize('cosine', [False, True])
@pytest.mark.parametrize('size', [1e30, 1e-30])
def test_kmeans_of_huge_and_tiny_values_is_that_of_ordinary_ones(size, cosine):
    x = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
    plain = kmeans(x, 7, cosine=cosine)
    for rows in (x*size, list((x*size).split(90)), (x*size).double()):
        got = kmeans(rows, 7, cosine=cosine)
        assert torch.equal(got.ids, plain.ids)
        torch.testing.assert_close(got.centroids if cosine else got.centroids/size, plain.centroids, rtol=1e-5,
                                   atol=1e-5)
        assert got.inertia/(1 if cosine else size**2)==pytest.approx(plain.inertia, rel=1e-5)
        assert got.centroids.dtype==torch.float32
    torch.testing.assert_close(Fixed.fit(x*size, 7, cosine=cosine).codebook/size,
                               Fixed.fit(x, 7, cosine=cosine).codebook, rtol=1e-5, atol=1e-5)

def test_rows_beyond_float32_are_refused():
    with pytest.raises(ValueError, match='reach 1e[+]?100, more than float32 holds'):
        kmeans(torch.full((9, 2), 1e100, dtype=torch.float64), 2)
    for bad in (math.nan, math.inf, -math.inf):
        for rows in (torch.full((9, 2), bad), [torch.ones(9, 2), torch.tensor([[0., bad]])]):
            with pytest.raises(ValueError, match='NaN or infinity'): kmeans(rows, 2)
    with pytest.raises(ValueError, match='3 columns after pieces of 2'): kmeans([torch.ones(9, 2), torch.ones(9, 3)], 2)

@pytest.mark.parametrize('spread', [6e-3, 1.])
def test_spherical_kmeans_is_exact_where_directions_nearly_coincide(spread):
    g = torch.Generator().manual_seed(1)
    x = F.normalize(torch.randn(1, 64, generator=g), dim=1)+torch.randn(3000, 64, generator=g)*spread/8
    y = F.normalize(x.double(), dim=1)
    if spread==6e-3: assert abs((y@F.normalize(y.mean(0), dim=0)).mean()-.99998)<1e-5
    for rows in (x, list(x.split(700))):
        c,ids,inertia = kmeans(rows, 20, iters=5, cosine=True)
        e = F.normalize(c.double(), dim=1)
        assert torch.equal(ids, (y@e.T).argmax(1)) and len(ids.unique())==20
        assert inertia==pytest.approx((y-e[ids]).square().sum().item(), rel=1e-3)
    want,_ = lloyd(x.double(), kmeans(x, 20, iters=0, cosine=True).centroids.double(), 5, True)
    torch.testing.assert_close(kmeans(x, 20, iters=5, cosine=True, empty='keep').centroids.double(), want, rtol=0,
                               atol=max(spread*1e-3, 4e-6))
