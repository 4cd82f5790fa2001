"""Nothing that comes from elsewhere is run, and nothing that is unpacked leaves its folder."""
import ast,io,json,socket,stat,tarfile,warnings,zipfile
from pathlib import Path
import pytest,torch
from PIL import Image
from iutok.data import load_images

ROOT = Path(__file__).parents[1]
def in_python(path): # scripts carry no suffix
    return path.is_file() and (path.suffix=='.py' or b'python' in path.read_bytes()[:600].lower())

FILES = sorted(p for d in ('iutok', 'scripts') for p in (ROOT/d).rglob('*')
               if '__pycache__' not in p.parts and in_python(p))

def calls(path): # (dotted name, keywords with constant values, line) of every call in a file
    try: tree = ast.parse(path.read_text())
    except SyntaxError: return [] # a shell script that hands nothing on to Python
    for n in ast.walk(tree):
        if isinstance(n, ast.Call):
            keywords = {k.arg:k.value.value for k in n.keywords if isinstance(k.value, ast.Constant)}
            yield ast.unparse(n.func),keywords,n.lineno

def unsafe(name, keywords):
    last = name.rpartition('.')[2]
    return (name in ('eval', 'exec', '__import__', 'os.system', 'pickle.load', 'pickle.loads', 'joblib.load')
            or name=='torch.load' and keywords.get('weights_only') is not True
            or name in ('np.load', 'numpy.load') and keywords.get('allow_pickle', False) is not False
            or last=='extractall' and keywords.get('filter')!='data'
            or last=='load' and name.startswith('yaml')
            or keywords.get('shell') is True or keywords.get('trust_remote_code') is True)

