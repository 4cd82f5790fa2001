"Somebody else's tokenizer, behind two functions, is measured as ours are."
import pytest,torch
from torch import nn
from iutok.adapters import PACKAGES,Adapted,adapt,suggest_generator,table_row
from iutok.data import load_images
from iutok.pretrained import Tokenizer
from iutok.proposals import AR,NAR

@pytest.fixture(scope='module')
def ours(): return Tokenizer.from_pretrained('quick/fsq')

def behind(tok): # the same, behind two functions
    return Adapted(lambda x: tok.quantize(x).idx, tok.decode_ids, tok.n_codes, tok.image_size, tok.quantizer.codebook,
                   'behind', tok)

def test_two_functions_give_the_same_row(ours, capsys):
    few = dict(train_images=200, held_images=100, steps=3, batch_size=16)
    a,b = (table_row(t, **few) for t in (ours, behind(ours)))
    assert a.keys()==b.keys() and a['protocol']==b['protocol'] and a['usage']==b['usage']
    for k in ('rfd', 'psnr', 'probe_mean', 'ppl', 'gfd', 'code_class_bits'):
        assert a[k]==pytest.approx(b[k], rel=1e-4), k

def test_the_network_of_a_row_is_told_what_train_ar_is(ours, tmp_path, monkeypatch):
    from types import SimpleNamespace
    from iutok import adapters
    from iutok.proposals.tokens import TokenBatches
    from iutok.settings import resolve
    seen = []
    def fit(phases, batches, *args, ema=None, **kw):
        seen[:] = phases['ar'].module,batches,ema
        return dict(ema=SimpleNamespace(module=phases['ar'].module.module))
    monkeypatch.setattr(adapters, 'fit', fit)
    train = load_images('fashion', 'test').take(16)
    def net(**changes):
        told = resolve('train_ar', dict(tokenizer='x', data='fashion', profile='smoke', batch_size=4) | changes)
        return adapters._train(ours, train, SimpleNamespace(**told), tmp_path)
    assert (net().order, net().drop_label, seen[2])==('raster', .1, None)
    assert isinstance(seen[1], TokenBatches) # of stored codes
    other = net(order='spiral', drop_label=0., ema=.9)
    assert (other.order, other.null, seen[2])==('spiral', None, .9)
    net(transform='strong')
    b,asked = seen[1][0],[]
    seen[0].module.forward = lambda ids,y: asked.append(ids)
    seen[0]._loss(seen[0].module, b)
    assert torch.equal(asked[0], ours.encode(b.u8).flatten(1)) and seen[1].transform=='strong'
    for k,v in dict(views='flip', text_weights='gpt2-medium').items():
        with pytest.raises(ValueError, match=f'{k} is for train_ar'): table_row(ours, **{k:v})

def test_it_is_known_by_what_it_does(ours):
    tok = behind(ours)
    other = Adapted(tok._encode, lambda ids: -tok._decode(ids), tok.n_codes, tok.image_size, name='behind')
    assert tok.fingerprint()==behind(ours).fingerprint()!=other.fingerprint()
    assert tok.fingerprint(True)==other.fingerprint(True)
    with pytest.raises(ValueError, match='cannot be saved'): tok.save('x')

