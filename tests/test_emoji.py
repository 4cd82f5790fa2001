"Emoji: what the file holds, what is held out, and pictures that are a function of (seed, picture, view)."
import hashlib, io, json, subprocess, sys, zipfile
from collections import Counter
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image

from iutok.data import Batches, ImageSet, load_images
from iutok.emoji import COLOURS, STYLES, EmojiSet, Layout, compose, layout, may_mirror, read_emoji
from iutok.files import asset
from iutok.pixels import N_UNIFORM

@pytest.fixture(scope='module')
def emoji(): return read_emoji(asset('emoji.zip'))
@pytest.fixture(scope='module')
def train(): return load_images('emoji')
@pytest.fixture(scope='module')
def test(): return load_images('emoji', 'test')

def index():
    with zipfile.ZipFile(asset('emoji.zip')) as z: return json.loads(z.read('index.json'))

# ---- the file

COUNTS = dict( # pictures per style, and held-out concepts
    Activities=(85, 85, 85, 8), Animals=(159, 159, 157, 16), Flags=(270, 270, 253, 27), Food=(131, 131, 128, 13),
    Objects=(264, 264, 261, 26), People=(386, 386, 361, 39), Smileys=(169, 169, 166, 17), Symbols=(224, 224, 223, 22),
    Travel=(218, 218, 218, 22))

def test_counts_per_group_and_style(emoji):
    found = Counter((emoji.concepts[c][1], STYLES[s]) for c, s in zip(emoji.concept, emoji.style))
    held = Counter(g for n, g, _ in emoji.concepts if n in emoji.held_out)
    assert {g: (*(found[g, s] for s in STYLES), held[g]) for g in COUNTS} == COUNTS
    assert len(emoji.pixels) == sum(found.values()) == 5664 and sum(held.values()) == len(emoji.held_out) == 190
    assert len({s for _, _, s in emoji.concepts}) == 98 and len({n for n, _, _ in emoji.concepts}) == 1906

def test_the_pixels_are_those_that_were_packed(emoji):
    for k, (style, about) in enumerate(index()['styles'].items()):
        pixels = emoji.pixels[emoji.style == k].tobytes()
        assert style == STYLES[k] and hashlib.sha256(pixels).hexdigest() == about['pixels']

def test_nothing_in_the_file_tells_when_or_where_it_was_made():
    with zipfile.ZipFile(asset('emoji.zip')) as z:
        infos = z.infolist()
        assert [i.filename for i in infos] == ['index.json', 'Noto.webp', 'Twemoji.webp', 'Fluent.webp']
        assert {i.date_time for i in infos} == {(1980, 1, 1, 0, 0, 0)}
        assert {i.compress_type for i in infos} == {zipfile.ZIP_STORED}
    assert asset('emoji.zip').stat().st_size < 16e6

def test_no_skin_tones_and_no_component(emoji):
    assert 'Component' not in {g for _, g, _ in emoji.concepts}
    assert not [n for n, _, _ in emoji.concepts if 'fitzpatrick' in n or 'skin tone' in n]

def test_every_source_is_named_with_its_licence():
    text = asset('emoji.LICENSE.txt').read_text()
    for said in ('Noto Emoji', 'Copyright Google LLC', 'Apache License', 'TERMS AND CONDITIONS FOR USE', 'Twemoji',
                 'Twitter, Inc and other contributors', 'CC-BY 4.0', 'https://creativecommons.org/licenses/by/4.0/',
                 'Fluent Emoji', 'Copyright (c) Microsoft Corporation',
                 'Permission is hereby granted', 'Cal Henderson', 'Changes:'):
        assert said in text, said

# ---- the splits

def test_no_concept_is_on_both_sides(train, test, emoji):
    assert not {*train.concepts} & {*test.concepts}
    assert {*test.concepts} == emoji.held_out
    assert {*train.concepts} | {*test.concepts} == {n for n, _, _ in emoji.concepts}
    assert not {*train.places[:, 0].tolist()} & {*test.places[:, 0].tolist()}

