"Every reader on a small tree of its layout, of photographs."
import io, sys, tarfile, threading, types, zipfile
from functools import lru_cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pytest, torch
from PIL import Image
from iutok.data import HubSet, braces, load_images, open_rgb, shard_files
from iutok.pixels import square
from iutok.splits import GROUND_TRUTH, SOLUTION, file_bytes, ilsvrc_of_wnid, ilsvrc_order, list_faces, members

@lru_cache(1)
def photos(): # crops of three photographs, all different
    from skimage.data import astronaut, coffee
    from sklearn.datasets import load_sample_image
    return [x[60*i:60*i+90, 70*j:70*j+120] for x in (astronaut(), coffee(), load_sample_image('china.jpg'))
            for i in range(4) for j in range(5)]

def jpeg(i):
    f = io.BytesIO()
    Image.fromarray(photos()[i % 60]).save(f, 'JPEG', quality=92)
    return f.getvalue()

def tree(root, names): # photograph i in the i-th file
    for i,n in enumerate(names):
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).write_bytes(jpeg(i))
    return root

def sets(data, root, cache): return [load_images(data, s, root, cache) for s in ('train', 'test')]

# ---- ImageNet

SYNSETS = ['n02123045', 'n01440764', 'n02119789'] # tabby, tench, kit fox: 174, 449 and 1 of the official order
NUMBERS = [174, 449, 1, 449, 1, 174]
TRAIN = [f'train/{s}/{s}_{i}.JPEG' for s in SYNSETS for i in range(2)]
FLAT = [f'ILSVRC2012_val_{i:08}.JPEG' for i in range(1, 7)]

def test_the_official_order_is_the_development_kits():
    order,perm = ilsvrc_order(),ilsvrc_of_wnid()
    assert len(set(order))==1000 and sorted(perm)==list(range(1000))
    for number,wnid in ((1, 'n02119789'), (174, 'n02123045'), (449, 'n01440764'), (1000, 'n03255030')):
        assert order[number-1]==wnid and perm[sorted(order).index(wnid)]==number-1

@pytest.mark.parametrize('place', ['', 'val', 'ILSVRC2012_devkit_t12/data'])
def test_flat_validation_images_get_their_synset_from_the_development_kit(tmp_path, place):
    root = tree(tmp_path/'in', TRAIN+[f'val/{n}' for n in FLAT])
    (root/place).mkdir(parents=True, exist_ok=True)
    (root/place/GROUND_TRUTH).write_text('\n'.join(map(str, NUMBERS))+'\n')
    train,held = sets('imagenet', root, tmp_path)
    assert held.classes==train.classes==sorted(SYNSETS) and held.files==[f'val/{n}' for n in FLAT]
    assert [held.classes[y] for y in held.labels]==[ilsvrc_order()[k-1] for k in NUMBERS]
    assert torch.equal(held.uint8(3, 32), square(open_rgb(root/'val'/FLAT[3]), 32))

def test_both_orders_hold_the_same_images_and_differ_by_the_permutation(tmp_path):
    root = tree(tmp_path/'in', TRAIN+[f'val/{s}/{i}.JPEG' for s in SYNSETS for i in range(2)])
    for split in ('train', 'test'):
        a,b = (load_images(d, split, root, tmp_path) for d in ('imagenet', 'imagenet_ilsvrc'))
        assert a.files==b.files and b.classes==['n02119789', 'n02123045', 'n01440764']
        assert [a.classes[y] for y in a.labels]==[b.classes[y] for y in b.labels]
        place = [ilsvrc_of_wnid()[sorted(ilsvrc_order()).index(c)] for c in a.classes]
        assert np.argsort(np.argsort(place))[a.labels].tolist()==b.labels.tolist()

def test_kaggles_layout_is_read(tmp_path):
    top = 'ILSVRC/Data/CLS-LOC'
    root = tree(tmp_path/'kaggle', [f'{top}/{n}' for n in TRAIN]+[f'{top}/val/{n}' for n in FLAT])
    lines = [f'{n[:-5]},{ilsvrc_order()[k-1]} 1 2 30 40 {ilsvrc_order()[k-1]} 5 6 7 8' for n,k in zip(FLAT, NUMBERS)]
    (root/SOLUTION).write_text('\n'.join(['ImageId,PredictionString', *lines[::-1]]))
    train,held = sets('imagenet', root, tmp_path)
    assert len(train)==6 and [held.classes[y] for y in held.labels]==[ilsvrc_order()[k-1] for k in NUMBERS]

