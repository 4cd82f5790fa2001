"""Whatever a person hands over by mistake, wherever: one sentence that names the culprit, and nothing written.
Numbers out of range are in test_bad_calls.py, sizes of foreign files in test_sizes.py."""
import ast,importlib,inspect,json,math,pkgutil,re
from pathlib import Path
from types import SimpleNamespace
import numpy as np,pandas as pd,pytest,torch
from PIL import Image
import iutok,test_bad_calls
from iutok import (adapters,analysis,captions,checks,cli,clustering,convert,data,decoding,distillation,doctor,drawing,
                   emoji,evaluation,files,images,inspection,intervals,maps,mini_teachers,nulls,painter,parameters,
                   pixels,plan,precision,pretrained,pretraining,protocols,questions,recipes,runners,runs,sampling,
                   settings,splits,streams,tables,teachers,text,text_evaluation,tokenizers,training,verify,viz,weights)
from iutok.data import load_images
from iutok.losses import recon
from iutok.metrics import features,inception,probe,scores,sets,statistics
from iutok.metrics import pixels as errors
from iutok.nets import conv,vit
from iutok.proposals import AR,NAR,T2I,ar,load_proposal,nar,tokens
from iutok.quantizers import VQ,OnlineCluster,base,grid,health,quantizer_of
from iutok.quantizers.kmeans import Rows
from iutok.tokenizers import Connector,Tokenizer

ROOT = Path(__file__).parents[1]
NAN,INF = math.nan,math.inf
COUNT = (0, -3, 2.5, True, NAN, '4')
FROM_0 = (-1, .5, False, NAN, '0')
SHARE = (0, 1, -.1, 2, NAN)      # wrong for a share strictly between 0 and 1
SEED = (-1, 1.5, NAN, 2**64, '0')

torch.manual_seed(0)
def net(**kw): return conv.ConvEncoder(**dict(width=8, mults=(1, 1), n_res=1, out_channels=8, attention=False) | kw)
def decoder(**kw): return conv.ConvDecoder(**dict(in_channels=8, width=8, mults=(1, 1), n_res=1, attention=False) | kw)
TOK = Tokenizer(net(), VQ(8, 4), decoder(), Connector([8, 4]), Connector([4, 8]), image_size=8).eval()
BARE = Tokenizer(TOK.encoder, VQ(8, 4), post_encode=TOK.post_encode, image_size=8).eval() # no pixel decoder
SIZES = dict(n_codes=8, length=16, layers=1, width=8, heads=2)
A,N = AR(n_classes=3, **SIZES).eval(),NAR(n_classes=3, **SIZES).eval()
U8 = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
X = U8.float()/255
WIDE = U8.repeat(1, 1, 4, 4)
IDS = torch.randint(0, 8, (6, 4, 4))
FLAT = IDS.flatten(1)
LABELS,COND = torch.tensor([0, 1, 2, 0, 1, 2]),torch.tensor([0, 1])
FEW = load_images('fashion', 'test').take(40)
F = statistics.Features(torch.randn(20, 5), torch.randn(20, 3), dict(extractor='a'))
REF = statistics.statistics(F)
NO_IDS = (IDS.float(), IDS>0, [1], None)
NO_BYTES = (X, U8[0], U8[:,:1], [1], None, 'a')
NO_TOK = (None, A, 'quick/vqkd-effnet')
BETAS = (.5, (.5,), (.5, 1.), (NAN, .9), '.5', None)
ROWS = torch.randn(20, 5)
PNG = viz.png(Image.fromarray(WIDE[0].permute(1, 2, 0).numpy()))
KD = distillation.vqkd_tokenizer(4, 8, 4, 8, 4, 8, 1, 2)
MAP = maps.CodeMap(ROWS[:6], torch.tensor([0, 0, 1, 1, 2, 2]), LABELS, ROWS[:3], torch.arange(3), ROWS[:9,:2])
SMALL = pretraining.trunk(pretraining.small_vit(8, 1, 2, image_size=8, patch=4))
GREY = pretraining.Pixels((.5,)*3, (.2,)*3)
def run(**kw): return SimpleNamespace(**settings.RECIPES['vqgan-1024'] | kw)
def grids(b): return IDS[:1].expand(len(b), -1, -1)

