#!/usr/bin/env python
"""Build iutok/assets/emoji.zip: 5,664 pictures of 1,906 concepts in three drawing styles, 64x64 with alpha.

Pictures and names come from three npm packages, which `npm pack` fetches unless they lie in FOLDER already.
Left out are skin tones, the group "Component", and what a style does not draw. A tenth of the concepts of each group is
held out by name, in every style: those whose names have the smallest sha256. The list is stored in the file, which is
the same, byte for byte, on every run.
Usage: scripts/make_emoji.py [FOLDER_FOR_THE_THREE_TGZ_FILES]
"""
import hashlib, io, json, subprocess, sys, tarfile, tempfile, zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

ASSETS = Path(__file__).resolve().parents[1]/'iutok'/'assets'
SIDE, COLUMNS = 64, 44
PACKAGES = { # style: package, its file, sha256 of that file
    'Noto': ('emoji-datasource-google@16.0.0', 'emoji-datasource-google-16.0.0.tgz',
             'fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438'),
    'Twemoji': ('emoji-datasource-twitter@16.0.0', 'emoji-datasource-twitter-16.0.0.tgz',
                'f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877'),
    'Fluent': ('@lobehub/fluent-emoji-3d@1.1.0', 'lobehub-fluent-emoji-3d-1.1.0.tgz',
               'c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58')}

def packed(folder, style):
    "The bytes of every file of a package, by name."
    package, name, want = PACKAGES[style]
    if not (folder/name).exists():
        subprocess.run(['npm', 'pack', '--silent', package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    raw = (folder/name).read_bytes()
    if (got := hashlib.sha256(raw).hexdigest()) != want: raise SystemExit(f'{name} has sha256 {got}, not {want}')
    keep = ('package/emoji.json', 'package/img/google/64/', 'package/img/twitter/64/', 'package/assets/')
    with tarfile.open(fileobj=io.BytesIO(raw)) as t:
        return {m.name: t.extractfile(m).read() for m in t if m.isfile() and m.name.startswith(keep)}

def file_of(style, entry):
    "Where a package keeps the picture of an entry of emoji.json."
    if style == 'Fluent': return f'package/assets/{entry["image"][:-4]}.webp'
    return f'package/img/{dict(Noto="google", Twemoji="twitter")[style]}/64/{entry["image"]}'

def names_of(entries):
    "Unicode's names in small letters; entries that share one take their short names."
    count = Counter(e['name'] for e in entries)
    names = []
    for e in entries:
        short = e['short_name'].replace('_', ' ').replace('-', ' ')
        name = e['name'].lower() if e['name'].isupper() else e['name'].replace(' Flag', ' flag')
        names.append(short if count[e['name']] > 1 else name)
    assert len(set(names)) == len(names)
    return names

def picture(raw, style):
    "(64, 64, 4) uint8; what is wholly transparent is black."
    img = Image.open(io.BytesIO(raw)).convert('RGBA')
    if img.width != img.height:
        side = max(img.size)
        square = Image.new('RGBA', (side, side))
        square.paste(img, ((side-img.width)//2, (side-img.height)//2))
        img = square
    if img.width != SIDE: img = img.resize((SIDE, SIDE), Image.Resampling.LANCZOS) # weighs colours by alpha
    x = np.array(img)
    if style == 'Fluent': x[..., :3] &= 254 # even values: a tenth of the file for one grey level in 256
    x[x[..., 3] == 0] = 0
    return x

def sheet(pictures):
    "One picture of all, 44 to a row, and the bytes of its lossless WebP."
    rows = -(-len(pictures)//COLUMNS)
    cells = np.zeros((rows*COLUMNS, SIDE, SIDE, 4), np.uint8)
    cells[:len(pictures)] = pictures
    big = cells.reshape(rows, COLUMNS, SIDE, SIDE, 4).transpose(0, 2, 1, 3, 4).reshape(rows*SIDE, COLUMNS*SIDE, 4)
    out = io.BytesIO()
    Image.fromarray(big).save(out, 'WEBP', lossless=True, quality=100, method=6, exact=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(out.getvalue()))), big)
    return out.getvalue()

def held_out(names, groups):
    "The tenth of each group whose names have the smallest sha256."
    held = []
    for g in sorted(set(groups)):
        mine = [n for n, h in zip(names, groups) if h == g]
        mine.sort(key=lambda n: hashlib.sha256(n.encode()).hexdigest())
        held += mine[:round(len(mine)/10)]
    return sorted(held)

def main(folder):
    files = {style: packed(folder, style) for style in PACKAGES}
    entries = json.loads(files['Noto']['package/emoji.json'])
    entries = sorted((e for e in entries if e['category'] != 'Component'), key=lambda e: e['sort_order'])
    names = names_of(entries)
    groups = [e['category'].split()[0] for e in entries]
    concepts = [[n, g, e['subcategory']] for n, g, e in zip(names, groups, entries)]
    sheets, styles = {}, {}
    for style in PACKAGES:
        drawn = [i for i, e in enumerate(entries) if file_of(style, e) in files[style]]
        x = np.stack([picture(files[style][file_of(style, entries[i])], style) for i in drawn])
        sheets[f'{style}.webp'] = sheet(x)
        styles[style] = dict(pixels=hashlib.sha256(x.tobytes()).hexdigest(), concepts=drawn)
        print(f'{style}: {len(drawn)} pictures, {len(sheets[f"{style}.webp"])/1e6:.2f} MB', flush=True)
    index = dict(side=SIDE, columns=COLUMNS, concepts=concepts, held_out=held_out(names, groups), styles=styles)
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as z:
        text = json.dumps(index, ensure_ascii=False, separators=(',', ':'))
        for name, data in [('index.json', text.encode()), *sheets.items()]:
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    raw = out.getvalue()
    assert len(raw) < 16e6, len(raw)
    (ASSETS/'emoji.zip').write_bytes(raw)
    print(f'emoji.zip: {len(raw)/1e6:.2f} MB, sha256 {hashlib.sha256(raw).hexdigest()}')

if __name__ == '__main__':
    if len(sys.argv) > 1: main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as tmp: main(Path(tmp))
