"""A run that is stopped, interrupted or killed, in the middle of a write too, ends with the bits of one that was
left alone."""
import csv,signal,subprocess,sys,time
from pathlib import Path
import pytest,torch
from iutok.training import Phase,fit,seed_everything,warmup_cosine
from iutok.data import Batches,load_images
from iutok.losses.gan import PatchGAN
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.quantizers import CVQ,FSQ,VQ
from iutok.reconstruction import Discriminate,Reconstruct
from iutok.tokenizers import Connector,Tokenizer

QUANTIZERS = dict(vq=lambda: VQ(16, 4, init='kmeans'), cvq=lambda: CVQ(16, 4), fsq=lambda: FSQ([4, 4, 3, 3]))
STEPS = 12

def train(folder, quantizer='vq', repeat=False, **kw):
    seed_everything(0)
    tok = Tokenizer(ConvEncoder(out_channels=8, width=8, mults=(1, 2), n_res=1, attention=False, refine=False),
                    QUANTIZERS[quantizer](),
                    ConvDecoder(in_channels=8, width=8, mults=(2, 1), n_res=1, attention=False, refine=False),
                    Connector([8, 4]), Connector([4, 8]), image_size=32)
    disc = PatchGAN(1, 8)
    g = Reconstruct(tok, l1=1., mse=1., disc=disc, disc_start=4, warm=2)
    d = Discriminate(disc, g, r1=.1, repeat=repeat)
    rate = warmup_cosine(2e-3, STEPS, 3)
    adam = lambda ps: torch.optim.Adam(ps, betas=(.5, .9))
    phases = dict(g=Phase(g, adam(g.trainable), rate), d=Phase(d, adam(disc.parameters()), rate, start=4))
    batches = Batches(load_images('fashion', 'test').take(60), 32, 8, 'strong', seed=1)
    return fit(phases, batches, STEPS, folder, 'vqgan', clip=1., ema=.9, save_every=3, log_every=5, **kw)

def same(a, b, at=''): # bit by bit, times aside
    if isinstance(a, dict):
        assert a.keys()==b.keys(), at
        for k in a:
            if k not in ('seconds', 'images_per_s'): same(a[k], b[k], f'{at}.{k}')
    elif isinstance(a, (list, tuple)):
        assert len(a)==len(b), at
        for i,(x,y) in enumerate(zip(a, b)): same(x, y, f'{at}[{i}]')
    else: assert torch.equal(a, b) if torch.is_tensor(a) else a==b, at

def ends(folder): return torch.load(Path(folder)/'checkpoint.pt', weights_only=True)
def rows(folder):
    return [{k:v for k,v in r.items() if k!='images_per_s'} for r in csv.DictReader((Path(folder)/'curves.csv').open())]

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

@pytest.fixture(scope='module')
def whole(tmp_path_factory, one_thread): # a run that was left alone
    folder = tmp_path_factory.mktemp('whole')
    train(folder)
    return folder

@pytest.mark.parametrize('quantizer,repeat', [('vq', False), ('cvq', True), ('fsq', False)])
def test_stopped_twice_is_bit_equal(tmp_path, whole, quantizer, repeat):
    if quantizer!='vq': train(whole := tmp_path/'whole', quantizer, repeat)
    # before the GAN starts, and after
    for stop in (3, 8, None): out = train(tmp_path/'parts', quantizer, repeat, stop_after=stop)
    assert out['resumed_at']==8
    a,b = ends(whole),ends(tmp_path/'parts')
    assert {'module','optimizer'}<=a['phases']['d'].keys() and a['step']==STEPS and len(a['curves']['rows'])==3
    same(a, b)
    assert rows(whole)==rows(tmp_path/'parts')
    same(out['ema'].state_dict(), {k[len('module.'):]:v for k,v in a['ema'].items() if k!='n_averaged'})

HALF_WRITTEN = '''
import sys,time,torch
sys.path.insert(0, {tests!r})
import test_resume,signal
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background jobs start with Ctrl-C ignored
torch.set_num_threads(1)
save,calls = torch.save,[]
def slow(state, path): # the third checkpoint stays half written
    save(state, path)
    calls.append(path)
    if len(calls)==3:
        half = path.read_bytes()[:-2000]
        path.write_bytes(half)
        open({marker!r}, 'w').close()
        time.sleep(60)
torch.save = slow
test_resume.train({folder!r})
'''

@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT], ids=['sigterm', 'ctrl-c'])
def test_ended_in_the_middle_of_a_write(tmp_path, whole, how):
    folder,marker = tmp_path/'ended',tmp_path/'marker'
    code = HALF_WRITTEN.format(tests=str(Path(__file__).parent), marker=str(marker), folder=str(folder))
    p = subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    deadline = time.time()+600
    while not marker.exists():
        assert time.time()<deadline and p.poll() is None
        time.sleep(.05)
    p.send_signal(how)
    assert p.wait(120)!=0
    assert ends(folder)['step']==6 # the second checkpoint, whole
    assert train(folder)['resumed_at']==6
    same(ends(whole), ends(folder))
    assert not list(folder.glob('.*')) # what the write left is gone
