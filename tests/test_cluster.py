"""Cluster:
both rules against their definitions, streams, files, and a teacher that must be the same when the tokenizer is
loaded."""
import weakref
import pytest,timm,torch,torch.nn.functional as F
from safetensors.torch import save_file
from iutok.clustering import FeatureMaps,Pieces,cluster_teacher,frozen_codes,online_phase,sample_vectors
from iutok.training import fit,seed_everything
from iutok.data import Batches,load_images,sequential
from iutok.pixels import to_float
from iutok.quantizers import Fixed,OnlineCluster,nearest_code
from iutok.tokenizers import TeacherEncoder,Tokenizer,teacher_side

@pytest.fixture(scope='module')
def images(): return load_images('fashion', 'test').take(60)

@pytest.fixture(scope='module')
def enc(): return TeacherEncoder('effnet', teacher_side('effnet', 8))

def test_the_online_step_is_the_written_formula():
    seed_everything(0)
    K,lr,b1,b2 = 6,.05,.5,.9
    q = OnlineCluster(K, 3)
    e = q.codebook.detach().clone().double()
    phase,x = online_phase(q, lambda b: b, lr),torch.randn(3, 40, 3)*4
    share,m,v = torch.zeros(K).double(),torch.zeros(K, 3).double(),torch.zeros(K, 3).double()
    for t in range(3):
        xs = x[t].double()
        cos = F.normalize(xs, dim=1)@F.normalize(e, dim=1).T
        idx = cos.argmax(1)
        share = .99*share+.01*idx.bincount(minlength=K)/len(xs)
        keep = (1-torch.exp(-share*K*10/.01-1e-3))[:, None]
        e = keep*e+(1-keep)*xs[cos.argmax(0)]        # each code's nearest feature
        loss = (e[idx]-xs).square().mean()
        grad = torch.zeros_like(e).index_add_(0, idx, 2*(e[idx]-xs)/xs.numel())
        m,v = b1*m+(1-b1)*grad,b2*v+(1-b2)*grad**2
        ours,_ = phase.module.train()(x[t].T[None, :, :, None], t)
        phase.set_lr(t); phase.optimizer.zero_grad(); ours.backward(); phase.optimizer.step()
        assert torch.allclose(ours.double(), loss, rtol=1e-4)
        e = e-lr*(m/(1-b1**(t+1)))/((v/(1-b2**(t+1))).sqrt()+1e-8)
        assert torch.allclose(q.codebook.double(), e, atol=1e-4), t
    assert (phase.lr(0), phase.lr(10**5))==(lr, lr) and phase.optimizer.param_groups[0]['betas']==(.5, .9)
    assert online_phase(q, None).lr(7)==5.4e-5

def test_the_online_rule_rests_at_the_mean_of_the_cosine_assigned_features():
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 3, generator=g)*.3+torch.tensor(c)
                   for c in ([3., 0, 0], [0, 1., .2], [-.5, 0, 2.])])
    seed_everything(0)
    q = OnlineCluster(3, 3)
    phase = online_phase(q, lambda b: x.T[None, :, :, None], 5e-3)
    for t in range(700):
        loss,_ = phase.module(None, t)
        phase.optimizer.zero_grad(); loss.backward(); phase.optimizer.step()
    idx = nearest_code(x, q.codebook, True)
    assert (q.codebook-torch.stack([x[idx==k].mean(0) for k in range(3)])).abs().max()<.02
    # lengths are the data's own, not 1
    assert (q.codebook.norm(dim=1).sort().values-torch.tensor([1.02, 2.06, 3.]))[-1].abs()<.1

