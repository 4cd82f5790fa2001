"""Reading JPEGs against torchvision's ImageFolder and DataLoader: decode, transform, batches of uint8 in this process.

2,000 photographs of ImageNet's usual sizes, in folders by class; batches of 64 from one worker process, one thread
each. Both sides have the folder listed (ours has every file checked once, which is not timed). `none` is what scores
see and is Pillow's to the bit on both sides; the random ones may differ by a level, and JPEGs much larger than needed
are decoded at a fraction of their size. For a quick look: IMAGES=200 RUNS=1 scripts/bench data
"""
import contextlib, io, os, tempfile
from pathlib import Path
os.environ['OMP_NUM_THREADS'] = '1'
import numpy as np, torch
from PIL import Image
from _measure import medians, row
from iutok.data import Batches, FolderSet, loader

torch.set_num_threads(1)
IMAGES,RUNS,WORKERS = (int(os.environ.get(k, v)) for k,v in (('IMAGES', 2000), ('RUNS', 3), ('WORKERS', 1)))
BATCH,PEER = 64,'torchvision ImageFolder, DataLoader'
SIZES = (500, 375), (375, 500), (500, 333), (500, 500), (640, 480) # width and height

def write(root, n, times=1):
    "n JPEGs of real photographs, cut and scaled, ten classes."
    from skimage.data import astronaut, chelsea, coffee
    from sklearn.datasets import load_sample_images
    photos = [Image.fromarray(x) for x in (astronaut(), chelsea(), coffee(), *load_sample_images().images)]
    rng = np.random.default_rng(0)
    for i in range(n):
        img,(w, h) = photos[i % len(photos)],SIZES[i % len(SIZES)]
        side = .6+.4*rng.random()
        cw,ch = int(img.width*side),int(img.height*side)
        x,y = int(rng.integers(img.width-cw+1)),int(rng.integers(img.height-ch+1))
        img = img.crop((x, y, x+cw, y+ch)).resize((times*w, times*h), Image.BICUBIC)
        path = root/'train'/f'{i%10}'/f'{i:05}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        img.save(path, quality=int(rng.integers(80, 96)))
    (root/'val'/'0').mkdir(parents=True)
    Image.new('RGB', (32, 32)).save(root/'val'/'0'/'a.jpg')

def theirs(root, size, transform):
    "One pass of torchvision's loader over the same files."
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    cubic = v2.InterpolationMode.BICUBIC
    steps = dict(none=[v2.Resize(size, cubic), v2.CenterCrop(size)],
                 weak=[v2.Resize(size, cubic), v2.RandomCrop(size), v2.RandomHorizontalFlip()],
                 strong=[v2.RandomResizedCrop(size, (.8, 1.), interpolation=cubic), v2.RandomHorizontalFlip()])
    images = ImageFolder(root/'train', v2.Compose([*steps[transform], v2.PILToTensor()]))
    load = torch.utils.data.DataLoader(images, BATCH, num_workers=WORKERS)
    def run():
        n = sum(len(x) for x,_ in load)
        assert n==len(images)
    return run

def ours(images, size, transform):
    batches,steps = Batches(images, size, BATCH, transform),len(images)//BATCH
    def run(): # whole batches, then what is left of the epoch
        n = sum(len(b.u8) for b in loader(batches, 0, steps, WORKERS))
        if left := len(images)-n: n += len(images.batch(range(left), size, transform, np.random.rand(left, 23)))
        assert n==len(images)
    return run

def rows():
    "All results; the ratio is of seconds for the whole set, so 1/1.2 is 1.2 times the images a second."
    for times,n,works in ((1, IMAGES, [('strong', 256), ('weak', 256), ('none', 256), ('strong', 64)]),
                          (6, IMAGES//20, [('strong', 256)])):
        with tempfile.TemporaryDirectory() as d:
            write(Path(d)/'set', n, times)
            with contextlib.redirect_stdout(io.StringIO()): images = FolderSet.open(Path(d)/'set', 'train', d)
            for transform,size in works:
                what = f'{n:,} {"ordinary JPEGs" if times==1 else "of 6 to 9 megapixels"}, {transform}, {size} pixels'
                pair = ours(images, size, transform),theirs(Path(d)/'set', size, transform)
                a,b = medians(*pair, runs=RUNS, warmup=0)
                yield row(what, PEER, n/a, n/b, 'images/s') | dict(ratio=a/b, target=1/1.2, ok=a/b<=1/1.2)
