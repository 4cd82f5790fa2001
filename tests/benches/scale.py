"""What grows with the data: seconds per row and peak memory of tokenising, clustering, statistics and the order of
batches at n and at 10 n rows, and seconds of the code lookup per code as the codebook grows from 1,024 to 262,144.

The peer is the work itself at the smaller size, each in a process of its own. Memory should stay as it is, and time
should grow as the rows do: a ratio of 1. IUTOK_SCALE=10 takes ten times as many rows on both sides."""
import json, os, sys, tempfile, time
from pathlib import Path
from _measure import child, peak_extra, row

MORE = int(os.environ.get('IUTOK_SCALE', 1))
SIZES = dict(shards=20_000*MORE, kmeans=100_000*MORE, statistics=20_000*MORE, batches=100_000*MORE) # the smaller n

def synthetic(n):
    "Images that are made when they are asked for."
    import torch
    from iutok.images import ImageSet
    class Synthetic(ImageSet):
        def __init__(self, n):
            self.name,self.split,self.classes,self.fingerprint = 'synthetic','train',[str(i) for i in range(10)],str(n)
            self.labels = torch.arange(n)%10
        def batch(self, idx, size, transform='none', u=None):
            idx = torch.as_tensor(idx)[:,None,None,None]
            return ((idx*7919+torch.arange(3*size*size).view(3, size, size)*31)%251).byte()
    return Synthetic(n)

def shards(n): # tokens of n images onto the disk, by a real lookup
    import torch
    import torch.nn.functional as F
    from iutok.proposals.tokens import write_shards
    from iutok.quantizers.search import nearest_code
    codes = torch.rand(512, 3, generator=torch.Generator().manual_seed(0))
    def encode(u8):
        z = F.avg_pool2d(u8.float(), 4)/255
        return nearest_code(z.permute(0, 2, 3, 1).reshape(-1, 3), codes).view(len(z), 8, 8)
    with tempfile.TemporaryDirectory() as folder: write_shards(folder, encode, synthetic(n), 32, 512)

def kmeans(n): # of rows that lie in a file
    import numpy as np
    from iutok.clustering import Pieces
    from iutok.quantizers import Fixed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'rows.npy'
        m = np.lib.format.open_memmap(path, 'w+', np.float16, (n, 32))
        for i in range(0, n, 65536): m[i:i+65536] = np.random.default_rng(i).standard_normal((len(m[i:i+65536]), 32))
        m.flush()
        del m
        Fixed.fit(Pieces(path), 256, iters=3)

def statistics(n): # mean and covariance of features that pass by
    import torch
    from iutok.metrics.statistics import FeatureStats
    s,g = FeatureStats(),torch.Generator().manual_seed(0)
    for i in range(0, n, 1000): s.update(torch.randn(min(1000, n-i), 256, generator=g))
    s.sigma

def batches(n): # who comes when
    from iutok.data import Batches
    b = Batches(synthetic(n), 8, 256)
    for step in range(0, n//256, max(1, n//256//300)): b.order(step)

def lookup(k): # 1,024 latents among k codes
    import torch
    from iutok.quantizers.search import nearest_code
    g = torch.Generator().manual_seed(0)
    z,e = torch.randn(1024, 16, generator=g),torch.randn(k, 16, generator=g)
    nearest_code(z, e)

WORKS = dict(shards=shards, kmeans=kmeans, statistics=statistics, batches=batches, lookup=lookup)

def measured(name, n):
    "Seconds and peak memory of a work at one size."
    import torch
    torch.set_num_threads(1)
    f = WORKS[name]
    f(min(n, 2000)) # imports, first calls
    began = time.perf_counter()
    mb = peak_extra(lambda: f(n))
    return dict(seconds=time.perf_counter()-began, mb=mb)

def rows():
    "Ratios of the larger size to the smaller."
    for name,n in SIZES.items():
        a,b = child(__file__, f'{name}:{n}'),child(__file__, f'{name}:{10*n}')
        each = ('a step', 300, 300) if name=='batches' else ('a row', n, 10*n)
        yield row(f'{name}: microseconds {each[0]}, {10*n:,} rows', f'itself, {n:,} rows', 1e6*b['seconds']/each[2],
                  1e6*a['seconds']/each[1], 'us', 1.25)
        # a floor of 50 MB: below it, what an allocator happens to keep decides
        yield row(f'{name}: peak memory, {10*n:,} rows', f'itself, {n:,} rows', max(50., b['mb']), max(50., a['mb']),
                  'MB', 1.25)
    few = child(__file__, 'lookup:1024')
    for k in (16_384, 262_144):
        r = child(__file__, f'lookup:{k}')
        yield row(f'lookup: ms for 1,000 codes, K={k:,}', 'itself, K=1,024', 1e6*r['seconds']/k,
                  1e6*few['seconds']/1024, 'ms', 1.25)

if __name__=='__main__':
    name,n = sys.argv[1].split(':')
    print(json.dumps(measured(name, int(n))))