# what is called (its name first, where it is a method or wrapped), its sound arguments, {argument: wrong values}
DOORS = [
    ('encode', TOK.encode, dict(images=U8),
     dict(images=(X*2-1, X*255, U8[0,0], U8.long(), X*NAN, None, 7, [], 'none.png', '.', [None], [U8],
                  np.zeros((2, 2)), U8[:0]), batch_size=COUNT)),
    ('decode', TOK.decode, dict(idx=IDS), dict(idx=(*NO_IDS, IDS[0], IDS-9, IDS+8), batch_size=COUNT)),
    ('show', TOK.show, dict(idx=IDS), dict(idx=(IDS.float(), IDS+8, [1]), cols=COUNT, scale=COUNT)),
    ('side_by_side', TOK.side_by_side, dict(images=U8), dict(images=('none.png', X*255), cols=COUNT, scale=COUNT)),
    ('reconstruct', TOK.reconstruct, dict(images=U8), dict(images=('none.png', X*255))),
    (Tokenizer, dict(encoder=TOK.encoder, quantizer=TOK.quantizer), dict(image_size=(*COUNT, 2**20))),
    (Connector, dict(channels=[4, 2]), dict(channels=([], [4], [4, 0], [4, 2.5], ['4', '2'], 4, None))),
    (tokenizers.pictures, dict(images=U8, size=8), dict(size=COUNT, images=(None, 'none.png'))),
    (tokenizers.teacher_side, dict(name='effnet', grid=2),
     dict(name=('none', '', 7), grid=COUNT, profile=('huge',), data=('none',))),
    (adapters.Given, dict(n_codes=8),
     dict(n_codes=COUNT, codebook=(torch.zeros(3, 2), torch.zeros(8), [1], torch.full((8, 2), NAN)))),
    (adapters.Adapted, dict(encode=lambda x: IDS, decode=None, n_codes=8),
     dict(n_codes=COUNT, image_size=COUNT, encode=(None, 7), decode=(7,))),
    (adapters.suggest_generator, dict(tok=TOK, n_classes=3),
     dict(tok=(None, A), n_classes=COUNT, kind=('x', None), size=('huge', 7))),
    (analysis.tau_interval, dict(x=[1, 2, 3, 4], y=[1, 3, 2, 4], draws=9),
     dict(x=([1, 2], [1, 2, 3, NAN], []), share=SHARE, draws=COUNT, seed=SEED)),
    (captions.brightness, dict(u8=U8), dict(u8=NO_BYTES, floor=(*FROM_0, 256))),
    (captions.tone_cuts, dict(images=FEW, size=8, n=20), dict(size=COUNT, n=COUNT)),
    (captions.Words, dict(sentences=['a b']), dict(length=COUNT, sentences=([], 'a b', None, [7]))),
    (captions.Captions, dict(classes=['a'], cuts=[1., 2.]), dict(classes=([], 'a', [''], [None], [7]), length=COUNT)),
    (captions.sentence, dict(template='{} is {a}.', name='bag'),
     dict(template=('{b}', '{', '{0} {1}', 7, None), name=('', None, 7))),
    (captions.sentence_vectors, dict(tower=lambda s: torch.ones(len(s), 2), sentences=['a', 'b']),
     dict(sentences=('a b', '', []), batch_size=COUNT)),
    (captions.SentenceTable, dict(vectors=ROWS), dict(vectors=(ROWS[0], None, [1]), dim=COUNT)),
    (captions.text_tower, dict(words=9, length=4, width=8, heads=2, depth=1, dim=4),
     dict(words=COUNT, length=COUNT, width=(0, 7), depth=COUNT, heads=(0, 3), dim=COUNT)),
    (checks.check_integers, dict(name='ids', x=IDS), dict(x=NO_IDS, least=(8,))),
    (checks.check_counts, dict(n=1), dict(n=COUNT)),
    (checks.check_betas, dict(value=(.5, .9)), dict(value=BETAS)),
    (clustering.FeatureMaps, dict(teacher=torch.Tensor.float, images=FEW, size=8),
     dict(size=COUNT, transform=('x', None), seed=SEED, batch_size=COUNT, rank=(-1, 1, .5), world=COUNT)),
    (clustering.Pieces, dict(features=[X]), dict(size=COUNT)),
    (clustering.online_phase, dict(quantizer=OnlineCluster(4, 2), features=None), dict(lr=(-1, NAN, 'x'), betas=BETAS)),
    (clustering.sample_vectors, dict(features=np.zeros((2, 4, 2, 2), np.float32), n=3), dict(n=COUNT, seed=SEED)),
    (data.epoch_order, dict(n=4), dict(n=(-1, .5, False))),
    (data.MemorySet, dict(name='a', split='train', pixels=U8[:2,0], labels=COND, classes=['a', 'b']),
     dict(pixels=(X[:2,0], U8[:3,0], U8[:2,0,:4], U8[:2,0,0]), labels=(COND[:1], COND+1, COND-1, COND.float()))),
    (data.Batches, dict(images=FEW, size=8, batch_size=4),
     dict(size=COUNT, batch_size=COUNT, transform=('x', None), seed=SEED, rank=(-1, 1, .5), world=(0, 3, .5))),
    ('sequential', lambda **kw: list(data.sequential(**kw)), dict(images=FEW, size=8, batch_size=4),
     dict(size=COUNT, batch_size=COUNT, transform=('x',), rank=(-1, 1), world=(0,))),
    ('take', FEW.take, dict(n=3), dict(n=COUNT)),
    (decoding.masked_counts, dict(n=8, steps=4), dict(n=COUNT, steps=(*COUNT, 9), schedule=('x', None))),
    (decoding.halton_order, dict(h=2, w=2), dict(h=COUNT, w=COUNT)),
    ('fill', lambda **kw: decoding.fill(N, **kw), dict(cond=COND, steps=2),
     dict(cond=(COND.float(), COND+9, COND-1, COND[:0], COND[None]), steps=(*COUNT, 17), schedule=('x',),
          order=('x', torch.arange(3), torch.arange(16).float(), None), scale=(NAN, INF, '1'), guidance=('x',),
          temperature=(0, NAN, INF), known=(FLAT[:2].float(), FLAT[:1], FLAT[:2]+9, FLAT[:2]-1, [1]), noise=(-1, NAN),
          grid=((3, 3), (0, 16)), seed=SEED, first=FROM_0, batch_size=COUNT)),
    ('order_nats', lambda **kw: decoding.order_nats(N, **kw), dict(tokens=FLAT[:2], cond=COND),
     dict(tokens=(FLAT[:2].float(), FLAT[:1], FLAT[:2]+8, [1]), cond=(COND+9, COND[:0]), steps=(0, 17, 2.5),
          order=('confidence', 'x'), schedule=('x',), scale=(NAN,), seed=SEED, batch_size=COUNT)),
    ('masked_nats', lambda **kw: nar.masked_nats(N, **kw), dict(tokens=FLAT[:2], cond=COND),
     dict(tokens=(FLAT[:2].float(), FLAT[:2]-1, [1]), rates=((0,), (2,), (), (NAN,)), seed=SEED, batch_size=COUNT)),
    (AR, SIZES | dict(n_classes=3),
     dict(n_codes=COUNT, n_classes=COUNT, length=(*COUNT, 2**30), layers=COUNT, width=(*COUNT, 7), heads=(*COUNT, 3),
          mlp=COUNT, arch=('x', None), drop_label=(1, -.1, NAN, 'x'), dropout=(1, -.1, NAN), order=('x', None))),
    (NAR, SIZES | dict(n_classes=3),
     dict(n_codes=COUNT, n_classes=COUNT, length=(*COUNT, 2**30), layers=COUNT, width=(*COUNT, 7), heads=(*COUNT, 3),
          mlp=COUNT, form=('x', None), drop_label=(1, NAN), mask_rate=('x',), smoothing=(1, NAN))),
    (T2I, SIZES | dict(kind='ar', text_width=4, text_tokens=2),
     dict(kind=('x', None), n_codes=COUNT, length=COUNT, text_width=COUNT, text_tokens=COUNT, layers=COUNT,
          width=(*COUNT, 7), heads=(*COUNT, 3), drop_caption=(1, NAN))),
    ('loss', A.loss, dict(tokens=FLAT, cond=LABELS),
     dict(tokens=(FLAT.float(), FLAT[:2], FLAT+8, FLAT[:,:3], [1], None), cond=(LABELS.float(), LABELS+9, LABELS[:2]))),
    ('loss', N.loss, dict(tokens=FLAT, cond=LABELS),
     dict(tokens=(FLAT.float(), FLAT[:2], FLAT+9, FLAT[:,:3], [1]), cond=(LABELS.float(), LABELS+9, LABELS[:2]))),
    ('logits', A.logits, dict(tokens=FLAT, cond=LABELS), dict(tokens=(FLAT.float(), FLAT+8), cond=(LABELS+9,))),
    ('ppl', lambda **kw: ar.ppl(A, **kw), dict(tokens=FLAT, labels=LABELS),
     dict(tokens=(FLAT[:0], FLAT.float(), FLAT+9, FLAT[:2]), labels=(LABELS+9, LABELS[:2], LABELS.float()),
          batch_size=COUNT)),
    ('sample', A.sample, dict(cond=COND),
     dict(cond=(COND+9, COND.float(), None, [0]), scale=(NAN, 'x'), seed=SEED, top_k=(-1, .5))),
    (ar.rope_table, dict(length=4, d=4), dict(length=COUNT, d=(0, 3, '4'))),
    (ar.spiral, dict(length=4), dict(length=(0, -1, 5, 2.5, '4'))),
    (doctor.purity, dict(ids=IDS, labels=LABELS), dict(ids=NO_IDS, labels=(LABELS[:2], LABELS-1, LABELS.float()))),
    (doctor.purity_by_chance, dict(ids=IDS, labels=LABELS), dict(shuffles=COUNT, seed=SEED, labels=(LABELS[:2],))),
    (doctor.repeats, dict(ids=IDS), dict(ids=(*NO_IDS, IDS[0], IDS-1, IDS[:0]))),
    (doctor.place_bits, dict(ids=IDS, n_codes=8), dict(ids=(*NO_IDS, IDS-1, IDS+8, IDS[:0]), n_codes=COUNT)),
    (doctor.findings_of_ids, dict(ids=IDS, n_codes=8),
     dict(ids=(*NO_IDS, IDS+8, IDS[:0], IDS[0]), n_codes=COUNT, labels=(LABELS[:2], LABELS.float()),
          codebook=(torch.zeros(3), torch.full((8, 2), NAN)))),
    (doctor.findings_of_classes, dict(ids=IDS, labels=LABELS),
     dict(labels=(LABELS[:2], LABELS.float(), None), ids=(IDS.float(),))),
    (doctor.findings_of_pixels, dict(tok=TOK, x=X*2-1, ids=IDS), dict(ids=(IDS[:2],), seed=SEED)),
    (doctor.doctor, dict(tok=TOK, images=U8),
     dict(tok=(None, A), images=(None, [], X*255, U8[:0]), labels=(LABELS[:2], LABELS.float(), LABELS-1), seed=SEED)),
    (emoji.layout, dict(picture=0, view=1), dict(picture=FROM_0, view=FROM_0, seed=SEED)),
    ('Sheet', lambda **kw: drawing.Sheet(2, 2).box(1, 1, 'a', **kw), {}, dict(kind=('x', None))),
    ('EmojiSet', emoji.EmojiSet.open, dict(split='test'), dict(split=('val', None, ''), n=(-1, .5))),
    (evaluation.bits_per_image, dict(nats=1., length=4), dict(nats=(NAN, -1., '1'), length=COUNT)),
    (evaluation.mutual_information, dict(ids=IDS, labels=LABELS),
     dict(ids=(IDS.float(), IDS[:2], IDS-1), labels=(LABELS[:2], LABELS.float(), LABELS-1), shuffles=(-1, .5),
          seed=SEED)),
    ('decode_u8', lambda **kw: list(evaluation.decode_u8(**kw)), dict(tok=TOK, tokens=IDS),
     dict(tokens=(IDS.float(), IDS+8), batch_size=COUNT)),
    (evaluation.count_parameters, dict(tok=TOK), dict(tok=NO_TOK)),
    (evaluation.ids_that_differ, dict(tok=TOK, u8=U8), dict(tok=NO_TOK, u8=('none.png', X*255))),
    ('features_by', lambda batches, judges: evaluation.features_by(batches, *judges),
     dict(batches=[U8], judges=[lambda u8: F, None]), dict(batches=([],), judges=([], [None]))),
    (evaluation.choose, dict(settings=[1, 2], validation=lambda s: s, test=lambda s: s), dict(settings=([],))),
    (intervals.bootstrap, dict(statistic=lambda i: i.double().mean(), n=9, draws=5),
     dict(n=COUNT, draws=COUNT, share=SHARE, seed=SEED)),
    (intervals.fd_interval, dict(features=F, reference=REF, draws=3),
     dict(draws=COUNT, share=SHARE, seed=SEED,
          features=(F._replace(f=torch.randn(20, 4)), F._replace(made_by=dict(extractor='b')), F._replace(f=F.f*NAN)))),
    (intervals.fd_difference, dict(a=F, b=F, reference=REF, draws=3),
     dict(b=(F._replace(f=F.f[:9]), F._replace(made_by={})), share=SHARE)),
    (intervals.is_interval, dict(logits=torch.randn(20, 3), draws=3),
     dict(logits=(torch.full((20, 3), NAN), torch.randn(20), torch.randn(5, 3), FLAT), draws=COUNT, share=SHARE)),
    (intervals.paired_ratio, dict(a={0:1., 1:2.}, b={0:2., 1:3.}),
     dict(a=({}, {0:1.}, {0:-1., 1:1.}, {0:NAN, 1:1.}), share=SHARE)),
    (intervals.best_of, dict(values=dict(a={0:1.}, b={0:2.})),
     dict(values=({}, dict(a={0:1.}), dict(a={}, b={}), dict(a={0:NAN}, b={0:1.})), level=SHARE)),
    ('Look', lambda **kw: inspection.Look('fashion', dict(train=FEW), []).sheet(**kw), {},
     dict(classes=COUNT, each=COUNT, size=COUNT)),
    (maps.map_numbers, dict(m=MAP), dict(k=COUNT)),
    (maps.draw_map, dict(m=MAP, names=['a', 'b', 'c']), dict(names=([], ['a'], 'abc'))),
    (mini_teachers.caption_ranks, dict(images=ROWS, captions=ROWS),
     dict(captions=(ROWS[:9],), among=(*COUNT, 1), seed=SEED)),
    (mini_teachers.grid_features, dict(teacher=torch.Tensor.float, images=FEW, size=8),
     dict(size=COUNT, batch_size=COUNT)),
    (mini_teachers.mini_teacher, dict(name='vit'), dict(name=('x', None))),
    (mini_teachers.pca_colours, dict(t=torch.randn(2, 4, 3, 3)), dict(t=(ROWS, None))),
    (mini_teachers.shipped_file, dict(name='vit'), dict(name=('x', None), data=('none', None))),
    (maps.random_classes, dict(images=FEW, classes=2, per_class=2),
     dict(classes=(*COUNT, 99), per_class=COUNT, seed=SEED)),
    (maps.tsne, dict(x=torch.randn(12, 3)),
     dict(x=(torch.randn(12), torch.randn(2, 3), torch.full((12, 3), NAN), None), perplexity=(0, NAN, 'x'), seed=SEED)),
    (maps.code_map, dict(tok=TOK, u8=U8, labels=LABELS),
     dict(labels=(LABELS[:2], LABELS.float()), u8=(X*255, U8[:0]), flat=(NAN, -1), perplexity=(0,), seed=SEED)),
    *[(f, dict(x=WIDE, x_hat=WIDE), dict(x=(X, U8, U8[0], None), x_hat=(X, U8, None)))
      for f in (errors.l1, errors.mse, errors.psnr, errors.ssim)],
    (errors.pixel_scores, dict(pairs=[(WIDE, WIDE)]), dict(pairs=([], [(U8, X)]))),
    (scores.fd_infinity, dict(features=F, reference=REF), dict(repeats=COUNT, seed=SEED)),
    (scores.histogram, dict(labels=LABELS, n_classes=3),
     dict(labels=(LABELS.float(), LABELS+9, LABELS-1), n_classes=COUNT)),
    (sets.mmd2, dict(x=torch.randn(9, 3), y=torch.randn(9, 3)),
     dict(x=(torch.randn(9), torch.randn(1, 3), torch.randn(9, 4)))),
    (sets.kernel_distance, dict(a=torch.randn(50, 3), b=torch.randn(50, 3), subsets=2, subset_size=10),
     dict(subsets=COUNT, subset_size=(*COUNT, 99), seed=SEED,
          a=(torch.randn(9), torch.randn(50, 4), torch.full((50, 3), NAN)))),
    (sets.precision_recall, dict(samples=torch.randn(50, 3), real=torch.randn(50, 3)),
     dict(k=(*COUNT, 50), rows=COUNT, samples=(torch.randn(9), torch.randn(50, 4), torch.full((50, 3), NAN)))),
    (sets.inception_score, dict(logits=torch.randn(20, 3)),
     dict(logits=(torch.randn(20), torch.full((20, 3), NAN), torch.randn(5, 3)), splits=COUNT)),
    (inception.resize_tf1, dict(x=X, size=4), dict(size=COUNT, x=(X[0], None))),
    (inception.inception_input, dict(u8=U8, size=4), dict(u8=NO_BYTES, resize=('x',), size=COUNT)),
    (features.Scorer, dict(classes=['a', 'b'], widths=(4, 4), strides=(1, 2)),
     dict(classes=([], 'ab'), size=COUNT, channels=COUNT, widths=((), (4,)), std=(0, NAN))),
    (probe.LARS, dict(params=[torch.nn.Parameter(ROWS)]), dict(lr=(-1, NAN), momentum=(-1, NAN), trust=(-1, NAN))),
    ('perceptual_effnet', lambda **kw: recon.perceptual_effnet(lambda x: [x]*5, **kw), {}, dict(size=COUNT)),
    (conv.check_map, dict(x=X, channels=3), dict(x=(U8, X[0], X[:,:1], None), channels=(4,), factor=(3,))),
    (conv.group_norm, dict(channels=4), dict(groups=(3,))),
    ('ConvEncoder', net, {}, dict(in_channels=COUNT, width=COUNT, mults=((), (0,), 4, ('a',)), n_res=COUNT,
                                  out_channels=COUNT, groups=(0, 3, 2.5))),
    ('ConvDecoder', decoder, {}, dict(in_channels=COUNT, width=COUNT, mults=((), (0,), 4, ('a',)), n_res=COUNT,
                                      out_channels=COUNT, groups=(0, 3))),
    ('forward', net(), dict(x=X), dict(x=(X[:,:1], X[0], X[:,:,:7], U8, None))),
    (vit.ViT, dict(patch=4, grid=2, width=8, depth=1, heads=2, out_channels=4),
     dict(in_channels=COUNT, patch=COUNT, grid=COUNT, width=(*COUNT, 7), depth=COUNT, heads=(*COUNT, 3),
          out_channels=COUNT, out_patch=COUNT, mlp_ratio=(0, -1, NAN, 'x'))),
    (nulls.gain_left, dict(pixels=1., null=.5, teacher=.2), dict(pixels=('x', None))),
    (nulls.paired_interval, dict(a=[1., 2.], b=[2., 3.]), dict(a=([], [1.]), share=SHARE)),
    (painter.paint, dict(ids=IDS[0], row=0, col=0, code=1),
     dict(row=(-1, 4, .5, '0'), col=(-1, 4), code=(-1, .5, '1'), ids=(IDS, IDS[0].float(), [1], None))),
    (painter.footprint, dict(tok=TOK, ids=IDS[0], row=0, col=0, code=1), dict(code=(8, -1), ids=(IDS, IDS[0].float()))),
    (painter.Painter, dict(tok=TOK, images=U8), dict(tok=(BARE,), images=(X*255, U8[:0]), palette=COUNT, side=COUNT)),
    (painter.colour, dict(code=1), dict(code=FROM_0)),
    (parameters.parameter, dict(notebook='train_ar', name='steps'), dict(name=('none', '', None))),
    (pixels.check_tensor, dict(name='x', x=X), dict(x=([1], None), ndim=(3,))),
    (pixels.check_u8, dict(u8=U8), dict(u8=NO_BYTES)),
    (pixels.quick_square, dict(data=PNG, size=4, transform='weak', u=np.full(pixels.N_UNIFORM, .5)),
     dict(data=(b'', b'x', PNG[:99]), size=COUNT, transform=('x', None, 7))),
    (pixels.to_uint8, dict(x=X), dict(x=(U8, None))),
    (pixels.square, dict(img=Image.new('RGB', (9, 9)), size=4), dict(size=COUNT, transform=('x',), img=(None, 7))),
    (pixels.as_batch, dict(images=U8, size=8), dict(size=COUNT, images=(None, [], 7, X*255, U8[0,0], U8[:0]))),
    (pixels.patchify, dict(x=X, p=4), dict(p=(*COUNT, 3), x=(X[0], None))),
    (pixels.unpatchify, dict(t=torch.zeros(2, 4, 48), grid=(2, 2), patch=4),
     dict(grid=((3, 3), 4), patch=COUNT, t=(torch.zeros(2, 4), torch.zeros(2, 4, 47)))),
    (pixels.named_transform, dict(name='weak'), dict(name=('x', None, 7))),
    (plan.artefacts, dict(profile='quick'), dict(profile=('x', None), world=('x',))),
    (plan.wanted, dict(target='table1'), dict(profile=('x',), world=('x',))),
    (plan.plan_of, dict(targets=['vqgan-s0']), dict(targets=(['none'],), profile=('x',), seeds=([-1], ['x']))),
    (plan.Choice, {}, dict(profile=('x', None), world=('x',), gpus=(-1, .5), nodes=(0, .5), seeds=([-1], ['x'], 3),
                           teachers=('vit',), targets=('all',), overrides=(7, dict(a=3)))),
    (plan.choice_of, dict(config={}), dict(config=(dict(profile='x'), dict(gpus='many')))),
    (plan.lists_of, dict(profile='quick'), dict(profile=('x', None), world=('x',), seeds=([-1], ['x']))),
    (plan.recorded, dict(profile='quick'), dict(profile=('x', None), world=('x',))),
    (precision.autocast, dict(precision='bf16'), dict(precision=('half', 'auto', True, None))),
    (pretrained.describe, dict(tok=TOK), dict(tok=NO_TOK)), (pretrained.slim_copy, dict(tok=TOK), dict(tok=NO_TOK)),
    (pretrained.card, dict(tok=TOK, name='a'), dict(tok=NO_TOK)),
    (pretraining.pixel_stats, dict(images=FEW, size=8), dict(size=COUNT, n=COUNT)),
    (pretraining.Pixels, dict(mean=(.5,)*3, std=(.2,)*3),
     dict(mean=((.5,), .5, (2, .5, .5), (NAN, .5, .5)), std=((0, .2, .2), (.2,), None))),
    (pretraining.Supervised, dict(trunk=SMALL, pixels=GREY, n_classes=3),
     dict(n_classes=COUNT, smoothing=(1, NAN, -.1))),
    (pretraining.MultiCrop, dict(batches=None),
     dict(n_small=COUNT, small=COUNT, split=(0, 2, NAN), jitter=(-1, 2, NAN))),
    (pretraining.Prototypes, dict(width=8), dict(width=COUNT, hidden=COUNT, dim=COUNT, n=COUNT)),
    (pretraining.balanced, dict(scores=ROWS, temperature=.1),
     dict(scores=(ROWS[0], None), temperature=(0, -1, NAN, 'x'), rounds=COUNT)),
    (pretraining.SelfDistillation, dict(trunk=SMALL, pixels=GREY, steps=4),
     dict(steps=COUNT, n=COUNT, momentum=(-1, 2, NAN), sharp=(0, NAN), soft=(0, NAN), wait=(-1, 2, NAN))),
    (pretraining.MaskedAutoencoder, dict(trunk=SMALL, pixels=GREY),
     dict(hide=(0, 1, NAN), width=(*COUNT, 6), depth=COUNT, heads=(*COUNT, 3), flat=(-1, NAN))),
    (pretraining.small_vit, dict(width=8, depth=1, heads=2),
     dict(width=(0, 7), heads=(0, 3), depth=COUNT, image_size=(0, 30), patch=(0, 5))),
    (tokens.small_dtype, dict(n=4), dict(n=COUNT)),
    (tokens.TokenSet, dict(tokens=IDS, labels=LABELS, n_codes=8),
     dict(tokens=(IDS.float(), IDS-1, IDS+8, IDS[:0], FLAT, [1]), labels=(LABELS[:2], LABELS-1, LABELS.float(), None),
          n_codes=COUNT)),
    (tokens.tokenise, dict(encode_fn=lambda b: IDS, batches=[(U8, LABELS)], n_codes=8),
     dict(batches=([],), n_codes=(4, 0), encode_fn=(lambda b: FLAT, lambda b: IDS[:2]))),
    (tokens.view_batch, dict(images=FEW, idx=[0], size=8), dict(size=COUNT, views=('x', 'emoji:2', 'emoji:0', None))),
    (tokens.step_views, dict(idx=np.arange(2), n=4, views=2, step=0, seed=0),
     dict(n=COUNT, views=COUNT, step=FROM_0, seed=SEED)),
    (tokens.TokenBatches, dict(tokens=FLAT, labels=LABELS, batch_size=2),
     dict(batch_size=COUNT, seed=SEED, rank=(-1, 1, .5), world=(0, .5, 3), labels=(LABELS[:2],), tokens=(FLAT[:0],))),
    (protocols.through_jpeg, dict(u8=U8), dict(u8=NO_BYTES, quality=(0, 101, 2.5, True, NAN, '90'))),
    (questions.damaged, dict(idx=IDS, codebook=torch.randn(8, 2), near=3),
     dict(share=(-.1, 1.1, NAN, 'x'), near=(*COUNT, 8), seed=SEED, idx=(*NO_IDS, IDS+8), codebook=(torch.randn(8),))),
    (questions.interval, dict(values=[1., 2.]), dict(values=([],), share=(0, -.1, 2, NAN))),
    (questions.LinearCodec, dict(x=ROWS, quantizer=VQ(8, 4)), dict(x=(ROWS[:,:3], ROWS[0], ROWS*NAN, None))),
    (questions.fit_codec, dict(x=ROWS, quantizer=VQ(8, 4), steps=1, batch_size=8),
     dict(x=(ROWS[:,:3], ROWS[0], ROWS*NAN, None), steps=COUNT, batch_size=COUNT, lr=(0, NAN, -1, 'x'), seed=SEED)),
    (questions.group_draws, dict(groups=['a', 'b']), dict(groups=([],), draws=COUNT, seed=SEED)),
    (questions.crossings, dict(x=[1, 2], a=[1, 2], b=[2, 1]), dict(a=([1],), x=([1], [2, 1], [-1, 1]))),
    (questions.photographs, {}, dict(size=COUNT, tiles=COUNT)),
    (questions.cell_means, dict(u8=U8, grid=2), dict(grid=(*COUNT, 3), u8=NO_BYTES)),
    (questions.fit_small, dict(net=AR(n_classes=3, **SIZES), tokens=FLAT, labels=LABELS, steps=1, batch_size=2),
     dict(steps=COUNT, batch_size=COUNT, lr=(0, NAN, -1, 'x'), seed=SEED)),
    (base.check_z, dict(z=X, dim=3), dict(z=(X[0], None, U8, X[:,:1], X[:0], X*NAN))),
    (base.check_idx, dict(idx=IDS, n_codes=8), dict(idx=(*NO_IDS, IDS[0], IDS-9, IDS+8))),
    (Rows, dict(x=ROWS), dict(x=(iter([]), IDS[0], ROWS[0], ROWS*NAN))),
    ('generate', lambda **kw: sampling.generate(A, COND, lambda logits,j: logits.argmax(-1), **kw), {},
     dict(scale=(NAN, INF, 'x', [1., NAN]))),
    ('greedy', lambda **kw: sampling.greedy(A, **kw), dict(cond=COND),
     dict(cond=(COND+9, COND.float(), None, [0]), scale=(NAN, 'x'), batch_size=COUNT,
          prefix=(COND[:,None]-1, COND[:,None]+8, COND[:,None]/2))),
    (settings.check_parameters, dict(notebook='train_ar', params=dict(steps=3)),
     dict(notebook=('x',), params=(dict(colour=1), dict(steps=0)))),
    (tables.of_network, dict(kind='ar', k='gfd'), dict(kind=('x', None))),
    ('some', lambda heading: tables.some(heading), dict(heading='rFD'), dict(heading=('rFID', '', None, 7))),
    (tables.commands, dict(kind='vqkd', teacher='effnet'), dict(profile=('x', None), world=('x',))),
    (teachers.teachers, {}, dict(profile=('x', None), data=('none', None))),
    ('FrozenTeacher', teachers.load_teacher('pixels'), dict(images=U8),
     dict(images=(X*255, X*2-1, X*NAN, U8[0], U8[:0], U8.long(), None, 'none.png'))),
    (tokenizers.check_tokenizer, dict(tok=TOK, pixels=True), dict(tok=(*NO_TOK, BARE))),
    (quantizer_of, dict(kind='vq', n_codes=8, dim=4), dict(kind=('x', None), n_codes=COUNT, dim=COUNT)),
    (grid.even_levels, dict(n_codes=8), dict(n_codes=(*COUNT, 7, 1))),
    (health.counts, dict(idx=IDS, K=8), dict(K=COUNT, idx=(IDS.float(), IDS+8, IDS-1))),
    (streams.near_order, dict(parts=(2, 3), window=2), dict(window=COUNT)),
    (teachers.Edges, dict(side=8), dict(side=COUNT, angles=COUNT)),
    (teachers.Patches, dict(side=8), dict(side=COUNT)),
    (teachers.load_teacher, dict(name='pixels'),
     dict(name=('none', '', 'timm:none', 'timm:hf-hub:a/b', 'timm:vit@x', None, 7), profile=('x', None),
          size=(0, 2.5, (8,), (8, 8, 8), '8', 7, 2**20, True), weights=('none',), project=(True,), fast=('x',))),
    (text_evaluation.background, dict(u8=U8), dict(u8=(X, U8[0], None))),
    (training.seed_everything, dict(seed=0), dict(seed=SEED, rank=FROM_0)),
    (viz.to_pixels, dict(x=X), dict(x=(X[0,0], None, X.long(), [1]))),
    (viz.patch_spread, dict(images=U8, h=2, w=2), dict(h=(*COUNT, 3), w=COUNT, images=(None, U8[0]))),
    (viz.patch_errors, dict(x=U8, x_hat=U8, side=4), dict(side=(*COUNT, 3), x_hat=(U8[:2], None))),
    (viz.wall, dict(x=U8, rows=dict(a=(torch.zeros(len(U8), 2, 2).long(), U8, U8[:1].expand(2, 1, *U8.shape[1:]))),
                    classes=['c']), dict(rows=({},), size=(0, NAN))),
    (viz.compare_worst, dict(rows=dict(a=U8, b=U8), side=4),
     dict(rows=({}, dict(a=U8, b=U8[:2])), boxes=(-1, .5), side=COUNT, size=(0, NAN))),
    (viz.codebook_map, dict(codes=ROWS, counts=torch.arange(20)),
     dict(codes=(ROWS[0], ROWS*NAN, None), counts=(torch.arange(9), torch.arange(20)-1, [1]*20, None))),
    (viz.img_tag, dict(picture=Image.new('RGB', (4, 4))), dict(picture=(None, 'a'))),
    (viz.png, dict(picture=Image.new('RGB', (4, 4))), dict(picture=(None, 'a'))),
    (convert.build_part, dict(config=dict(kind='connector', channels=[4, 2])),
     dict(config=({}, dict(kind='x'), dict(kind='connector', colour=1)))),
    (convert.check_state, dict(have=dict(a=X), want=dict(a=X)), dict(have=({}, dict(a=X[:1]), dict(a=X, b=X)))),
    (convert.to_lpips, dict(weights=[torch.zeros(3)]*5), dict(weights=([], [torch.zeros(3)], [torch.zeros(3, 3)]*5))),
    (distillation.vqkd_tokenizer, dict(channels=4, image_size=8, patch=4, n_codes=8, dim=4, width=8, depth=1, heads=2),
     dict(channels=COUNT, image_size=(0, 7, '8'), patch=(0, 3), n_codes=COUNT, dim=COUNT, width=(0, 7), heads=(0, 3),
          depth=COUNT, lookup=('x',), seed=SEED)),
    (distillation.distil_phase, dict(tok=KD, features=None, steps=9),
     dict(tok=(*NO_TOK, TOK), steps=COUNT, lr=(-1, NAN, 'x'), lr_final=(-.1, 2, NAN), warmup=(-.1, 2, NAN),
          warm=(-.1, 2, NAN), betas=BETAS, weight_decay=(-1, NAN))),
    (distillation.feature_loss, dict(t_hat=torch.randn(2, 4, 2, 2), t=torch.randn(2, 4, 2, 2)),
     dict(t=(torch.randn(2, 5, 2, 2),))),
]
# --- what has no sound call here: names, files, folders, text
NAMES = [
    (Tokenizer.load, 'folder', ('none', Path('none'), 'text.txt', 'empty', 'ar', 'data')),
    (Tokenizer.from_pretrained, 'name', ('none', '', 'mini/none', 7, None, 'empty', 'ar', 'text.txt')),
    (load_proposal, 'folder', ('none', '', 7, 'empty', 'tok', 'text.txt')),
    (TOK.push_to_hub, 'name', ('a', 'a/b/c', '../b', '')),
    (BARE.decode, 'idx', (IDS,)),
    (adapters.adapt, 'kind', ('none', None)),
    (load_images, 'data', ('none', '', 'folder:', 'folder:none', 'folder:empty', 'folder:text.txt', 'wds:',
                           'wds:none.tar', 'wds:text.tar', 'hf:', 'coco', 'imagenet', 7, None)),
    (load_images, 'split', ('val', '', None, 7)),
    (inspection.look_over, 'data', (None, 7)), (inspection.look_over, 'look', FROM_0),
    (files.find_path, 'path', ('none',)), (files.load_json, 'path', ('none', '.', 'text.txt', 'bytes', 'deep.json')),
    (weights.read_header, 'path', ('none', '.', 'text.txt', 'text.safetensors')),
    (weights.read_weights, 'path', ('none', '.', 'text.txt', 'text.safetensors', 'bytes')),
    (viz.read_curves, 'path', ('none', '.', 'empty')),
    (pixels.decode, 'data', (b'', b'x', b'\xff\xd8\xff', b'GIF89a')),
    (pretrained.find_pretrained, 'name', ('none', '', '../none', 'a b/c', 'text.txt')),
    (tokens.open_shards, 'folder', ('none', '.', 'empty')),
    (recipes.build, 'name', ('none', '', 7, None)),
    (runs.read_record, 'path', ('none', '.', 'text.txt', 'list.json')), (runs.start_run, 'notebook', ('none', None, 7)),
    (settings.resolve, 'notebook', ('none', '')), (settings.takes, 'notebook', ('x',)),
    (settings.recipe_row, 'name', ('x', '', None)), (settings.run_set, 'profile', ('x', None)),
    (settings.default_recipe, 'notebook', ('none',)),
    (text.load_text_tower, 'name', ('none', '', None)), (text.load_clip, 'name', ('none', '', None, 'dino')),
    (text.load_token_tower, 'name', ('none', '', None)),
    (text_evaluation.emoji_prompts, 'kind', ('x', None)),
    (verify.find_record, 'what', ('none', '', 'a:b', '.', 'text.txt')),
    (convert.from_taming, 'source', ('none', '.', 'text.txt', 'text.safetensors', 'bytes', {}, dict(a=X))),
    (convert.from_cvqvae, 'source', ('none', {})), (convert.from_llamagen, 'source', ('none', {})),
    (convert.from_beitv2, 'source', ('none', {})), (convert.from_lpips, 'path', ('none', '.', 'text.txt')),
    (convert.to_cvqvae, 'tok', (TOK,)), (convert.to_llamagen, 'tok', (TOK,)), (convert.to_beitv2, 'tok', (TOK,)),
    (recon.load_vgg16, 'path', ('none', 'text.txt')), (features.load_scorer, 'name', ('none', 'text.safetensors')),
    (text_evaluation.load_matcher, 'path', ('none', 'text.safetensors')),
    (statistics.FeatureStats.load, 'path', ('none', 'text.txt', 'text.safetensors', 'text.npz', 'text.pth')),
    (teachers.read_info, 'path', ('none', 'text.safetensors')),
    (tables.committed, 'profile', ('x',)), (tables.beside, 'page', ('x', None)),
    *[(adapters.table_row, k, v) for k,v in dict(tok=(*NO_TOK, BARE), data=('none', '', 7), profile=('x', 7),
                                                 steps=(0, 'x'), colour=('red',)).items()],
    (analysis.report, 'sections', ([('a', [None])], [('a', [('b', None)])])),
    (analysis.plot_tokenizers, 'pairs', ([], [('none', 'rfd')])),
    (analysis.over_seeds, 'lines', (dict(a=('none', '')),)),
    *[(cli.tokenize, k, v)
      for k,v in dict(tokenizer=('none', 'text.txt', 'ar'), data=('none', 'folder:empty'), split=('val',),
                      views=('x', 'emoji:2'), out=('text.txt', 'bytes/a')).items()],
    *[(cli.evaluate, k, v)
      for k,v in dict(tokenizer=('none', 'text.txt'), data=('none',), extractor=('none',), train=COUNT, held=COUNT,
                      out=('.', 'text.txt/a')).items()],
    (cli.encode, 'out', ('.', 'text.txt/a')), (cli.in_clone, 'command', ('none', None)),
    (cli.parser, 'command', ('none', None)), (clustering.cluster_teacher, 'image_size', (*COUNT, 2**20)),
    *[(f, k, v) for f in (data.coco_sentences, data.list_coco)
      for k,v in dict(root=('none', '.', 'text.txt'), split=('val', '', None)).items()],
    ('CocoSet', data.CocoSet.open, 'root', ('none', 'empty')), ('CocoSet', data.CocoSet.open, 'split', ('val', None)),
    (data.braces, 'text', ('{a', 'a{b{')),
    (evaluation.score_tokenizer, 'tok', (*NO_TOK, BARE)), (evaluation.score_tokenizer, 'seed', SEED),
    (evaluation.choose_scale, 'scales', ([], [NAN], ['x'])), (evaluation.choose_scale, 'seed', SEED),
    (features.scorer_facts, 'name', ('none', 'text.safetensors')),
    (features.Extractor, 'net', (None, 7, torch.nn.Linear(1, 1))),
    (files.save_json, 'obj', ({1}, object(), 1j)), (images.open_rgb, 'path', ('none', '.', 'text.txt', 'bytes')),
    *[('FolderSet', images.FolderSet.open, k, v)
      for k,v in dict(path=('none', 'text.txt', 'empty', 'data'), split=('val', None), max_bad=(-1, 2, NAN)).items()],
    (painter.face, 'cell', COUNT), (questions.damaged_rfd, 'tok', (*NO_TOK, BARE)),
    (questions.transfer_scores, 'tok', (*NO_TOK, BARE)),
    ('discriminator', lambda **kw: recipes.discriminator(run(**kw)), 'disc', ('x', None)),
    ('discriminator', lambda **kw: recipes.discriminator(run(**kw)), 'disc_depth', (9,)),
    ('perceptual_loss', lambda **kw: recipes.perceptual_loss(run(**kw)), 'perceptual', ('x', None)),
    ('add_decoder', lambda **kw: recipes.add_decoder(run(**kw), TOK), 'body', ('x', None)),
    *[('pixel_phases', lambda **kw: recipes.pixel_phases(run(**kw), TOK), k, v)
      for k,v in dict(disc_forward=('x', None), gan_start=(2, -.1, NAN), warmup=(2, NAN), warm=(2, NAN),
                      lr_final=(2, NAN), betas=BETAS).items()],
    (runners.code_metrics, 'tok', NO_TOK), (splits.list_collection, 'name', ('none', None)),
    ('TextTower', text.TextTower(torch.nn.Identity(), None, None), 'texts', ('a cat', [], None, 7, [7])),
    (text_evaluation.draw_t2i, 'captions', ('a cat',)),
    *[(text_evaluation.score_prompts, k, v) for k,v in dict(n=(*COUNT, 9), seed=SEED, scale=(NAN, 'x', None)).items()],
    *[(text_evaluation.train_matcher, k, v) for k,v in dict(steps=COUNT, batch_size=(*COUNT, 1), lr=(0, NAN, 'x'),
                                                            hide=(-.1, 2, NAN), seed=SEED).items()],
    *[(f, k, v) for f in (tokens.shards_of, tokens.tokens_of) for k,v in dict(batch_size=COUNT).items()],
    (tokens.shards_of, 'views', ('x', 'emoji:2', 'emoji:0', None)), (viz.save_png, 'picture', (None, 'a')),
]
# what else they are told
DRAWN = dict(tok=TOK, net=A, train=FEW, held=FEW, extractor=None, cache='never', scales=[1.])
NO_NET = dict(net=None, tok=None, tower=None)
MORE = {adapters.adapt:dict(module=torch.nn.Linear(1, 1)), tables.committed:dict(page='table1'),
        runs.start_run:dict(ns={}), settings.default_recipe:dict(profile='quick'),
        inspection.look_over:dict(data='fashion'), tables.beside:dict(ours=[]), adapters.table_row:dict(tok=TOK),
        analysis.report:dict(path='never.html', title='a'), viz.save_png:dict(path='never.png'),
        analysis.plot_tokenizers:dict(df=pd.DataFrame(dict(tokenizer=['a'], rfd=[1.]))),
        analysis.over_seeds:dict(df=pd.DataFrame(dict(variant=['a'], psnr=[1.]))),
        cli.tokenize:dict(tokenizer='tok', out='never'), cli.evaluate:dict(tokenizer='tok'),
        cli.encode:dict(images='none.png'), cli.in_clone:dict(args=[]), painter.face:dict(p=None),
        clustering.cluster_teacher:dict(encoder=None, vectors=None, n_codes=2),
        data.coco_sentences:dict(root='.', split='test'), data.list_coco:dict(root='.', split='test', files=['a']),
        data.CocoSet.open:dict(root='.', split='test'), files.save_json:dict(path='never.json'),
        images.FolderSet.open:dict(path='shots', split='train'),
        evaluation.score_tokenizer:{k:DRAWN[k] for k in ('tok', 'train', 'held', 'extractor', 'cache')},
        evaluation.choose_scale:DRAWN, questions.transfer_scores:dict(u8=U8), runners.code_metrics:dict(images=FEW),
        questions.damaged_rfd:{k:DRAWN[k] for k in ('held', 'extractor', 'cache')},
        splits.list_collection:dict(root=Path()), text_evaluation.score_prompts:NO_NET,
        text_evaluation.draw_t2i:NO_NET, tokens.shards_of:dict(tok=TOK, images=FEW, cache='never'),
        tokens.tokens_of:dict(tok=TOK, images=FEW, cache='never')}

