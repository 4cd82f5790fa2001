"Token sets on disk, and batches that depend on a seed and a step alone."
import hashlib, json, os, pickle, re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from hypothesis import given,settings,strategies as st
from PIL import Image
from iutok.data import FolderSet, MemorySet
from iutok.emoji import EmojiSet
from iutok.proposals.tokens import (TokenBatches, TokenSet, TokenShards, fresh_codes, n_views, open_shards, shards_of,
                                    small_dtype, tokenise, tokens_of, view_batch, write_shards)

def make(n=20, k=300, h=2, w=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return TokenSet(torch.randint(k, (n, h, w), generator=g), torch.randint(10, (n,), generator=g), k, 'tok-1',
                    'data-1')

# --- sets
# --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('k,dtype',
                         [(2, torch.uint8), (256, torch.uint8), (257, torch.int16), (32768, torch.int16),
                          (32769, torch.int32), (2**33, torch.int64)])
def test_smallest_type_still_holds_the_largest_code(k, dtype):
    ts = TokenSet(torch.tensor([[[0, k-1]]]), torch.tensor([3]), k)
    assert ts.tokens.dtype==dtype==small_dtype(k) and ts.tokens.long().max()==k-1

@pytest.mark.parametrize('tokens,labels,said',
                         [(torch.zeros(3, 4).long(), torch.zeros(3).long(), r'\(N, h, w\)'),
                          (torch.zeros(3, 2, 2).long(), torch.zeros(2).long(), 'labels'),
                          (torch.zeros(3, 2, 2), torch.zeros(3).long(), 'must be integers'),
                          (torch.full((3, 2, 2), 8), torch.zeros(3).long(), 'span 8 to 8'),
                          (torch.full((3, 2, 2), -1), torch.zeros(3).long(), 'span -1'),
                          (torch.zeros(3, 2, 2).long(), -torch.ones(3).long(), 'negative'),
                          (torch.zeros(0, 2, 2).long(), torch.zeros(0).long(), 'at least one')])
def test_nonsense_is_refused(tokens, labels, said):
    with pytest.raises(ValueError, match=said): TokenSet(tokens, labels, 8)

def test_tokenise_keeps_order_and_gradients_out():
    w = torch.ones(1, requires_grad=True)
    def encode(x): return (x[:,0]*w).long() if not torch.is_grad_enabled() else pytest.fail('gradients are on')
    x,y = torch.arange(5*1*2*2).view(5, 1, 2, 2).float(),torch.arange(5)
    for progress in (False, True):
        ts = tokenise(encode, [(x[i:i+2], y[i:i+2].tolist()) for i in (0, 2, 4)], 20, 'a', 'b', progress=progress)
        assert torch.equal(ts.tokens.long(), x[:,0].long())
        assert torch.equal(ts.labels.long(), y)
        assert ts.tokenizer=='a'
        assert ts.data=='b'
    assert len(tokenise(encode, ((x, y) for _ in range(2)), 20, progress=True))==10  # a generator has no length to show
    with pytest.raises(ValueError, match='no batches'): tokenise(encode, [], 20)
    with pytest.raises(ValueError, match='span 0 to 19'): tokenise(encode, [(x, y)], 19)
    with pytest.raises(ValueError, match='one .h, w. grid'): tokenise(lambda x: x[:2,0].long(), [(x, y)], 20)

# --- views
# -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def folder(tmp_path_factory): # pictures of many shapes
    root,g = tmp_path_factory.mktemp('pictures'),np.random.default_rng(0)
    for i,(h,w) in enumerate([(40, 40), (41, 64), (70, 33), (36, 50), (35, 35)]):
        path = root/'train'/('a' if i%2 else 'b')/f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 256, (h, w, 3), np.uint8)).save(path)
    return FolderSet.open(root, 'train', cache=root/'cache')

@pytest.mark.parametrize('size', [30, 31, 32])
def test_ten_crops_are_torchvisions(folder, size):
    from torchvision.transforms.v2 import InterpolationMode, functional as TF
    got = view_batch(folder, range(len(folder)), size, 'ten_crop').unflatten(0, (len(folder), 10))
    for i,crops in enumerate(got):
        img = TF.resize(folder.read(i), [int(1.1*size)], InterpolationMode.BICUBIC)
        img = TF.center_crop(img, [int(1.1*size)]*2)
        assert torch.equal(crops, torch.stack([TF.pil_to_tensor(c) for c in TF.ten_crop(img, [size, size])]))

