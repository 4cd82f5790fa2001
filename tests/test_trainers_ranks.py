"""Every trainer on two gloo processes: they stay together, resume to the bit, go on where one process stopped and one
goes on where they did; and those that draw nothing do what one process does."""
import csv,sys,warnings
from pathlib import Path
import pytest,torch,torch.distributed as dist
from ranks import finish,start_two
from test_resume import ends,same
from trainers import CALM,STEPS,TRAINERS
from iutok.files import rank
from iutok.training import fit,seed_everything

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()),
                                reason='needs torch.distributed with gloo')
KINDS = {f.__name__:f for f in TRAINERS}
STILL = {f'calm {f.__name__}':f for f in CALM}

def train(folder, name, **kw): # 6 steps; a folder for each
    seed_everything(0)
    phases,batches = STILL[name](calm=True) if name in STILL else KINDS[name]()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*processes wrote')
        fit(phases, batches, STEPS, folder/name, name, precision='fp32', clip=1., save_every=3, log_every=1, **kw)
    return phases

def held(phases): # weights and codebooks; the statistics of a batch norm are a process's own until it is saved
    return {f'{k}.{n}':v.detach().clone() for k,p in phases.items() for n,v in p.module.state_dict().items()
            if not n.endswith(('running_mean', 'running_var'))}

def curve(folder):
    rows = list(csv.DictReader((folder/'curves.csv').open()))
    return [{k:float(v) for k,v in r.items() if v and k!='images_per_s'} for r in rows] # phases start late

def worker(folder):
    torch.set_num_threads(1)
    out = {}
    for name in KINDS:
        out[name] = held(train(folder/'two', name))
        train(folder/'parts', name, stop_after=3)
        train(folder/'parts', name)
    for name in STILL:
        out[name] = held(train(folder/'two', name))
        train(folder/'one then two', name)
        train(folder/'two then one', name, stop_after=3)
    torch.save(out, folder/f'out{rank()}.pt')
    dist.barrier()

@pytest.fixture(scope='module')
def both(tmp_path_factory): # one launch for all, since starting takes longer than training
    folder = tmp_path_factory.mktemp('both')
    for name in STILL:
        train(folder/'one', name)
        train(folder/'one then two', name, stop_after=3)
    finish(start_two(__file__, str(folder)), timeout=900)
    for name in STILL: train(folder/'two then one', name)
    return folder,*(torch.load(folder/f'out{r}.pt', weights_only=True) for r in range(2))

@pytest.mark.parametrize('name', [*KINDS, *STILL])
def test_processes_hold_the_same(both, name): same(both[1][name], both[2][name])

@pytest.mark.parametrize('name', KINDS)
def test_a_resume_is_exact(both, name):
    a,b = ends(both[0]/'two'/name),ends(both[0]/'parts'/name)
    assert len(a['rng'])==2 and a['step']==STEPS
    same(a, b)

CHOOSE = {f'calm {k}' for k in ('vqgan', 'cvqvae', 'fsq', 'vqkd', 'cluster')} # rounding can send a latent elsewhere

@pytest.mark.parametrize('how', ['two', 'one then two', 'two then one'])
@pytest.mark.parametrize('name', STILL)
def test_the_curve_is_that_of_one_process(both, name, how):
    one,other = (curve(both[0]/k/name) for k in ('one', how))
    assert len(one)==len(other)==STEPS
    for i,(a,b) in enumerate(zip(one, other)):
        assert a.keys()==b.keys()
        close = 1e-5 if i<2 or name not in CHOOSE else 2e-3
        for k in a: assert b[k]==pytest.approx(a[k], rel=10*close if 'norm' in k else close, abs=close), (i, k)

if __name__=='__main__': worker(Path(sys.argv[1]))