def with_name(d): return d if isinstance(d[0], str) else (d[0].__name__, *d)
DOORS,NAMES = [with_name(d) for d in DOORS],[with_name(d) for d in NAMES]
CALLS = [(n, f, sound, k, values) for n,f,sound,bad in DOORS for k,values in bad.items()]
CALLS += [(n, f, MORE.get(f, {}), k, values) for n,f,k,values in NAMES]
# how a sentence names an argument, where not by its own name: in every call, and in one
SAYS = dict(
    images='image|picture|Pillow|batch|B > 0|not uint8', idx='idx|ids|grid|decoder', image_size='size',
    cond='label|cond', a='a|features', b='b |measured|images', x='x|feature|points|[Ii]mages|network takes|curves',
    k='k|neighbours', folder="'|holds no|folder|exist|shards", name="'|json|name|transform|OWNER|matcher", path='|',
    data='data|picture|image|', source='file|state dict|checkpoint|refused|tensors', ids='ids|token|labels',
    labels='label', values='row|number', u8='u8|images|batch', x_hat='x_hat|images|shape',
    features='feature|measured|dimensions', logits='logits|images', samples='feature', tokens='token|image|ids',
    order='order|position', rates='rate', classes='class', tok='decoder|tok|codes|network|convol|norms',
    levels='level', side='side|cells', world='world|processes', pairs='images|pairs', notebook='notebook|name',
    target='table', targets='run|targets', config='config|profile|gpus|kind|network of ours',
    encode_fn='encode_fn|Tokens span|grid', views='views|emoji', width='width|heads', kind='kind|quantizer',
    settings='settings|nothing', project='projection', n_codes='n_codes|codebook|Tokens', fast='precision',
    what='record|exist|run', rows='rows|images|original|reconstructions', t='channels|t |t \\(',
    pixels='pixels|score|labels', quality='quality|images', depth='depth|layers', d='d ', length='length|L ')