def test_flips_are_the_image_and_its_mirror(folder):
    got = view_batch(folder, [3, 0], 20, 'flip')
    plain = folder.batch([3, 0], 20)
    assert torch.equal(got, torch.stack([plain, plain.flip(-1)], 1).flatten(0, 1))
    assert torch.equal(view_batch(folder, [3, 0], 20), plain)

def test_emoji_views_are_those_of_the_set():
    full = EmojiSet.open('test', 2*len(EmojiSet.open('test')))
    plain = full.plain
    got = view_batch(plain, [4, 9], 32, 'emoji:2')
    second = [int(np.flatnonzero((full.places==[p, 1]).all(1))[0]) for p in plain.places[[4, 9],0]]
    assert torch.equal(got[::2], plain.batch([4, 9], 32)) and torch.equal(got[1::2], full.batch(second, 32))
    assert torch.equal(view_batch(plain, [9], 32, 'emoji:5')[:2], got[2:])
    with pytest.raises(ValueError, match='plain emoji set'): view_batch(full, [0], 32, 'emoji:2')
    for views in ('flip', 'ten_crop'):
        with pytest.raises(ValueError, match='must not be: take views=emoji'): view_batch(plain, [0], 32, views)

@pytest.mark.parametrize('views,said', [('ten-crop', 'did you mean ten_crop'), ('', 'must be one of none, flip'),
    (None, 'must be one of'), (3, 'must be one of'), ('flip:2', 'must be one of'), ('emoji', 'whole number'),
    ('emoji:', 'whole number'), ('emoji:0', 'from 1 to 65536, got 0'), ('emoji:-1', 'whole number'),
    ('emoji:2.5', 'whole number'), ('emoji:99999', 'from 1 to 65536')])
def test_no_such_views(views, said, folder, tmp_path):
    with pytest.raises(ValueError, match=said) as e: n_views(views)
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match=said): write_shards(tmp_path, code, folder, 16, 8, views=views)
    assert not any(tmp_path.iterdir())

# --- shards
# ------------------------------------------------------------------------------------------------------------

def pictures(n=50, seed=0): # grey squares
    g = torch.Generator().manual_seed(seed)
    x,y = torch.randint(256, (n, 16, 16), generator=g, dtype=torch.uint8),torch.randint(3, (n,), generator=g)
    return MemorySet('squares', 'train', x, y, list('abc'))

def code(u8): return u8[:,0,::4,::8].long()//32 # 8 codes, 4 x 2
def write(folder, encode=code, images=None, k=8, **kw):
    how = dict(images=images or pictures(), size=16, tokenizer='tok-1', views='flip', batch_size=6, rows=14) | kw
    return write_shards(folder, encode, n_codes=k, **how)
def contents(folder): return {f.name:f.read_bytes() for f in sorted(folder.iterdir()) if f.name[0]!='.'}

@pytest.mark.parametrize('views', ['none', 'flip', 'ten_crop'])
def test_shards_hold_every_view_of_every_image(tmp_path, views):
    images,v = pictures(),n_views(views)
    s = write(tmp_path, images=images, views=views)
    want = code(view_batch(images, range(50), 16, views)).view(50, v, 8)
    i,j = torch.cartesian_prod(torch.arange(50), torch.arange(v))[torch.randperm(50*v)].T
    assert torch.equal(s[i,j], want[i,j]) and s[i,j].dtype==torch.int64
    assert torch.equal(s.labels.long(), images.labels) and len(s)==50 and s.length==8
    for k in (-1, 50):
        with pytest.raises(IndexError, match='numbered 0 to 49'): s[[k], [0]]
    for j in range(v):
        ts = s.view(j)
        assert torch.equal(ts.tokens.flatten(1).long(), want[:,j]) and ts.tokens.shape==(50, 4, 2)
        assert ts.meta==dict(n_codes=8, tokenizer='tok-1', data=images.fingerprint)
    assert sum(f.stat().st_size for f in tmp_path.glob('[0-9]*.tokens'))==50*v*8*2

