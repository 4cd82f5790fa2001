"""Quantizers against vector-quantize-pytorch and faiss, float32, two threads.

Ours is torch alone throughout, and exact. Where the CPU multiplies bfloat16 natively, the search sieves with it first;
the rows 'float32 only' show, for information, what a CPU without it does."""
import importlib.util, os, sys
THREADS = 2
for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[k] = str(THREADS)
import torch
from _measure import medians, missing, peak_extra, peak_in_child, row
from iutok.quantizers import NormEMA, kmeans, nearest_code

torch.set_num_threads(THREADS)
MODULES = dict(vqp='vector_quantize_pytorch', faiss='faiss')
HAVE = {name:importlib.util.find_spec(mod) is not None for name,mod in MODULES.items()}
VQP,FAISS = 'vector-quantize-pytorch','faiss'
SEARCH = { # vectors, their dimension, codes
    '8192x32, K=8192':(8192, 32, 8192),
    '8192x256, K=16384':(8192, 256, 16384),
    '16384x16, K=262144':(16384, 16, 262144)}

def vqp(dim, k, **kw):
    from vector_quantize_pytorch import VectorQuantize
    return VectorQuantize(dim=dim, codebook_size=k, **kw)

def search(work, side):
    "A function that finds the nearest codes."
    n,d,k = SEARCH[work]
    torch.manual_seed(0)
    z,e = torch.randn(n, d),torch.randn(k, d)
    if side=='ours': return lambda: nearest_code(z, e)
    if side=='faiss':
        import faiss
        faiss.omp_set_num_threads(THREADS)
        index = faiss.IndexFlatL2(d)
        index.add(e.numpy())
        return lambda: index.search(z.numpy(), 1)
    q = vqp(d, k).eval()
    def run():
        with torch.no_grad(): return q(z[None])
    return run

def float32_only(fn):
    "The same, on a CPU that has no fast bfloat16."
    nearest = sys.modules['iutok.quantizers.search']
    def run():
        was,nearest.fast_bfloat16 = nearest.fast_bfloat16,lambda: False
        try: return fn()
        finally: nearest.fast_bfloat16 = was
    return run

def train_step(side):
    "A function that runs forward, backward and codebook update of a cosine EMA codebook."
    torch.manual_seed(0)
    if side=='ours':
        z,q = torch.randn(32, 32, 16, 16, requires_grad=True),NormEMA(8192, 32)
        q.initialised.fill_(True)
        def run():
            z.grad = None
            out = q(z)
            (out.z_q.sum()+out.loss).backward()
        return run
    z,q = torch.randn(32, 256, 32, requires_grad=True),vqp(32, 8192, use_cosine_sim=True, decay=.99)
    def run():
        z.grad = None
        z_q,_,loss = q(z)
        (z_q.sum()+loss.sum()).backward()
    return run

def peak(work, side):
    "Peak extra memory of a search in this process."
    fn = search(work, side)
    nearest_code(torch.randn(8, 4), torch.randn(8, 4))  # what any first call allocates once
    return peak_extra(fn)

def rows():
    "All results, one after the other."
    a,b,c = SEARCH
    name = 'nearest code, {}'.format
    if HAVE['vqp']:
        ours,theirs = medians(search(a, 'ours'), search(a, 'vqp'))
        yield row(name(a), f'{VQP} VectorQuantize eval', ours*1e3, theirs*1e3, 'ms', 1/15)
    else: yield missing(name(a), VQP, 'ms', 1/15)
    if HAVE['faiss']:
        ours,plain,theirs = medians(search(a, 'ours'), float32_only(search(a, 'ours')), search(a, 'faiss'), runs=25)
        yield row(name(a), 'faiss IndexFlatL2', ours*1e3, theirs*1e3, 'ms', 1.3)
        yield row(name(a)+', float32 only', 'faiss IndexFlatL2', plain*1e3, theirs*1e3, 'ms')
    else: yield missing(name(a), FAISS, 'ms', 1.3)
    if HAVE['vqp']:
        ours,plain,theirs = medians(search(b, 'ours'), float32_only(search(b, 'ours')), search(b, 'vqp'))
        yield row(name(b), f'{VQP} VectorQuantize eval', ours*1e3, theirs*1e3, 'ms', 1/7)
        yield row(name(b)+', float32 only', f'{VQP} VectorQuantize eval', plain*1e3, theirs*1e3, 'ms')
        ours,theirs = (peak_in_child('quantizers', b, s) for s in ('ours', 'vqp'))
        yield row(name(b)+', memory', f'{VQP} VectorQuantize eval', ours, theirs, 'MB', 1/5)
    else: yield missing(name(b), VQP, 'ms', 1/7)
    if HAVE['faiss']:
        ours,theirs = medians(search(c, 'ours'), search(c, 'faiss'))
        yield row(name(c), 'faiss IndexFlatL2', ours*1e3, theirs*1e3, 'ms', 1.3)
    else: yield missing(name(c), FAISS, 'ms', 1.3)
    yield row(name(c)+', memory', 'limit of 256 MB', peak_in_child('quantizers', c, 'ours'), 256., 'MB', 1.)
    work = 'norm-EMA training step, 8192x32, K=8192'
    if HAVE['vqp']:
        ours,theirs = medians(train_step('ours'), train_step('vqp'))
        yield row(work, f'{VQP} cosine EMA', ours*1e3, theirs*1e3, 'ms', 1/5)
    else: yield missing(work, VQP, 'ms', 1/5)
    work = 'k-means, 200000x112, K=512, 10 iterations'
    if not HAVE['faiss']: yield missing(work, FAISS, 's', 1.2); return
    import faiss
    x = torch.randn(200000, 112, generator=torch.Generator().manual_seed(0))
    def theirs(most):
        km = faiss.Kmeans(112, 512, niter=10, seed=0, max_points_per_centroid=most)
        km.train(x.numpy())
        return km
    def ours(): return kmeans(x, 512, iters=10)
    ours_s,full_s,part_s = medians(ours, lambda: theirs(len(x)), lambda: theirs(256), warmup=0)
    yield row(work, 'faiss Kmeans on all rows', ours_s, full_s, 's', 1.2)
    squares,_ = theirs(len(x)).index.search(x.numpy(), 1)
    inertia = float(squares.sum(dtype='float64'))
    yield row(work+', inertia', 'faiss Kmeans on all rows', ours().inertia, inertia, '', 1.01)
    yield row(work+', for information', 'faiss Kmeans on 131072 of the rows', ours_s, part_s, 's')