SAYS |= {
    ('check_integers', 'x'):'^ids', ('check_integers', 'least'):'at least 8', ('check_betas', 'value'):'betas',
    ('check_tensor', 'ndim'):'3 axes', ('check_map', 'channels'):r'\(B, 4', ('check_map', 'factor'):'multiples of 3',
    ('check_state', 'have'):'weights', ('check_parameters', 'params'):'colour|steps', ('Rows', 'x'):'rows|generator',
    ('footprint', 'code'):r'\bcode\b|ids run',
    ('ids_that_differ', 'u8'):'picture|float batch', ('some', 'heading'):'every heading', ('save_json', 'obj'):'JSON',
    ('coco_sentences', 'root'):'^coco wants', ('list_coco', 'root'):'^coco wants', ('CocoSet', 'root'):'^coco wants',
    ('tokenize', 'out'):'is a file', ('evaluate', 'out'):'folder', ('encode', 'out'):'folder',
    ('tokenize', 'tokenizer'):'tokenizer|none', ('evaluate', 'tokenizer'):'tokenizer|none',
    ('mini_teacher', 'name'):'^teacher', ('shipped_file', 'name'):'^teacher',
    ('distil_phase', 'tok'):'^tok must|feature_decoder', ('braces', 'text'):'brace',
    ('report', 'sections'):'sections|picture', ('fit_codec', 'x'):r'\bx\b|directions',
    ('LinearCodec', 'x'):r'\bx\b|directions', ('table_row', 'tok'):'^tok must|pixel decoder'}