def test_sampling_and_streams(images, enc, tmp_path):
    maps = FeatureMaps(enc.teacher, images, 32, batch_size=25)
    t = torch.cat(list(maps))
    rows = t.permute(0, 2, 3, 1).reshape(-1, 112)
    assert torch.equal(torch.cat(list(maps)), t) and len(maps)==60
    assert torch.equal(torch.cat(list(Pieces(maps))), rows)
    some = sample_vectors(maps, 500, seed=2)
    assert torch.equal(some, sample_vectors(t.numpy(), 500, seed=2)) and len(some.unique(dim=0))>400
    assert not torch.equal(some, sample_vectors(maps, 500, seed=3))
    file = sample_vectors(maps, 500, seed=2, path=tmp_path/'v.npy')
    assert torch.equal(torch.cat(list(file)), some.half().float())
    assert [len(p) for p in Pieces(tmp_path/'v.npy', 200)]==[200, 200, 100]
    class Broken: # made twice: no
        def __len__(self): return 60
        def __iter__(self): raise AssertionError('the file is there already')
    assert torch.equal(torch.cat(list(sample_vectors(Broken(), 500, path=tmp_path/'v.npy'))), torch.cat(list(file)))
    kw = dict(n_codes=20, image_size=32, iters=4)
    a,b = cluster_teacher(enc, rows, **kw),cluster_teacher(enc, Pieces(maps), **kw)
    assert torch.allclose(a.quantizer.codebook, b.quantizer.codebook, atol=1e-3)
    shares = [FeatureMaps(enc.teacher, images, 32, rank=r, world=2) for r in (0, 1)]
    both = torch.cat([torch.cat(list(s)) for s in shares])
    assert [len(s) for s in shares]==[30, 30] and torch.allclose(both[0::1].sum(0), t.sum(0), rtol=1e-3, atol=1e-2)
    crops = FeatureMaps(enc.teacher, images.take(10), 32, 'strong', seed=1)
    assert torch.equal(torch.cat(list(crops)), torch.cat(list(crops))) # every pass sees the same crops
    assert not torch.equal(torch.cat(list(crops)),
                           torch.cat(list(FeatureMaps(enc.teacher, images.take(10), 32, 'strong', seed=2))))

def test_features_are_never_all_in_memory(tmp_path):
    live,peak = [0],[0]
    class Maps: # counts the pieces that somebody holds
        def __len__(self): return 400
        def __iter__(self):
            for i in range(40):
                t = torch.randn(10, 8, 4, 4, generator=torch.Generator().manual_seed(i))
                live[0] += 1; peak[0] = max(peak[0], live[0])
                weakref.finalize(t, lambda: live.__setitem__(0, live[0]-1))
                yield t
                del t
    cluster = Fixed.fit(Pieces(Maps()), 16, iters=2)
    assert cluster.codebook.isfinite().all() and peak[0]<=8
    peak[0] = 0
    sample_vectors(Maps(), 1000, path=tmp_path/'v.npy')
    assert peak[0]<=3

def test_as_many_codes_as_the_paper_ever_used_and_more():
    g = torch.Generator().manual_seed(0)
    pieces = [torch.randn(9_500, 3, generator=g) for _ in range(7)]
    q = Fixed.fit(pieces, 65_536, iters=0)
    idx = q.assign(pieces[0][:2000])
    assert q.codebook.shape==(65_536, 3) and idx.unique().numel()>1900 and idx.max()>60_000
    assert F.cosine_similarity(q.codebook[idx], pieces[0][:2000]).min()>.999
    with pytest.raises(ValueError, match='66501 centroids cannot be drawn from 66500 rows'): Fixed.fit(pieces, 66_501)

def test_online_training_resumes_bit_equal_and_freezes(images, enc, tmp_path):
    t = torch.cat(list(FeatureMaps(enc.teacher, images, 32)))
    batches = Batches(images, 32, 12, seed=1)
    def train(folder, **kw):
        seed_everything(0)
        q = OnlineCluster(24, 112)
        fit(dict(codes=online_phase(q, lambda b: t[b.idx], .1)), batches, 14, tmp_path/folder, 'same', precision='fp32',
            **kw)
        return q
    whole = train('whole')
    train('cut', stop_after=6)
    again = train('cut')
    assert all(torch.equal(a, b) for a,b in zip(whole.state_dict().values(), again.state_dict().values()))
    tok = frozen_codes(enc, whole, 32)
    u8 = next(sequential(images, 32, 60)).u8
    assert torch.equal(tok.encode(u8), whole.eval()(enc(to_float(u8))).idx)
    before = tok.quantizer.codebook.clone()
    tok.train().quantize(torch.rand(2, 3, 32, 32)*2-1)
    assert torch.equal(tok.quantizer.codebook, before) and not list(tok.parameters())

def weights_file(path, seed): # of a network that timm knows
    seed_everything(seed)
    save_file(timm.create_model('vit_tiny_patch16_224', num_classes=0).state_dict(), path)
    return path

