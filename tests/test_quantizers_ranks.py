"""Two gloo processes on a CPU:
bit-equal codebooks on both ranks, and the codebook one process would have learned from the joint batch."""
import os
import pytest, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
from iutok.quantizers import CVQ, HealthMeter, NormEMA, OnlineCluster, Residual, codebook_health, kmeans
from iutok.quantizers.base import all_rows

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()),
                                reason='needs torch.distributed with gloo')
ROWS = [(3, 2), (2, 3), (4, 1)]  # images on rank 0 and 1 in each step: never even
GRID = (4, 5, 7)                 # D, H, W

def batches():
    "The joint batches, and each rank's share of them."
    g = torch.Generator().manual_seed(0)
    return [torch.randn(sum(n), *GRID, generator=g) for n in ROWS]

def mine(z, n, rank): return z.split(list(n))[rank]

def quantizers():
    torch.manual_seed(0)
    return dict(norm_ema=NormEMA(24, 4), cvq=CVQ(24, 4, sync=True), cvq_cosine=CVQ(24, 4, sync=True, cosine=True),
                cvq_multinomial=CVQ(24, 4, sync=True, anchor='multinomial'), online_cluster=OnlineCluster(24, 4),
                cvq_apart=CVQ(24, 4, sync=False), big=NormEMA(600, 4),
                residual=Residual([NormEMA(8, 4), CVQ(8, 4, sync=True)]))

def codebooks(q): return {k:v.clone() for k,v in q.state_dict().items() if v.is_floating_point()}

def data():
    x = torch.randn(700, 6, generator=torch.Generator().manual_seed(1))
    x[100:300] = x[:1]  # equal rows leave clusters empty
    return x

KMEANS = dict(plain=dict(k=9), spherical=dict(k=9, cosine=True), plus=dict(k=9, init='k-means++'), empty=dict(k=60),
              keep=dict(k=60, empty='keep'))

def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2)
    out = {}
    rows = all_rows(torch.arange(3.*rank+2)[:,None]+10*rank)
    out['rows'] = rows
    for name,q in quantizers().items():
        for z,n in zip(batches(), ROWS): q(mine(z, n, rank))
        out[name] = codebooks(q)
    c = quantizers()['cvq']
    q = quantizers()['norm_ema']
    for z in batches()[:2]: (q(z), c(z)) if rank==0 else (q.join_step(), c.join_step())
    one = quantizers()['cvq_apart']
    one(mine(batches()[0], ROWS[0], rank))
    out['apart_one'] = codebooks(one)
    apart = quantizers()['cvq_apart']
    for z in batches()[:2]: apart(z) if rank==0 else apart.join_step()
    out['absent'],out['absent_cvq'],out['absent_apart'] = codebooks(q),codebooks(c),codebooks(apart)
    x = data()
    part = x[:450] if rank==0 else x[450:]
    for name,kw in KMEANS.items(): out['kmeans_'+name] = tuple(kmeans(part, **kw))
    out['kmeans_stream'] = tuple(kmeans(list(part.split(100)), 9))
    out['kmeans_one_rank_empty'] = tuple(kmeans(x if rank==0 else x[:0], 9))
    out['kmeans_batches'] = tuple(kmeans(part, 9, iters=20, batch=64))
    m = HealthMeter(8)
    m.update(torch.full((2, 1, 3), 2*rank))
    h = m.result(warn=False)
    out['health'] = (h.counts, h.dead)
    m = HealthMeter(8)
    if rank==0: m.update(torch.arange(12).view(2, 2, 3)%8)
    h = m.result(warn=False)
    out['health_one_rank'] = (h.counts, h.dead, h.position_entropy)
    m = HealthMeter(8)
    m.update(torch.zeros(1, 2+rank, 3, dtype=torch.long))
    try: m.result(warn=False)
    except ValueError as e: out['health_grids'] = str(e)
    # codes with a gradient stay equal under DDP
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(4, 4, 1), CVQ(24, 4, sync=True)))
    opt = torch.optim.Adam(model.parameters(), .01)
    torch.manual_seed(rank)
    for _ in range(3):
        opt.zero_grad(); o = model(torch.randn(2+rank, *GRID)); (o.z_q.square().mean()+o.loss).backward(); opt.step()
    out['ddp'] = model.module[1].codebook.detach()
    torch.save(out, os.path.join(folder, f'{rank}.pt'))
    dist.barrier()
    dist.destroy_process_group()

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('ranks'))
    ctx = mp.start_processes(worker, (folder,), nprocs=2, join=False, start_method='spawn')
    for p in ctx.processes: p.join(120)
    hung = [p for p in ctx.processes if p.is_alive()]
    for p in hung: p.kill()
    assert not hung, 'a rank waits for the other'
    assert ctx.join(0)
    return [torch.load(f'{folder}/{r}.pt', weights_only=True) for r in (0, 1)]

