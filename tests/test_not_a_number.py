"A number that is none, in the loss, in its gradient or in a teacher's features, ends every training before the step."
import pytest,torch
import trainers
from test_resume import ends,same
from trainers import STEPS,TRAINERS
from iutok.training import fit,seed_everything

def spoil(module, how): # in the second step
    healthy = module.forward
    def forward(batch, step):
        loss,logs = healthy(batch, step)
        if step==1 and how=='loss': loss = loss*float('nan')
        if step==1 and how=='gradient': loss.register_hook(lambda g: g*float('inf'))
        return loss,logs
    module.forward = forward

def ended(make, folder, how=None): # what it said; the batch it kept is the one of that step
    seed_everything(0)
    phases,batches = make()
    name,phase = next(iter(phases.items()))
    if how: spoil(phase.module, how)
    with pytest.raises((FloatingPointError, ValueError)) as e: fit(phases, batches, STEPS, folder, save_every=1)
    said = f"{e.value} {' '.join(getattr(e.value, '__notes__', []))}"
    assert f'in phase {name} at step 1; its batch is in bad_batch.pt of the run folder' in said
    assert 'the last checkpoint is of step 1' in said and ends(folder)['step']==1
    kept = torch.load(folder/'bad_batch.pt', weights_only=True)
    assert (kept['step'], kept['phase'])==(1, name)
    same(kept['batch'], list(batches[1]))
    return said

@pytest.mark.parametrize('how,says', [('loss', 'The loss is nan'), ('gradient', 'but its gradient is not finite')])
@pytest.mark.parametrize('make', TRAINERS, ids=lambda f: f.__name__)
def test_loss_and_gradient(tmp_path, make, how, says): assert says in ended(make, tmp_path, how)

@pytest.mark.parametrize('make', [trainers.vqkd, trainers.cluster], ids=lambda f: f.__name__)
def test_features(tmp_path, monkeypatch, make):
    calls,healthy = [],trainers.FEATURES
    def features(b):
        calls.append(b)
        return healthy(b)*(1 if len(calls)<2 else float('nan'))
    monkeypatch.setattr(trainers, 'FEATURES', features)
    said = ended(make, tmp_path)
    assert 'The loss is nan' in said or 'contains NaN' in said