@pytest.mark.parametrize('k,width', [(2**16, 2), (2**16+1, 4), (2**31, 4)])
def test_the_largest_code_survives(tmp_path, k, width):
    s = write(tmp_path, lambda u8: code(u8)*0+k-1, k=k)
    assert s.dtype.itemsize==width and int(s[[49], [1]].max())==k-1

@given(n=st.integers(1, 99), rows=st.integers(1, 40), world=st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_every_image_lies_in_one_shard_of_one_process(n, rows, world):
    s = TokenShards('nowhere', plan(images=n, rows=rows))
    parts = [[i for k in range(r, s.n_shards, world) for i in s.span(k)] for r in range(world)]
    assert sorted(sum(parts, []))==list(range(n))

def plan(**kw):
    return dict(n_codes=8, images=50, n_views=1, rows=7, height=4, width=2, size=16, tokenizer='', data='',
                views='none') | kw

@pytest.mark.parametrize('world', [2, 3, 11])
def test_several_processes_write_what_one_does(tmp_path, world):
    write(tmp_path/'one')
    with ThreadPoolExecutor(world) as pool:
        sets = list(pool.map(lambda r: write(tmp_path/'all', rank=r, world=world), range(world)))
    assert contents(tmp_path/'one')==contents(tmp_path/'all') and len(sets[0])==50

@pytest.mark.parametrize('after', [0, 1, 5, 12])
def test_a_killed_run_goes_on_with_the_first_missing_shard(tmp_path, after):
    write(tmp_path/'whole')
    def dies(u8, seen=[0]):
        seen[0] += 1
        if seen[0]>after: os._exit(9)
        return code(u8)
    pid = os.fork()
    if pid==0:
        try: write(tmp_path/'cut', dies)
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])==9
    assert not (tmp_path/'cut'/'manifest.json').exists()
    there,seen = len(list((tmp_path/'cut').glob('[0-9]*.tokens'))),[]
    if after:
        with pytest.raises(FileNotFoundError, match='no finished token shards'): open_shards(tmp_path/'cut')
    s = write(tmp_path/'cut', lambda u8: (seen.append(len(u8)), code(u8))[1])
    assert sum(seen)==2*(50-min(50, there*7)+1) # what is there is not encoded again; the first image tells the grid
    assert contents(tmp_path/'whole')==contents(tmp_path/'cut') and len(s)==50

def test_a_finished_set_is_not_encoded_again_and_a_damaged_one_only_in_part(tmp_path, capsys):
    t = SimpleNamespace(fingerprint=lambda encoding_only: 'a', encoder=None, image_size=16, n_codes=8, seen=[])
    t.encode = lambda u8: (t.seen.append(len(u8)), code(u8))[1]
    first = shards_of(t, pictures(9000), tmp_path, 'flip').view(1).tokens
    t.seen.clear()
    s = shards_of(t, pictures(9000), tmp_path, 'flip')
    assert not t.seen and s.n_shards==2 and torch.equal(s.view(1).tokens, first)
    raw = s.path(1).read_bytes()
    s.path(1).write_bytes(bytes([raw[0]^1])+raw[1:])
    assert torch.equal(shards_of(t, pictures(9000), tmp_path, 'flip').view(1).tokens, first)
    assert '000001.tokens is damaged' in capsys.readouterr().out and sum(t.seen)==2*1001
    tokens_of(t, pictures(9000), tmp_path)
    assert len(list((tmp_path/'tokens').iterdir()))==2

def edit(folder, **kw):
    p = folder/'manifest.json'
    p.write_text(json.dumps({k:v for k,v in (json.loads(p.read_text())|kw).items() if v!='gone'}))

def rehash(folder, k, raw): # a stranger's shard, with the right digest
    (folder/f'{k:06}.tokens').write_bytes(raw)
    sums = json.loads((folder/'manifest.json').read_text())['sha256']
    sums[k] = hashlib.sha256(raw).hexdigest()
    edit(folder, sha256=sums)
    (folder/f'.{k:06}.tokens.sum').unlink()