def says_of(name, k): return SAYS.get((name, k), SAYS.get(k, rf'\b{k}\b'))

@pytest.fixture(scope='module')
def mess(tmp_path_factory): # a folder as people have them
    d = tmp_path_factory.mktemp('mess')
    for name in ('text.txt', 'text.safetensors', 'text.tar', 'text.npz', 'text.pth', 'text.json'):
        (d/name).write_text('Dear reader,\nthis is a letter.\n')
    (d/'bytes').write_bytes(bytes(range(256)))
    (d/'list.json').write_text('[1, 2]')
    (d/'deep.json').write_text('['*10**5)
    (d/'empty').mkdir(); (d/'data').mkdir()
    (d/'data'/'notes.txt').write_text('no picture')
    (d/'shots'/'a').mkdir(parents=True)
    (d/'shots'/'a'/'0.png').write_bytes(PNG)
    A.save(d/'ar', TOK) # a network without its tokenizer
    TOK.save(d/'tok')   # a tokenizer without a network
    return d

def tree(d): return {p.relative_to(d).as_posix():p.stat().st_mtime_ns for p in d.rglob('*')}

@pytest.fixture(scope='module')
def seen(mess): return [tree(mess)] # what lies there, looked at after every test

@pytest.fixture
def here(mess, seen, monkeypatch):
    monkeypatch.chdir(mess)
    monkeypatch.setenv('IUTOK_HERE', '') # and whatever a script sets is gone afterwards
    monkeypatch.setenv('IUTOK_CACHE', str(mess.parent/'cache'))
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    yield mess
    before,seen[0] = seen[0],tree(mess)
    assert seen[0]==before # nothing is left of what was refused

