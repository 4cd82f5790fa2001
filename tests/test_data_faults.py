"What goes wrong with people's folders and caches: noticed, named, and mended."
import io, os, shutil, struct, warnings, zlib
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
import iutok.data as data, iutok.images as images
from iutok.runs import Run
from iutok.data import load_images
from iutok.files import cached
from iutok.pixels import as_batch, decode
from iutok.runners import images_of
from iutok.splits import list_folder

def paint(path, i=0, side=12):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), i % 256, np.uint8)).save(path)

def touch(root, *names):
    for n in names:
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).touch()
    return root

@pytest.fixture
def shop(tmp_path): # two classes, train and val
    for split,n in (('train', 12), ('val', 6)):
        for c in ('bag', 'hat'):
            for i in range(n): paint(tmp_path/'shop'/split/c/f'{i:02}.png', 10*i+(c=='hat'))
    return tmp_path/'shop'

def folder(path, split='train'): return load_images(f'folder:{path}', split, cache=Path(path).parent/'cache')

# --- identity
# ----------------------------------------------------------------------------------------------------------

def test_replaced_pictures_of_equal_size_are_other_data(shop):
    before,file = folder(shop),shop/'train'/'bag'/'00.png'
    raw = bytearray(file.read_bytes())
    old = os.stat(file)
    other = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), 77, np.uint8)).save(other, 'PNG')
    new = other.getvalue()
    file.write_bytes(new+bytes(max(0, len(raw)-len(new)))) # the same size
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))   # and the same time
    after = folder(shop)
    assert len(before)==len(after) and before.fingerprint!=after.fingerprint
    assert after.batch([0], 12)[0, 0, 0, 0]==77

def test_a_copied_folder_is_the_same_data(shop, tmp_path):
    shutil.copytree(shop, tmp_path/'copy')
    assert folder(tmp_path/'copy').fingerprint==folder(shop).fingerprint

def test_replaced_pictures_make_features_tokens_and_statistics_again(shop, tmp_path):
    from iutok.metrics.scores import reference_stats
    from iutok.proposals.tokens import tokens_of
    from iutok.quantizers import FSQ
    from iutok.recipes import conv_tokenizer
    from types import SimpleNamespace
    torch.manual_seed(0)
    run = SimpleNamespace(width=8, mults=[1, 1, 1], n_res=1, latent=8, attention=False, image_size=32)
    tok = conv_tokenizer(run, FSQ([4, 4]), convs=2).eval()
    def look():
        return tokens_of(tok, folder(shop), tmp_path/'runs').tokens,reference_stats(folder(shop), 'fashion', 32,
            tmp_path/'runs').mu
    _,mu = look()
    file = shop/'train'/'bag'/'00.png'
    paint(file, 200)
    t2,mu2 = look()
    assert not torch.equal(mu, mu2) and len(list((tmp_path/'runs'/'tokens').iterdir()))==2
    assert torch.equal(t2, tok.encode(folder(shop).batch(range(24), 32)).to(t2.dtype))

def test_a_run_over_other_images_is_another_run(shop, tmp_path):
    def run():
        r = Run('train_fsq',
                dict(data=f'folder:{shop}', data_root=None, train_images=None, held_images=None, batch_size=4),
                tmp_path/'run')
        images_of(r)
        return r.id
    first = run()
    assert run()==first
    paint(shop/'train'/'hat'/'03.png', 123)
    assert run()!=first

def test_a_batch_larger_than_the_folder_is_refused(shop, tmp_path):
    r = Run('train_fsq',
            dict(data=f'folder:{shop}', data_root=None, train_images=None, held_images=None, batch_size=25), tmp_path)
    with pytest.raises(ValueError, match='batch_size=25 is more than the 24 images'): images_of(r)

# --- folders
# -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('train, held',
                         [('train', 'val'), ('train', 'valid'), ('Training', 'Testing'), ('TRAIN', 'Validation'),
                          ('train', 'dev')])