@pytest.mark.parametrize('text, says', [
    (None, f'takes {GROUND_TRUTH}'), ('1\n449\n', 'names 2 images, .* holds 6'), ('1\n'*5+'1001\n', 'not as ILSVRC'),
    ('1\n'*5+'fox\n', 'not as ILSVRC'), ('2\n'*6, 'shows 1 synsets that train/ lacks, the first is n02100735')])
def test_a_ground_truth_that_does_not_fit_is_refused(tmp_path, text, says):
    root = tree(tmp_path/'in', TRAIN+[f'val/{n}' for n in FLAT])
    if text: (root/GROUND_TRUTH).write_text(text)
    with pytest.raises(ValueError, match=says) as e: load_images('imagenet', 'test', root, tmp_path)
    assert '\n' not in str(e.value)

# ---- faces

def test_faces_lie_in_numbered_folders_in_one_folder_or_in_a_zip_file(tmp_path):
    numbers = [0, 1, 59_999, 60_000, 69_999]
    nested = tree(tmp_path/'nested', [f'images1024x1024/{n-n%1000:05}/{n:05}.png' for n in numbers])
    flat = tree(tmp_path/'flat', [f'{n:05}.jpg' for n in numbers])
    (tmp_path/'zipped').mkdir()
    with zipfile.ZipFile(tmp_path/'zipped'/'ffhq.zip', 'w') as z:
        for i,n in enumerate(numbers): z.writestr(f'{n//1000:05}/img{n:08}.jpg', jpeg(i))
        z.writestr('dataset.json', '{}')
    read = [sets('ffhq', root, tmp_path) for root in (nested, flat, tmp_path/'zipped')]
    for train,held in read:
        assert (len(train), len(held))==(3, 2) and train.classes==['ffhq']
        assert torch.equal(held.batch(range(2), 32), read[0][1].batch(range(2), 32))
        assert train.digests==read[0][0].digests

def test_celeba_hq_holds_out_the_last_3000_or_what_a_list_says(tmp_path):
    root = tree(tmp_path/'c', ['0.jpg', '26999.jpg', '27000.jpg', '29999.jpg'])
    assert [s.files for s in sets('celeba_hq', root, tmp_path)]==[['0.jpg', '26999.jpg'], ['27000.jpg', '29999.jpg']]
    (root/'celebahqvalidation.txt').write_text('imgHQ26999.npy\n\nimgHQ00000.npy\n')
    assert load_images('celeba_hq', 'test', root, tmp_path).files==['0.jpg', '26999.jpg']

def test_premade_folders_of_faces_are_taken_as_they_are(tmp_path):
    names = ['train/a/00007.png', 'train/b.png', 'val/60001.png', 'val/3.png']
    train,held = sets('ffhq', tree(tmp_path/'f', names), tmp_path)
    assert train.files==names[:2] and sorted(held.files)==sorted(names[2:]) and train.labels.tolist()==[0, 0]

def test_both_sets_of_faces_together(tmp_path):
    root = tree(tmp_path/'hq', ['ffhq-256/1.png', 'ffhq-256/60000.png', 'celeba-hq-256/27000.png',
                                'celeba-hq-256/7.png'])
    train,held = sets('hq_faces', root, tmp_path)
    assert set(train.files)=={'ffhq-256/1.png', 'celeba-hq-256/7.png'} and len(held)==2 and held.classes==['hq_faces']

@pytest.mark.parametrize('names, says', [(['1.png', 'small/00001.jpg'], 'holds 1 twice'),
                                         (['portrait.png'], 'portrait.png has no number')])
def test_faces_without_a_number_of_their_own_are_refused(tmp_path, names, says):
    with pytest.raises(ValueError, match=says): list_faces(tree(tmp_path/'f', names), 'ffhq')
    with pytest.raises(ValueError, match='hq_faces wants one folder'): list_faces(tmp_path/'f', 'hq_faces')

# ---- archives

