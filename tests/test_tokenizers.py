"What every tokenizer promises, whatever it is made of."
from types import SimpleNamespace
import pytest,torch
from PIL import Image
from iutok.clustering import cluster_teacher
from iutok.training import seed_everything
from iutok.data import load_images
from iutok.quantizers import FSQ,VQ
from iutok.recipes import conv_decoder,conv_tokenizer,student_tokenizer
from iutok.tokenizers import Connector,TeacherEncoder,Tokenizer

RUN = SimpleNamespace(width=8, mults=[1, 1, 2], n_res=1, latent=8, attention=True, image_size=32, patch=4,
                      student_width=32, student_depth=1, student_heads=2, feature_depth=1, lookup='after', n_codes=24,
                      dim=6, seed=0)

def with_pixels(tok): # with a pixel decoder
    tok.decoder,tok.pre_decode = conv_decoder(RUN),Connector([tok.quantizer.dim, RUN.latent])
    return tok

def cluster():
    enc = TeacherEncoder('effnet', size=128)
    return with_pixels(cluster_teacher(enc, torch.randn(500, 112), 24, 32, iters=2))

TOKENIZERS = dict(vqgan=lambda: conv_tokenizer(RUN, VQ(24, 6)),
                  fsq=lambda: conv_tokenizer(RUN, FSQ([4, 3, 2]), convs=2),
                  vqkd=lambda: with_pixels(student_tokenizer(RUN, 112)), cluster=cluster)

@pytest.fixture(params=TOKENIZERS, scope='module')
def tok(request):
    seed_everything(0)
    return TOKENIZERS[request.param]().eval()

@pytest.fixture(scope='module')
def u8(): return torch.stack([load_images('fashion', 'test').uint8(i, 32) for i in range(5)])

def test_round_trip(tok, u8):
    idx = tok.encode(u8)
    assert idx.shape==(5, 8, 8) and idx.dtype==torch.int64 and 0<=idx.min() and idx.max()<tok.n_codes
    x_hat = tok.decode(idx)
    assert x_hat.shape==(5, 3, 32, 32) and x_hat.dtype==torch.float32 and 0<=x_hat.min() and x_hat.max()<=1
    assert torch.equal(tok.reconstruct(u8), x_hat)

def test_every_way_in_gives_the_same_codes(tok, u8):
    idx = tok.encode(u8)
    pil = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in u8]
    assert torch.equal(tok.encode(pil), idx)
    assert torch.equal(tok.encode(u8/255), idx)
    assert torch.equal(tok.encode(pil[0]), idx[:1])
    assert torch.equal(tok.encode(u8, batch_size=2), idx)

def test_saved_and_loaded_is_the_same(tok, u8, tmp_path):
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert torch.equal(again.encode(u8), tok.encode(u8)) and torch.equal(again.reconstruct(u8), tok.reconstruct(u8))
    assert again.fingerprint()==tok.fingerprint() and again.n_codes==tok.n_codes
    files = {p.name for p in tmp_path.iterdir()}
    assert files=={'tokenizer.json','tokenizer.safetensors'}

def test_a_decoder_does_not_change_the_codes(tok):
    before = tok.fingerprint(encoding_only=True)
    w = tok.decoder.last_layer
    with torch.no_grad(): w.add_(.1)
    assert tok.fingerprint(encoding_only=True)==before
    with torch.no_grad(): w.sub_(.1)

def test_cluster_keeps_the_teacher_out_of_its_file(tmp_path):
    tok = cluster()
    tok.save(tmp_path)
    assert not any(k.startswith('encoder') for k in tok.state_dict())
    text = (tmp_path/'tokenizer.json').read_text()
    assert tok.encoder.config()['hash'] in text
    (tmp_path/'tokenizer.json').write_text(text.replace(tok.encoder.config()['hash'], 'deadbeef0000'))
    with pytest.raises(ValueError, match='made with weights deadbeef0000'): Tokenizer.load(tmp_path)

