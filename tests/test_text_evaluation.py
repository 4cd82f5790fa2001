"Text to image: sentences are what they claim to be, and every judge is right where the answer is known."
import json

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from iutok.emoji import COLOURS, EmojiSet, Layout, compose
from iutok.files import asset, load_json
from iutok.text_evaluation import *

NAMES = list(COLOURS)

@pytest.fixture(scope='module')
def train(): return EmojiSet.open('train')
@pytest.fixture(scope='module')
def held(): return EmojiSet.open('test')

def views(images, v): # the same pictures in another view
    return EmojiSet(images.split, images.places*[1, 0]+[0, v], images.emoji, images.seed)

# ---- sentences

@pytest.mark.parametrize('kind', PROMPTS)
def test_sentences_are_a_function_of_kind_number_and_seed(train, kind):
    a, b = emoji_prompts(kind, 40), emoji_prompts(kind, 40, train=train)
    assert a.captions == b.captions and len(a) == 40 and a.fingerprint == b.fingerprint
    assert emoji_prompts(kind, 15).captions == a.captions[:15]
    assert emoji_prompts(kind, 40, seed=1).captions != a.captions
    assert all(c.endswith(f'on a {k} background') for c, k in zip(a.captions, a.colours))

def test_plain_sentences_were_trained_on(train):
    assert set(emoji_prompts('plain', 500).captions) <= set(train.captions)

def test_held_out_names_never_occur(train, held):
    a = emoji_prompts('held_out', len(held)+100)
    assert not set(a.concepts) & set(train.concepts)
    assert len(set(a.places[:len(held), 0].tolist())) == len(held) # every picture once before any twice
    assert set(a.colours) == set(NAMES) and len(set(a.captions)) > .95*len(a)

def test_pairs_are_of_known_parts_that_never_met(train):
    a = emoji_prompts('pairs', 400)
    assert not pairs_of(a) & pairs_of(train) and len(pairs_of(a)) == 400
    assert set(a.concepts) <= set(train.concepts) and set(a.colours) <= set(train.colours)
    assert {(c, s) for c, s in zip(a.concepts, a.styles)} <= {(c, s) for c, s in zip(train.concepts, train.styles)}

def test_absent_pairs_are_the_complement(train):
    few = train.subset(range(0, 20_000, 40))
    there, absent = pairs_of(few), absent_pairs(few)
    assert len(set(absent)) == len(absent) == 12*len(set(few.concepts))-len(there) and not there & set(absent)

def test_pairs_can_be_left_out(train):
    few = train.subset(range(600))
    pairs = sorted(pairs_of(few))[::3]
    less = without_pairs(few, pairs)
    assert pairs_of(less) == pairs_of(few)-set(pairs)
    assert [c for c in few.captions if c in set(less.captions)] == less.captions
    assert set(pairs) <= set(absent_pairs(less)) | {(c, k) for c, k in pairs if c not in set(less.concepts)}

@pytest.mark.parametrize('call, says', [
    (lambda: emoji_prompts('plane'), 'kind must be one of plain, held_out, pairs.*did you mean plain'),
    (lambda: emoji_prompts('plain', 0), 'n must be'), (lambda: emoji_prompts('plain', 30_000), 'there are 20,000'),
    (lambda: emoji_prompts('pairs', 20_000), 'sentences of the kind pairs'),
    (lambda: emoji_prompts('pairs', seed=-1), 'seed must be')])
def test_impossible_sets_are_refused(call, says):
    with pytest.raises(ValueError, match=says): call()

# ---- grounds

def test_lab_is_scikit_images():
    from skimage.color import rgb2lab
    x = torch.randint(256, (500, 3), generator=torch.Generator().manual_seed(0))
    x[:3] = torch.tensor([[0, 0, 0], [255, 255, 255], [3, 1, 2]])
    assert np.abs(lab(x).numpy()-rgb2lab(x.numpy()/255.)).max() < 2e-3

@pytest.mark.parametrize('size', [32, 64])
def test_grounds_of_real_pictures(held, size):
    v = [views(held, k) for k in (1, 7)]
    got = torch.cat([background(s.batch(range(500), size)) for s in v])
    want = torch.tensor([NAMES.index(k) for s in v for k in s.colours[:500]])
    assert (got == want).float().mean() > .99