def same(a, b):
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b)

def close(a, b, tol=1e-6):
    assert a.keys()==b.keys()
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=tol, atol=tol, msg=lambda m: f'{k}: {m}')

def test_rows_of_all_ranks_in_order(ranks):
    assert torch.equal(ranks[0]['rows'][:,0], torch.tensor([0., 1., 10., 11., 12., 13., 14.]))
    assert same(ranks[0]['rows'], ranks[1]['rows'])

@pytest.mark.parametrize('name', list(quantizers())+['absent', 'absent_cvq', 'absent_apart', 'apart_one'])
def test_codebooks_are_bit_equal_across_ranks(ranks, name): assert same(ranks[0][name], ranks[1][name])

@pytest.mark.parametrize('name', ['norm_ema', 'cvq', 'cvq_cosine', 'cvq_multinomial', 'online_cluster', 'big'])
def test_two_ranks_learn_what_one_process_learns(ranks, name):
    q = quantizers()[name]
    for z in batches(): q(z)
    close(ranks[0][name], codebooks(q))

def test_a_rank_without_data_changes_nothing(ranks):
    for name,make in (('absent', 'norm_ema'), ('absent_cvq', 'cvq'), ('absent_apart', 'cvq_apart')):
        q = quantizers()[make]
        for z in batches()[:2]: q(z)
        close(ranks[0][name], codebooks(q))

def test_unsynced_anchors_are_averaged(ranks):
    "After one step never-used codes are a thousandth of themselves and the rest the mean of both ranks' anchors."
    e = quantizers()['cvq_apart'].codebook.detach()
    flat = [mine(batches()[0], ROWS[0], r).permute(0, 2, 3, 1).reshape(-1, 4) for r in (0, 1)]
    d = [torch.cdist(f.double(), e.double()) for f in flat]
    idx = torch.cat([x.argmin(1) for x in d])
    share = .01*torch.bincount(idx, minlength=24)/len(idx)
    a = sum(f[x.argmin(0)] for f,x in zip(flat, d))/2
    keep = 1-torch.exp(-share*24*1000-1e-3)[:,None]
    torch.testing.assert_close(ranks[0]['apart_one']['codebook'], keep*e+(1-keep)*a)
    torch.testing.assert_close(ranks[1]['apart_one']['share'], share)

@pytest.mark.parametrize('name', list(KMEANS))
def test_kmeans_over_ranks_equals_one_process(ranks, name):
    c,ids,inertia = kmeans(data(), **KMEANS[name])
    a,b = (r['kmeans_'+name] for r in ranks)
    assert torch.equal(a[0], b[0]) and a[2]==b[2]
    torch.testing.assert_close(a[0], c, rtol=1e-6, atol=1e-6)
    assert torch.equal(torch.cat([a[1], b[1]]), ids)
    assert abs(a[2]-inertia)<=1e-5*inertia+1e-4

def test_kmeans_with_streams_and_an_empty_rank(ranks):
    want = kmeans(data(), 9).centroids
    for name in ('kmeans_stream', 'kmeans_one_rank_empty'):
        assert torch.equal(ranks[0][name][0], ranks[1][name][0])
        torch.testing.assert_close(ranks[0][name][0], want, rtol=1e-6, atol=1e-6)
    assert torch.equal(ranks[0]['kmeans_batches'][0], ranks[1]['kmeans_batches'][0])

def test_health_counts_all_ranks(ranks):
    for counts,dead in (r['health'] for r in ranks): assert counts.tolist()==[6, 0, 6, 0, 0, 0, 0, 0] and dead==6

def test_health_of_ranks_one_of_which_saw_nothing(ranks):
    whole = codebook_health(torch.arange(12).view(2, 2, 3)%8, 8, warn=False)
    for counts,dead,positions in (r['health_one_rank'] for r in ranks):
        assert torch.equal(counts, whole.counts) and dead==whole.dead
        assert torch.equal(positions, whole.position_entropy)
    assert all('grids of 2x3 and 3x3' in r['health_grids'] for r in ranks)

def test_codes_with_a_gradient_stay_equal_under_ddp(ranks): assert torch.equal(ranks[0]['ddp'], ranks[1]['ddp'])
