"""Every kind of training at toy size: phases and batches of this process, as the runners build them. Where `calm`, of
networks that draw nothing and keep no statistics of a batch: several processes do what one does."""
from types import SimpleNamespace
import torch
import torch.nn.functional as F
from torch import nn
from iutok.clustering import online_phase
from iutok.data import Batches,load_images
from iutok.distillation import distil_phase,vqkd_tokenizer
from iutok.files import rank,world_size
from iutok.losses.gan import PatchGAN
from iutok.metrics.features import Scorer
from iutok.mini_teachers import pretraining
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.proposals.ar import AR
from iutok.proposals.nar import NAR
from iutok.proposals.text import T2I
from iutok.proposals.tokens import TokenBatches
from iutok.quantizers import CVQ,FSQ,OnlineCluster,VQ
from iutok.reconstruction import Discriminate,Reconstruct
from iutok.tokenizers import Connector,Tokenizer
from iutok.training import Objective,Phase,constant,warmup_cosine

STEPS,SIDE = 6,32
IMAGES = load_images('fashion', 'test').take(40)
SHARE = dict(seed=1, rank=rank(), world=world_size())
PLAIN = lambda transform='none': Batches(IMAGES, SIDE, 8, transform, **SHARE)
FEATURES = lambda b: F.avg_pool2d(b.u8.float(), 8)/255-.5 # (B, 3, 4, 4), a teacher's stand-in
TOKENS = torch.randint(0, 16, (40, 9), generator=torch.Generator().manual_seed(2))
ADAM = lambda m: torch.optim.AdamW(m.parameters(), betas=(.9, .95))
RATE = warmup_cosine(1e-3, STEPS, 2)

def vqgan(calm=False, quantizer=lambda: VQ(16, 4, init='kmeans')): # GAN that starts later, adaptive weight
    nets = dict(width=8, n_res=1, attention=False, refine=False)
    tok = Tokenizer(ConvEncoder(out_channels=8, mults=(1, 2), **nets), quantizer(),
                    ConvDecoder(in_channels=8, mults=(2, 1), **nets), Connector([8, 4]), Connector([4, 8]),
                    image_size=SIDE)
    return pixels(tok, calm),PLAIN('strong')
def cvqvae(calm=False): return vqgan(calm, lambda: CVQ(16, 4, sync=True))
def fsq(calm=False): return vqgan(calm, lambda: FSQ([4, 4, 3, 3]))

def pixels(tok, calm, **kw):
    disc = PatchGAN(1, 8)
    if calm: disc,kw = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(.2), nn.Conv2d(8, 1, 4, 2, 1)),kw | FIXED
    g = Reconstruct(tok, disc=disc, disc_start=2, **kw)
    d = Discriminate(disc, g)
    adam = lambda ps: torch.optim.Adam(ps, betas=(.5, .9))
    return dict(g=Phase(g, adam(g.trainable), RATE), d=Phase(d, adam(disc.parameters()), RATE, 2))
# the adaptive weight is a process's own, and rounding turns the sign that is the gradient of an absolute error
FIXED = dict(gain=None, g_weight=.5, l1=0., mse=1.)

def vqkd(calm=False): # k-means start, codes that die and move, AdamW's groups
    tok = vqkd_tokenizer(3, SIDE, 8, 16, 4, width=16, depth=1, heads=2)
    return dict(kd=distil_phase(tok, FEATURES, STEPS)),PLAIN('strong')

def cluster(calm=False):
    return dict(codes=online_phase(OnlineCluster(8, 3), FEATURES, lr=.1)),PLAIN()

def decoder(calm=False): # of frozen codes
    tok = vqgan()[0]['g'].module.tok
    return pixels(tok, calm, tokens=tok.encode(IMAGES.batch(range(len(IMAGES)), SIDE)), frozen=True),PLAIN()

SIZES = dict(layers=1, width=16, heads=2)
def ar(calm=False): # dropout, dropped labels
    drop = dict(dropout=0., drop_label=0.) if calm else dict(dropout=.1)
    net = AR(16, len(IMAGES.classes), 9, arch='gpt2', mlp=32, **drop, **SIZES)
    return dict(ar=Phase(Objective(net, lambda m,b: m(b[0], b[1])), ADAM(net), RATE)),tokens_and(IMAGES.labels)
def nar(form='maskgit'): # masks
    net = NAR(16, len(IMAGES.classes), 9, form, **SIZES, **(dict(decoder_layers=1) if form=='mage' else {}))
    return dict(nar=Phase(Objective(net, lambda m,b: m(b[0], b[1])), ADAM(net), RATE)),tokens_and(IMAGES.labels)
def mage(): return nar('mage')
def t2i(calm=False, kind='ar'): # dropped captions
    net = T2I(kind, 16, 9, 5, 3, drop_caption=0. if calm else .1, **SIZES)
    captions = torch.randn(40, 3, 5, generator=torch.Generator().manual_seed(3))
    loss = lambda m,b: m(b[0], captions.to(b[0].device)[b[1]])
    return dict(t2i=Phase(Objective(net, loss), ADAM(net), RATE)),tokens_and(torch.arange(40))
def masked_t2i(): return t2i(kind='nar')
def tokens_and(labels): return TokenBatches(TOKENS, torch.as_tensor(labels), 8, **SHARE)

def teacher(objective, calm=False):
    run = SimpleNamespace(width=16, depth=1, heads=2, image_size=SIDE, patch=8, drop=0. if calm else .1,
                          transform='strong', batch_size=8, steps=STEPS, seed=1,
                          project=16 if objective=='captions' else 0)
    module,batches = pretraining(run, objective, IMAGES)
    return dict(teacher=Phase(module, ADAM(module), RATE)),batches
def vit(calm=False): return teacher('labels', calm)
def clip(calm=False): return teacher('captions', calm)
def dino(): return teacher('views')
def mae(): return teacher('masking')

def scorer(): # batch norms, momentum
    net = Scorer(IMAGES.classes)
    sgd = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, nesterov=True)
    loss = lambda m,b: F.cross_entropy(m(b.u8)[1], b.y)
    return dict(scorer=Phase(Objective(net, loss), sgd, constant(.1))),PLAIN('weak')

TRAINERS = [vqgan, vqkd, cluster, decoder, ar, nar, mage, t2i, masked_t2i, vit, clip, dino, mae, scorer]
CALM = [vqgan, cvqvae, fsq, vqkd, cluster, decoder, ar, t2i, vit, clip]
DRAWN = {'ar', 'nar', 'mage', 't2i', 'masked_t2i', 'clip', 'mae', 'dino', 'vit'} # masks or dropout
