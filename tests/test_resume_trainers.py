"""Every trainer, stopped and continued, ends with the bits of one that was left alone: weights, optimisers, averages,
codebooks, random states, curves."""
import pytest,torch
from test_resume import ends,rows,same
from trainers import STEPS,TRAINERS
from iutok.training import fit,seed_everything

def train(make, folder, **kw):
    seed_everything(0)
    phases,batches = make()
    return fit(phases, batches, STEPS, folder, make.__name__, clip=1., ema=.9, save_every=2, log_every=2, **kw)

@pytest.mark.parametrize('make', TRAINERS, ids=lambda f: f.__name__)
def test_stopped_and_continued_is_bit_equal(tmp_path, make):
    train(make, tmp_path/'whole')
    for stop in (1, 5): train(make, tmp_path/'parts', stop_after=stop)
    torch.rand(7) # another history of the process
    assert train(make, tmp_path/'parts')['resumed_at']==5
    same(ends(tmp_path/'whole'), ends(tmp_path/'parts'))
    assert rows(tmp_path/'whole')==rows(tmp_path/'parts')