def short(v): return f'{tuple(v.shape)}{v.dtype}' if torch.is_tensor(v) else repr(v)[:40]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('call', CALLS, ids=lambda c: f'{c[0]}-{c[3]}')
def test_what_is_wrong_is_refused_in_one_sentence_and_leaves_nothing(call, here):
    name,f,sound,k,values = call
    for v in values:
        try: f(**sound | {k:v})
        except (ValueError, TypeError, FileNotFoundError) as e: error = pytest.ExceptionInfo.from_exception(e)
        else: pytest.fail(f'{k}={short(v)} is taken')
        says,last = str(error.value),error.traceback[-1]
        what = f'{k}={short(v)}: {says}'
        assert re.search(says_of(name, k), says, re.I), what
        assert '\n' not in says and len(says)<2500, what
        assert 'iutok' in str(last.path) and 'raise ' in str(last.statement), f'refused by somebody else: {what}'

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('door', DOORS, ids=lambda d: d[0])
def test_the_sound_call_passes(door, here): door[1](**door[2])

def test_a_class_may_be_called_what_other_data_sets_call_it(): # a slash parts synonyms, and may stand at an end
    named = {'T-shirt/top':['t-shirt', 'top'], '/m/01g_3':['m', '01g 3'], 'dog/':['dog'], '/':['/'], '_':['_']}
    assert {k:captions.class_names(k) for k in named}==named
    said = captions.Captions(list(named), [1., 2.])
    assert 'a photo of a m.' in said.texts and len(said.of_class(2))==len(captions.TEMPLATES)

