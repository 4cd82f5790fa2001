"""Two gloo processes on a CPU train what one process trains on the joint batch, stay together, resume, and stop
together."""
import csv,os,signal,sys,time
from datetime import timedelta
from pathlib import Path
import pytest,torch,torch.distributed as dist
from torch import nn
from ranks import finish,start_two
from iutok import training
from iutok.training import Phase,constant,fit,seed_everything
from iutok.data import Batches,load_images
from iutok.losses.gan import PatchGAN
from iutok.nets.conv import ConvDecoder,ConvEncoder
from iutok.quantizers import CVQ,VQ
from iutok.reconstruction import Discriminate,Reconstruct
from iutok.tokenizers import Connector,Tokenizer

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()),
                                reason='needs torch.distributed with gloo')
RANK,WORLD = (int(os.environ.get(k, v)) for k,v in (('RANK', 0), ('WORLD_SIZE', 1)))

def tokenizer(quantizer):
    return Tokenizer(ConvEncoder(out_channels=8, width=8, mults=(1, 2), n_res=1, attention=False, refine=False),
                     quantizer,
                     ConvDecoder(in_channels=8, width=8, mults=(2, 1), n_res=1, attention=False, refine=False),
                     Connector([8, 4]), Connector([4, 8]), image_size=32)

def batches(**kw):
    return Batches(load_images('fashion', 'test').take(60), 32, 8, 'strong', seed=1,
                   **(kw or dict(rank=RANK, world=WORLD)))

def joint(folder, steps=3): # no batch norm and no adaptive weight: nothing that is a process's own
    seed_everything(RANK) # the first process's weights count
    tok = tokenizer(VQ(16, 4, init='kmeans'))
    disc = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(.2), nn.Conv2d(8, 1, 4, 2, 1))
    g = Reconstruct(tok, mse=1., disc=disc, gain=None, g_weight=.5, warm=1)
    sgd = lambda ps: torch.optim.SGD(ps, .05, momentum=.9)
    phases = dict(g=Phase(g, sgd(g.trainable), constant(.05)),
                  d=Phase(Discriminate(disc, g, weight=.5, r1=1.), sgd(disc.parameters()), constant(.05), start=1))
    out = fit(phases, batches(), steps, folder, precision='fp32', clip=.5, ema=.5, log_every=3)
    return dict(tok=tok.state_dict(), disc=disc.state_dict(), ema=out['ema'].tok.state_dict())

# batch norm, adaptive weight, the official order, bfloat16
def everything(folder, quantizer=lambda: CVQ(16, 4), repeat=True, **kw):
    seed_everything(0)
    tok,disc = tokenizer(quantizer()),PatchGAN(1, 8)
    g = Reconstruct(tok, disc=disc, warm=1)
    adam = lambda ps: torch.optim.Adam(ps, 1e-3)
    phases = dict(g=Phase(g, adam(g.trainable), constant(1e-3)),
                  d=Phase(Discriminate(disc, g, repeat=repeat), adam(disc.parameters()), constant(1e-3)))
    out = fit(phases, batches(), 4, folder, ema=.5, save_every=2, log_every=2, **kw)
    return dict(g={k:p.detach().clone() for k,p in g.named_parameters()},
                d={k:p.detach().clone() for k,p in disc.named_parameters()}, ema=dict(out['ema'].named_parameters()))

def proposal(folder, steps=3): # the batch's tokens are dealt out, and nothing is drawn
    from iutok.proposals.ar import AR
    from iutok.proposals.tokens import TokenBatches
    from iutok.training import Objective
    seed_everything(RANK) # the first process's weights count
    g = torch.Generator().manual_seed(1)
    tokens,labels = torch.randint(0, 16, (30, 9), generator=g),torch.randint(0, 3, (30,), generator=g)
    ar = AR(16, 3, 9, layers=1, width=16, heads=2, mlp=32, drop_label=0.)
    phase = Phase(Objective(ar, lambda ar,b: ar(b[0], b[1])), torch.optim.SGD(ar.parameters(), .1), constant(.1))
    fit(dict(ar=phase), TokenBatches(tokens, labels, 8, 1, RANK, WORLD), steps, folder, precision='fp32', log_every=3)
    return ar.state_dict()

def teacher(folder, objective, steps=2): # nothing is left out while training
    from types import SimpleNamespace
    from iutok.mini_teachers import pretraining
    seed_everything(RANK)
    run = SimpleNamespace(width=16, depth=1, heads=2, image_size=32, patch=8, drop=0., transform='none', batch_size=8,
                          steps=steps, seed=1, project=16 if objective=='captions' else 0)
    module,batches = pretraining(run, objective, load_images('fashion', 'test').take(60))
    fit(dict(t=Phase(module, torch.optim.SGD(module.parameters(), .05), constant(.05))), batches, steps, folder,
        precision='fp32')
    # the running means of batch norms stay a process's own
    return {k:p.detach().clone() for k,p in module.named_parameters()}

OBJECTIVES = ('labels', 'captions', 'views', 'masking')

class Noisy(nn.Module): # every process draws its own dropout
    find_unused = False
    def __init__(self, sick=False):
        super().__init__()
        torch.manual_seed(0)
        self.net,self.sick = nn.Sequential(nn.Dropout(.5), nn.Linear(6, 1)),sick
    def forward(self, batch, step):
        loss = self.net(batch[0]).square().mean()
        return loss*float('nan') if self.sick and step==2 and RANK==1 else loss,{}