@pytest.mark.parametrize('harm,said', [
    (lambda d: os.truncate(d/'000002.tokens', 100), 'has 100 bytes instead of 224'),
    (lambda d: (d/'000002.tokens').open('ab').write(b'x'), 'has 225 bytes instead of 224'),
    (lambda d: (d/'000002.tokens').unlink(), '000002.tokens is missing'),
    (lambda d: (d/'labels').unlink(), 'labels is missing'),
    (lambda d: (d/'000002.tokens').write_bytes(bytes(224)), 'is not what was written'),
    (lambda d: (d/'manifest.json').write_text('{"format": '), 'not valid JSON'),
    (lambda d: (d/'manifest.json').write_bytes(b'\xff\xfe{'), 'not valid JSON'),
    (lambda d: (d/'manifest.json').write_text('[1]'), 'does not describe token shards'),
    (lambda d: edit(d, format='other'), 'does not describe token shards'),
    (lambda d: edit(d, images=10**15), 'images in .* must be a whole number from 1'),
    (lambda d: edit(d, images=10**11), 'sha256'),
    (lambda d: edit(d, height=10**9), 'height in .* must be a whole number'),
    (lambda d: edit(d, height=4000), 'bytes instead of'),
    (lambda d: edit(d, width=2.), 'width in .* must be a whole number'),
    (lambda d: edit(d, rows=0), 'rows in .* must be a whole number'),
    (lambda d: edit(d, n_codes='gone'), 'n_codes in .* got None'),
    (lambda d: edit(d, n_codes=2**17), 'bytes instead of'),
    (lambda d: edit(d, tokenizer=['tok-1']), 'tokenizer in .* must be text'),
    (lambda d: edit(d, n_views=10), 'speaks of 10 views, but flip has 2'),
    (lambda d: edit(d, views='../../x'), 'views must be one of'),
    (lambda d: edit(d, sha256='gone'), 'must list the sha256 of 9 files'),
    (lambda d: edit(d, sha256=['../x']*9), None),
    (lambda d: os.truncate(d/'manifest.json', 2**26), 'too large')])
def test_damaged_and_foreign_folders_are_refused(tmp_path, harm, said):
    write(tmp_path)
    harm(tmp_path)
    with pytest.raises(ValueError, match=said) as e: open_shards(tmp_path)
    assert '\n' not in str(e.value)

def test_codes_that_the_codebook_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match='span 0 to 7, but the codebook has'): write(tmp_path/'a', k=7)
    s = write(tmp_path/'b')
    rehash(tmp_path/'b', 2, np.full(112, 8, '<u2').tobytes())
    s = open_shards(tmp_path/'b')
    assert s[[0], [0]].max()<8
    with pytest.raises(ValueError, match='holds the token 8, but its codebook has'): s[[0, 15], [0, 1]]

@pytest.mark.parametrize('want,said', [(dict(tokenizer='tok-2'), "tokenizer 'tok-1', but 'tok-2'"),
    (dict(data='other'), "but 'other' is wanted"), (dict(n_codes=512), 'n_codes 8, but 512')])
def test_shards_of_something_else_are_one_clear_sentence(tmp_path, want, said):
    write(tmp_path)
    with pytest.raises(ValueError, match=said) as e: open_shards(tmp_path, **want)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('other,said', [(dict(tokenizer='tok-2'), "tokenizer 'tok-1', not 'tok-2'"),
    (dict(views='none'), "views 'flip', not 'none'"), (dict(k=9), 'n_codes 8, not 9'), (dict(rows=4), 'rows 7, not 2'),
    (dict(images=pictures(51)), 'shards of data'), (dict(size=32), 'height 4, not 8')])
def test_a_folder_is_not_filled_with_two_kinds(tmp_path, other, said):
    def stops(u8, seen=[]):
        seen.append(1)
        if len(seen)>9: raise KeyboardInterrupt
        return code(u8)
    with pytest.raises(KeyboardInterrupt): write(tmp_path, stops)
    with pytest.raises(ValueError, match=said): write(tmp_path, **other)

@pytest.mark.parametrize('kw,said', [(dict(size=0), 'size'), (dict(batch_size=0), 'batch_size'), (dict(rows=0), 'rows'),
    (dict(world=0), 'world'), (dict(rank=2, world=2), 'rank must be a whole number from 0 to 1')])
def test_nonsense_is_not_written(tmp_path, kw, said):
    with pytest.raises(ValueError, match=said): write(tmp_path, **kw)

def anonymous(): # bytes of memory of this process that no file stands behind
    return int(re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())[1])*1024