def test_damaged_archives_are_refused_in_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('1.jpg', jpeg(0)); z.writestr('2.jpg', jpeg(1))
    raw = bytearray((tmp_path/'a.zip').read_bytes())
    raw[200] ^= 255 # within the first picture
    (tmp_path/'b.zip').write_bytes(raw)
    (tmp_path/'c.zip').write_bytes(raw[:500])
    assert file_bytes(tmp_path/'b.zip'/'2.jpg')==jpeg(1)
    for call,says in ((lambda: file_bytes(tmp_path/'b.zip'/'1.jpg'), 'damaged in its zip file'),
                      (lambda: members(tmp_path/'c.zip'), 'no whole zip file'),
                      (lambda: file_bytes(tmp_path/'a.zip'/'3.jpg'), 'a.zip holds no 3.jpg')):
        with pytest.raises(ValueError, match=says) as e: call()
        assert '\n' not in str(e.value)

def test_what_is_no_file_is_not_waited_for(tmp_path):
    import os
    os.mkfifo(tmp_path/'pipe.jpg')
    with pytest.raises(ValueError, match='no file, but'): file_bytes(tmp_path/'pipe.jpg')

# ---- shards

def shard(path, samples): # of (key, {kind: bytes})
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as t:
        for key,parts in samples:
            for kind,raw in parts.items():
                info = tarfile.TarInfo(f'{key}.{kind}'); info.size = len(raw)
                t.addfile(info, io.BytesIO(raw))
    return path

def plain(k, n=6): return [(f's{k}/{i:04}', dict(jpg=jpeg(10*k+i), cls=b'%d\n' % (i % 3*5))) for i in range(n)]

@pytest.mark.parametrize('text, means', [
    ('a.tar', ['a.tar']), ('{8..11}', ['8', '9', '10', '11']), ('{08..10}', ['08', '09', '10']),
    ('{2..0}', ['2', '1', '0']), ('{a,b}-{0..1}', ['a-0', 'a-1', 'b-0', 'b-1']), ('{x,{1..2}}', ['x', '1', 'x', '2'])])
def test_braces_mean_what_they_mean_in_a_shell(text, means): assert set(braces(text))==set(means)

def test_shards_with_classes_and_captions_of_every_form(tmp_path):
    samples = [('1', dict(jpg=jpeg(0), cls=b'7', txt=b' a  man ')), ('2', {'cls':b'12', 'input.png':jpeg(1)}),
               ('3', dict(json=b'{"label": 7, "caption": "a cup"}', jpeg=jpeg(2))), ('4', dict(jpg=jpeg(3), json=b'{')),
               ('5', dict(txt=b'no picture'))]
    shard(tmp_path/'train-0.tar', samples[:2]); shard(tmp_path/'train-1.tar', samples[2:])
    shard(tmp_path/'val-0.tar', [('9', dict(jpg=jpeg(4), cls=b'7'))])
    train,held = sets('wds:train-{0..1}.tar::val-*.tar', tmp_path, tmp_path/'cache')
    assert train.files==['train-0.tar/1.jpg', 'train-0.tar/2.input.png', 'train-1.tar/3.jpeg', 'train-1.tar/4.jpg']
    assert train.classes==['7', '12', 'images'] and train.labels.tolist()==[0, 1, 0, 2] and held.labels.tolist()==[0]
    assert train.captions==['a man', '12', 'a cup', 'images']
    assert torch.equal(train.subset([2]).uint8(0, 32), square(Image.open(io.BytesIO(jpeg(2))), 32))

def test_shards_without_official_splits_are_split_by_the_names_of_samples(tmp_path):
    for k in range(6): shard(tmp_path/'d'/f'{k:02}.tar', plain(k, 20))
    a = sets('wds:d/{00..05}.tar', tmp_path, tmp_path/'cache')
    b = sets('wds:d/*.tar', tmp_path, tmp_path/'cache')
    assert [s.files for s in a]==[s.files for s in b] and sum(map(len, a))==120 and 3<len(a[1])<25
    assert a[0].classes==['0', '5', '10'] and not set(a[0].files) & set(a[1].files)

def test_broken_shards_are_refused_and_broken_pictures_counted(tmp_path, capsys):
    good = shard(tmp_path/'good.tar', [(f'{i}', dict(jpg=jpeg(i) if i!=7 else jpeg(i)[:400])) for i in range(40)])
    read = sets('wds:good.tar', tmp_path, tmp_path/'cache')
    assert sum(map(len, read))==39 and sum(len(s.skipped) for s in read)==1
    assert 'skipped good.tar/7.jpg: ' in capsys.readouterr().out
    (tmp_path/'cut.tar').write_bytes(good.read_bytes()[:9000])
    with tarfile.open(tmp_path/'zip.tar', 'w:gz') as t: t.add(good)
    shard(tmp_path/'none.tar', [('a', dict(txt=b'x'))])
    for urls,says in (('cut.tar', 'cut.tar is no whole tar file'), ('zip.tar', 'is it compressed?'),
                      ('none.tar', 'no image is in'), ('gone-{0..3}.tar', 'there is no gone-0.tar'),
                      ('*.tax', 'there is no'), ('{good.tar', 'opens a brace'), ('good.tar::good.tar', 'named twice'),
                      ('../tmp.gz::good.tar', 'there is no')):
        with pytest.raises(ValueError, match=says) as e: load_images(f'wds:{urls}', 'train', tmp_path, tmp_path/'cache')
        assert '\n' not in str(e.value)