class Data:
    def __getitem__(self, step): return torch.randn(4, 6, generator=torch.Generator().manual_seed(10*step+RANK)),

def noisy(folder, sick=False, **kw):
    m = Noisy(sick)
    fit(dict(a=Phase(m, torch.optim.Adam(m.parameters(), .1), constant(.1))), Data(), 6, folder, 'noisy', save_every=3,
        **kw)
    return {k:v.clone() for k,v in m.state_dict().items()}

def refused(f, error):
    try: f()
    except error as e: return str(e)

def worker(folder):
    torch.set_num_threads(1)
    out = dict(joint=joint(folder/'joint'), everything=everything(folder/'everything'), noisy=noisy(folder/'noisy'))
    everything(folder/'parts', stop_after=2)
    noisy(folder/'noisy2', stop_after=3)
    out |= dict(parts=everything(folder/'parts'), noisy2=noisy(folder/'noisy2'))
    out['proposal'] = proposal(folder/'proposal')
    for o in OBJECTIVES: out[o] = teacher(folder/o, o)
    out['sick'] = refused(lambda: noisy(folder/'sick', sick=True), FloatingPointError)
    out['undivided'] = refused(lambda: undivided(folder/'undivided'), ValueError)
    torch.save(out, folder/f'out{RANK}.pt')
    dist.barrier()

def undivided(folder): # batches that were not told about the other process
    m = Noisy()
    fit(dict(a=Phase(m, torch.optim.SGD(m.parameters()), constant(.1))), batches(rank=0, world=1), 1, folder)

class Leaves(Noisy): # the second process does, at step 3
    def __init__(self, leave):
        super().__init__()
        self.leave = leave
    def forward(self, batch, step):
        if step==3 and RANK==1: self.leave()
        return super().forward(batch, step)

LEAVE = dict(killed=lambda: os.kill(os.getpid(), signal.SIGKILL), hangs=lambda: time.sleep(300))

def left(folder, how):
    training.PATIENCE = timedelta(seconds=8) # rather than ten minutes
    m = Leaves(LEAVE[how])
    phase = Phase(m, torch.optim.Adam(m.parameters(), .1), constant(.1))
    fit(dict(a=phase), Data(), 6, folder, 'left', save_every=2)

@pytest.mark.parametrize('how', LEAVE)
def test_who_is_left_alone_stops_soon_with_one_sentence(tmp_path, how):
    alone,other = start_two(__file__, str(tmp_path), how)
    try: said = alone.communicate(timeout=240)[0]
    finally:
        other.kill()
        other.communicate()
    assert alone.returncode==1 and 'LostProcess: another process of this run has ended' in said.strip().splitlines()[-1]
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['step']==2 and not list(tmp_path.glob('bad_batch*'))

def test_two_processes(tmp_path): # one launch for all, since starting takes longer than training
    finish(start_two(__file__, str(tmp_path)), timeout=900)
    a,b = (torch.load(tmp_path/f'out{r}.pt', weights_only=True) for r in range(2))

    one = joint(tmp_path/'one') # the joint batch
    for part in one:
        for k,v in one[part].items():
            torch.testing.assert_close(a['joint'][part][k].float(), v.float(), atol=1e-5, rtol=1e-5, msg=f'{part} {k}')
    for k,v in proposal(tmp_path/'one proposal').items():
        torch.testing.assert_close(a['proposal'][k], v, atol=1e-5, rtol=1e-5, msg=f'proposal {k}')
    for o in ('labels', 'captions'): # masking draws its masks, and views are balanced, per process
        for k,v in teacher(tmp_path/f'one {o}', o).items():
            torch.testing.assert_close(a[o][k], v, atol=1e-5, rtol=1e-4, msg=f'{o} {k}')
    rows = [list(csv.DictReader((tmp_path/k/'curves.csv').open())) for k in ('one', 'joint')]
    assert len(rows[0])==len(rows[1])==1
    for k,v in rows[0][0].items(): # what was logged is the mean over processes
        if k not in ('images_per_s',): assert abs(float(v)-float(rows[1][0][k]))<1e-4, k

    for k in ('everything', 'noisy', 'joint', 'proposal', *OBJECTIVES): # all processes hold the same weights at the end
        flat = lambda d: {f'{p}.{n}':v for p,q in d.items() for n,
                          v in (q.items() if isinstance(q, dict) else [('', q)])}
        for n,v in flat(a[k]).items(): assert torch.equal(v, flat(b[k])[n]), (k, n)
    # a resume is exact, random draws of every process included
    for again,through in (('parts', 'everything'), ('noisy2', 'noisy')):
        for n,v in flat(a[through]).items(): assert torch.equal(v, flat(a[again])[n]), n
    assert len(torch.load(tmp_path/'noisy/checkpoint.pt', weights_only=True)['rng'])==2

    assert 'finite on another process' in a['sick']
    assert 'The loss is nan' in b['sick']
    assert all('step 2' in r['sick'] for r in (a, b))
    assert torch.load(tmp_path/'sick/bad_batch-1.pt', weights_only=True)['error']=='The loss is nan'
    assert '2 processes got 16 images together but the batch size is 8' in a['undivided']
    with pytest.warns(UserWarning, match='2 processes wrote .* and 1 continue'): noisy(tmp_path/'noisy')

if __name__=='__main__': left(Path(sys.argv[1]), sys.argv[2]) if sys.argv[2:] else worker(Path(sys.argv[1]))