def test_the_usual_names_of_splits_are_known(tmp_path, train, held):
    listed = list_folder(touch(tmp_path, f'{train}/bag/1.png', f'{held}/bag/2.png'))
    assert listed==[(f'{train}/bag/1.png', 'bag', 'train'), (f'{held}/bag/2.png', 'bag', 'test')]

def test_a_class_may_be_called_train(tmp_path):
    assert {c for _,c,_ in list_folder(touch(tmp_path, 'train/1.png', 'bus/2.png', 'tram/3.png'))}=={'train', 'bus',
        'tram'}

@pytest.mark.parametrize('names, said',
                         [(('train/a/1.png', 'training/a/2.png'), 'both train/ and training/'),
                          (('train/a/1.png', 'bus/2.png'), 'are these classes or splits'),
                          (('train/a/1.png', 'val/a/2.png', 'extra/3.png'), 'holds extra/ beside its splits'),
                          (('val/a/1.png',), 'but no train/')])
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, names, said):
    with pytest.raises(ValueError, match=said): list_folder(touch(tmp_path, *names))

def test_a_third_split_is_left_out_aloud(tmp_path, capsys):
    listed = list_folder(touch(tmp_path, 'train/a/1.png', 'val/a/2.png', 'test/a/3.png'))
    assert [s for _,_,s in listed]==['train', 'test'] and 'test is not used' in capsys.readouterr().out

def test_linked_folders_are_followed_and_links_to_nothing_are_named(tmp_path, capsys):
    for i in range(40): paint(tmp_path/'far'/f'{i}.png', i)
    (tmp_path/'shop'/'bag').mkdir(parents=True)
    (tmp_path/'shop'/'bag'/'more').symlink_to(tmp_path/'far')
    (tmp_path/'shop'/'bag'/'more'/'round').symlink_to(tmp_path/'far') # a circle
    (tmp_path/'shop'/'bag'/'gone.png').symlink_to(tmp_path/'nowhere')
    sets = [folder(tmp_path/'shop', s) for s in ('train', 'test')]
    assert sum(map(len, sets))==40 and sum(len(s.skipped) for s in sets)==1
    assert 'skipped bag/gone.png: a link to nothing' in capsys.readouterr().out

def test_names_that_are_not_utf8_are_read(tmp_path):
    top = os.fsencode(tmp_path/'shop'/'bag')
    for i in range(40): paint(tmp_path/'shop'/'bag'/f'{i}.png', i)
    os.rename(os.path.join(top, b'7.png'), os.path.join(top, b'caf\xe9.png'))
    assert sum(len(folder(tmp_path/'shop', s)) for s in ('train', 'test'))==40

def test_a_name_falls_into_the_same_split_composed_and_decomposed(tmp_path):
    names = [f'é{i}' for i in range(60)]
    import unicodedata
    a,b = (list_folder(touch(tmp_path/form, *[unicodedata.normalize(form, f'café/{n}.png') for n in names]))
           for form in ('NFC', 'NFD'))
    side = lambda listed: {unicodedata.normalize('NFC', f):(c, s) for f,c,s in listed}
    assert side(a)==side(b) and {s for _,_,s in a}=={'train', 'test'}

# --- pictures
# ----------------------------------------------------------------------------------------------------------

def png(img, **kw):
    out = io.BytesIO()
    img.save(out, 'PNG', **kw)
    return out.getvalue()

def chunk(kind, body): return struct.pack('>I', len(body))+kind+body+struct.pack('>I', zlib.crc32(kind+body))

def with_chunk(raw, kind, body): return raw[:33]+chunk(kind, body)+raw[33:] # after the header