def test_remote_shards_are_fetched_once(tmp_path):
    shard(tmp_path/'far'/'train-0.tar', plain(0)); shard(tmp_path/'far'/'val-0.tar', plain(1))
    asked = []
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *a): asked.append(self.path)
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=tmp_path/'far'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/{{train,val}}-0.tar'
    try:
        for _ in range(2): assert [len(s) for s in sets(f'wds:{url}', None, tmp_path/'cache')]==[6, 6]
        assert len(asked)==2
        with pytest.raises(ValueError, match='train-1.tar cannot be fetched: .*404'):
            shard_files(url.replace('{train,val}-0', 'train-1'), cache=tmp_path/'cache')
    finally: server.shutdown()

# ---- the Hugging Face hub

class Rows: # what HubSet needs of a datasets.Dataset
    def __init__(self, columns, features, fingerprint='f'):
        self.columns,self.features,self._fingerprint = columns,features,fingerprint
    def __len__(self): return len(next(iter(self.columns.values())))
    def __getitem__(self, k):
        return self.columns[k] if isinstance(k, str) else {c:v[k] for c,v in self.columns.items()}
    def cast_column(self, column, kind):
        assert not kind.decode
        return self

def stand_in(splits): # a module `datasets` that has one data set
    hub = types.ModuleType('datasets')
    def load_dataset(path, config=None):
        if path!='me/cats': raise FileNotFoundError(f"Dataset '{path}'\ndoesn't exist")
        return splits
    hub.load_dataset = load_dataset
    return hub

Picture = type('Image', (), dict(__init__=lambda self, decode=True: setattr(self, 'decode', decode)))
Label = type('ClassLabel', (), dict(names=['tom', 'kit']))
Value = type('Value', (), dict(dtype='string'))

def rows(n, first=0, **more):
    cells = [dict(bytes=jpeg(first+i), path=None) for i in range(n)]
    return Rows(dict(img=cells, cat=[i % 2 for i in range(n)], caption=[f'cat {i}' for i in range(n)]) | more,
                dict(img=Picture(), cat=Label(), caption=Value()))

