"Scores of a tokenizer: the same numbers as from whole tensors, in batches that any data set allows."
import math,pytest,torch
from iutok.data import load_images
from iutok.evaluation import CodeVectors,bits_per_image,features_by,mutual_information
from iutok.evaluation import probe_codes,score_tokenizer
from iutok.losses.recon import VGG16,perceptual_vgg
from iutok.metrics.features import get_extractor
from iutok.metrics.pixels import pixel_scores
from iutok.metrics.probe import linear_probe
from iutok.metrics.scores import reference_stats,score_images
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.pixels import to_float,to_uint8
from iutok.proposals.tokens import tokens_of
from iutok.quantizers import FSQ,VQ
from iutok.tokenizers import Connector,Tokenizer

@pytest.fixture(scope='module')
def scored(tmp_path_factory):
    torch.manual_seed(0)
    body,cache = dict(width=16, n_res=1, attention=False),tmp_path_factory.mktemp('cache')
    tok = Tokenizer(ConvEncoder(mults=(1, 1, 2), out_channels=16, **body), FSQ([4, 4]),
                    ConvDecoder(in_channels=16, mults=(2, 1, 1), **body), Connector([16, 2]), Connector([2, 16]),
                    image_size=32).eval()
    with torch.no_grad(): tok.decoder.head[-1].weight *= 8
    train,held = load_images('fashion', 'train').take(600),load_images('fashion', 'test').take(530)
    sizes,batch = [],type(held).batch
    class Watched(type(held)):
        def batch(self, idx, *args, **kw): sizes.append(len(idx)); return batch(self, idx, *args, **kw)
    held.__class__ = Watched
    perceptual = perceptual_vgg(VGG16(), [torch.ones(c) for c in (64, 128, 256, 512, 512)])
    metrics,_ = score_tokenizer(tok, train, held, get_extractor('fashion'), cache, 0, perceptual)
    return tok,train,held,cache,perceptual,metrics,list(sizes)

def test_scores_equal_those_of_whole_tensors(scored):
    tok,_,held,cache,perceptual,m,_ = scored
    u8 = held.batch(torch.arange(len(held)), 32)
    raw = tok.decode(tok.encode(u8), clamp=False)*2-1
    x_hat = to_uint8(raw)
    assert raw.abs().max()>1 # some of it lies outside of what bytes can say
    for k,v in pixel_scores((u8, x_hat)).items(): assert m[k]==pytest.approx(v, rel=1e-5)
    with torch.no_grad(): assert m['lpips_vgg']==pytest.approx(perceptual(raw, to_float(u8)).item(), rel=1e-4)
    assert m['rfd']==pytest.approx(score_images(x_hat, reference_stats(held, 'fashion', 32, cache), 'fashion').fd,
                                   rel=1e-5)

def test_no_batch_is_large(scored): assert max(scored[-1])<=250

def test_probe_looks_vectors_up(scored):
    tok,train,held,cache,_,m,_ = scored
    ts,tv = (tokens_of(tok, s, cache) for s in (train, held))
    whole = [tok.quantizer.decode(t.tokens.long()).float().flatten(1) for t in (ts, tv)]
    torch.testing.assert_close(CodeVectors(tok, tv.tokens, lambda z: z.flatten(1))[torch.tensor([3, 1])],
                               whole[1][[3, 1]])
    assert m['probe_grid']==linear_probe(whole[0], ts.labels.long(), whole[1], tv.labels.long(), 0)

def test_probing_trains_nothing(scored):
    tok,train,held,cache,*_ = scored
    ts,tv = (tokens_of(tok, s, cache) for s in (train, held))
    learned = Tokenizer(tok.encoder, VQ(16, 2), image_size=32) # its codebook is a parameter
    before = learned.quantizer.codebook.detach().clone()
    probe_codes(learned, ts, tv)
    assert learned.quantizer.codebook.requires_grad and learned.quantizer.codebook.grad is None
    torch.testing.assert_close(learned.quantizer.codebook.detach(), before, atol=0, rtol=0)

class Foreign: # ten classes, none of which the scorer knows
    @staticmethod
    def of(images, classes):
        from iutok.data import MemorySet
        return MemorySet('foreign', 'test', images.pixels, images.labels%len(classes), classes)

