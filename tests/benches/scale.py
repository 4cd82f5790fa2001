"""What grows with the data: CPU time per row and peak memory of tokenising, clustering, statistics and the order of
batches for 10,000, 100,000 and a million rows, of an index of shards, of reading photographs, and of the code lookup as
the codebook grows from 1,024 to 262,144.

The peer is the work itself at a tenth of the size, each in a process of its own. Time should grow as the rows do, a
ratio of 1, and memory by no more than a few numbers for each row. An index holds a name and a digest for every image.
IUTOK_SCALE=0.1 takes a tenth of the rows."""
import json, os, sys, tempfile, time
from pathlib import Path
from _measure import child, peak_extra, row

MORE = float(os.environ.get('IUTOK_SCALE', 1))
SIZES = {k:[int(MORE*n) for n in (10_000, 100_000, 1_000_000)] for k in ('shards', 'kmeans', 'statistics', 'batches')}
SIZES |= dict(index=[int(MORE*n) for n in (10_000, 100_000)], pictures=[int(MORE*n) for n in (40, 400)])
LOOKUP = 1024, 16_384, 262_144 # codes
EIGHT = 'eight numbers of eight bytes' # a place, a label, a distance: not the row itself

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

def shards(images): # tokens onto the disk, by a real lookup
    import torch
    import torch.nn.functional as F
    from iutok.proposals.tokens import write_shards
    from iutok.quantizers.search import nearest_code
    codes = torch.rand(256, 3, generator=torch.Generator().manual_seed(0))
    def encode(u8):
        z = F.avg_pool2d(u8.float(), 4)/255
        return nearest_code(z.permute(0, 2, 3, 1).reshape(-1, 3), codes).view(len(z), 4, 4)
    with tempfile.TemporaryDirectory() as folder: write_shards(folder, encode, images, 16, 256)

def kmeans(n): # of rows that lie in a file
    import numpy as np
    from iutok.clustering import Pieces
    from iutok.quantizers import Fixed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'rows.npy'
        with path.open('wb') as f:
            np.lib.format.write_array_header_1_0(f, dict(descr='<f2', fortran_order=False, shape=(n, 16)))
            for i in range(0, n, 65536):
                rows = np.random.default_rng(i).standard_normal((min(65536, n-i), 16))
                f.write(rows.astype('<f2').tobytes())
        Fixed.fit(Pieces(path), 64, iters=3)

def statistics(n): # mean and covariance of features that pass by
    import torch
    from iutok.metrics.statistics import FeatureStats
    s,g = FeatureStats(),torch.Generator().manual_seed(0)
    for i in range(0, n, 1000): s.update(torch.randn(min(1000, n-i), 128, generator=g))
    s.sigma

def batches(images): # who comes when, in an epoch of batches of 256
    from iutok.data import Batches
    b = Batches(images, 8, 256)
    for step in range(len(images)//256): b.order(step)

def tars(folder, n): # a thousand small pictures in each
    import io, tarfile
    from PIL import Image
    f = io.BytesIO()
    Image.new('RGB', (8, 8), (9, 99, 199)).save(f, 'PNG')
    for k in range(0, n, 1000):
        with tarfile.open(f'{folder}/train-{k//1000:04}.tar', 'w') as t:
            for i in range(k, min(n, k+1000)):
                for kind,raw in (('png', f.getvalue()), ('cls', b'%d' % (i%10))):
                    info = tarfile.TarInfo(f'{i:08}.{kind}')
                    info.size = len(raw)
                    t.addfile(info, io.BytesIO(raw))

def index(folder): # looked over once: names, classes, digests
    from iutok.data import load_images
    return load_images(f'wds:{folder}/*.tar', cache=folder)

def pictures(n): # one JPEG of ImageNet's usual size, cropped and resized to 256 pixels as training does
    import io
    import numpy as np, torch
    from PIL import Image
    from iutok.images import FolderSet
    from iutok.pixels import N_UNIFORM
    g = np.random.default_rng(0)
    x = np.asarray(Image.fromarray(g.integers(0, 255, (47, 63, 3), 'uint8')).resize((500, 375), Image.BICUBIC))
    f = io.BytesIO()
    Image.fromarray((x+g.normal(0, 9, x.shape)).clip(0, 255).astype('uint8')).save(f, 'JPEG', quality=90)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, '0.jpg').write_bytes(f.getvalue())
        one = FolderSet('pictures', 'train', Path(folder), ['0.jpg'], torch.zeros(1, dtype=torch.long), ['a'], [''])
        for _ in range(n): one.batch([0], 256, 'strong', g.random((1, N_UNIFORM)))

def lookup(k): # 1,024 latents among k codes
    import torch
    from iutok.quantizers.search import nearest_code
    g = torch.Generator().manual_seed(0)
    z,e = torch.randn(1024, 16, generator=g),torch.randn(k, 16, generator=g)
    nearest_code(z, e)

WORKS = dict(shards=shards, kmeans=kmeans, statistics=statistics, batches=batches, index=index,
             pictures=pictures, lookup=lookup)

def measured(name, n):
    "CPU seconds and peak memory of a work at one size."
    import torch
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        small,whole = min(n, 10 if name=='pictures' else 2000),n
        if name in ('shards', 'batches'): small,whole = synthetic(small),synthetic(n)
        if name=='index':
            tars(first, 100)
            tars(folder, n)
            small,whole = first,folder
        f = WORKS[name]
        f(small) # imports, first calls
        kept,spent = [],[]
        def work():
            began = time.process_time()
            kept.append(f(whole))
            spent.append(time.process_time()-began)
        mb = peak_extra(work)
        return dict(seconds=spent[0], mb=mb)

def rows():
    "Ratios of each size to a tenth of it."
    for name,sizes in SIZES.items():
        found = [child(__file__, f'{name}:{n}') for n in sizes]
        per = [1e6*f['seconds']/n for f,n in zip(found, sizes)]
        for i,n in list(enumerate(sizes))[1:]:
            peer = f'itself, {n//10:,} rows'
            yield row(f'{name}: CPU microseconds a row, {n:,} rows', peer, per[i], per[i-1], 'us', 1.25)
        if name=='pictures': continue # one after the other
        (few,before),(n,most) = zip(sizes[-2:], [f['mb'] for f in found[-2:]])
        yield row(f'{name}: peak memory, {n:,} rows', f'itself, {few:,} rows', most, before, 'MB')
        more = 2**20*max(0, most-before)/(n-few)
        yield row(f'{name}: bytes for each further row', *(('-', more, None) if name=='index' else (EIGHT, more, 64)),
                  'bytes', 1)
    few = child(__file__, f'lookup:{LOOKUP[0]}')
    for k in LOOKUP[1:]:
        r = child(__file__, f'lookup:{k}')
        yield row(f'lookup: CPU ms for 1,000 codes, K={k:,}', f'itself, K={LOOKUP[0]:,}', 1e6*r['seconds']/k,
                  1e6*few['seconds']/LOOKUP[0], 'ms', 1.25)

if __name__=='__main__':
    name,n = sys.argv[1].split(':')
    print(json.dumps(measured(name, int(n))))
