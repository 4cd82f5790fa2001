"""Damaged files never crash a run and never hang a worker: each is read, or skipped by name.

200 files; FUZZ=2000 python -m pytest tests/test_data_fuzz.py -s takes ten times as many and prints counts by kind."""
import collections, os, signal
import pytest, torch
from damaged import damaged
from iutok.data import Batches, FolderSet, loader
from iutok.pixels import TRANSFORMS, decode

N = int(os.environ.get('FUZZ', 200))
SURE = dict(animated='read', turned='read', alpha='read', cmyk='read') # whole ones of these; some are cut

@pytest.fixture(autouse=True)
def no_hang(): # a hang is a failure, not a wait
    def stop(*_): raise TimeoutError(f'{N} files took more than {N//2+120} s')
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(N//2+120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('fuzz')
    for split in ('train', 'val'): (root/'set'/split/'a').mkdir(parents=True)
    names = collections.defaultdict(list)
    for i in range(N):
        kind,name,raw = damaged(i)
        (root/'set'/('val' if i%10==0 else 'train')/'a'/name).write_bytes(raw)
        names[kind].append(name)
    return root,names

@pytest.fixture(scope='module')
def sets(folder):
    return [FolderSet.open(folder[0]/'set', s, folder[0]/'cache', max_bad=1.) for s in ('train', 'test')]

def test_every_file_is_read_or_skipped_by_name(folder, sets):
    read = {f.rpartition('/')[2] for s in sets for f in s.files}
    skipped = {f.rpartition('/')[2]:why for s in sets for f,why in s.skipped}
    assert not read & skipped.keys() and read | skipped.keys()=={n for ns in folder[1].values() for n in ns}
    assert len(read)+len(skipped)==N and all(why and '\n' not in why for why in skipped.values())
    for kind,names in folder[1].items():
        print(f'{kind:10} read {sum(n in read for n in names):4}  skipped {sum(n in skipped for n in names):4}')
    for kind in SURE:
        names = folder[1][kind]
        assert sum(n in read for n in names)>.75*len(names), kind
    print('reasons:', collections.Counter(' '.join(w for w in why.split() if w.isalpha())[:50]
                                          for why in skipped.values()).most_common(8))

def test_bombs_are_refused_by_their_limit(folder, sets):
    skipped = {f.rpartition('/')[2]:why for s in sets for f,why in s.skipped}
    assert any('million pixels that are read' in why for n,why in skipped.items() if n.startswith('huge'))

def test_workers_read_all_that_was_found_usable(sets):
    train,_ = sets
    for k,transform in enumerate(TRANSFORMS):
        n = len(train) if N>500 else 40
        b = Batches(train, 24, 20, transform, seed=k)
        seen = [x for x in loader(b, 0, -(-n//20), workers=2)]
        assert all(x.u8.shape==(20, 3, 24, 24) and x.u8.dtype==torch.uint8 for x in seen)

def test_the_verdict_is_the_same_the_next_time(folder, sets):
    (folder[0]/'part').mkdir()
    (folder[0]/'part'/'val').symlink_to(folder[0]/'set'/'val')
    (folder[0]/'part'/'train').symlink_to(folder[0]/'set'/'val')
    again = FolderSet.open(folder[0]/'part', 'train', folder[0]/'other', max_bad=1.)
    verdicts = lambda s: {f.rpartition('/')[2]:why for f,why in s.skipped}
    assert verdicts(again)==verdicts(sets[1]) and again.digests==sets[1].digests

def test_a_picture_of_another_program_is_not_opened(monkeypatch):
    import subprocess
    monkeypatch.setattr(subprocess, 'Popen', lambda *a, **k: pytest.fail('a program was started'))
    with pytest.raises(ValueError, match='not an image'):
        decode(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n%%EOF\n')