def test_it_is_an_image_set_like_the_others(train, test):
    assert isinstance(train, ImageSet) and (len(train), len(test)) == (20_000, 565)
    assert train.classes == test.classes == sorted(COUNTS)
    group = {n: g for n, g, _ in train.emoji.concepts}
    assert train.labels.dtype == torch.int64
    assert [train.classes[y] for y in train.labels] == [group[c] for c in train.concepts]
    for kind in (train.captions, train.concepts, train.styles, train.subgroups, train.colours):
        assert len(kind) == len(train)
    assert [train.subclasses[y] for y in train.sublabels] == train.subgroups
    assert {*test.colours} == {'white'} and {*test.places[:, 1].tolist()} == {0}
    assert len(train.plain) == 5664-565 and {*train.plain.places[:, 1].tolist()} == {0}
    assert len(EmojiSet.open('train', 300)) == 300 and len(EmojiSet.open('test', 1000)) == 1000
    b = Batches(train, 32, 16, 'none', seed=3)[2]
    assert b.u8.shape == (16, 3, 32, 32) and torch.equal(b.y, train.labels[b.idx])

# ---- captions

def corners(x): return [tuple(x[:, i, j].tolist()) for i in (0, -1) for j in (0, -1)]

@pytest.mark.parametrize('size', [64, 32])
def test_the_colour_that_is_named_is_the_colour_of_the_ground(train, size):
    views = np.flatnonzero(train.places[:, 1] > 0)
    drawn = np.random.default_rng(0).choice(views, 1000, replace=False)
    texts, seen = train.captions, Counter()
    for i in drawn:
        rgb = Counter(corners(train.uint8(i, size))).most_common(1)[0][0]
        measured = min(COLOURS, key=lambda c: np.abs(np.subtract(COLOURS[c], rgb)).sum())
        assert rgb == COLOURS[measured]
        assert texts[i].endswith(f', {train.styles[i]} style, on a {measured} background'), texts[i]
        seen[measured] += 1
    assert len(seen) == 12 and min(seen.values()) > 50

def test_view_0_is_whole_and_on_white(test, emoji):
    for i in range(0, len(test), 20):
        rgba = emoji.pixels[test.places[i, 0]].astype(int)
        a = rgba[..., 3:]
        assert np.abs(test.uint8(i, 64).permute(1, 2, 0).numpy() - (rgba[..., :3]*a + 255*(255-a))/255).max() <= 1
        assert test.captions[i].endswith('on a white background')

# ---- a pure function

def test_the_same_seed_picture_and_view_give_the_same_bytes(train):
    some = [0, 77, 5099, 9000, 12345, 19999]
    for size in (64, 48, 32, 100):
        x = train.batch(some, size)
        assert x.shape == (6, 3, size, size) and x.dtype == torch.uint8
        assert torch.equal(x, torch.stack([train.uint8(i, size) for i in some]))
        assert torch.equal(x, train.subset(some).batch(range(6), size))
        assert torch.equal(x, EmojiSet.open('train', 20_000).batch(some, size))
    other = EmojiSet.open('train', seed=1)
    assert torch.equal(other.batch(some[:2], 32), train.batch(some[:2], 32))
    assert not torch.equal(other.batch(some, 32), train.batch(some, 32))
    assert torch.equal(EmojiSet.open('train', 6000).batch([5500], 32), train.batch([5500], 32)) # a prefix

def test_another_process_puts_the_same_picture_together(train):
    code = ("import hashlib; from iutok.data import load_images; "
            "x = load_images('emoji').batch(range(9000, 9020), 32); "
            "print(hashlib.sha256(x.numpy().tobytes()).hexdigest())")
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == hashlib.sha256(train.batch(range(9000, 9020), 32).numpy().tobytes()).hexdigest()

def test_numbers_of_a_view_do_not_hang_together():
    lays = [layout(p, v) for p in range(2000) for v in (1, 2)]
    scale, right, down, mirrored, _ = map(np.array, zip(*lays))
    assert .7 <= scale.min() < .71 and .96 < scale.max() < .97 and abs(mirrored.mean()-.5) < .03
    assert np.abs(np.corrcoef([scale, right, down, mirrored])[~np.eye(4, dtype=bool)]).max() < .06
    assert layout(7, 0) == Layout() and layout(7, 1) != layout(7, 2) != layout(8, 2)