def test_notes_of_a_file_do_not_decide_over_its_pixels():
    "Broken EXIF, a text of a hundred megabytes, a torn colour profile: the pixels are read."
    rng,img = np.random.default_rng(0),Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8))
    want = np.asarray(img)
    jpeg = io.BytesIO()
    img.save(jpeg, 'JPEG', exif=Image.Exif().tobytes() or b'Exif\0\0MM\0*\0\0\0\x08\0\0')
    plain = decode(jpeg.getvalue())
    views = [np.asarray(v) for v in (plain, *(plain.transpose(t) for t in Image.Transpose))]
    for _ in range(200): # fuzzed EXIF
        body = b'Exif\0\0'+rng.bytes(int(rng.integers(4, 60)))
        assert np.array_equal(np.asarray(decode(with_chunk(png(img), b'eXIf', body[6:]))), want)
        raw = jpeg.getvalue()
        raw = raw[:2]+b'\xff\xe1'+struct.pack('>H', len(body)+2)+body+raw[2:]
        got = np.asarray(decode(raw))
        assert any(np.array_equal(got, v) for v in views) # as it lies, or turned as the EXIF happens to say
    bomb = chunk(b'zTXt', b'k\0\0'+zlib.compress(bytes(80_000_000)))
    assert np.array_equal(np.asarray(decode(png(img)[:33]+bomb+png(img)[33:])), want)
    assert np.array_equal(np.asarray(decode(with_chunk(png(img), b'iCCP', b'p\0\0'+b'torn'))), want)

def test_as_batch_names_a_picture_that_cannot_be_used():
    with pytest.raises(ValueError, match='image 1 cannot be used: 600x1'):
        as_batch([Image.new('RGB', (8, 8)), Image.new('RGB', (600, 1))], 8)

@pytest.mark.parametrize('mode, value, clear', [('L', 7, 7), ('RGB', (1, 2, 3), (1, 2, 3)), ('P', 3, 3), ('1', 0, 0)])
def test_a_transparent_colour_is_laid_on_white_in_every_mode(mode, value, clear):
    img = Image.new(mode, (4, 4), value)
    if mode=='P': img.putpalette([i for c in range(256) for i in (c, c, c)])
    if mode!='1': img.putpixel((0, 0), (9, 9, 9) if mode=='RGB' else 9)
    got = np.asarray(decode(png(img, transparency=clear)))
    assert (got[1:]==255).all() and (mode=='1' or (got[0, 0]==9).all())

def test_a_picture_of_two_hundred_megapixels_is_read_small_or_refused_with_the_limit(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)
    big = Image.new('RGB', (160, 120), (200, 10, 10))
    out = io.BytesIO()
    big.save(out, 'JPEG')
    small = decode(out.getvalue())
    assert small.size==(80, 60) and abs(np.asarray(small).mean((0, 1))-[200, 10, 10]).max()<4
    with pytest.raises(ValueError, match='more than the 0.006 million pixels that are read'): decode(png(big))

def test_a_rounding_above_1_is_1_and_more_is_refused_with_its_digits():
    assert as_batch(torch.full((1, 3, 8, 8), 1+2**-23), 8).max()==1
    with pytest.raises(ValueError, match=r'got \[1.0001, 1.0001\]'): as_batch(torch.full((1, 3, 8, 8), 1.0001), 8)

# --- warnings and caches
# -------------------------------------------------------------------------------------------------

def test_looking_at_a_folder_leaves_the_warnings_alone(shop):
    "A codebook that collapses afterwards warns."
    (shop/'train'/'bag'/'bad.png').write_bytes(b'no picture')
    before = list(warnings.filters)
    try: folder(shop)
    except ValueError: pass
    assert warnings.filters==before

def test_a_damaged_cache_is_named_and_made_again(tmp_path, capsys):
    made,path = [],tmp_path/'x.npy'
    def make(p):
        made.append(1)
        with p.open('wb') as f: np.save(f, np.arange(1000))
    read = lambda p: np.load(p, mmap_mode='r')
    assert cached(path, make, read).sum()==cached(path, make, read).sum() and len(made)==1
    path.write_bytes(path.read_bytes()[:500])
    assert cached(path, make, read)[-1]==999 and len(made)==2
    assert 'x.npy is damaged' in capsys.readouterr().out

def test_damaged_statistics_are_made_again(tmp_path, capsys):
    from iutok.metrics.scores import reference_stats
    held = load_images('fashion', 'test').take(40)
    mu = reference_stats(held, 'fashion', 32, tmp_path).mu
    file = next((tmp_path/'stats').glob('*.safetensors'))
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(reference_stats(held, 'fashion', 32, tmp_path).mu, mu)
    assert 'is damaged' in capsys.readouterr().out