@given(st.sampled_from(NAMES), st.integers(0, 99), st.integers(4, 70), st.integers(4, 70))
@settings(max_examples=30, deadline=None)
def test_a_plain_ground_with_some_noise_is_itself(name, seed, h, w):
    x = torch.tensor(COLOURS[name]).view(1, 3, 1, 1).expand(1, 3, h, w)
    noise = torch.randint(-9, 10, x.shape, generator=torch.Generator().manual_seed(seed))
    inside = (x+noise).clamp(0, 255).byte()
    k = 2*max(1, w//32)
    inside[:, :, k:-k, k:-k] = 77 # what is inside does not count
    assert NAMES[background(inside)[0]] == name

def test_the_ground_is_what_most_of_the_border_is():
    x = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    for rows, name in ((slice(0, 16), 'red'), (slice(16, 28), 'green'), (slice(28, 40), 'blue')):
        x[:, :, rows] = torch.tensor(COLOURS[name]).byte().view(1, 3, 1, 1)
    assert NAMES[background(x)[0]] == 'red'

# ---- the network that matches

@pytest.fixture(scope='module')
def net(): return load_matcher()

def test_it_is_small_and_its_facts_are_its_own(net):
    files = [asset('emoji_matcher.safetensors'), asset('emoji_matcher.json')]
    assert sum(f.stat().st_size for f in files) < 1.5e6
    facts, now = load_json(files[1]), judge_matcher(net)
    assert facts['held'] == now['held']
    for k in ('caption_first', 'style'): assert abs(now[k]-facts[k]) < .01
    assert abs(now['caption_rank']-facts['caption_rank']) < .1
    assert now['caption_first'] > .45 and now['caption_rank'] < 5 and now['style'] > .7

def test_its_words_are_those_of_the_training_captions(net, train, held):
    assert not (net.tokens(train.captions[:3000]) == net.unknown).any()
    new = net.tokens(held.captions)
    assert .05 < (new == net.unknown).any(1).float().mean() < .9
    assert (new.max(1).values == len(net.known)).all() # every sentence ends
    assert net.tokens(['horse '*99]).shape == (1, 32) and net.tokens(['a zqxjk'])[0, 2] == net.unknown

def test_towers_do_not_look_at_the_batch(net, held):
    u8 = held.batch(range(12), 64)
    whole, one = net.embed(u8, held.captions[:12]), net.embed(u8[5:6], held.captions[5:6])
    for a, b in zip(whole, one): assert (a[5]-b[0]).abs().max() < 1e-4
    for z in whole[:2]: assert (z.norm(dim=1)-1).abs().max() < 1e-5

def test_it_comes_back_from_a_file(net, tmp_path, held):
    save_matcher(tmp_path/'m.safetensors', net, dict(why='test'))
    again = load_matcher(tmp_path/'m.safetensors')
    u8 = held.batch(range(3), 64)
    for a, b in zip(net.embed(u8, held.captions[:3]), again.embed(u8, held.captions[:3])): assert torch.equal(a, b)
    facts = json.loads((tmp_path/'m.json').read_text())
    assert facts['why'] == 'test' and facts['weights'] == load_json(asset('emoji_matcher.json'))['weights']

@pytest.mark.parametrize('name', ['emoji_cnn.safetensors', 'emoji_cnn.json', 'none.safetensors'])
def test_other_files_are_refused(name):
    with pytest.raises(ValueError, match='holds no Matcher|no readable safetensors') as e: load_matcher(asset(name))
    assert '\n' not in str(e.value)

def test_it_learns(held):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        net, facts = train_matcher(steps=12, batch_size=16)
        assert torch.equal(torch.get_rng_state(), state) # nobody else's random numbers are touched
    assert facts['steps'] == 12 and not net.training and facts['caption_rank'] < 48
    assert not any(p.requires_grad for p in net.parameters())

# ---- scores

N = 120

@pytest.fixture(scope='module')
def prompts(): return emoji_prompts('held_out', N)
@pytest.fixture(scope='module')
def stats(tmp_path_factory): return tmp_path_factory.mktemp('stats')
@pytest.fixture(scope='module')
def right(prompts, stats): return score_t2i(prompts.batch(range(N), 64), prompts, cache=stats)

KEYS = ['background', 'style', 'group', 'subgroup', 'caption_rank', 'caption_first']

def test_real_pictures_reach_their_own_ceiling(right):
    m, p = right
    assert all(m[k] == m[f'{k}_real'] for k in [*KEYS, 'fd_t2i']) and all(isinstance(v, float) for v in m.values())
    assert m['background'] > .99 and m['style'] > .7 and m['group'] > .6 and m['caption_first'] > .4
    assert p['fd'] == 'FD-emoji' and p['n_images'] == N and p['n_reference'] == 4*565 and p['among'] == 100
    json.dumps([m, p])

def test_shuffled_sentences_are_the_floor(right):
    m, _ = right
    for k in ('background', 'style', 'group', 'subgroup'): assert m[f'{k}_shuffled'] < .6*m[k]
    assert 40 < m['caption_rank_shuffled'] < 60 and m['caption_first_shuffled'] < .08

def test_deaf_pictures_fall_to_the_floor_and_keep_their_distance(right, prompts, stats):
    deal = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    m, _ = score_t2i(prompts.batch(range(N), 64)[deal], prompts, cache=stats)
    assert abs(m['fd_t2i']-m['fd_t2i_real']) < 1e-3*m['fd_t2i_real']
    assert abs(m['caption_rank']-m['caption_rank_shuffled']) < 12 and m['background'] < .25
    assert all(m[f'{k}_real'] == right[0][k] for k in KEYS)

def test_each_score_sees_its_own_fault(right, prompts, stats):
    e = prompts.emoji
    lay = lambda i, j: Layout(.8, .5, .5, False, prompts.colours[j])
    def paint(p, i, j): return torch.from_numpy(np.asarray(compose(e.pixels[p], lay(i, j), 64)).copy()).permute(2, 0, 1)
    p, deal = prompts.places[:, 0], np.random.default_rng(0).permutation(N)
    ground = torch.stack([paint(p[i], i, deal[i]) for i in range(N)])
    thing = torch.stack([paint(p[deal[i]], i, i) for i in range(N)])
    (g, _), (t, _) = (score_t2i(x, prompts, cache=stats) for x in (ground, thing))
    assert g['background'] < .3 and g['group'] > .9*right[0]['group']-.05 and g['style'] > right[0]['style']-.1
    assert t['background'] > .99 and t['subgroup'] < .3*right[0]['subgroup']
    for m in (g, t): assert right[0]['caption_rank'] < m['caption_rank'] < 40

def test_ranks_among_few_and_other_sizes(prompts, stats):
    few = prompts.subset(range(20))
    m, p = score_t2i(few.batch(range(20), 32), few, cache=stats)
    assert p['among'] == 20 and p['pixels'] == '32x32' and m['caption_rank'] < 10 and m['background'] > .9

def test_noise_scores_like_noise(prompts, stats):
    x = torch.randint(256, (N, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    m, _ = score_t2i(x, prompts, cache=stats)
    assert m['fd_t2i'] > 3*m['fd_t2i_real'] and m['caption_rank'] > 35 and m['background'] < .25

def test_the_reference_is_held_out_and_in_views_of_its_own(held):
    ref = held_reference()
    assert set(ref.concepts) == set(held.concepts) and len(ref) == 4*len(held) and set(ref.colours) == set(NAMES)
    for k in PROMPTS:
        mine = {tuple(p) for p in emoji_prompts(k, 500).places.tolist()}
        assert not mine & {tuple(p) for p in ref.places.tolist()}

def test_the_table_has_ceiling_and_floor(right):
    table = score_table(right[0])
    assert list(table.columns) == ['pictures', 'real', 'shuffled'] and list(table.index) == [*KEYS, 'fd_t2i']
    assert np.isnan(table.shuffled['fd_t2i']) and not table.drop('fd_t2i').isna().any().any()

def pictures(n=20, s=32, t=torch.uint8): return torch.zeros(n, 3, s, s, dtype=t)
@pytest.mark.parametrize('u8, kw, error, says', [
    (pictures(19), {}, ValueError, '19 pictures were drawn for 20 sentences'),
    (pictures(t=torch.float32), {}, TypeError, 'must be uint8'),
    (pictures()[:, :1], {}, ValueError, 'must have shape'),
    (pictures(s=3), {}, ValueError, 'side of the pictures'),
    (pictures(), dict(among=1), ValueError, 'among must be'),
    (pictures(), dict(seed=-1), ValueError, 'seed must be')])
def test_unfit_pictures_are_refused(prompts, stats, u8, kw, error, says):
    with pytest.raises(error, match=says): score_t2i(u8, prompts.subset(range(20)), cache=stats, **kw)

def test_ten_pictures_are_the_least(prompts, stats):
    with pytest.raises(ValueError, match='number of pictures must be .* at least 10'):
        score_t2i(pictures(9), prompts.subset(range(9)), cache=stats)

# ---- a network

class Painter: # network and tokenizer in one: tokens are colours of 2 x 2 fields
    def grid(self): return 2, 2
    def condition(self, tower, captions):
        self.tower, self.asked = tower, captions
        return torch.tensor([*map(len, captions)])
    def sample(self, cond, scale, seed, **how):
        self.how = dict(scale=scale, seed=seed) | how
        return (cond[:, None]+torch.arange(4))%12
    def decode(self, tokens): # (B, h, w) -> (B, 3, 32, 32) in [0, 1]
        x = torch.tensor(list(COLOURS.values()))[tokens].permute(0, 3, 1, 2)/255
        return x.repeat_interleave(16, 2).repeat_interleave(16, 3)

def test_a_picture_is_drawn_for_every_sentence():
    p = Painter()
    u8 = draw_t2i(p, p, 'tower', ('a b', 'a'), scale=3., seed=5, top_k=7)
    assert u8.shape == (2, 3, 32, 32) and u8.dtype == torch.uint8 and p.tower == 'tower' and p.asked == ['a b', 'a']
    assert p.how == dict(scale=3., seed=5, top_k=7)
    for k, (y, x) in enumerate([(0, 0), (0, 31), (31, 0), (31, 31)]): # rows before columns
        want = torch.tensor(list(COLOURS.values())[3+k])
        assert (u8[0, :, y, x]-want).abs().max() <= 1

def test_all_kinds_of_sentences_are_scored(train, stats):
    p, few = Painter(), train.subset(range(0, 20_000, 16))
    metrics, pictures, protocols = score_prompts(p, p, None, 12, seed=3, train=few, cache=stats)
    assert list(metrics) == list(pictures) == list(protocols) == list(PROMPTS)
    assert p.asked == emoji_prompts('pairs', 12, 3, few).captions
    for k in PROMPTS:
        how = dict(rounding='truncated', sampler='as the network does by itself', guidance=1.)
        own = score_t2i(pictures[k], emoji_prompts(k, 12, 3, few), seed=3, cache=stats, **how)
        assert own == (metrics[k], protocols[k])

# ---- any pictures with captions

class Copy: # a network, a tokenizer and a tower: draws the picture that a sentence is about
    image_size = 64
    def __init__(self, images): self.images, self.asked = images, []
    def condition(self, tower, captions): return torch.tensor([self.images.captions.index(c) for c in captions])
    def sample(self, cond, scale, seed, first, **how):
        self.asked.append((first, len(cond), scale, seed, how))
        return cond[:,None]
    def grid(self): return 1, 1
    def decode(self, tokens): return self.images.batch(tokens.flatten(), 64)/255

def test_sentences_of_a_set_are_those_of_coco_prompts(held):
    from iutok.data import coco_prompts
    some = held.subset(range(30))
    some.sentences = [[f'{i}/{k}' for k in range(1+i%3)] for i in range(30)]
    said, whose = caption_prompts(some, 45, seed=3)
    want = coco_prompts({f'{i:09}':s for i, s in enumerate(some.sentences)}, 45, 3)
    assert said == want.captions and [f'{i:09}' for i in whose] == want.files
    assert len(set(whose[:30].tolist())) == 30 and all(t.startswith(f'{i}/') for t, i in zip(said, whose))

def test_pictures_are_drawn_part_by_part_and_numbered_through(held, train, tmp_path):
    some = emoji_prompts('held_out', 25)
    some = some.subset([some.captions.index(c) for c in dict.fromkeys(some.captions)])
    n, copy = len(some), Copy(some)
    m, kept, p = score_captions(copy, copy, None, train, some, None, 5, 2., 'emoji', None, tmp_path, 10, top_k=7)
    assert [a[:4] for a in copy.asked] == [(i, min(10, n-i), 2., 5) for i in range(0, n, 10)]
    assert all(a[4] == dict(top_k=7) for a in copy.asked)
    assert set(m) == {'fd_t2i', 'fd_t2i_real'} and abs(m['fd_t2i']) < .02*m['fd_t2i_real'] and len(kept) == n
    said, whose = caption_prompts(some, None, 5)
    assert (kept.int()-some.batch(whose, 64).int()).abs().max() <= 1
    assert p['n_images'] == p['n_reference'] == n and p['guidance'] == 2. and p['sampler'] == 'top_k 7'
    assert p['reference'] == 'emoji test' and p['clip'] == 'none' and p['rounding'] == 'truncated'

def test_clip_scores_are_open_clips(held):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms.functional import to_pil_image
    from iutok.text import load_clip
    clip = load_clip('clip', pretrained=False)
    u8, texts = held.batch(range(3), 64), ['a cat', 'a dog', 'a house on a hill']
    a, t = clip(u8, texts)
    how = image_transform_v2(PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip.net)), False)
    with torch.no_grad():
        want = clip.net.encode_image(torch.stack([how(to_pil_image(x)) for x in u8]), normalize=True)
        said = clip.net.encode_text(open_clip.get_tokenizer('ViT-B-16-quickgelu')(texts), normalize=True)
    assert (a*want).sum(1).min() > .9999 and torch.allclose(t, said, atol=1e-5)
    assert clip.id.startswith('ViT-B-16-quickgelu/openai (random-')
    for call, says in ((lambda: clip(u8, 'a cat'), 'give a list'), (lambda: clip(u8[:2], texts), '2 pictures but 3'),
                       (lambda: clip(u8.float(), texts), 'uint8'), (lambda: load_clip('dino'), 'Teachers that')):
        with pytest.raises(ValueError, match=says): call()