def test_labels_of_other_classes_give_no_consistency(scored, capsys):
    from iutok.evaluation import score_samples
    from iutok.metrics.scores import class_consistency
    from iutok.proposals import AR
    tok,_,held,cache,*_ = scored
    ex,held = get_extractor('fashion'),held.take(60)
    u8 = held.batch(torch.arange(60), 32)
    assert class_consistency(u8, held.labels, ex, held.classes)==class_consistency(u8, held.labels, ex)>.8
    assert class_consistency(u8, held.labels, ex, list('abcdefghij')) is None
    ar = AR(16, 10, 64, layers=1, width=16, heads=2).eval()
    m,*_ = score_samples(tok, ar, held, ex, cache, n=20)
    assert 0<=m['class_consistency']<=1 and capsys.readouterr().out==''
    m,*_ = score_samples(tok, ar, Foreign.of(held, list('abcdefghij')), ex, cache, n=20)
    assert m['class_consistency'] is None and m['gfd']>0
    assert capsys.readouterr().out=='No class consistency: fashion-cnn does not classify into the classes of foreign.\n'

def test_probes_need_shared_classes(scored, capsys):
    tok,train,held,cache,*_ = scored
    for classes in (list('abcdefghij'), ['images']):
        m,_ = score_tokenizer(tok, train if len(classes)>1 else Foreign.of(train.take(40), classes),
                              Foreign.of(held.take(40), classes), get_extractor('fashion'), cache)
        assert m['probe_mean'] is None and m['probe_grid'] is None and m['usage']>0
        assert 'No probes: ' in capsys.readouterr().out

def test_samples_are_balanced_and_as_many_as_asked_for(scored, monkeypatch):
    import iutok.evaluation as e
    tok,_,held,cache,*_ = scored
    ex,held,asked = get_extractor('fashion'),held.take(50),[]
    monkeypatch.setattr(e, 'class_consistency', lambda *a: 0.)
    class Net:
        def sample(self, cond, **kw): asked.append(cond); return torch.zeros(len(cond), 64, dtype=torch.long)
    for n in (20, 23, 120): e.score_samples(tok, Net(), held, ex, cache, n=n)
    e.score_samples(tok, Net(), held, ex, cache)
    for labels,n in zip(asked, (20, 23, 120)):
        counts = labels.bincount(minlength=10)
        assert len(labels)==n and counts.max()-counts.min()<=1
    assert torch.equal(asked[3], held.labels)

def test_samples_of_another_shape_than_a_square_are_scored(scored):
    from iutok.adapters import Adapted,suggest_generator
    from iutok.evaluation import as_grids,score_samples
    _,_,held,cache,*_ = scored
    ex,held = get_extractor('fashion'),held.take(60)
    def halves(x): return ((x.mean((1, 3)).view(-1, 2, 16).mean(2)/2+.5)*15).round().long() # upper, lower
    def paint(ids): return (ids/7.5-1).view(-1, 1, 2, 1).repeat_interleave(16, 2).expand(-1, 3, 32, 32)
    row = Adapted(halves, paint, 16, 32) # a sequence: one row of two codes
    column = Adapted(lambda x: halves(x)[:,:,None], paint, 16, 32)
    assert (row.grid(), column.grid(), scored[0].grid())==((1, 2), (2, 1), (8, 8))
    torch.manual_seed(0)
    net = suggest_generator(row, 10).eval()
    assert net.length==2
    (a,seen,_),(b,same,_) = (score_samples(tok, net, held, ex, cache, n=20) for tok in (row, column))
    assert a==b and torch.equal(seen, same)
    drawn = net.sample(held.labels.unique()[torch.arange(20)%10], seed=0)
    assert (seen[:,0,::16,0]-drawn*17.).abs().max()<=1 # what was drawn, where it belongs
    with pytest.raises(ValueError, match='draws 2 codes, but an image of this tokenizer has 8x8'):
        as_grids(scored[0], drawn)

def test_a_masked_network_fills_grids_that_are_no_square(scored):
    from iutok.adapters import Adapted
    from iutok.evaluation import score_samples
    from iutok.proposals import NAR
    _,_,held,cache,*_ = scored
    ex,held = get_extractor('fashion'),held.take(20)
    resize = torch.nn.functional.interpolate
    def paint(ids): return resize((ids/7.5-1).view(-1, 1, 2, 3), (32, 32)).expand(-1, 3, -1, -1)
    tok = Adapted(lambda x: torch.zeros(len(x), 2, 3).long(), paint, 16, 32)
    net = NAR(16, 10, 6, layers=1, width=16, heads=2).eval()
    m,_,p = score_samples(tok, net, held, ex, cache, order='halton', steps=3)
    assert m['gfd']>0 and p['sampler']=='order halton, steps 3' # the grid is the tokenizer's, not the sampler's