@pytest.mark.parametrize('path', FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_nothing_untrusted_is_run(path):
    assert not [(name, line) for name,keywords,line in calls(path) if unsafe(name, keywords)]

@pytest.mark.parametrize('code,bad', [('torch.load(p)', True), ('torch.load(p, weights_only=True)', False),
    ('torch.load(p, weights_only=False)', True), ('eval(x)', True), ('net.eval()', False), ('np.load(p)', False),
    ('np.load(p, allow_pickle=True)', True), ('yaml.load(f)', True), ('yaml.safe_load(f)', False),
    ('tar.extractall(d)', True), ("tar.extractall(d, filter='data')", False), ('pickle.loads(b)', True),
    ('subprocess.run(c, shell=True)', True), ('ast.literal_eval(t)', False)])
def test_the_search_finds_what_it_is_for(tmp_path, code, bad):
    (tmp_path/'x.py').write_text(code)
    (name,keywords,_),*_ = calls(tmp_path/'x.py')
    assert unsafe(name, keywords)==bad

# --- archives and lists of files --------------------------------------------------------------------------------------

def photo(colour):
    b = io.BytesIO()
    Image.new('RGB', (40, 40), colour).save(b, 'PNG')
    return b.getvalue()

ODD = ['../evil.png', '../../evil.png', '/evil.png', 'a/../../evil.png', './../evil.png', 'C:\\evil.png',
       '..\\evil.png', '//evil.png', 'a/./b/../evil.png', '\u202egnp.live', 'x'*200+'.png', 'evil\n.png',
       'shop.zip/evil.png']

def tar(path, names, links=()):
    with tarfile.open(path, 'w') as t:
        for n in names:
            m = tarfile.TarInfo(n)
            m.size = len(photo('red'))
            t.addfile(m, io.BytesIO(photo('red')))
        for n,(kind,target) in links:
            m = tarfile.TarInfo(n)
            m.type,m.linkname = kind,target
            t.addfile(m)

def zipped(path, names, links=()):
    with warnings.catch_warnings(), zipfile.ZipFile(path, 'w') as z:
        warnings.simplefilter('ignore')
        for n in names: z.writestr(n, photo('red'))
        for n,(_,target) in links:
            m = zipfile.ZipInfo(n)
            m.external_attr = (stat.S_IFLNK|0o777)<<16
            z.writestr(m, target)

def tree(root): return {p.relative_to(root).as_posix():p.read_bytes() if p.is_file() else None for p in root.rglob('*')}

@pytest.fixture
def place(tmp_path): # data and cache in it; what lies beside them is nobody's business
    for d in ('data', 'cache'): (tmp_path/d).mkdir()
    for d in (tmp_path, tmp_path/'data'): (d/'evil.png').write_bytes(photo('blue'))
    (tmp_path/'data'/'evil.png').unlink()
    (tmp_path/'secret.png').write_bytes(photo('blue'))
    return tmp_path

LINKS = [('link.png', (tarfile.SYMTYPE, '../secret.png')), ('hard.png', (tarfile.LNKTYPE, '../secret.png')),
         ('pipe.png', (tarfile.FIFOTYPE, '')), ('disk.png', (tarfile.CHRTYPE, '')),
         ('abs.png', (tarfile.SYMTYPE, '/etc/hostname'))]

@pytest.mark.parametrize('kind', ['zip', 'tar', 'wds'])
@pytest.mark.parametrize('odd', ODD, ids=range(len(ODD)))
def test_what_an_archive_calls_its_files_leads_nowhere_else(place, kind, odd, capsys):
    names = [f'shop/{i}.png' for i in range(30)]+[odd]
    before = tree(place)
    if kind=='wds': tar(place/'data'/'set.tar', names, LINKS)
    else: (zipped if kind=='zip' else tar)(place/'data'/f'set.{kind}', names, LINKS)
    data = 'wds:set.tar' if kind=='wds' else f'folder:{place}/data'
    read = []
    for split in ('train', 'test'):
        try: s = load_images(data, split, root=place/'data' if kind=='wds' else None, cache=place/'cache')
        except ValueError as e: assert '\n' not in str(e)
        else: read += [s.batch([i], 32) for i in range(len(s))]
    for x in read: assert x[0,0].float().mean()>250 and x[0,2].float().mean()<5 # red: its own, not the file beside it
    assert len(read) in (30, 31) or not read
    after = tree(place)
    assert {k:v for k,v in after.items() if not k.startswith(('cache/', 'data/set.'))}==before

@pytest.mark.parametrize('file', ['../secret.png', '/etc/hostname', '../../secret.png'])
def test_annotations_that_name_files_elsewhere_are_refused(place, file):
    for d in ('annotations', 'train2014', 'val2014'): (place/'data'/d).mkdir()
    (place/'data'/'train2014'/'a.png').write_bytes(photo('red'))
    told = dict(images=[dict(id=1, file_name=file)], annotations=[dict(id=1, image_id=1, caption='a secret')])
    (place/'data'/'annotations'/'captions_train2014.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match='1 of the 1 pictures .* are not in'):
        load_images('coco', 'train', root=place/'data', cache=place/'cache')

@pytest.mark.parametrize('name', ['../x', 'a/../../x', '/tmp/x', '..', '.', 'a\0b', 'a\nb', '', ' ', 'a'*300, 'cache'])
def test_the_name_of_a_run_leads_nowhere_else(name):
    from iutok.settings import resolve,run_folder
    with pytest.raises(ValueError, match='name'): run_folder(resolve('train_vqgan', dict(profile='smoke', name=name)))

# --- the network ------------------------------------------------------------------------------------------------------

@pytest.fixture
def cut_off(monkeypatch): # every attempt to reach another machine is noted, and fails
    tried = []
    def refuse(*args, **kw):
        tried.append(args)
        raise OSError('no network')
    for f in ('create_connection', 'getaddrinfo'): monkeypatch.setattr(socket, f, refuse)
    for f in ('connect', 'connect_ex', 'sendto'): monkeypatch.setattr(socket.socket, f, refuse)
    for k in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_DATASETS_OFFLINE'): monkeypatch.delenv(k, raising=False)
    return tried

def test_nothing_is_fetched_that_nobody_asked_for(cut_off, tmp_path, monkeypatch, capsys):
    from iutok import cli
    from iutok.metrics.features import get_extractor
    from iutok.pretrained import Tokenizer,find_pretrained,shipped
    from iutok.proposals import load_proposal
    from iutok.teachers import SHIPPED_TEACHERS,load_teacher
    from iutok.text_evaluation import load_matcher
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path))
    monkeypatch.setenv('IUTOK_CACHE', str(tmp_path/'cache'))
    (tmp_path/'a.png').write_bytes(photo('red'))
    for name in shipped(): load_proposal(name, Tokenizer.from_pretrained(name))
    for name in ('fashion', 'emoji'): load_images(name, 'test').batch([0], 32); get_extractor(name)
    for name in (*SHIPPED_TEACHERS, 'effnet', 'random', 'pixels', 'edges'): load_teacher(name)
    load_matcher()
    for words in (['encode', 'a.png'], ['decode', 'codes.safetensors'], ['sample', '--n', '1', '--classes', 'Bag'],
                  ['doctor', '--n', '20'], [], ['completion']):
        assert cli.main(words)==0, capsys.readouterr().err
    for name in ('mini/none', 'none', '../x', 'https://a/b', 'a/b/c'):
        with pytest.raises(ValueError): find_pretrained(name)
    assert cut_off==[]

def test_codes_of_a_stranger_do_not_say_what_is_fetched(cut_off, tmp_path, monkeypatch, capsys):
    from iutok import cli
    from safetensors.torch import save_file
    monkeypatch.setenv('IUTOK_HERE', str(tmp_path))
    said = dict(tokenizer='someone/some-tokenizer')
    save_file(dict(ids=torch.zeros(1, 8, 8, dtype=torch.int32)), tmp_path/'codes.safetensors', said)
    assert cli.main(['decode', 'codes.safetensors'])==2
    assert 'say --tokenizer someone/some-tokenizer' in capsys.readouterr().err and cut_off==[]
    assert cli.main(['decode', 'codes.safetensors', '--tokenizer', 'someone/some-tokenizer'])==2 and cut_off # asked for
    assert [p.name for p in tmp_path.iterdir()]==['codes.safetensors']