def test_codes_of_one_tokenizer_are_not_drawn_or_read_for_another(mess, tmp_path):
    other = Tokenizer(TOK.encoder, VQ(8, 4), TOK.decoder, TOK.post_encode, TOK.pre_decode, image_size=8)
    with torch.no_grad(): other.quantizer.codebook += 1
    with pytest.raises(ValueError, match='trained on the codes of another tokenizer'): load_proposal(mess/'ar', other)
    s = tokens.shards_of(TOK, FEW, tmp_path)
    with pytest.raises(ValueError, match='was written with tokenizer'):
        tokens.open_shards(s.folder, other.fingerprint(encoding_only=True))
    assert tokens.shards_of(other, FEW, tmp_path).folder!=s.folder # they lie beside each other

# --- what a run can be told -------------------------------------------------------------------------------------------

NOTEBOOKS = sorted({r['notebook'] for r in settings.RECIPES.values()})
def profile_of(notebook): return next(r['profile'] for r in settings.RECIPES.values() if r['notebook']==notebook)

@pytest.mark.parametrize('notebook', NOTEBOOKS)
def test_every_parameter_of_every_runner_is_judged(notebook, here):
    for k in settings.takes(notebook):
        for v in (object(), 1j, {}, b'x'):
            with pytest.raises(ValueError, match=k) as e:
                settings.resolve(notebook, dict(profile=profile_of(notebook)) | {k:v})
            assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='colour'): settings.resolve(notebook, dict(colour='red'))