def test_two_networks_of_a_row_have_two_names():
    from iutok.evaluation import network_sizes
    def trained(size, seed=0, **more): return dict(seed=seed, params=dict(size=size, **more))
    names = dict(a=trained('small'), b=trained('small', 1), c=trained('small', order='random'), d=trained('nar_small'))
    assert network_sizes(names)==dict(a='small', b='small', c='small_random', d='nar_small')
    assert network_sizes(dict(a=trained('small', order='raster')))==dict(a='small')
    says = 'a and e are both small with the seed 0.*score them in two runs'
    with pytest.raises(ValueError, match=says): network_sizes(names | dict(e=trained('small', steps=9)))

def test_bits_are_those_of_entropies(scored):
    from iutok.quantizers import codebook_perplexity
    tok,_,held,cache,_,m,_ = scored
    idx = tokens_of(tok, held, cache).tokens.long()
    assert m['bits_codebook']==pytest.approx(64*math.log2(codebook_perplexity(idx, 16)), rel=1e-6)
    assert bits_per_image(math.log(512), 64)==pytest.approx(64*9) # codes that are drawn evenly: log2 K each

def test_information_about_the_class():
    g = torch.Generator().manual_seed(0)
    y,noise = torch.arange(4000)%5,torch.randint(100, (4000, 4, 4), generator=g)
    assert mutual_information(noise, y)==pytest.approx(0, abs=2e-3)
    assert mutual_information(noise, y, shuffles=0)>3e-3 # what the shuffles take off
    assert mutual_information(y, y)==pytest.approx(math.log2(5), abs=.01)
    assert mutual_information(y, y, shuffles=0)==pytest.approx(math.log2(5), abs=1e-9)
    assert mutual_information(y//2, y, shuffles=0)==pytest.approx(-.8*math.log2(.4)-.2*math.log2(.2), abs=1e-9)
    half = torch.where(torch.rand(4000, 16, generator=g)<.5, y[:,None], torch.randint(5, (4000, 16), generator=g))
    p = torch.full((5, 5), .1)/5 + torch.eye(5)*.5/5 # a code is the class with 0.6, each other with 0.1
    want = 2*math.log2(5)+(p*p.log2()).sum().item()
    assert mutual_information(half, y)==pytest.approx(want, abs=.01)
    assert mutual_information(noise, y)==mutual_information(noise, y)
    with pytest.raises(ValueError, match='4000 images but 3 labels'): mutual_information(noise, y[:3])

def test_information_of_sklearn(scored):
    from sklearn.metrics import mutual_info_score
    tok,_,held,cache,*_ = scored
    t = tokens_of(tok, held, cache)
    flat = t.tokens.flatten(1)
    want = mutual_info_score(flat.flatten().numpy(), t.labels[:,None].expand_as(flat).flatten().numpy())/math.log(2)
    assert mutual_information(t.tokens, t.labels, shuffles=0)==pytest.approx(want, rel=1e-6)

def test_several_judges_see_the_same_images_once(scored):
    *_,held = scored[:3]
    ex,u8 = get_extractor('fashion'),held.batch(torch.arange(40), 32)
    seen = iter(u8.split(15))
    a,b = features_by(seen, ex, ex)
    torch.testing.assert_close(a.f, ex(u8).f, rtol=1e-4, atol=1e-4)
    assert torch.equal(a.f, b.f) and a.made_by==ex(u8).made_by and not list(seen)
    assert len(features_by(iter(u8.split(15)), ex, None))==1

def test_a_second_judge_adds_its_own_columns_and_changes_none(scored):
    from iutok.evaluation import score_samples
    from iutok.proposals import AR
    tok,train,held,cache,*_ = scored
    ex = get_extractor('fashion')
    one,p1 = score_tokenizer(tok, train, held, ex, cache)
    two,p2 = score_tokenizer(tok, train, held, ex, cache, judge=ex) # a judge that agrees
    assert {k:v for k,v in two.items() if not k.startswith('judge')}==one
    assert {k:v for k,v in p2.items() if k!='judge'}==p1
    assert two['judge_rfd']==two['rfd'] and two['judge_rfd_infinity']==two['rfd_infinity'] and p2['judge']==p1
    assert two['rfd_infinity']<two['rfd']
    ar = AR(16, 10, 64, layers=1, width=16, heads=2).eval()
    m,_,p = score_samples(tok, ar, held.take(30), ex, cache, n=20, judge=ex)
    assert m['judge_gfd']==m['gfd'] and m['gfd_infinity'] is None and p['judge']['fd']=='FD-fashion'

def test_emoji_are_scored_as_clothes_are(tmp_path, capsys):
    from iutok.evaluation import score_samples
    from iutok.metrics.statistics import frechet_distance
    from iutok.proposals import AR
    torch.manual_seed(0)
    body,ex = dict(width=8, n_res=1, attention=False),get_extractor('emoji')
    encoder = ConvEncoder(mults=(1, 1, 1, 1), out_channels=8, **body)
    decoder = ConvDecoder(in_channels=8, mults=(1, 1, 1, 1), **body)
    tok = Tokenizer(encoder, FSQ([4, 4]), decoder, Connector([8, 2]), Connector([2, 8]), image_size=64).eval()
    train,held = load_images('emoji').subset(range(5000, 5300)),load_images('emoji', 'test').take(60)
    m,p = score_tokenizer(tok, train, held, ex, tmp_path)
    assert p['fd']=='FD-emoji' and p['reference']=='emoji test' and p['pixels']=='64x64'
    assert m['rfd']>0 and m['probe_mean'] is not None
    # the reference is plain as well
    floor = frechet_distance(*[reference_stats(s, ex, 64, tmp_path) for s in (train.plain, held)])
    assert m['fd_floor']==pytest.approx(floor)
    made,u8,_ = score_samples(tok, AR(16, 9, 64, layers=1, width=16, heads=2).eval(), held, ex, tmp_path, n=18)
    assert 0<=made['class_consistency']<=1 and 1<=made['isc']<=9 and u8.shape==(18, 3, 64, 64)
    assert capsys.readouterr().out==''

def test_a_masked_network_is_scored_as_the_other_is(scored):
    from iutok.evaluation import score_samples
    from iutok.proposals import AR,NAR
    tok,_,held,cache,*_ = scored
    ex,held = get_extractor('fashion'),held.take(60)
    torch.manual_seed(0)
    sizes = dict(layers=1, width=16, heads=2)
    (a,_,pa),(b,u8,pb) = (score_samples(tok, net, held, ex, cache, n=20, scale=1.5, **how) for net,how in (
        (AR(16, 10, 64, **sizes), dict(top_k=9)), (NAR(16, 10, 64, **sizes), dict(steps=4, order='halton'))))
    assert a.keys()==b.keys() and u8.shape==(20, 3, 32, 32)
    assert pa['sampler']=='top_k 9' and pb['sampler']=='order halton, steps 4'
    own = 'sampler', 'hash'
    assert {k:v for k,v in pa.items() if k not in own}=={k:v for k,v in pb.items() if k not in own}
    assert .5<b['gfd']/a['gfd']<2 # untrained, both draw codes evenly
    with pytest.raises(ValueError, match='drop_label'):
        score_samples(tok, NAR(16, 10, 64, drop_label=0, **sizes), held, ex, cache, n=2, scale=2.)

def test_a_protocol_says_what_was_done(scored):
    from iutok.evaluation import score_samples
    from iutok.metrics.scores import Protocol
    from iutok.proposals import AR
    tok,train,held,cache,*_ = scored
    ex = get_extractor('fashion')
    _,p = score_tokenizer(tok, train, held, ex, cache)
    assert (p['guidance'], p['sampler'], p['crop'], p['rounding'])==('none', 'none', 'centre', 'truncated')
    assert p['classes']=='10 classes of 53' and p['hash']==Protocol.read(p).hash
    ar = AR(16, 10, 64, layers=1, width=16, heads=2).eval()
    made = [score_samples(tok, ar, held, ex, cache, n=20, seed=s, scale=w)[2] for s,w in ((0, 1.), (0, 2.), (1, 1.))]
    assert [m['guidance'] for m in made]==[1, 2, 1] and len({m['hash'] for m in made})==2 # seeds are draws, no protocol
    assert made[0]['classes']=='10 classes of 2' and made[0]['crop']=='drawn'

def test_a_scale_is_chosen_on_images_and_draws_that_the_test_does_not_share(scored, monkeypatch):
    import iutok.evaluation as e
    _,train,held,*_ = scored
    asked = []
    def score(tok, net, reference, ex, cache, n, seed, scale, **how):
        asked.append((reference.split, len(reference), seed, scale, how))
        return dict(gfd=abs(scale-2)+(reference.split=='test')),None,dict(guidance=scale)
    monkeypatch.setattr(e, 'score_samples', score)
    made,m,p = e.choose_scale(None, None, train, held.take(40), None, None, [1, 2, 3], seed=5, top_k=3)
    assert made==(2, {1:1, 2:0, 3:1}, 1) and m==dict(gfd=1) and p==dict(guidance=2)
    assert asked==[('train', 40, 6, w, dict(top_k=3)) for w in (1, 2, 3)]+[('test', 40, 5, 2, dict(top_k=3))]

@pytest.mark.parametrize('settings', [[], [1, 1]])
def test_settings_to_choose_from(settings):
    from iutok.evaluation import choose
    with pytest.raises(ValueError, match='different ones'): choose(settings, float, float)
