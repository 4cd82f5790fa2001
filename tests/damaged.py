"Files as people have them: photographs in every form, whole, damaged, or something else altogether."
import io, struct, zlib
from functools import lru_cache
import numpy as np
from PIL import Image

@lru_cache(1)
def photos():
    from skimage.data import astronaut, chelsea, coffee
    from sklearn.datasets import load_sample_image
    whole = astronaut(), chelsea(), coffee(), load_sample_image('flower.jpg')
    return [Image.fromarray(x[y:y+160, z:z+220]) for x in whole for y in (0, 80, 120) for z in (0, 100, 200)]

def saved(img, kind, **kw):
    f = io.BytesIO()
    img.save(f, kind, **kw)
    return f.getvalue()

def png(width, height, body=b'', depth=8, colour=2): # with any header, and sums that fit it
    chunk = lambda k,b: struct.pack('>I', len(b))+k+b+struct.pack('>I', zlib.crc32(k+b))
    head = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', head)+chunk(b'IDAT', zlib.compress(body))+chunk(b'IEND', b'')

def whole(img, rng): # (kind, extension, bytes) of a sound picture of an ordinary kind
    kind = rng.choice(['jpg', 'jpg', 'progressive', 'png', 'webp', 'gif', 'bmp', 'tif', 'ppm'])
    kw = dict(quality=int(rng.integers(30, 96))) if kind in ('jpg', 'progressive', 'webp') else {}
    form = dict(jpg='JPEG', progressive='JPEG', tif='TIFF').get(kind, kind.upper())
    if kind=='progressive': kw |= dict(progressive=True)
    return str(kind), dict(progressive='jpg').get(kind, str(kind)), saved(img, form, **kw)

def truncated(img, rng):
    _,ext,raw = whole(img, rng)
    return ext,raw[:int(rng.integers(0, len(raw)))]

def flipped(img, rng):
    _,ext,raw = whole(img, rng)
    raw = bytearray(raw)
    for at in rng.integers(0, len(raw)*8, int(rng.integers(1, 30))): raw[at//8] ^= 1 << at%8
    return ext,bytes(raw)

def header(img, rng): # many bits of the first bytes, where the sizes stand
    ext,raw = whole(img, rng)[1:]
    raw = bytearray(raw)
    for at in rng.integers(0, min(len(raw), 200), 6): raw[at] = int(rng.integers(256))
    return ext,bytes(raw)

def renamed(img, rng): return str(rng.choice(['jpg', 'png', 'webp', 'JPEG'])),whole(img, rng)[2]

def stranger(img, rng):
    text = b'<html>404 Not Found</html>',b'PK\x03\x04'+rng.bytes(300),rng.bytes(2000),b'',b'%!PS-Adobe-3.0 EPSF-3.0\n' \
           b'%%BoundingBox: 0 0 9 9\n%%EndComments\n',b'\xff\xd8\xff\xe0',b'GIF89a'
    return str(rng.choice(['jpg', 'png', 'eps'])),text[int(rng.integers(len(text)))]

def huge(img, rng):
    pick = int(rng.integers(6))
    if pick==0: return 'png',png(60_000, 60_000, b'\0'*1000)
    if pick==1: return 'png',png(2**31-1, 1, b'\0'*1000)
    if pick==2: return 'png',png(9_000, 8_000, b'\0'*1000) # within the limit; there is nothing behind it
    if pick==3: return 'png',png(30_000, 30_000, bytes(30_000*400), 1, 0) # a bomb
    if pick==4: return 'gif',b'GIF89a'+struct.pack('<HH', 65_535, 65_535)+saved(img, 'GIF')[10:]
    raw = bytearray(saved(img, 'JPEG'))
    at = raw.index(b'\xff\xc0')
    raw[at+5:at+9] = struct.pack('>HH', 65_500, 65_500)
    return 'jpg',bytes(raw)

def animated(img, rng):
    kind = str(rng.choice(['gif', 'webp', 'png', 'tif']))
    more = [img.rotate(90*k) for k in range(1, 4)]
    return kind,saved(img, dict(tif='TIFF').get(kind, kind.upper()), save_all=True, append_images=more)

def turned(img, rng):
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    raw = bytearray(saved(img, 'JPEG', exif=exif))
    if rng.random()<.5: raw[raw.index(b'Exif')+int(rng.integers(6, 20))] ^= 255
    return 'jpg',bytes(raw)

def alpha(img, rng):
    img = img.convert('RGBA')
    img.putalpha(Image.fromarray(rng.integers(0, 256, img.size[::-1], np.uint8)))
    if rng.random()<.3: return 'png',saved(img.convert('LA'), 'PNG')
    kind = str(rng.choice(['png', 'webp', 'tif', 'gif']))
    return kind,saved(img, dict(tif='TIFF').get(kind, kind.upper()))

def deep(img, rng):
    grey = np.asarray(img.convert('L')).astype(np.uint16)*257
    kind = int(rng.integers(4))
    if kind==0: return 'png',saved(Image.fromarray(grey), 'PNG')
    if kind==1: return 'tif',saved(Image.fromarray(grey), 'TIFF')
    if kind==2: return 'tif',saved(Image.fromarray(grey.astype(np.float32)), 'TIFF') # no range: refused
    rgb = np.asarray(img).astype('>u2')*257
    rows = b''.join(b'\0'+r.tobytes() for r in rgb)
    return 'png',png(img.width, img.height, rows, 16)

def cmyk(img, rng):
    img = img.convert('CMYK')
    return ('jpg',saved(img, 'JPEG')) if rng.random()<.6 else ('tif',saved(img, 'TIFF'))

def ribbon(img, rng): return 'png',saved(img.resize((int(rng.integers(1, 2000)), int(rng.integers(1, 9)))), 'PNG')

KINDS = [truncated, flipped, header, renamed, stranger, huge, animated, turned, alpha, deep, cmyk, ribbon]

def damaged(i, seed=0): # (kind, name, bytes) of the i-th file
    rng = np.random.default_rng([seed, i])
    kind = KINDS[i % len(KINDS)]
    ext,raw = kind(photos()[int(rng.integers(len(photos())))], rng)
    if rng.random()<.1: raw = raw[:int(rng.integers(len(raw)+1))] # some of each kind are cut as well
    return kind.__name__,f'{kind.__name__}{i:05}.{ext}',raw
