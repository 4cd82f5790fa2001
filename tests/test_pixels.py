"Pixels: whatever is noted in a file, its picture is what a person would see."
import io, warnings, zlib

import numpy as np, pytest, torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional as TF

from iutok.pixels import *
from iutok.pixels import decode, without_notes

pytestmark = pytest.mark.filterwarnings('ignore') # Pillow's, about notes

def ramp(h=16, w=24):
    y, x = np.mgrid[:h, :w]
    return Image.fromarray(np.stack([x*255//(w-1), y*255//(h-1), (x+y)*255//(h+w-2)], -1).astype(np.uint8))

def saved(img, kind, **kw):
    f = io.BytesIO()
    img.save(f, kind, **kw)
    return f.getvalue()

def chunk(kind, body, sound=True):
    return len(body).to_bytes(4, 'big') + kind + body + (zlib.crc32(kind+body)^(not sound)).to_bytes(4, 'big')

def png(depth, colour, rows, *notes, palette=b''): # a PNG written by hand; rows of packed samples
    side = len(rows)
    head = chunk(b'IHDR', side.to_bytes(4, 'big')*2+bytes([depth, colour, 0, 0, 0]))
    body = chunk(b'IDAT', zlib.compress(b''.join(b'\0'+r for r in rows)))
    return b'\x89PNG\r\n\x1a\n' + head + palette + b''.join(notes) + body + chunk(b'IEND', b'')

def exif(turn=6):
    e = Image.Exif()
    e[0x0112], e[0x010e], e[0x011a], e[0x9286] = turn, 'a ramp of three colours', 72., b'more'
    return e

# ---- notes

@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_broken_exif_does_not_decide_over_pixels(kind):
    lossless = dict(lossless=True) if kind=='WEBP' else {}
    whole, right = saved(ramp(), kind, exif=exif(), **lossless), decode(saved(ramp(), kind, **lossless))
    marks = {'JPEG':b'Exif\0\0', 'PNG':b'eXIf', 'WEBP':b'EXIF'}[kind]
    start = whole.index(marks)+4*(kind!='WEBP')+8*(kind=='WEBP')
    views = {v.tobytes() for v in [right]+[right.transpose(t) for t in Image.Transpose]}
    rng = np.random.default_rng(0)
    for i in range(150):
        hurt = bytearray(whole)
        for j in rng.integers(start, start+len(exif().tobytes())-8, 1+i%12): hurt[j] = rng.integers(256)
        assert decode(bytes(hurt)).tobytes() in views

@pytest.mark.parametrize('turn', range(1, 9))
def test_every_orientation_is_applied(turn):
    from PIL import ImageOps
    data = saved(ramp(), 'PNG', exif=exif(turn))
    assert decode(data).tobytes() == ImageOps.exif_transpose(Image.open(io.BytesIO(data))).tobytes()

@pytest.mark.parametrize('note',
                         [(b'zTXt', b'poem\0\0'+zlib.compress(b'la '*800_000)),
                          (b'iTXt', b'poem\0\1\0\0\0'+zlib.compress(b'la '*800_000)),
                          (b'iCCP', b'icc\0\0'+zlib.compress(bytes(2_000_000))), (b'iCCP', b'icc\0\0junk'),
                          (b'tEXt', b'x'), (b'pHYs', b'1'), (b'gAMA', b''), (b'cHRM', b'123')],
                         ids=lambda n: n[0].decode()+str(len(n[1])))
@pytest.mark.parametrize('sound', [True, False])
def test_large_and_broken_chunks_do_not_decide_over_pixels(note, sound):
    whole = saved(ramp(), 'PNG')
    for at in (33, len(whole)-12):
        assert decode(whole[:at]+chunk(*note, sound)+whole[at:]).tobytes() == ramp().tobytes()
    turned = saved(ramp(), 'PNG', exif=exif(3))
    assert decode(turned[:33]+chunk(*note, sound)+turned[33:]).tobytes() == ramp().rotate(180).tobytes()

def test_large_profile_of_a_jpeg_does_not_decide_over_pixels():
    plain = decode(saved(ramp(), 'JPEG'))
    assert decode(saved(ramp(), 'JPEG', icc_profile=bytes(range(256))*3000)).tobytes() == plain.tobytes()

def test_notes_are_left_out_and_pixels_stay():
    for kind in ('PNG', 'JPEG', 'BMP'):
        whole = saved(ramp(), kind)
        lean = without_notes(whole, False)
        assert decode(lean).tobytes() == decode(whole).tobytes() and len(lean) <= len(whole)
    cmyk = saved(ramp().convert('CMYK'), 'JPEG') # Adobe's segment tells the colours
    assert decode(without_notes(cmyk, False)).tobytes() == decode(cmyk).tobytes()

def test_damaged_headers_are_read_right_or_refused_in_one_line():
    rng = np.random.default_rng(1)
    for whole in (saved(ramp(), 'PNG', exif=exif()), saved(ramp(), 'JPEG', exif=exif()), saved(ramp(), 'GIF'),
                  saved(ramp(), 'BMP'), saved(ramp(), 'TIFF')):
        for _ in range(60):
            hurt = bytearray(whole)
            for j in rng.integers(0, 200, 3): hurt[j] = rng.integers(256)
            try: assert decode(bytes(hurt)).mode == 'RGB'
            except ValueError as e: assert str(e) and '\n' not in str(e)

def test_as_batch_reads_broken_exif_and_names_what_it_cannot_read():
    bad = saved(ramp(), 'JPEG', exif=b'Exif\0\0'+b'XX*\0junk')
    assert torch.equal(as_batch(Image.open(io.BytesIO(bad)), 16),
                       as_batch(Image.open(io.BytesIO(saved(ramp(), 'JPEG'))), 16))
    whole = saved(ramp(64, 64), 'JPEG')
    with pytest.raises(ValueError, match='image 1 cannot be used.*truncated'):
        as_batch([ramp(), Image.open(io.BytesIO(whole[:len(whole)-200]))], 16)

# ---- transparent colours

@pytest.mark.parametrize('depth, colour, rows, key, right', [
    (1, 0, [b'\x40', b'\x40'], b'\0\1', [0, 255, 0, 255]),
        # grey, 1 bit: the white one is clear, and white
    (1, 0, [b'\x40', b'\x40'], b'\0\0', [255, 255, 255, 255]),
    (2, 0, [b'\x60', b'\x60'], b'\0\1', [255, 170, 255, 170]),                              # 2 bits: 1 and 2
    (4, 0, [b'\x3c', b'\x3c'], b'\0\3', [255, 204, 255, 204]),
    (8, 0, [b'\x50\x60', b'\x50\x60'], b'\0\x50', [255, 96, 255, 96]),
    (16, 0, [b'\x50\x50\x60\x60']*2, b'\x50\x50', [255, 96, 255, 96]),
    (8, 2, [b'\x10\x20\x30\x10\x20\x31']*2, b'\0\x10\0\x20\0\x30', [255, (16, 32, 49), 255, (16, 32, 49)]),
    (16, 2, [b'\x10\x10\x20\x20\x30\x30\x40\x40\x50\x50\x60\x60']*2, b'\x10\x10\x20\x20\x30\x30',
     [255, (64, 80, 96), 255, (64, 80, 96)])])
def test_a_transparent_colour_is_white_in_every_mode(depth, colour, rows, key, right):
    data = png(depth, colour, rows, chunk(b'tRNS', key))
    want = [v if isinstance(v, tuple) else (v,)*3 for v in right]
    for img in (decode(data), to_rgb(Image.open(io.BytesIO(data)))):
        assert [img.getpixel((i%2, i//2)) for i in range(4)] == want

@pytest.mark.parametrize('alpha, right',
                         [(b'\0\xff', [255, (40, 50, 60)]), (b'\0', [255, (40, 50, 60)]),
                          (b'\xff\x80', [(10, 20, 30), (147, 152, 157)])])
def test_a_transparent_palette_is_laid_on_white(alpha, right):
    data = png(8, 3, [b'\0\1']*2, chunk(b'tRNS', alpha), palette=chunk(b'PLTE', bytes([10, 20, 30, 40, 50, 60])))
    for i, v in enumerate(right): assert np.abs(np.subtract(decode(data).getpixel((i, 0)), v)).max() <= 1

def test_premultiplied_grey_is_laid_on_white():
    assert to_rgb(Image.new('LA', (2, 2), (0, 0)).convert('La')).getpixel((0, 0)) == (255,)*3

# ---- sizes

def test_a_huge_jpeg_is_read_reduced_and_other_huge_files_name_the_limit(monkeypatch):
    big = ramp(64, 96)
    jpeg, whole = saved(big, 'JPEG', quality=95), saved(big, 'PNG')
    # pictures of twice this are read
    for limit, side in ((3072, (96, 64)), (3000, (48, 32)), (700, (24, 16)), (100, (12, 8))):
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            small = decode(jpeg)
        assert small.size == side
        off = np.asarray(small, float)-np.asarray(big.resize(side, Image.BOX), float)
        assert np.abs(off).max() < 12
    with pytest.raises(ValueError, match='more than the 0.0002 million pixels that are read'): decode(whole)

# ---- batches

@pytest.mark.parametrize('size', [8, 16, 24, 28, 32, 64])
@pytest.mark.parametrize('area', [(.8, 1.), (.08, 1.)])
def test_batched_crops_are_pillows_to_the_bit(size, area):
    rng = np.random.default_rng(size)
    x = torch.from_numpy(rng.integers(0, 2, (60, 3, 32, 40), dtype=np.uint8)*255) # where every clamp shows
    boxes = crop_boxes(rng.random((60, N_UNIFORM)), 32, 40, area)
    slow = [TF.pil_to_tensor(TF.resized_crop(TF.to_pil_image(i), *b.tolist(), [size, size], InterpolationMode.BICUBIC))
            for i, b in zip(x, boxes)]
    assert torch.equal(resize_boxes(x, torch.from_numpy(boxes), size), torch.stack(slow))

@pytest.mark.parametrize('side', [(60, 20), (20, 60), (17, 16), (16, 16), (40, 28)])
def test_one_box_for_all_is_pillows_to_the_bit(side):
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (5, 1, *side), dtype=np.uint8)*255)
    slow = [TF.pil_to_tensor(TF.to_pil_image(i).resize((16, 16), Image.BICUBIC)) for i in x]
    assert torch.equal(resize_boxes(x, torch.tensor([[0, 0, *side]]), 16), torch.stack(slow))

def test_without_columns_first_the_rows_are_first(monkeypatch): # as older Pillow does
    import iutok.pixels as pixels
    monkeypatch.setattr(pixels, 'columns_first', lambda: False)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (5, 1, 60, 20), dtype=np.uint8)*255)
    slow = [TF.pil_to_tensor(TF.to_pil_image(i).resize((16, 60), Image.BICUBIC).resize((16, 16), Image.BICUBIC))
            for i in x]
    assert torch.equal(resize_boxes(x, torch.tensor([[0, 0, 60, 20]]), 16), torch.stack(slow))

@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_rounding_above_one_is_one_and_more_is_refused_with_its_digits(dtype):
    one = torch.ones(1, 3, 8, 8, dtype=dtype)
    up = one*(1+torch.finfo(dtype).eps)
    assert torch.equal(as_batch(up, 8), torch.ones(1, 3, 8, 8))
    assert torch.equal(as_batch(one-up, 8), -torch.ones(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r'got \[1\.\d+, 1\.\d+\]'):
        as_batch(one*(1+8*torch.finfo(dtype).eps) if dtype!=torch.float64 else one*1.0001, 8)
    with pytest.raises(ValueError, match=r'1\.0001'): as_batch(one.float()*1.0001, 8)

@pytest.mark.parametrize('size', [0, -8, 2.5, True])
def test_sides_are_counts(size):
    with pytest.raises(ValueError, match='size'): as_batch(ramp(), size)
    with pytest.raises(ValueError, match='size'): square(ramp(), size)