def test_memory_stays_flat(tmp_path):
    class Many(MemorySet): # as many images as labels, which are made when asked for
        def batch(self, idx, size, transform='none', u=None): return torch.zeros(len(idx), 3, 8, 8, dtype=torch.uint8)
    def grown(n):
        images = Many('many', 'train', torch.zeros(1, 8, 8).byte(), torch.tensor([0]), ['a'])
        images.labels = torch.zeros(n).long()
        before,most = anonymous(),[0]
        def look(): most[0] = max(most[0], anonymous()-before)
        def encode(u8):
            look()
            return torch.randint(500, (len(u8), 8, 8))
        s = write_shards(tmp_path/str(n), encode, images, 8, 500, rows=4000)
        b = TokenBatches(s, s.labels, 500)
        for step in range(n//500):
            b[step]
            look()
        return most[0]
    grown(10_000) # what torch and numpy take once
    few,many = grown(10_001),grown(100_000)
    assert many<=few+4e6, (few, many) # in memory, the tokens would be 26 MB, and 51 MB while put together

# --- batches
# -----------------------------------------------------------------------------------------------------------

@given(n=st.integers(1, 50), world=st.integers(1, 4), per=st.integers(1, 12), seed=st.integers(0, 9),
       step=st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_rank_slices_are_disjoint_and_make_the_whole(n, world, per, seed, step):
    t,y = torch.arange(n)[:,None],torch.arange(n)
    one = TokenBatches(t, y, world*per, seed)
    parts = [TokenBatches(t, y, world*per, seed, rank=r, world=world) for r in range(world)]
    assert torch.equal(torch.stack([p.order(step) for p in parts], 1).flatten(), one.order(step))
    assert all(torch.equal(p.order(step, whole=True), one.order(step)) for p in parts)
    # within an epoch nothing twice
    if world*per<=n and (step+1)*world*per<=n: assert len(one.order(step).unique())==world*per

@given(n=st.integers(1, 50), b=st.integers(1, 60), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_every_epoch_reads_every_image_once(n, b, seed):
    batches = TokenBatches(torch.zeros(n, 1), torch.zeros(n), b, seed)
    stream = torch.cat([batches.order(s) for s in range(-(-3*n//b))])[:3*n].view(3, n)
    assert torch.equal(stream.sort(-1).values, torch.arange(n).expand(3, n))

def test_epochs_are_shuffled_differently():
    b = TokenBatches(torch.zeros(100, 1), torch.zeros(100), 100)
    assert len({tuple(b.order(s).tolist()) for s in range(5)})==5

def test_a_batch_depends_on_seed_and_step_only():
    ts = make(50)
    a,b = (TokenBatches(ts.tokens, ts.labels, 8, seed=3) for _ in range(2))
    forward = [a[s] for s in range(30)]
    for s in reversed(range(30)):                       # whatever was asked before
        assert torch.equal(b[s][0], forward[s][0]) and torch.equal(b[s][1], forward[s][1])
    torch.manual_seed(1)
    assert torch.equal(TokenBatches(ts.tokens, ts.labels, 8, seed=3)[29][0], forward[29][0])

def test_data_order_is_the_same_for_every_tokenizer():
    a,b = make(50, seed=1),make(50, k=7, h=4, w=4, seed=2)
    x,y = TokenBatches(a.tokens, a.labels, 8, seed=3),TokenBatches(b.tokens, b.labels, 8, seed=3, rank=1, world=2)
    assert x.fingerprint(40)==y.fingerprint(40)
    assert x.fingerprint(40)!=x.fingerprint(41)
    assert x.fingerprint(40)!=TokenBatches(a.tokens, a.labels, 8, seed=4).fingerprint(40)
    assert x.fingerprint(40)!=TokenBatches(a.tokens[:49], a.labels[:49], 8, seed=3).fingerprint(40)

def test_batches_are_int64_rows():
    ts = make(50)
    b = TokenBatches(ts.tokens, ts.labels, 8)
    t,y = b[3]
    assert t.shape==(8, 6) and t.dtype==y.dtype==torch.int64
    i = b.order(3)
    assert torch.equal(t, ts.tokens[i].flatten(1).long()) and torch.equal(y, ts.labels[i].long())

def test_wrong_arguments():
    t,y = torch.zeros(10, 4),torch.zeros(10)
    for kw,said in ((dict(batch_size=9, world=2), 'divide evenly'), (dict(batch_size=0), 'batch_size'),
                    (dict(batch_size=4, rank=2, world=2), 'rank must')):
        with pytest.raises(ValueError, match=said): TokenBatches(t, y, **kw)
    with pytest.raises(ValueError, match='one label per image'): TokenBatches(t, y[:9], 2)
    with pytest.raises(IndexError, match='from 0'): TokenBatches(t, y, 2).order(-1)

# --- batches of views
# ------------------------------------------------------------------------------------------------

@given(n=st.integers(1, 30), b=st.integers(1, 40), v=st.integers(2, 11), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_v_epochs_read_every_view_of_every_image_once(n, b, v, seed):
    s = TokenShards('nowhere', plan(images=n, n_views=v, views=f'emoji:{v}'))
    batches,plain = TokenBatches(s, torch.zeros(n), b, seed),TokenBatches(torch.zeros(n, 1), torch.zeros(n), b, seed)
    steps = range(-(-2*v*n//b))
    pairs = torch.stack([torch.cat([f(t) for t in steps]) for f in (batches.order, batches.views)], 1)[:2*v*n]
    for block in pairs.split(v*n): assert len(block.unique(dim=0))==v*n
    assert torch.equal(pairs[:,0], torch.cat([plain.order(t) for t in steps])[:2*v*n]) # views do not move the order
    for epoch in pairs.split(n): assert epoch[:,1].bincount(minlength=v).max()<=-(-n//v)

def test_batches_of_views_are_pure_and_shared_evenly(tmp_path):
    s = write(tmp_path)
    one = TokenBatches(s, s.labels, 12, seed=3)
    parts = [TokenBatches(s, s.labels, 12, seed=3, rank=r, world=3) for r in range(3)]
    for step in (30, 4, 17, 4):
        t,y = one[step]
        assert torch.equal(torch.stack([p[step][0] for p in parts], 1).flatten(0, 1), t)
        assert torch.equal(torch.stack([p[step][1] for p in parts], 1).flatten(), y)
        assert torch.equal(t, s[one.order(step),one.views(step)]) and t.dtype==y.dtype==torch.int64
    plain = TokenBatches(s.view().tokens, s.labels, 12, seed=3)
    assert one.fingerprint(9)==parts[1].fingerprint(9)!=plain.fingerprint(9)
    single = write(tmp_path/'plain', views='none')
    assert TokenBatches(single, single.labels, 12, seed=3).fingerprint(9)==plain.fingerprint(9)
    assert all(torch.equal(a, b) for a,b in zip(TokenBatches(single, single.labels, 12, seed=3)[5], plain[5]))

def test_a_worker_reads_the_files_itself(tmp_path):
    s = write(tmp_path)
    s[[3], [1]]
    assert len(pickle.dumps(s))<2000 and torch.equal(pickle.loads(pickle.dumps(s))[[3], [1]], s[[3], [1]])

def test_the_order_that_committed_runs_depend_on():
    b = TokenBatches(torch.zeros(1000, 4), torch.zeros(1000), 48, seed=3407)
    assert b.fingerprint(100)=='da9fda16af8894ba'

def test_codes_of_a_batch_are_those_that_are_stored_whatever_the_training_computes_in():
    from iutok.nets.conv import ConvEncoder
    from iutok.quantizers import FSQ
    from iutok.tokenizers import Tokenizer
    torch.manual_seed(0)
    body = dict(width=8, n_res=1, attention=False, refine=False)
    tok = Tokenizer(ConvEncoder(mults=(1, 1), out_channels=3, **body), FSQ([8, 8, 8]), image_size=16)
    u8 = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    stored = tok.encode(u8).flatten(1)
    with torch.autocast('cpu', torch.bfloat16):
        assert fresh_codes(tok, u8).equal(stored) and not tok.encode(u8).flatten(1).equal(stored)
    with pytest.raises((TypeError, ValueError)): fresh_codes(tok, u8.long())
    pages = (Path(__file__).parents[1]/'nbs'/f'train_{k}.ipynb' for k in ('ar', 'nar', 't2i'))
    assert all('fresh_codes(tok, b.u8)' in p.read_text() and 'tok.encode(' not in p.read_text() for p in pages)