def test_a_file_names_its_teacher_and_refuses_another(images, tmp_path):
    path,third = (weights_file(tmp_path/f'{n}.safetensors', seed) for n,seed in (('w', 5), ('third', 6)))
    enc = TeacherEncoder('timm:vit_tiny_patch16_224', 32, weights=path)
    mark = enc.config()['hash']
    tok = cluster_teacher(enc, torch.randn(50, 192), 8, 32, iters=1)
    tok.save(tmp_path/'tok')
    u8 = next(sequential(images, 32, 4)).u8
    assert torch.equal(Tokenizer.load(tmp_path/'tok').encode(u8), tok.encode(u8)) # finds the file where it was
    moved = path.rename(tmp_path/'elsewhere.safetensors')
    with pytest.raises(ValueError) as e: Tokenizer.load(tmp_path/'tok')
    assert 'w.safetensors' in str(e.value) and '\n' not in str(e.value)
    again = Tokenizer.load(tmp_path/'tok', weights=moved)
    assert torch.equal(again.encode(u8), tok.encode(u8)) and again.fingerprint()==tok.fingerprint()
    with pytest.raises(ValueError, match=f"made with weights {mark} of the teacher 'timm:vit_tiny_patch16_224'") as e:
        Tokenizer.load(tmp_path/'tok', weights=third)
    assert '\n' not in str(e.value)
    assert sum(p.stat().st_size for p in (tmp_path/'tok').iterdir())<8*192*4+2000 # a codebook, no teacher

@pytest.mark.parametrize('name,kw', [('timm:vit_tiny_patch16_224', dict(pretrained=False)), ('effnet', {})])
def test_every_shape_of_image(name, kw):
    enc = TeacherEncoder(name, teacher_side(name, 4), **kw)
    dim = enc.teacher.info.dim
    x = torch.rand(1, 3, 48, 96)*2-1
    with torch.no_grad():
        wide,tall,square,bigger = enc(x),enc(x.mT),enc(x[..., :48]),enc(F.interpolate(x[..., :48], scale_factor=2))
    assert (wide.shape, tall.shape, square.shape, bigger.shape)==((1, dim, 4, 8), (1, dim, 8, 4), (1, dim, 4, 4),
                                                                  (1, dim, 4, 4))
    assert enc.teacher.size==64 # as before
    tok = Tokenizer(enc, Fixed.from_codebook(torch.randn(5, dim)), image_size=48)
    assert tok.quantize(x).idx.shape==(1, 4, 8) and tok.encode(torch.rand(2, 3, 60, 90)).shape==(2, 4, 4)

@pytest.mark.parametrize('name,data',
                         [('random', 'fashion'), ('pixels', 'fashion'), ('pixels', 'emoji'), ('edges', 'fashion')])
def test_features_of_a_teacher_that_understands_nothing_are_clustered(name, data, tmp_path):
    images,side = load_images(data, 'test').take(40),64 if data=='emoji' else 32
    enc = TeacherEncoder(name, teacher_side(name, 8, 'smoke', data), profile='smoke', data=data)
    maps = FeatureMaps(enc.teacher, images, side)
    tok = cluster_teacher(enc, sample_vectors(maps, 1000), 16, side, 5)
    u8 = images.batch(range(20), side)
    assert tok.encode(u8).shape==(20, 8, 8) and len(tok.encode(u8).unique())>8
    assert enc.config().get('data', 'fashion')==data
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert torch.equal(again.encode(u8), tok.encode(u8)) and again.encoder.teacher.info==enc.teacher.info
    codes = OnlineCluster(16, enc.teacher.info.dim)
    phase = online_phase(codes, lambda b: enc.teacher(b.u8), lr=.05)
    fit(dict(codes=phase), Batches(images, side, 8), 5, tmp_path/'online', 'x', precision='fp32')
    assert frozen_codes(enc, codes, side).encode(u8).shape==(20, 8, 8)

def test_kmeans_on_pixels_is_kmeans_on_raw_patches(images):
    enc = TeacherEncoder('pixels', 32)
    u8 = images.batch(range(60), 32)
    patches = (u8/127.5-1).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48) # cell by cell
    tok = cluster_teacher(enc, sample_vectors(FeatureMaps(enc.teacher, images, 32), 10**6), 32, 32, 5, cosine=False)
    raw = Fixed.fit(patches, 32, cosine=False, iters=5)
    assert torch.allclose(tok.quantizer.codebook, raw.codebook, atol=1e-5)
    assert torch.equal(tok.encode(u8).flatten(), nearest_code(patches, raw.codebook))