class Module(nn.Module): # a package's tokenizer: 4x4 patches, 16 codes of 4 numbers, with the face of each kind
    def __init__(self, kind):
        super().__init__()
        self.kind,self.encoder,self.decoder = kind,nn.Conv2d(3, 4, 4, 4),nn.ConvTranspose2d(4, 3, 4, 4)
        nn.init.normal_(self.encoder.weight) # codes should differ
        q = self.quantize = nn.Module()
        q.embedding,q.codebook_dim,q.codebook_size = nn.Embedding(16, 4),4,16
        q.forward = self.quantized
        first = kind=='llamagen'
        def entry(ids, shape):
            b,h,w = (shape[0], *shape[2:]) if first else shape[:3]
            return q.embedding(ids).view(b, h, w, 4).permute(0, 3, 1, 2)
        q.get_codebook_entry = entry
    def quantized(self, z):
        b,_,h,w = z.shape
        if self.kind=='magvit2':
            ids = ((z>0).long()*torch.tensor([1, 2, 4, 8])[:,None,None]).sum(1)
            return z.sign(),None,ids.flatten()
        ids = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4), self.quantize.embedding.weight).argmin(1)
        return self.quantize.embedding(ids).view(b, h, w, 4).permute(0, 3, 1, 2),None,(None, None, ids)
    def encode(self, x):
        z = self.encoder(x)
        if self.kind=='diffusers':
            out = nn.Module()
            out.latents = z
            return out
        q = self.quantized(z)
        if self.kind=='titok': return q[0],dict(min_encoding_indices=q[2][2].view(len(x), 1, -1))
        return (*q, None) if self.kind=='magvit2' else q
    def decode(self, z, force_not_quantize=False):
        if self.kind!='diffusers': return self.decoder(z)
        out = nn.Module()
        out.sample = self.decoder(z if force_not_quantize else self.quantized(z)[0]*0)
        return out
    def decode_code(self, ids, shape): return self.decoder(self.quantize.get_codebook_entry(ids, shape))
    def decode_tokens(self, ids):
        assert ids.shape[1]==1
        h = int(ids.shape[2]**.5)
        return self.decoder(self.quantize.embedding(ids).view(len(ids), h, h, 4).permute(0, 3, 1, 2))
    def forward(self, x): return self.decoder(self.quantized(self.encoder(x))[0]) # images to images, their own way

@pytest.mark.parametrize('kind', PACKAGES)
def test_an_adapter_gives_what_the_module_gives(kind):
    torch.manual_seed(0)
    theirs = Module(kind).eval()
    tok = adapt(theirs, kind, 16)
    u8 = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    x = u8/255 if kind=='titok' else u8/127.5-1
    with torch.no_grad(): want = theirs(x)
    ids = tok.encode(u8)
    assert ids.shape==((3, 1, 16) if kind=='titok' else (3, 4, 4)) and len(ids.unique())>2 and tok.n_codes==16
    got = tok.decode(ids, clamp=False)
    torch.testing.assert_close(got if kind=='titok' else got*2-1, want, atol=1e-5, rtol=1e-5)
    assert tok.show(ids).size[0]>0 and len(tok.quantizer.codebook)==16

@pytest.mark.parametrize('call, why', [
    (lambda t: adapt(nn.Linear(2, 2), 'titok'), "not of the kind 'titok'"),
    (lambda t: adapt(t, 'vqgan'), 'kind must be'),
    (lambda t: Adapted(lambda x: x, None, 1), 'n_codes must be'),
    (lambda t: Adapted(lambda x: x, None, 4, 0), 'image_size'),
    (lambda t: Adapted(lambda x: x, None, 4, codebook=torch.zeros(3, 2)), r'codebook must be \(4, D\)'),
    (lambda t: Adapted(lambda x: torch.zeros(1, 2).long(), None, 4, 8).encode(torch.rand(2, 3, 8, 8)), 'for 2 images'),
    (lambda t: behind(t).decode(torch.full((1, 8, 8), 10**6)), 'outside'),
    (lambda t: Adapted(lambda x: torch.zeros(len(x), 2, 2).long(), None, 4, 8).decode(torch.zeros(1, 2, 2).long()),
     'no pixel decoder'),
    (lambda t: suggest_generator(t, 10, 'gan'), 'kind must be'), (lambda t: suggest_generator(t, 0), 'n_classes'),
    (lambda t: suggest_generator(t, 10, 'ar', 'maskgit'), 'size must be')])
def test_what_does_not_fit_is_refused(ours, call, why):
    with pytest.raises(ValueError, match=why) as e: call(ours)
    assert '\n' not in str(e.value)

def test_a_network_fits_any_tokenizer(ours):
    for kind,cls in dict(ar=AR, nar=NAR).items():
        net = suggest_generator(ours, 10, kind)
        assert isinstance(net, cls) and (net.n_codes, net.length)==(ours.n_codes, 64)
        loss = net(ours.encode(load_images('fashion', 'test').batch(range(4), 32)).flatten(1), torch.arange(4))
        assert loss.isfinite()