def flip(path, at=-9): # one bit, which no reader notices
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)

def test_a_turned_bit_in_any_cache_is_noticed_and_the_file_made_again(tmp_path, capsys):
    from iutok.proposals.tokens import tokens_of
    from types import SimpleNamespace
    from iutok.clustering import sample_vectors
    from iutok.metrics.scores import reference_stats
    from iutok.teachers import cached_features
    held = load_images('fashion', 'test').take(40)
    maps = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    info = SimpleNamespace(name='toy', hash='a', feature='f', dim=3)
    class Toy:
        size,fast = 32,False
        def __init__(self): self.info = info
        def __call__(self, u8): return u8[:,:,::16,::16].float()
    toy = SimpleNamespace(fingerprint=lambda encoding_only: 'a', encoder=None, image_size=32, n_codes=16,
                          encode=lambda u8: u8[:,0,::8,::8].long()//16)
    looks = dict(
        features=lambda: np.array(cached_features(Toy(), [(held.batch(range(40), 32),)], 40, 'x', tmp_path/'features')),
        vectors=lambda: torch.cat(list(sample_vectors(maps, 100, path=tmp_path/'vectors'/'v.npy'))).numpy(),
        stats=lambda: reference_stats(held, 'fashion', 32, tmp_path).sigma.numpy(),
        tokens=lambda: tokens_of(toy, held, tmp_path).tokens.numpy())
    for kind,look in looks.items():
        first = look()
        file = min(f for f in (tmp_path/kind).rglob('*') if f.is_file() and f.name[0]!='.')
        flip(file)
        assert np.array_equal(look(), first) and f'{file.name} is damaged' in capsys.readouterr().out, kind
        file.write_bytes(file.read_bytes()[:-50])
        assert np.array_equal(look(), first) and f'{file.name} is damaged' in capsys.readouterr().out, kind
        os.utime(file)
        assert np.array_equal(look(), first) and not capsys.readouterr().out, kind

def test_a_run_over_other_weights_of_a_used_run_is_another_run(tmp_path):
    from iutok.files import save_json
    used = tmp_path/'tok'
    save_json(used/'record.json', dict(run='tok', notebook='train_vqgan', id='abc', metrics={}))
    (used/'tokenizer.safetensors').write_bytes(b'one')
    def run():
        r = Run('train_ar', dict(tokenizer=str(used)), tmp_path/'run')
        r.use('tokenizer', used)
        return r.id
    first = run()
    assert run()==first
    (used/'tokenizer.safetensors').write_bytes(b'two')
    assert run()!=first

@pytest.mark.parametrize('n', [0, -5, 2.5, True, float('nan')])
def test_counts_are_checked_at_the_doors_of_data(n):
    held = load_images('fashion', 'test').take(8)
    for name,call in dict(size=lambda: held.batch([0], n), batch_size=lambda: data.Batches(held, 32, n)).items():
        with pytest.raises(ValueError, match=f'{name} must be a whole number'): call()
    with pytest.raises(ValueError, match='batch_size must be'): next(data.sequential(held, 32, n))
    with pytest.raises(ValueError, match='size must be'): next(data.sequential(held, n, 4))
    with pytest.raises(ValueError, match='batch_size must be'): data.step_indices(8, 0, n)

@pytest.mark.parametrize('n', [0, -5, 2.5, True])
def test_a_number_of_images_that_is_no_count_is_refused(n):
    with pytest.raises(ValueError, match='n must be a whole number of at least 1'):
        load_images('fashion', 'test').take(n)

def test_a_home_that_is_not_there_is_no_obstacle(monkeypatch):
    monkeypatch.delenv('IUTOK_CACHE', raising=False)
    def nobody(self): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(Path, 'expanduser', nobody)
    assert data.cache_dir().name=='iutok-cache'

def test_an_index_that_cannot_be_written_costs_one_line(shop, monkeypatch, capsys):
    def full(*a, **kw): raise OSError('No space left on device')
    monkeypatch.setattr(images, 'save_json', full)
    assert len(folder(shop))==24 and 'No space left on device' in capsys.readouterr().out
