"""A run that is stopped, interrupted or killed, in the middle of a write too, ends with the bits of one that was
left alone."""
import csv,os,random,signal,subprocess,sys,time
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

CHILD = """
import sys,time,torch
sys.path.insert(0, {tests!r})
import signal,test_resume
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background jobs start with Ctrl-C ignored
torch.set_num_threads(1)
from iutok.data import Batches
read,save,calls = Batches.__getitem__,torch.save,[]
def waits(how): # what the parent waits for
    open({marker!r}, 'w').close()
    time.sleep(how)
def slow_read(self, step):
    if {where!r}=='step' and step==7: waits(1)
    if {where!r}=='soak': time.sleep(.5)
    return read(self, step)
def slow_save(state, path): # the third checkpoint stays half written
    save(state, path)
    calls.append(path)
    if {where!r}=='soak': time.sleep(.3)
    if {where!r}=='write' and len(calls)==3:
        half = path.read_bytes()[:-2000]
        path.write_bytes(half)
        waits(60)
Batches.__getitem__,torch.save = slow_read,slow_save
if {where!r}=='soak': waits(0)
test_resume.train({folder!r})
"""

def ended(folder, where, how): # a process that gets the signal `how` while it is in `where` -> its code, what it said
    marker = folder.with_name('marker')
    code = CHILD.format(tests=str(Path(__file__).parent), marker=str(marker), folder=str(folder), where=where)
    p = subprocess.Popen([sys.executable, '-c', code], cwd=Path(__file__).parents[1], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.time()+600
    while not marker.exists():
        assert time.time()<deadline and p.poll() is None
        time.sleep(.05)
    p.send_signal(how)
    said = p.communicate(timeout=120)[0]
    return p.returncode,said

def test_killed_in_the_middle_of_a_write(tmp_path, whole):
    folder = tmp_path/'killed'
    assert ended(folder, 'write', signal.SIGKILL)[0]==-signal.SIGKILL
    assert ends(folder)['step']==6 and list(folder.glob('.*')) # the second checkpoint, whole; and a torn file
    assert train(folder)['resumed_at']==6
    same(ends(whole), ends(folder))
    assert not list(folder.glob('.*')) # what the write left is gone

@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGINT], ids=['sigterm', 'ctrl-c'])
def test_asked_to_stop(tmp_path, whole, how):
    folder = tmp_path/'asked'
    code,said = ended(folder, 'step', how)
    assert code!=0 and 'Stopping after this step' in said and 'did after step 8 of 12' in said
    assert ends(folder)['step']==8 and train(folder)['resumed_at']==8
    same(ends(whole), ends(folder))

@pytest.mark.parametrize('harm', ['torn', 'empty', 'flipped', 'gone', 'foreign'])
def test_the_last_checkpoint_is_damaged(tmp_path, whole, capsys, harm):
    folder,path = tmp_path/'run',tmp_path/'run/checkpoint.pt'
    train(folder, stop_after=7)
    data = path.read_bytes()
    middle = len(data)//2
    flipped = data[:middle]+bytes([data[middle]^1])+data[middle+1:] # one bit, somewhere in the weights
    if harm=='gone': path.unlink()
    else: path.write_bytes(dict(torn=data[:-2000], empty=b'', flipped=flipped,
                                foreign=(whole/'checkpoint.pt').read_bytes())[harm])
    out = train(folder)
    assert out['resumed_at']==6 # steps of the checkpoint before it
    assert ('is damaged' in capsys.readouterr().out)==(harm!='gone')
    same(ends(whole), ends(folder))

def test_a_full_disk_leaves_what_was_there(tmp_path, whole, monkeypatch):
    folder = tmp_path/'run'
    train(folder, stop_after=4)
    kept = {p:p.read_bytes() for p in folder.glob('checkpoint*')}
    real,said = torch.save,'[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534'
    def full(state, path):
        real(state, path)
        path.write_bytes(path.read_bytes()[:500])
        raise RuntimeError(said)
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='could not be written.*MB are free there.*as it was'): train(folder)
    monkeypatch.undo()
    assert kept=={p:p.read_bytes() for p in folder.glob('checkpoint*')} and not list(folder.glob('.checkpoint*'))
    assert train(folder)['resumed_at']==4
    same(ends(whole), ends(folder))

@pytest.mark.skipif(not os.environ.get('IUTOK_SOAK'), reason='minutes of kills: set IUTOK_SOAK to their number')
def test_soak(tmp_path, whole): # killed at random moments, in saves too, until it is done; and again
    draw,left,run = random.Random(0),int(os.environ['IUTOK_SOAK']),0
    while left>0:
        folder,code,run = tmp_path/f'run{run}',None,run+1
        child = CHILD.format(tests=str(Path(__file__).parent), marker=str(tmp_path/'began'), folder=str(folder),
                             where='soak')
        while code is None:
            p = subprocess.Popen([sys.executable, '-c', child], cwd=Path(__file__).parents[1])
            while not (tmp_path/'began').exists() and p.poll() is None: time.sleep(.05)
            (tmp_path/'began').unlink(missing_ok=True)
            try: code = p.wait(draw.uniform(0, 12))
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                left -= 1
        assert code==0
        same(ends(whole), ends(folder))
    print(f'{run} runs, each as if it had been left alone')