def test_transforms_are_the_usual_ones(train):
    u = np.random.default_rng(0).random((30, N_UNIFORM))
    for transform in ('weak', 'strong', 'default'):
        x = train.batch(range(9000, 9030), 32, transform, u)
        assert x.shape == (30, 3, 32, 32)
        assert torch.equal(x[7:9], train.batch([9007, 9008], 32, transform, u[7:9]))

# ---- mirrors

def test_what_is_written_is_never_mirrored(train):
    by_name = {n: (n, g, s) for n, g, s in train.emoji.concepts}
    for name in ('Andorra flag', 'clock face one oclock', 'input symbol for numbers', 'heavy dollar sign', 'calendar',
                 'newspaper', 'hospital', 'waxing crescent moon symbol', 'first place medal', 'personal computer',
                 'person walking facing right', 'mahjong tile red dragon'):
        assert not may_mirror(by_name[name]), name
    for name in ('fox face', 'red apple', 'penguin', 'violin', 'rocket', 'guitar', 'grinning face'):
        assert may_mirror(by_name[name]), name
    free = [n for n in by_name if may_mirror(by_name[n])]
    assert not [n for n in free if any(w in n for w in ('left', 'right', 'clock', 'keycap'))]
    mirrored = {name for name, (p, v) in zip(train.concepts, train.places.tolist()) if train._layout(p, v).mirrored}
    assert len(mirrored) > 700 and all(may_mirror(by_name[n]) for n in mirrored)

def test_a_random_flip_respects_it_too(train):
    always = np.zeros((1, N_UNIFORM)) # a weak crop that always flips
    plain = train.plain
    names = plain.concepts
    for name, flips in (('fox face', True), ('newspaper', False), ('Japan flag', False), ('guitar', True)):
        i = names.index(name)
        x = plain.uint8(i, 64)
        assert torch.equal(plain.batch([i], 64, 'weak', always)[0], x.flip(-1) if flips else x), name

def test_alpha_leaves_no_rim():
    "A white disc on white stays white at any scale; on red nothing is darker than the ground."
    disc = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64]
    disc[(y-32)**2 + (x-32)**2 < 700] = 255
    for s in (.7, .8123, .97):
        assert (np.asarray(compose(disc, Layout(s, .3, .3), 32)) == 255).all()
        on_red = np.asarray(compose(disc, Layout(s, .3, .3, colour='red'), 32))
        assert (on_red >= np.array(COLOURS['red'])).all()

# ---- identity

def test_identity_changes_with_the_file_the_seed_and_the_choice(train, tmp_path):
    few = EmojiSet.open('train', 50)
    assert few.fingerprint == EmojiSet.open('train', 50).fingerprint == train.subset(range(50)).fingerprint
    others = (train, EmojiSet.open('train', 51), train.subset(range(1, 51)))
    assert few.fingerprint not in {s.fingerprint for s in others}
    assert EmojiSet.open('train', 6000, seed=1).fingerprint != EmojiSet.open('train', 6000).fingerprint
    style, concept = (a[few.places[0, 0]] for a in (few.emoji.style, few.emoji.concept))
    with zipfile.ZipFile(asset('emoji.zip')) as z: files = {n: z.read(n) for n in z.namelist()}
    sheet = np.array(Image.open(io.BytesIO(files[f'{STYLES[style]}.webp'])))
    place = index()['styles'][STYLES[style]]['concepts'].index(concept)
    top, left = place//44*64, place%44*64
    sheet[top+32, left+32] = np.where(sheet[top+32, left+32] > 100, 50, 200)
    out = io.BytesIO()
    Image.fromarray(sheet).save(out, 'WEBP', lossless=True, quality=0, method=0, exact=True)
    def packed(name, **changed):
        with zipfile.ZipFile(tmp_path/name, 'w') as z:
            for n, raw in (files | changed).items(): z.writestr(n, raw)
        return EmojiSet.open('train', 50, path=tmp_path/name)
    assert packed('same.zip').fingerprint == few.fingerprint
    assert packed('pixel.zip', **{f'{STYLES[style]}.webp': out.getvalue()}).fingerprint != few.fingerprint
    renamed = index()
    renamed['concepts'][concept][0] += ' of another name'
    changed = packed('name.zip', **{'index.json': json.dumps(renamed)})
    assert changed.fingerprint != few.fingerprint

