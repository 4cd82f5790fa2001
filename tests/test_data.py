"Data: every batch from its step, every file used rightly or refused aloud."
import io, json, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import v2

import iutok.data as data, iutok.images as images
from iutok import splits
from iutok.data import *
from iutok.data import MemorySet
from iutok.pixels import *

def same(a, b): return all(torch.equal(p, q) for p, q in zip(a, b))
def ramp(h=24, w=40): # a colour picture whose pixels all differ
    y, x = np.mgrid[:h, :w]
    return np.stack([x*255//(w-1), y*255//(h-1), (x+y)*255//(h+w-2)], -1).astype(np.uint8)

@pytest.fixture(scope='module')
def train(): return load_images()
@pytest.fixture(scope='module')
def test(): return load_images(split='test')

@pytest.fixture
def shop(tmp_path): # 3 classes x 30 pictures of different sizes
    for c in ('bag', 'coat', 'shoe'):
        (tmp_path/'shop'/c).mkdir(parents=True)
        for i in range(30): Image.fromarray(ramp(20+i, 50-i)).save(tmp_path/'shop'/c/f'{c}{i}.png')
    return tmp_path/'shop'

def folder(path, split='train', cache=None):
    return load_images(f'folder:{path}', split, cache=cache or Path(path).parent/'cache')

# ---- the bundled set

def test_bundle_is_what_the_maker_makes(train, test):
    raw = data.asset('fashion.npz.xz')
    assert raw.stat().st_size < 12e6
    assert 'MIT License' in data.asset('fashion.LICENSE.txt').read_text()
    assert (len(train), len(test)) == (20_000, 5_000) and train.classes == test.classes and len(train.classes) == 10
    assert train.labels[:20].tolist() == list(range(10))*2 and train.labels.dtype == torch.int64
    assert train.pixels.shape == (20_000, 32, 32)
    assert not train.pixels[:, :2].any()
    assert not train.pixels[:, :, -2:].any()

@pytest.mark.skipif(not data.DEBIAN.is_dir(), reason='needs dataset-fashion-mnist')
def test_bundle_is_a_subset_of_the_official_splits(train, test):
    for ours in (train, test):
        full = load_images('fashion_mnist_full', ours.split)
        assert len(full) == dict(train=60_000, test=10_000)[ours.split] and full.fingerprint != ours.fingerprint
        rows = torch.stack([torch.nonzero(full.labels == c)[:len(ours)//10, 0] for c in range(10)], 1).flatten()
        assert torch.equal(full.pixels[rows], ours.pixels) and torch.equal(full.labels[rows], ours.labels)

def test_full_set_without_debian_or_network(monkeypatch, tmp_path):
    import torchvision.datasets as tv
    def offline(*a, **k): raise RuntimeError('no route to host')
    monkeypatch.setattr(data, 'DEBIAN', tmp_path); monkeypatch.setattr(tv, 'FashionMNIST', offline)
    with pytest.raises(ValueError, match="dataset-fashion-mnist.*no route to host.*data='fashion'"):
        load_images('fashion_mnist_full')

def test_full_set_through_torchvision(monkeypatch, tmp_path):
    raw = tmp_path/'FashionMNIST'/'raw'; raw.mkdir(parents=True)
    x, y = np.arange(2*784, dtype=np.int64).astype(np.uint8).reshape(2, 28, 28), np.array([3, 1], np.uint8)
    for kind, a in (('images-idx3', x), ('labels-idx1', y)):
        (raw/f'train-{kind}-ubyte').write_bytes(bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>i4').tobytes()
                                                + a.tobytes())
        (raw/f't10k-{kind}-ubyte').write_bytes((raw/f'train-{kind}-ubyte').read_bytes())
    monkeypatch.setattr(data, 'DEBIAN', tmp_path/'none')
    s = load_images('fashion_mnist_full', root=tmp_path)
    assert s.labels.tolist() == [3, 1] and np.array_equal(s.pixels[:, 2:-2, 2:-2].numpy(), x)

@pytest.mark.parametrize('call, says', [(lambda: load_images('cifar'), 'fashion, emoji, fashion_mnist_full, .*, '
    'folder:PATH, wds:URLS or hf:NAME'), (lambda: load_images('folder:'), 'folder:PATH'),
                                        (lambda: load_images(split='val'), 'train or test'),
                                        (lambda: load_images('folder:/no/such/place'), 'is not a folder')])
def test_wrong_names(call, says):
    with pytest.raises(ValueError, match=says): call()

def test_fingerprint_follows_content(train):
    a = train.take(30); b = MemorySet(a.name, a.split, a.pixels.clone(), a.labels, a.classes)
    assert a.fingerprint == b.fingerprint
    b = MemorySet(a.name, a.split, a.pixels.clone(), a.labels, a.classes); b.pixels[3, 3, 3] += 1
    assert a.fingerprint != b.fingerprint

# ---- pixels

def test_truncation_and_rounding():
    u = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(u), round=True), u)
    assert (to_uint8(to_float(u)) != u).sum() == 63
    assert torch.equal(to_uint8(to_float(u).bfloat16()), to_uint8(to_float(u).bfloat16().float()))
    assert to_float(u).min() == -1 and to_float(u).max() == 1

@pytest.mark.parametrize('size', [16, 24, 48])
def test_none_is_torchvision(size):
    img = Image.fromarray(ramp())
    assert torch.equal(square(img, size),
                       v2.Compose([v2.Resize(size, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size),
                                   v2.PILToTensor()])(img))

def test_weak_crops_and_flips():
    img = Image.fromarray(ramp(24, 40))
    wide = v2.functional.pil_to_tensor(img)
    u = np.zeros(N_UNIFORM); u[22] = .9
    for v, left in ((0., 0), (.5, 8), (.999, 16)):
        u[21] = v
        assert torch.equal(square(img, 24, 'weak', u), wide[:, :, left:left+24])
    u[22] = .1
    assert torch.equal(square(img, 24, 'weak', u), wide[:, :, 16:40].flip(-1))

@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_boxes_lie_inside(h, w, seed):
    for area in ((.8, 1.), (.08, 1.)):
        t, l, bh, bw = crop_boxes(np.random.default_rng(seed).random((50, N_UNIFORM)), h, w, area).T
        assert (t >= 0).all()
        assert (l >= 0).all()
        assert (bh > 0).all()
        assert (bw > 0).all()
        assert (t+bh <= h).all()
        assert (l+bw <= w).all()

def test_strong_keeps_at_least_most_of_the_area():
    boxes = crop_boxes(np.random.default_rng(0).random((5000, N_UNIFORM)), 200, 200, (.8, 1.))
    share = boxes[:, 2]*boxes[:, 3]/200**2
    assert .79 < share.min() and share.max() <= 1
    theirs = [v2.RandomResizedCrop(8, scale=(.8, 1.)).make_params([torch.zeros(3, 200, 200)]) for _ in range(2000)]
    assert abs(share.mean()-np.mean([p['height']*p['width']/200**2 for p in theirs])) < .005

@pytest.mark.parametrize('transform', ['none', 'weak', 'strong', 'default'])
@pytest.mark.parametrize('size', [24, 32, 64])
def test_memory_route_equals_file_route(train, transform, size):
    u = np.random.default_rng(1).random((12, N_UNIFORM))
    fast = train.batch(range(12), size, transform, u)
    slow = torch.stack([square(Image.fromarray(p.numpy()).convert('RGB'), size, transform, v) for p,
                        v in zip(train.pixels, u)])
    d = (fast.int()-slow.int()).abs()
    assert fast.dtype == torch.uint8 and fast.is_contiguous()
    assert torch.equal(fast, slow) if size == 32 and transform in ('none',
                                                                   'weak') else (
        d > 1).float().mean() < .03 and d.float().mean() < .2

def test_as_batch():
    img = Image.fromarray(ramp(40, 24)); u8 = v2.functional.pil_to_tensor(img)[None]
    x = as_batch(img, 24)
    assert x.shape == (1, 3, 24, 24) and x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    assert torch.equal(as_batch([img, img], 24)[1:], x)
    assert (as_batch(u8, 24)-x).abs().max() < 2.1/127.5 and (as_batch(u8/255, 24)-x).abs().mean() < .01
    assert torch.allclose(as_batch((u8/255).half(), 24), as_batch(u8/255, 24), atol=2e-3)
    glass = img.convert('RGBA'); glass.putalpha(0)
    assert (as_batch(glass, 24) == 1).all() # transparent is white
    for bad, kind, says in [(u8/255*2-1, ValueError, r'\(x\+1\)/2'), (u8[0], ValueError, r'x\[None\]'),
                            (u8.permute(0, 2, 3, 1), ValueError, 'permute'), (u8.int(), TypeError, 'int32'),
                            ([], ValueError, 'empty'), ([u8], TypeError, 'stack'), ('a.png', TypeError, 'str'),
                            (u8/0.*0, ValueError, 'nan'), (u8[:, :1], ValueError, 'repeat'),
                            (u8.numpy(), TypeError, 'ndarray')]:
        with pytest.raises(kind, match=says): as_batch(bad, 24)

@pytest.mark.parametrize('transform', ['weak', 'strong', 'default'])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'grey', 'turned', 'tiny', 'large'])
def test_the_quick_way_is_pillows_up_to_a_level_or_two(transform, kind):
    from skimage.data import coffee
    img,f = Image.fromarray(coffee()[:300, :420]),io.BytesIO()
    if kind=='grey': img = img.convert('L')
    if kind in ('tiny', 'large'): img = img.resize((30, 21) if kind=='tiny' else (1680, 1200), Image.BICUBIC)
    exif = Image.Exif(); exif[0x0112] = 6
    img.save(f, 'PNG' if kind=='PNG' else 'JPEG', quality=92, **(dict(exif=exif) if kind=='turned' else {}))
    for u in np.random.default_rng(4).random((12, N_UNIFORM)):
        ours,exact = quick_square(f.getvalue(), 96, transform, u),square(decode(f.getvalue()), 96, transform, u)
        d = (ours.int()-exact.int()).abs().float()
        assert ours.shape==(3, 96, 96) and ours.dtype==torch.uint8
        assert d.mean()<2.5 if kind=='large' else d.max()<=2 and d.mean()<.1

def test_files_give_batches_with_channels_last(shop):
    s = folder(shop)
    for transform in TRANSFORMS:
        x = s.batch([0, 4, 2], 20, transform, np.random.default_rng(0).random((3, N_UNIFORM)))
        assert x.shape==(3, 3, 20, 20) and x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(s.batch([4, 2], 20), torch.stack([square(s.read(i), 20) for i in (4, 2)]))

# ---- batches

@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_epochs_follow_each_other_without_a_gap(n, b, seed):
    line = np.concatenate([step_indices(n, t, b, seed) for t in range(-(-3*n//b))])[:3*n].reshape(3, n)
    assert (np.sort(line, 1) == np.arange(n)).all()

def test_every_rank_takes_its_part(train):
    few = train.take(50)
    for transform in TRANSFORMS:
        whole = Batches(few, 32, 12, transform, seed=3)[6]
        parts = [Batches(few, 32, 12, transform, seed=3, rank=r, world=4)[6] for r in range(4)]
        assert same(map(torch.cat, zip(*parts)), whole) and torch.equal(whole.y, few.labels[whole.idx])

def test_resume_in_another_process_gives_the_same_batches(train, tmp_path):
    b = Batches(train.take(40), 32, 16, 'default', seed=5)
    code = ("import sys, torch; from iutok.data import *; b = Batches(load_images().take(40), 32, 16, 'default', "
            "seed=5);" "torch.save([tuple(x) for x in loader(b, 3, 6, workers=2)], sys.argv[1])")
    subprocess.run([sys.executable, '-c', code, tmp_path/'b.pt'], check=True, cwd=Path(__file__).parents[1])
    for t, x in zip(range(3, 6), torch.load(tmp_path/'b.pt', weights_only=True)): assert same(x, b[t])

def test_batches_use_no_shared_random_numbers(train):
    b = Batches(train.take(40), 32, 16, 'strong')
    torch.manual_seed(0); np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    x = [y.u8 for y in loader(b, 0, 3)]
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(1)
    assert torch.equal(x[1], b[1].u8) and not torch.equal(x[1], b[2].u8)

def test_augmentation_differs_between_steps_and_images():
    one = MemorySet('x', 'train', torch.randint(256, (1, 32, 32), dtype=torch.uint8), torch.zeros(1).long(), ['x'])
    b = Batches(one, 32, 8, 'default')
    assert len({bytes(x.numpy()) for t in range(3) for x in b[t].u8}) == 24

def test_sequential_sees_every_image_once(test):
    few = test.take(23)
    out = list(sequential(few, 32, 10))
    assert [len(b.y) for b in out] == [10, 10, 3] and torch.equal(torch.cat([b.idx for b in out]), torch.arange(23))
    assert torch.equal(torch.cat([b.u8 for b in out])[:, 0], few.pixels)

@pytest.mark.parametrize('batch, world', [(1, 1), (10, 2), (64, 1), (65, 3), (150, 1)])
def test_a_crop_in_order_is_that_of_its_place(test, batch, world): # whatever the batches and the processes
    few = test.take(150)
    want, = sequential(few, 16, 150, 'default', seed=3)
    for b in (b for r in range(world) for b in sequential(few, 16, batch, 'default', seed=3, rank=r, world=world)):
        assert torch.equal(b.u8, want.u8[b.idx])
    other, = sequential(few, 16, 150, 'default', seed=4)
    assert len({bytes(x.numpy()) for x in want.u8})==150 and not torch.equal(other.u8, want.u8)

def test_batches_refuse_wrong_numbers(train):
    for kw, says in ((dict(batch_size=10, world=3), 'multiple of world=3'),
                     (dict(batch_size=0), 'batch_size must be a whole number of at least 1, got 0'),
                     (dict(batch_size=2.5), 'batch_size .* got 2.5'),
                     (dict(batch_size=4, rank=2, world=2), 'rank must .* from 0 to 1, got 2'),
                     (dict(batch_size=4, transform='wek'), 'none, weak, strong, default')):
        with pytest.raises(ValueError, match=says): Batches(train, 32, **kw)

# ---- folders

def test_folder_split_by_hash_is_stable(shop):
    a, b = folder(shop), folder(shop, 'test')
    assert len(a)+len(b) == 90
    assert 0 < len(b) < 20
    assert not set(a.files) & set(b.files)
    assert a.classes == ['bag', 'coat', 'shoe']
    Image.fromarray(ramp()).save(shop/'bag'/'another.png')
    held = set(folder(shop, 'test').files)
    assert held-set(b.files) <= {'bag/another.png'} and set(b.files) <= held
    assert folder(shop).fingerprint != a.fingerprint or folder(shop, 'test').fingerprint != b.fingerprint
    moved = shop.parent/'elsewhere'; shutil.copytree(shop, moved)
    assert folder(moved).fingerprint == folder(shop).fingerprint

@pytest.mark.parametrize('held', ['val', 'test'])
def test_folder_with_official_splits(shop, held):
    root = shop.parent/'official'
    shutil.copytree(shop, root/'train')
    for c in ('bag', 'coat'): (root/held/c).mkdir(parents=True); shutil.copy(shop/c/f'{c}3.png', root/held/c)
    a, b = folder(root), folder(root, 'test')
    assert (len(a), len(b)) == (90, 2) and b.classes == a.classes and b.labels.tolist() == [0, 1]
    (root/held/'hat').mkdir(); shutil.copy(shop/'bag'/'bag3.png', root/held/'hat')
    with pytest.raises(ValueError, match='train/ lacks: hat'): folder(root)

def test_folder_reads_pictures_as_they_are(shop):
    s = folder(shop)
    i = s.files.index('coat/coat4.png') if 'coat/coat4.png' in s.files else 0
    with Image.open(shop/s.files[i]) as img: assert torch.equal(s.uint8(i, 20), square(img.convert('RGB'), 20))
    b = Batches(s, 20, 6, 'strong', seed=1)
    assert b[0].u8.shape == (6, 3, 20, 20) and same(b[2], next(loader(b, 2, 3, workers=1)))
    assert s.take(5).labels.tolist() == [0, 1, 2, 0, 1]

def odd_files(c):
    "Odd but readable files, each with the top left pixel it must have; and files that nobody can read."
    red = Image.new('RGB', (16, 12), (200, 30, 40))
    pal = red.quantize(4); pal.save(c/'palette.png')
    pal.save(c/'palette_clear.png', transparency=pal.getpixel((0, 0)))
    red.convert('CMYK').save(c/'cmyk.jpg', quality=95); red.convert('CMYK').save(c/'cmyk.tiff')
    Image.fromarray(np.full((12, 16), 200*257, np.uint16)).save(c/'grey16.png')
    Image.fromarray(np.full((12, 16), 200*257, np.uint16)).save(c/'grey16.tiff')
    red.convert('L').convert('LA').save(c/'grey_alpha.png')
    clear = red.convert('RGBA')
    clear.putalpha(0)
    clear.save(c/'clear.png')
    clear.save(c/'clear.webp', lossless=True, exact=True)
    half = red.convert('RGBA'); half.putalpha(128); half.save(c/'half.png')
    Image.new('1', (16, 12), 1).save(c/'one_bit.png')
    up = Image.new('RGB', (16, 12)); up.paste((0, 250, 0), (0, 0, 8, 12)) # green on the left
    exif = Image.Exif(); exif[0x0112] = 6                                  # to be shown turned clockwise: green on top
    up.save(c/'turned.jpg', exif=exif, quality=95)
    red.save(c/'moving.gif', save_all=True, append_images=[Image.new('RGB', (16, 12))])
    grey = red.convert('L').getpixel((0, 0))
    right = {'palette.png':(200, 30, 40), 'palette_clear.png':(255,)*3, 'cmyk.jpg':(200, 30, 40),
             'cmyk.tiff':(200, 30, 40), 'grey16.png':(200,)*3, 'grey16.tiff':(200,)*3, 'grey_alpha.png':(grey,)*3,
             'clear.png':(255,)*3, 'clear.webp':(255,)*3, 'half.png':(227, 142, 147), 'one_bit.png':(255,)*3,
             'turned.jpg':(0, 250, 0), 'moving.gif':(200, 30, 40)}
    (c/'empty.jpg').touch()
    (c/'notes.txt').write_text('hello')
    (c/'cut.png').write_bytes((c/'half.png').read_bytes()[:60])
    red.resize((160, 120)).save(c/'whole.jpg')
    (c/'cut.jpg').write_bytes((c/'whole.jpg').read_bytes()[:700])
    (c/'whole.jpg').unlink()
    Image.fromarray(np.full((12, 16), .5, np.float32)).save(c/'float.tiff')
    Image.fromarray(np.full((12, 16), 70_000, np.int32)).save(c/'int32.tiff')
    Image.new('RGB', (120, 2)).save(c/'ribbon.png')
    return right, {'empty.jpg':'zero bytes', 'notes.txt':'not an image', 'cut.png':'', 'cut.jpg':'truncated',
                   'float.tiff':'mode F', 'int32.tiff':'mode I', 'ribbon.png':'120x2'}

def test_odd_files_are_right_or_skipped_aloud(shop, capsys):
    for split in ('train', 'val'): (shop.parent/'odd'/split/'x').mkdir(parents=True)
    for i in range(200): Image.fromarray(ramp(8, 8)).save(shop.parent/'odd'/'train'/'x'/f'{i}.png')
    right, wrong = odd_files(shop.parent/'odd'/'val'/'x')
    s = folder(shop.parent/'odd', 'test')
    assert {Path(f).name for f in s.files} == set(right)
    for i, f in enumerate(s.files):
        assert np.abs(np.array(s.read(i).getpixel((0, 0)))-right[Path(f).name]).max() <= 3, f
    assert s.read([Path(f).name for f in s.files].index('turned.jpg')).size == (12, 16)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(wrong) == len(s.skipped)
    for f, why in wrong.items():
        line, = [l for l in printed if l.startswith(f'skipped val/x/{f}: ')]
        assert why in line and len(line) > len(f'skipped val/x/{f}: ')

def test_too_many_bad_files_are_refused(shop):
    for i in range(4): (shop/'bag'/f'broken{i}.jpg').touch()
    assert len(folder(shop))+len(folder(shop, 'test')) == 90 # 4 of 94 is below 5 %
    (shop/'bag'/'broken4.jpg').touch()
    with pytest.raises(ValueError, match=r'5 of the 95 files .* more than 5%.*bag/broken\d.jpg \(zero bytes\)'):
        folder(shop)

def test_files_are_checked_once(shop, monkeypatch):
    seen = []
    real = images._verdict
    monkeypatch.setattr(images, '_verdict', lambda r, t: (seen.append(Path(r.args[0]).name), real(r, t))[1])
    folder(shop); assert len(seen) == 90
    folder(shop); folder(shop, 'test'); assert len(seen) == 90
    (shop/'bag'/'bag3.png').write_bytes(b''); Image.fromarray(ramp()).save(shop/'coat'/'new.png')
    folder(shop); assert sorted(seen[90:]) == ['bag3.png', 'new.png']
    index, = (shop.parent/'cache'/'index').iterdir()
    index.write_text(index.read_text()[:100]) # a broken index is made again
    folder(shop); assert len(seen) == 90+2+91

def test_file_that_breaks_later_is_named(shop):
    s = folder(shop)
    (shop/s.files[0]).write_bytes(b'')
    with pytest.raises(ValueError, match=f'{s.files[0]}.*zero bytes'): s.uint8(0, 16)

@pytest.mark.parametrize('make, says', [
    (lambda p: p.mkdir(), 'no files'), (lambda p: (p/'bag').mkdir(parents=True), 'no files'),
    (lambda p: ((p/'val'/'a').mkdir(parents=True), Image.new('L', (9, 9)).save(p/'val'/'a'/'a.png')), 'no train/')])
def test_folders_without_the_layout(tmp_path, make, says):
    make(tmp_path/'d')
    with pytest.raises(ValueError, match=says): folder(tmp_path/'d')

def test_hidden_and_stray_files_do_not_count(shop):
    (shop/'bag'/'.DS_Store').write_text('x')
    (shop/'readme.txt').write_text('x')
    (shop/'.git').mkdir()
    (shop/'.git'/'a').write_text('x')
    assert len(folder(shop))+len(folder(shop, 'test')) == 90 and not folder(shop).skipped

def test_a_folder_without_classes_is_one_class(tmp_path):
    for i in range(40):
        (tmp_path/'d').mkdir(exist_ok=True)
        Image.fromarray(ramp()).save(tmp_path/'d'/f'{i}.png')
    a, b = folder(tmp_path/'d'), folder(tmp_path/'d', 'test')
    assert a.classes == b.classes == ['images']
    assert len(a)+len(b) == 40
    assert 0 < len(b) < 12
    assert not set(a.files) & set(b.files)

# ---- named collections

def pictures(root, names):
    for n in names:
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp(8, 8)).save(root/n)
    return root

def test_imagenet_classes_are_the_ranks_of_synsets(tmp_path):
    syn = ['n02123045', 'n01440764', 'n03000134']
    root = pictures(tmp_path/'in', [f'{s}/{c}/{c}_{i}.JPEG' for s in ('train', 'val') for c in syn for i in range(2)])
    for split in ('train', 'test'):
        s = load_images('imagenet', split, root, tmp_path)
        assert s.name == 'imagenet' and s.classes == sorted(syn) and s.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert all(s.classes[y] in f for f, y in zip(s.files, s.labels))

@pytest.mark.parametrize('names, says',
                         [(['train/n01440764/a.png'], 'wants .*val/SYNSET'),
                          (['train/n01440764/a.png', 'val/a.png'], 'a.png is no synset'),
                          (['train/cat/a.png', 'val/cat/a.png'], 'cat is no synset')])
def test_imagenet_of_another_layout_is_refused(tmp_path, names, says):
    with pytest.raises(ValueError, match=says):
        load_images('imagenet', 'train', pictures(tmp_path/'in', names), tmp_path)

@pytest.mark.parametrize('name', ['imagenet', 'coco', 'laion_aesthetics', 'sa_med2d', 'satin'])
def test_named_collections_need_a_root(tmp_path, name):
    with pytest.raises(ValueError, match='needs data_root'): load_images(name)
    with pytest.raises(ValueError, match='is not a folder'): load_images(name, root=tmp_path/'gone')

def official(n, k, strided): # places of both splits, as the official code maps its indices
    if not strided: return list(range(n-k)), [n-1-i for i in range(k)]
    chunk = n//k
    return [i+1+min(i//(chunk-1), k-1) for i in range(n-k)], [i*chunk for i in range(k)]

@pytest.mark.parametrize('n, k', [(10, 5), (107, 25), (1005, 100), (61, 30)])
@pytest.mark.parametrize('strided', [True, False])
def test_held_places_are_the_official_ones(n, k, strided):
    train, held = official(n, k, strided)
    mine = splits.held_places(n, k, strided).tolist()
    assert mine == sorted(held) and sorted(set(range(n))-set(mine)) == train

def test_collections_leave_other_files_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(data.COLLECTIONS, 'laion_aesthetics', data.COLLECTIONS['laion_aesthetics']._replace(held=3))
    root = pictures(tmp_path/'l', [f'{i//4:05}/{i:03}.png' for i in range(12)])
    for i in range(12): (root/f'{i//4:05}'/f'{i:03}.json').write_text('{}')
    held = load_images('laion_aesthetics', 'test', root, tmp_path)
    assert held.files == ['00002/009.png', '00002/010.png', '00002/011.png']
    assert held.classes == ['laion_aesthetics']
    assert not held.skipped
    assert len(load_images('laion_aesthetics', 'train', root, tmp_path)) == 9
    (root/'masks').mkdir()
    with pytest.raises(ValueError, match='folder of the images alone'):
        load_images('laion_aesthetics', 'test', root, tmp_path)

# ---- COCO

SAID = {9:['a woman in an orange suit', 'an astronaut', '  a smiling  woman\n'], 25:['a cat'],
        30:['a cup of coffee', 'coffee on a table'], 34:[], 36:['a rocket at night', 'a launch pad']}

def coco_tree(root, said=SAID): # both splits, of photographs; annotations neither by picture nor by id
    from skimage.data import astronaut, chelsea, coffee, rocket
    photos = astronaut()[::4, ::4], chelsea()[::3, ::4], coffee()[::4, ::4], rocket()[::4, ::5], rocket()[::3, ::3]
    for split in ('train2014', 'val2014'):
        name = f'COCO_{split}_{{:012}}.jpg'.format
        (root/split).mkdir(parents=True)
        for i, x in zip(said, photos): Image.fromarray(x).save(root/split/name(i))
        rows = [(i, t) for i in said for t in said[i]]
        rows = [dict(id=100+j, image_id=i, caption=t) for j, (i, t) in enumerate(rows)][::-1]
        images = [dict(id=i, file_name=name(i), width=1, height=1) for i in said][::-1]
        (root/'annotations').mkdir(exist_ok=True)
        (root/'annotations'/f'captions_{split}.json').write_text(json.dumps(dict(images=images, annotations=rows)))
    return root

@pytest.fixture(scope='module')
def coco(tmp_path_factory): return coco_tree(tmp_path_factory.mktemp('coco')/'tree')

def test_coco_has_one_caption_for_every_described_picture(coco, tmp_path, capsys):
    for split, folder in (('train', 'train2014'), ('test', 'val2014')):
        s = load_images('coco', split, coco, tmp_path)
        assert f'coco {split}: 1 of 5 pictures have no caption' in capsys.readouterr().out
        assert s.name == 'coco' and s.classes == ['coco'] and s.labels.tolist() == [0]*4
        assert s.files == [f'{folder}/COCO_{folder}_{i:012}.jpg' for i in (9, 25, 30, 36)]
        assert s.sentences == [[' '.join(t.split()) for t in SAID[i]] for i in (9, 25, 30, 36)]
        assert all(c in own for c, own in zip(s.captions, s.sentences))
        photo = open_rgb(coco/s.files[1])
        assert torch.equal(s.batch([3, 1], 32)[1], square(photo, 32))

def test_cocos_choice_of_a_sentence_depends_on_seed_and_picture_alone(coco, tmp_path):
    s = load_images('coco', 'test', coco, tmp_path)
    assert s.captions == load_images('coco', 'test', coco, tmp_path).captions
    again = s.subset([3, 0])
    assert again.captions == [s.captions[3], s.captions[0]] and again.sentences == [s.sentences[3], s.sentences[0]]
    draws = [s.reseeded(k).captions for k in range(60)]
    for i, own in enumerate(s.sentences): assert {d[i] for d in draws} == set(own)
    assert s.take(2).reseeded(7).captions == s.reseeded(7).captions[:2]
    assert s.reseeded(0).fingerprint == s.fingerprint
    assert len({s.reseeded(k).fingerprint for k in range(60)}) == len({tuple(d) for d in draws}) > 1

def test_coco_needs_one_split_only(tmp_path):
    root = coco_tree(tmp_path/'c')
    shutil.rmtree(root/'train2014'); (root/'annotations'/'captions_train2014.json').unlink()
    assert len(load_images('coco', 'test', root, tmp_path)) == 4

def spoil(name, text): return lambda root: (root/'annotations'/name).write_text(text)
VAL = 'captions_val2014.json'
@pytest.mark.parametrize('harm, says', [
    (lambda root: shutil.rmtree(root/'annotations'), f'coco wants .*{VAL}; unpack'),
    (lambda root: shutil.rmtree(root/'val2014'), 'coco wants the pictures in .*val2014; unpack val2014.zip'),
    (lambda root: (root/'val2014'/'COCO_val2014_000000000025.jpg').unlink(),
     '1 of the 4 pictures that .* names are not in .*, the first is val2014/COCO_val2014_000000000025.jpg'),
    (spoil(VAL, '{"images": ['), f'{VAL} is not valid JSON'),
    (spoil(VAL, '{"images": []}'), "is no file of COCO captions: it lacks 'annotations'"),
    (spoil(VAL, '[]'), 'is no file of COCO captions'),
    (spoil(VAL, '{"images": [], "annotations": [{"id": 1, "image_id": 5, "caption": "a"}]}'), 'it lacks 5')])
def test_broken_coco_is_refused_in_one_sentence(tmp_path, harm, says):
    root = coco_tree(tmp_path/'c'); harm(root)
    with pytest.raises(ValueError, match=says) as e: load_images('coco', 'test', root, tmp_path)
    assert '\n' not in str(e.value)

def test_coco_prompts_take_every_picture_once_before_any_twice():
    said = {f'val2014/{i:03}.jpg':[f'{i}/{k}' for k in range(i%6)] for i in range(90)} # a sixth has none
    p = coco_prompts(said, 75)
    assert sorted(p.files) == sorted(f for f in said if said[f])
    assert all(t in said[f] for t, f in zip(p.captions, p.files))
    assert coco_prompts(said, 75) == p != coco_prompts(said, 75, seed=1)
    assert coco_prompts(dict(reversed(said.items())), 75) == p # whatever the order they come in
    assert coco_prompts(said, 40).captions == p.captions[:40]
    every = sum(map(len, said.values()))
    assert sorted(coco_prompts(said, every).captions) == sorted(t for s in said.values() for t in s)
    for n, says in ((every+1, f'hold {every}'), (0, 'n must be'), (2.5, 'n must be')):
        with pytest.raises(ValueError, match=says): coco_prompts(said, n)
    with pytest.raises(ValueError, match='seed must be'): coco_prompts(said, 5, -1)

def test_coco_prompts_read_the_validation_sentences(coco):
    p = coco_prompts(coco, 4, seed=3)
    assert sorted(p.files) == [f'val2014/COCO_val2014_{i:012}.jpg' for i in (9, 25, 30, 36)]

def test_an_index_is_written_in_proportion_to_what_it_holds(tmp_path, monkeypatch):
    files,rows = [str(i) for i in range(4000)],[]
    monkeypatch.setattr(images, 'PART', 100)
    monkeypatch.setattr(images, '_verdict', lambda read, turn: ('', 'digest'))
    monkeypatch.setattr(images, 'save_json', lambda path, told, **kw: rows.append(len(told['files'])))
    found = images.check_files(files, tmp_path/'index.json', str, dict.fromkeys(files, [1, 2, 3]))
    assert len(found)==rows[-1]==len(files) and sum(rows)<7*len(files)
    assert all(b-a<=100+b/5 for a,b in zip([0, *rows], rows)) # as much is looked at again after a kill
