"Streams: near the disk's order, and yet every sample once, for any number of processes, workers and restarts."
import io, json, tarfile
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from iutok.data import Batches, load_images, loader, sequential
from iutok.images import ImageSet
from iutok.streams import Stream, StreamBatches, near_order, parts_of

class Numbers(ImageSet): # image i is all of the number i; lies in shards of the given sizes
    name,split,classes,fingerprint = 'numbers','train',['a'],'n'
    def __init__(self, parts):
        self.files = [f'{k}.tar/{i}.png' for k,n in enumerate(parts) for i in range(n)]
        self.labels = torch.zeros(len(self.files), dtype=torch.long)
        self.root = Path('/nowhere')
    def batch(self, idx, size, transform='none', u=None):
        return torch.as_tensor(idx)[:, None, None, None].expand(-1, 3, size, size).clone()

shards = st.lists(st.integers(1, 23), min_size=1, max_size=7)

@given(shards, st.integers(1, 60), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_order_is_a_permutation_that_stays_within_its_windows(parts, window, seed):
    n,line = sum(parts),near_order(tuple(parts), 1, seed, 0)
    near = near_order(tuple(parts), window, seed, 0)
    assert sorted(near)==list(range(n))
    for a in range(0, n, window): assert set(near[a:a+window])==set(line[a:a+window])
    cut = np.flatnonzero(np.diff(line)!=1)+1 # shards stay whole
    assert sum(len(g)>0 for g in np.split(line, cut))<=len(parts)

@given(shards, st.integers(1, 60), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_ranks_together_see_every_sample_once_an_epoch(parts, window, world, each, seed):
    images,total = Numbers(parts),world*each
    ranks = [StreamBatches(images, 1, total, 'none', seed, r, world, window) for r in range(world)]
    steps = -(-3*len(images)//total)
    seen = torch.cat([ranks[r][t].idx for t in range(steps) for r in range(world)])[:3*len(images)]
    assert all(sorted(e.tolist())==list(range(len(images))) for e in seen.split(len(images)))
    whole = StreamBatches(images, 1, total, 'none', seed, window=window)
    assert torch.equal(seen, torch.cat([whole[t].idx for t in range(steps)])[:len(seen)])

@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_an_evaluation_reads_every_image_once_with_uneven_ends(n, batch, world):
    images = Numbers([n])
    seen = [[b for b in sequential(images, 1, batch, rank=r, world=world)] for r in range(world)]
    counts = [len(s) for s in seen]
    assert max(counts)-min(counts)<=1
    assert sorted(int(i) for s in seen for b in s for i in b.idx)==list(range(n))
    alone = {tuple(b.idx.tolist()):b.u8 for b in sequential(images, 1, batch)}
    for s in seen:
        for b in s: assert torch.equal(alone[tuple(b.idx.tolist())], b.u8)

@given(shards, st.integers(1, 40), st.integers(0, 12), st.sampled_from([(1, 2), (2, 1), (2, 4), (4, 1)]))
@settings(max_examples=40, deadline=None)
def test_a_stream_goes_on_at_the_next_sample_on_another_number_of_processes(parts, window, stop, worlds):
    images = Numbers(parts)
    def streams(world): return [Stream(StreamBatches(images, 1, 8, 'none', 5, r, world, window)) for r in range(world)]
    def take(ss, k):
        of_ranks = [[b.idx for _,b in zip(range(k), s)] for s in ss]
        return [torch.cat(b) for b in zip(*of_ranks)]
    whole = take(streams(1), stop+4)
    first,then = streams(worlds[0]),streams(worlds[1])
    seen = take(first, stop)
    state = json.loads(json.dumps(first[0].state_dict())) # plain
    for s in then: s.load_state_dict(state)
    assert all(map(torch.equal, seen+take(then, 4), whole))

@pytest.fixture(scope='module')
def pictures(tmp_path_factory): # shards of 9, 14 and 4 pictures whose colour is their number
    root = tmp_path_factory.mktemp('shards')
    def picture(i):
        f = io.BytesIO(); Image.new('RGB', (12, 10), (i, 2*i, 255-i)).save(f, 'PNG'); return f.getvalue()
    at = 0
    for k,n in enumerate((9, 14, 4)):
        with tarfile.open(root/f'train-{k}.tar', 'w') as t:
            for i in range(at, at+n):
                for kind,raw in (('png', picture(i)), ('cls', b'%d' % (i % 2))):
                    info = tarfile.TarInfo(f'{i:05}.{kind}'); info.size = len(raw)
                    t.addfile(info, io.BytesIO(raw))
        at += n
    with tarfile.open(root/'val-0.tar', 'w') as t:
        info = tarfile.TarInfo('a.png'); info.size = len(picture(200)); t.addfile(info, io.BytesIO(picture(200)))
    return load_images('wds:{train,val}-*.tar', root=root, cache=root)

def test_what_is_read_from_shards_is_what_lies_in_them(pictures):
    assert parts_of(pictures)==(9, 14, 4)
    b = StreamBatches(pictures, 8, 6, 'none', seed=1, window=11)
    for t in range(9):
        x = b[t]
        assert torch.equal(x.u8[:, 0, 0, 0].long(), x.idx) and torch.equal(x.u8[:, 2, 4, 4].long(), 255-x.idx)
        assert x.u8.is_contiguous(memory_format=torch.channels_last)

def test_workers_read_the_same_batches_from_shards(pictures):
    b = StreamBatches(pictures, 8, 6, 'strong', seed=1, window=11)
    for x,t in zip(loader(b, 2, 7, workers=2), range(2, 7)): assert all(map(torch.equal, x, b[t]))

@pytest.mark.parametrize('other, says', [
    (dict(seed=2), 'seed was 1'), (dict(batch_size=3), 'batch_size was 6'), (dict(window=5), 'window was 11'),
    (dict(transform='weak'), "transform was 'none'")])
def test_a_state_of_another_stream_is_refused(pictures, other, says):
    how = dict(size=8, batch_size=6, transform='none', seed=1, window=11)
    state = Stream(StreamBatches(pictures, **how)).state_dict()
    with pytest.raises(ValueError, match=says): Stream(StreamBatches(pictures, **how | other)).load_state_dict(state)
    with pytest.raises(ValueError, match='images was'):
        Stream(StreamBatches(pictures.take(20), **how)).load_state_dict(state)
    with pytest.raises(ValueError, match='window was 11'):
        Stream(Batches(pictures, 8, 6, seed=1)).load_state_dict(state)

def test_wrong_numbers_are_refused(pictures):
    for call,says in ((lambda: StreamBatches(pictures, 8, 6, window=0), 'window must be'),
                      (lambda: Stream(Batches(pictures, 8, 6), -1), 'workers must be'),
                      (lambda: list(sequential(pictures, 8, 4, rank=2, world=2)), 'rank must be')):
        with pytest.raises(ValueError, match=says): call()
