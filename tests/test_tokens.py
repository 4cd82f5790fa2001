"Token sets on disk, and batches that depend on a seed and a step alone."
import os
import pytest, torch
from hypothesis import given,settings,strategies as st
from iutok.proposals.tokens import TokenBatches, TokenSet, load_tokens, save_tokens, small_dtype, tokenise

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

def test_saved_and_loaded(tmp_path):
    ts = make()
    path = save_tokens(tmp_path/'deep'/'train.safetensors', ts)
    back = load_tokens(path, tokenizer='tok-1', data='data-1', n_codes=300)
    assert torch.equal(back.tokens, ts.tokens) and back.tokens.dtype==torch.int16
    assert torch.equal(back.labels, ts.labels) and back.labels.dtype==torch.uint8
    assert back.meta==ts.meta and len(back)==20 and back.length==6
    assert os.listdir(path.parent)==['train.safetensors']

def test_header_is_readable_without_the_arrays(tmp_path):
    import json
    from safetensors import safe_open
    with safe_open(save_tokens(tmp_path/'t.safetensors', make()), 'pt') as f:
        assert json.loads(f.metadata()['token_set'])==dict(n_codes=300, tokenizer='tok-1', data='data-1')

@pytest.mark.parametrize('want,said',
                         [(dict(tokenizer='tok-2'), "tokenizer 'tok-1', but 'tok-2'"),
                          (dict(data='other'), "data 'data-1', but 'other'"),
                          (dict(n_codes=512), 'n_codes 300, but 512')])
def test_mismatch_is_one_clear_sentence(tmp_path, want, said):
    path = save_tokens(tmp_path/'t.safetensors', make())
    with pytest.raises(ValueError, match=said) as e: load_tokens(path, **want)
    assert '\n' not in str(e.value)

def test_damaged_and_missing_files(tmp_path):
    path = save_tokens(tmp_path/'t.safetensors', make())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match='damaged'): load_tokens(path)
    from safetensors.torch import save_file
    save_file({'tokens':torch.zeros(2)}, path)
    with pytest.raises(ValueError, match='not a token set'): load_tokens(path)
    with pytest.raises(FileNotFoundError, match='no token set'): load_tokens(tmp_path/'absent')

def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path,old = tmp_path/'t.safetensors',make(seed=1)
    save_tokens(path, old)
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt): save_tokens(path, make(seed=2))
    assert torch.equal(load_tokens(path).tokens, old.tokens) and os.listdir(tmp_path)==['t.safetensors']

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
    for kw,said in ((dict(batch_size=9, world=2), 'divide evenly'), (dict(batch_size=0), 'positive'),
                    (dict(batch_size=4, rank=2, world=2), 'rank 2')):
        with pytest.raises(ValueError, match=said): TokenBatches(t, y, **kw)
    with pytest.raises(ValueError, match='one label per image'): TokenBatches(t, y[:9], 2)
    with pytest.raises(IndexError, match='from 0'): TokenBatches(t, y, 2).order(-1)