def test_a_hub_set_is_read_with_classes_and_captions(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', stand_in(dict(train=rows(5), validation=rows(2, 20), test=rows(3))))
    train,held = sets('hf:me/cats', None, tmp_path)
    assert (len(train), len(held))==(5, 2) and train.classes==['tom', 'kit'] and train.labels.tolist()==[0, 1, 0, 1, 0]
    assert held.files==['validation/00000000', 'validation/00000001'] and train.captions[3]=='cat 3'
    assert torch.equal(held.subset([1]).uint8(0, 32), square(Image.open(io.BytesIO(jpeg(21))), 32))
    assert isinstance(train.take(2), HubSet) and train.fingerprint!=held.fingerprint

def test_a_hub_set_without_a_held_out_split_is_divided_as_satin_is(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', stand_in(dict(train=rows(43))))
    train,held = sets('hf:me/cats', None, tmp_path)
    assert held.files==[f'train/{i:08}' for i in (0, 10, 20, 30)] and len(train)==39

def test_damaged_and_missing_cells_are_counted(tmp_path, monkeypatch, capsys):
    r = rows(60); r.columns['img'][3] = None; r.columns['img'][5]['bytes'] = b'GIF89a'
    monkeypatch.setitem(sys.modules, 'datasets', stand_in(dict(train=r, test=rows(2))))
    train,_ = sets('hf:me/cats', None, tmp_path)
    assert len(train)==58 and [f for f,_ in train.skipped]==['train/00000003', 'train/00000005']
    assert 'there is no image in this row' in capsys.readouterr().out

def test_what_the_hub_has_not_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ValueError, match='needs the package datasets: pip install datasets'): load_images('hf:me/cats')
    monkeypatch.setitem(sys.modules, 'datasets', stand_in(dict(train=Rows(dict(x=[1]), dict(x=Value())))))
    for name,says in (('me/dogs', "cannot be loaded: Dataset 'me/dogs' doesn't exist"),
                      ('me/cats', 'no column of images; it has x')):
        with pytest.raises(ValueError, match=says) as e: load_images(f'hf:{name}', cache=tmp_path)
        assert '\n' not in str(e.value)

def test_a_real_hub_set_from_this_disk(tmp_path):
    datasets = pytest.importorskip('datasets')
    files = tree(tmp_path/'pictures', [f'train/{c}/{i}.jpg' for c in 'ab' for i in range(5)]+['test/a/9.jpg'])
    for where in (files, tmp_path/'saved'):
        if where!=files: datasets.load_dataset(str(files), cache_dir=str(tmp_path/'hf')).save_to_disk(where)
        train,held = sets(f'hf:{where}', None, tmp_path)
        assert (len(train), len(held))==(10, 1) and train.classes==['a', 'b']
        assert train.labels.bincount().tolist()==[5, 5]
        assert torch.equal(held.uint8(0, 32), square(open_rgb(files/'test'/'a'/'9.jpg'), 32))

def test_the_parameters_know_every_named_set():
    from iutok import data, parameters
    assert set(parameters.IN_FOLDERS)==set(data.NAMED)
    here = parameters.anchored(dict(data='wds:a-{0..3}.tar::https://b/c.tar'))['data']
    assert here==f"wds:{parameters.here('a-{0..3}.tar')}::https://b/c.tar"
    for name in ('ffhq', 'imagenet_ilsvrc', 'wds:x.tar', 'hf:a/b', 'folder:c'):
        assert parameters.anchored(dict(data=name))['data'].startswith(name.split(':')[0])
        parameters.PARAMETERS['data'].check('data', name)
    with pytest.raises(ValueError, match='folder:PATH, wds:URLS'): parameters.PARAMETERS['data'].check('data', 'wds:')

# ---- collections with annotations

def held(monkeypatch, name, n):
    from iutok import data
    monkeypatch.setitem(data.COLLECTIONS, name, data.COLLECTIONS[name]._replace(held=n))

@pytest.mark.parametrize('place', ['l/annotations', 'annotations'])
def test_laion_is_divided_and_described_as_its_annotations_say(tmp_path, monkeypatch, capsys, place):
    held(monkeypatch, 'laion_aesthetics', 2)
    names = [f'{i:03}.jpg' for i in (3, 1, 4, 0, 2, 9)]
    root = tree(tmp_path/'l', names[:5]+['unnamed.jpg'])
    (tmp_path/place).mkdir()
    rows = [f'{n}\ta\tcup  of {i}\t6.6\thttps://x/{i}' for i,n in enumerate(names)]
    (tmp_path/place/'l.tsv').write_text('\n'.join(rows)+'\n')
    train,test = sets('laion_aesthetics', root, tmp_path/'cache')
    assert train.files==names[:4] and test.files==names[4:5] and test.captions==['a cup of 4']
    assert '1 of 6 images that the annotations name are not here' in capsys.readouterr().out
    (tmp_path/place/'l.tsv').write_text('003.jpg a cup\n')
    with pytest.raises(ValueError, match='wants filename, caption, score and url between tabs, got 003.jpg a cup'):
        load_images('laion_aesthetics', 'train', root, tmp_path/'cache')

def test_sa_med2d_has_the_order_of_its_annotations(tmp_path, monkeypatch, capsys):
    held(monkeypatch, 'sa_med2d', 3)
    names = [f'{c}.png' for c in 'hdbfaceg']
    root = tree(tmp_path/'images', names)
    assert load_images('sa_med2d', 'test', root, tmp_path/'c').files==['a.png', 'c.png', 'e.png'] # by path
    assert 'other images are held out than in the paper' in capsys.readouterr().out
    (tmp_path/'annotations').mkdir()
    (tmp_path/'annotations'/'SAMed2D_v1.json').write_text(str({f'images/{n}':[] for n in names}).replace("'", '"'))
    train,test = sets('sa_med2d', root, tmp_path/'c')
    assert test.files==['h.png', 'b.png', 'a.png'] and train.files==['d.png', 'f.png', 'c.png', 'e.png', 'g.png']