@pytest.mark.parametrize('bad,message', [
    (torch.rand(2, 1, 32, 32), r'\(B, 3, H, W\)'), (torch.rand(2, 3, 32, 32)*2-1, r'\[0, 1\]'),
        (torch.ones(2, 3, 32, 32, dtype=torch.int64), 'uint8 or float'), ('cat.png', 'neither')])
def test_bad_images_are_refused_in_one_sentence(bad, message):
    tok = conv_tokenizer(RUN, VQ(24, 6))
    with pytest.raises((ValueError, TypeError), match=message) as e: tok.encode(bad)
    assert '\n' not in str(e.value)

def test_ids_out_of_range_are_refused():
    tok = conv_tokenizer(RUN, VQ(24, 6))
    with pytest.raises(ValueError, match='outside'): tok.decode(torch.full((1, 8, 8), 24))

# --- types and files
# -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_tokenizer_of_another_type_encodes_saves_and_loads(tmp_path, u8, dtype):
    seed_everything(0)
    for make in (TOKENIZERS['vqgan'], TOKENIZERS['vqkd']):
        tok = make().eval()
        exact = tok.encode(u8)
        tok = tok.to(dtype)
        assert (tok.encode(u8)==exact).float().mean()>.9 and tok.decode(exact).dtype==torch.float32
        tok.save(tmp_path)
        again = Tokenizer.load(tmp_path)
        assert {p.dtype for p in again.parameters()}=={dtype} and again.fingerprint()==tok.fingerprint()
        assert torch.equal(again.encode(u8), tok.encode(u8)) and torch.equal(again.reconstruct(u8), tok.reconstruct(u8))

def test_a_save_that_fails_leaves_the_good_one(tmp_path, u8, monkeypatch):
    tok = TOKENIZERS['vqgan']().eval()
    tok.save(tmp_path)
    before = {p.name:p.read_bytes() for p in tmp_path.iterdir()}
    bad = TOKENIZERS['fsq']()
    bad.about = dict(made=object())
    with pytest.raises(TypeError): bad.save(tmp_path)
    assert {p.name:p.read_bytes() for p in tmp_path.iterdir()}==before

def test_a_save_that_is_cut_between_its_two_files_is_the_new_one(tmp_path, u8, monkeypatch):
    old,new = TOKENIZERS['fsq']().eval(),TOKENIZERS['vqgan']().eval()
    old.save(tmp_path)
    def killed(*a): raise KeyboardInterrupt
    monkeypatch.setattr('iutok.tokenizers.save_json', killed)
    with pytest.raises(KeyboardInterrupt): new.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint()==new.fingerprint() and torch.equal(again.encode(u8), new.encode(u8))

def test_shared_codebooks_are_saved(tmp_path, u8):
    from iutok.quantizers import Residual
    vq = VQ(8, 6)
    tok = conv_tokenizer(RUN, Residual([vq, vq])).eval()
    tok.save(tmp_path)
    assert torch.equal(Tokenizer.load(tmp_path).encode(u8), tok.encode(u8))

@pytest.mark.parametrize('idx', [torch.zeros(1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.bool)], ids=['float', 'bool'])
def test_ids_that_are_no_whole_numbers_are_refused(idx):
    with pytest.raises(ValueError, match='Token grids hold whole numbers'): TOKENIZERS['vqgan']().decode(idx)

@pytest.mark.parametrize('name, grid',
                         [('efficientnet_b1', 16), ('inception_v3', 16), ('resnet18', 7), ('efficientnet_lite0', 8),
                          ('vit_tiny_patch16_224', 14)])
def test_a_teachers_side_gives_the_grid_that_was_asked_for(name, grid):
    from iutok.teachers import load_teacher
    from iutok.tokenizers import teacher_side
    side = teacher_side(f'timm:{name}', grid)
    with torch.device('meta'):
        t = load_teacher(f'timm:{name}', pretrained=False, size=side)
    assert t(torch.zeros(1, 3, 8, 8, device='meta')).shape[-2:]==(grid, grid)

@pytest.mark.parametrize('grid', [0, -8, 2.5, True])
def test_a_grid_that_is_no_count_is_refused(grid):
    from iutok.tokenizers import teacher_side
    with pytest.raises(ValueError, match='grid must be a whole number'): teacher_side('effnet', grid)