# --- nothing is left out ----------------------------------------------------------------------------------------------

def used(node): # what a piece of code calls, or is
    named = [node, *(n.func for n in ast.walk(node) if isinstance(n, ast.Call))]
    return {getattr(n, 'id', None) or getattr(n, 'attr', None) for n in named}

def refused(code): # names of what a test or a chapter expects to be refused
    out = set()
    for n in ast.walk(ast.parse(code)):
        if isinstance(n, ast.With) and 'raises' in ''.join(ast.unparse(i.context_expr) for i in n.items):
            out |= set().union(*map(used, n.body))
        if isinstance(n, ast.Call) and ast.unparse(n.func) in ('test_fail', 'pytest.raises'):
            out |= set().union(*map(used, n.args))
    return out

def cells(): # code of the chapters
    for p in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
        for c in json.loads(p.read_text())['cells']:
            lines = ''.join(c['source']).splitlines()
            if c['cell_type']=='code' and not any(l.startswith(('%', '!')) for l in lines): yield '\n'.join(lines)

def doors(): # public functions and classes that take something -> module and name
    for m in pkgutil.walk_packages(iutok.__path__, 'iutok.'):
        module = importlib.import_module(m.name)
        for name in getattr(module, '__all__', ()):
            f = getattr(module, name)
            if not callable(f) or getattr(f, '__module__', '')!=m.name: continue
            if inspect.isclass(f) and (issubclass(f, tuple) or hasattr(f, '__dataclass_fields__')): continue # a result
            try: takes = inspect.signature(f).parameters
            except (TypeError, ValueError): continue
            if takes: yield m.name.removeprefix('iutok.'),name

def called(doors): # what a case calls: functions and classes themselves; names, where something stands in for them
    own,names = set(),set()
    for label,f,*_ in doors:
        if getattr(f, '__module__', '').startswith('iutok') and not inspect.ismethod(f) and hasattr(f, '__name__'):
            own.add((f.__module__.removeprefix('iutok.'), f.__name__))
        elif label!=getattr(f, '__name__', ''): names.add(label) # a method of another name speaks for itself alone
    return own,names

# No case of their own, and why: function by function, so that a new one in the same module has to say something.
WITHOUT = {
    'they read rows that `read_record` and `table1` have judged': '''
        analysis: first_difference mean_spread said cell kind_of label sizes_of networks_of table_columns show_table
        analysis: show_distances show_cost measured_on agreement
        evaluation: arithmetics training_seconds
        metrics.scores: settings_of
        nulls: gain_over_seeds usual_size pairs gains say_share say_difference pivot in_words rates at_bits
        nulls: at_equal_bits on_equal_bits
        plan: kind_of expected other_values
        pretrained: records_of
        provenance: protocol_of source_of linked_html
        questions: world_and_sizes network_rows comparable training_flops
        tables: world_of_record rows_by_world metric network_of trained_on digits tabulate looks notes finish plain
        text_evaluation: score_table
        verdict: columns_of seed_noise other_sizes say_verdict best_cells
        verify: why_not words_of kind_of_machine spread_of compare matches say_cells''',
    'parts of networks and of trainings, built by a class or a runner that judges their sizes': '''
        captions: Captioned OwnCaptions
        clustering: Online frozen_codes
        distillation: Distil
        evaluation: CodeVectors probe_codes fds
        losses.gan: hinge_d softplus_d hinge_g softplus_g judge r1_penalty
        losses.recon: l1_loss mse_loss VGG16
        metrics.features: save_scorer
        metrics.inception: ConvBN Block
        mini_teachers: Relabelled shuffled has_own_captions contrast
        nets.conv: ResBlock AttnBlock repeat_kernel Downsample Upsample Level config_of
        nets.vit: SelfAttention Block resize_positions
        pretraining: trunk Contrastive
        proposals.ar: attend rotate CausalAttention SwiGLU GeluMLP Layer chunked_cross_entropy
        proposals.nar: mask_count random_ranks MaskgitBody ViTLayer MageBody
        proposals.text: CausalT2I MaskedT2I save_captions
        proposals.tokens: TokenShards
        quantizers.base: straight_through unit Quantizer all_sum all_rows per_thread
        quantizers.beyond: index_backprop
        quantizers.grid: fsq_bound IFSQ
        quantizers.health: diagnose duplicates
        quantizers.kmeans: cluster_sums cluster_means
        quantizers.vq: vq_loss data_init
        questions: start_alike codec_scores
        sampling: ascending in_bfloat16
        teachers: save_teacher FeatureMap draw_weights gabor_pair fold_norms Exact
        text: SentenceBert bert_names Projected TokenTower Clip
        text_evaluation: Matcher judge_matcher save_matcher
        training: Objective previous save_checkpoint Curves Progress''',
    'the inside of an exact search, which `nearest_code` calls': '''
        quantizers.search: typical lift_z lift_e block_minima bound_z bound_e bound_limit rounding exact_code Part
        quantizers.search: Candidates search_pieces best_code''',
    'they draw, or put into words, what was made here': '''
        doctor: report
        drawing: size_of shape_of quantizer_text draw_tokenizer
        images: shown
        inspection: count_findings twin_findings file_findings folder_findings
        painter: palette steps
        report: shrunk picture plain_maths prose shown where_from with_sources notes section pages_of short_name
        report: write_report
        viz: in_cell''',
    'they are called with what a run was told, which `resolve` judges': '''
        budget: pixel_cost distil_cost proposal_cost
        cost: faked flops count saved_bytes
        plan: lines_of decoded installed filled run_named page_named needs launcher
        recipes: conv_decoder vit_decoder conv_tokenizer cvqvae fsq student_tokenizer pixel_recipe
        runners: train_pixels
        settings: figure_row''',
    'judges of parameters, which get their nonsense through `resolve`, above and in tests/test_settings.py': '''
        parameters: count choice weight share rate counts adam_betas texts teacher_name views_name data_name tower_name
        parameters: matcher_name
        parameters: as_name anchored_data anchored value
        settings: weights''',
    'names, paths and small sums that every value suits': '''
        captions: class_names
        convert: rename split_qkv
        data: numbers_first
        emoji: may_mirror caption
        files: digest stamp whole cached here short_path
        images: cache_dir
        precision: fast_bfloat16
        splits: archive_of file_stamp composed by_hash
        text_evaluation: pairs_of absent_pairs without_pairs lab
        weights: torchvision_file timm_vit_names timm_effnet_names misfit''',
    'files and sets whose damage tests/test_data*.py and test_emoji.py try, set by set': '''
        data: list_shards HubSet
        emoji: read_emoji compose
        images: check_files read_captions
        pixels: without_notes picture_pixels crop_boxes bicubic resize_boxes
        splits: annotated val_synsets
        streams: parts_of''',
    'a name that they do not know has no rows, which is their answer': '''
        settings: world_of rows_of
        tables: published''',
}
REASONS = [(m.strip(), n) for lines in WITHOUT.values() for l in lines.split('\n') if l.strip()
           for m,_,names in [l.partition(':')] for n in names.split()]

def test_every_public_door_is_tried_or_has_its_reason():
    own,names = called([*DOORS, *NAMES, *map(with_name, test_bad_calls.DOORS)])
    for p in (ROOT/'tests').glob('*.py'): names |= refused(p.read_text())
    for code in cells(): names |= refused(code)
    there = set(doors())
    left = {d for d in there-own if d[1] not in names}
    say = lambda ds: ', '.join('.'.join(d) for d in sorted(ds))
    assert not left-{*REASONS}, f'no wrong input is tried on {say(left-{*REASONS})}: add a case, or a reason'
    assert not {*REASONS}-there, f'a reason is given for what is no public function: {say({*REASONS}-there)}'
    assert not own & {*REASONS}, f'these have cases, so take their reason out: {say(own & {*REASONS})}'
    assert len(REASONS)==len({*REASONS}) # one reason each
    assert len(left)<=276 and sum(len(c[4]) for c in CALLS)>=2450 # cases are added, not taken away