def test_statistics_of_another_seed_are_others(tmp_path):
    from iutok.metrics.scores import reference_stats
    a, b = (EmojiSet.open('train', 5200, seed=s).subset(range(5150, 5200)) for s in (0, 1))
    mu = [reference_stats(s, 'fashion', 32, tmp_path).mu for s in (a, b, a)]
    assert not torch.equal(mu[0], mu[1])
    assert torch.equal(mu[0], mu[2]) and len(list((tmp_path/'stats').glob('*.safetensors'))) == 2

# ---- what is written beside images in a folder

@pytest.fixture
def shop(tmp_path):
    for i, name in enumerate(['train/bag/0', 'train/bag/1', 'train/coat/2', 'train/coat/3', 'val/bag/4']):
        (tmp_path/'shop'/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40*i, np.uint8)).save(tmp_path/'shop'/f'{name}.png')
    return tmp_path/'shop'

def folder(path, split='train'): return load_images(f'folder:{path}', split, cache=Path(path).parent/'cache')
def lines(**texts): return '\n'.join(json.dumps(dict(file_name=k, text=v)) for k, v in texts.items())

def test_captions_of_a_folder(shop):
    silent = folder(shop)
    assert silent.captions == ['bag', 'bag', 'coat', 'coat'] and silent.skipped == []
    said = {'train/bag/0.png': 'a bag', 'train/coat/2.png': 'from afar', 'val/bag/4.png': 'held'}
    (shop/'captions.jsonl').write_text(lines(**said))
    (shop/'train'/'coat'/'captions.jsonl').write_text(lines(**{'2.png': ' from\n near '})+'\n\n')
    (shop/'train'/'coat'/'3.txt').write_bytes('\ufeffein Mantel für Regen\n'.encode())
    (shop/'train'/'bag'/'1.txt').write_text(' \n')
    s = folder(shop)
    assert s.captions == ['a bag', 'bag', 'from near', 'ein Mantel für Regen'] and s.skipped == [] and len(s) == 4
    assert folder(shop, 'test').captions == ['held'] and s.fingerprint != silent.fingerprint
    assert s.subset([3, 0]).captions == ['ein Mantel für Regen', 'a bag']
    assert s.take(2).captions == ['a bag', 'from near']
    (shop/'train'/'coat'/'3.txt').write_text('ein Mantel')
    assert folder(shop).fingerprint != s.fingerprint

def test_captions_without_class_folders(tmp_path):
    (tmp_path/'shop').mkdir()
    for i in range(30): Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path/'shop'/f'{i}.png')
    (tmp_path/'shop'/'captions.jsonl').write_text(lines(**{f'{i}.png': f'grey {i}' for i in range(30)}))
    sets = [folder(tmp_path/'shop', split) for split in ('train', 'test')]
    got = {f: t for s in sets for f, t in zip(s.files, s.captions)}
    assert got == {f'{i}.png': f'grey {i}' for i in range(30)}

@pytest.mark.parametrize('wrong', [
    'not json', '[1, 2]', '{"file_name": "a.png"}', '{"file_name": "a.png", "text": 3}',
    '{"file": "a.png", "text": "b"}'])
def test_a_line_that_cannot_be_read_is_named(shop, wrong):
    (shop/'captions.jsonl').write_text(lines(**{'train/bag/0.png': 'a bag'})+'\n'+wrong)
    with pytest.raises(ValueError, match='captions.jsonl, line 2: wants'): folder(shop)

def test_captions_of_files_that_are_not_there_are_said(shop, capsys):
    (shop/'captions.jsonl').write_text(lines(**{'train/bag/9.png': 'gone', 'train/bag/0.png': 'a bag'}))
    assert folder(shop).captions[0] == 'a bag'
    assert 'speaks of 1 files that are not here; the first is train/bag/9.png' in capsys.readouterr().out

def test_a_text_that_belongs_to_no_image_is_still_a_broken_image(shop, capsys):
    for i in range(40): Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(shop/'train'/'bag'/f'x{i}.png')
    (shop/'train'/'bag'/'notes.txt').write_text('three bags')
    assert folder(shop).skipped == [('train/bag/notes.txt', 'not an image')]

def test_every_set_has_captions():
    held = load_images('fashion', 'test').take(10)
    assert held.captions == held.classes
