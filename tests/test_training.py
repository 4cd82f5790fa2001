"""The loop:
clipping, averages, curves, what it does with numbers that are not finite and with checkpoints that do not fit."""
import csv
import pytest,torch
import torch.nn.functional as F
from torch import nn
from iutok.training import Curves,Phase,averaged,constant,fit,load_checkpoint,save_checkpoint

class Line(nn.Module): # dropout draws random numbers
    def __init__(self, p=0.):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 1), nn.Dropout(p))
    def forward(self, batch, step):
        loss = F.mse_loss(self.net(batch[0]).float(), batch[1])
        return loss,dict(twice=2*loss.detach())

class Data:
    def __getitem__(self, step):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=g)
        return x,x.sum(1, keepdim=True)

def phase(model, lr=.1, opt=torch.optim.SGD): return Phase(model, opt(model.parameters(), lr), constant(lr))
def params(m): return [p.detach().clone() for p in m.parameters()]
def close(a, b, tol=1e-6): torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=tol, rtol=tol)

def gradient(model, step): # by hand
    grads = torch.autograd.grad(model(Data()[step], step)[0], list(model.parameters()))
    return grads,torch.cat([g.flatten() for g in grads]).norm()

@pytest.mark.parametrize('clip', [.05, 1e6, None])
def test_clipping_limits_the_step_and_logs_the_norm_before(tmp_path, clip):
    m = Line()
    before,(grads,norm) = params(m),gradient(m, 0)
    fit(dict(a=phase(m)), Data(), 1, tmp_path, precision='fp32', clip=clip, log_every=1)
    scale = min(1., (clip or 1e9)/float(norm))
    for p,q,g in zip(before, params(m), grads): close(p-q, .1*scale*g)
    row, = csv.DictReader((tmp_path/'curves.csv').open())
    close(float(row['a_grad_norm']), float(norm), 1e-5)
    if clip==.05: assert scale<.5

def test_average_is_the_closed_form(tmp_path):
    m,weights = Line(),[]
    out = fit(dict(a=phase(m)), Data(), 6, tmp_path, precision='fp32', ema=.7,
              look=lambda s: weights.append(m.net[0].weight.clone()), look_every=1)
    want = .7**5*weights[0] + sum(.3*.7**(5-i)*w for i,w in enumerate(weights) if i)
    close(out['ema'].net[0].weight, want)
    assert out['ema'] is not m and not out['ema'].training and (want-weights[-1]).abs().max()>1e-3

def test_averages_copy_counters_and_share_nothing():
    net = nn.Sequential(nn.BatchNorm1d(2))
    net.register_buffer('flag', torch.tensor(False))
    avg = averaged(net, .5)
    for i in range(1, 4):
        net[0].running_mean.fill_(i); net[0].num_batches_tracked.fill_(10*i); net.flag.fill_(i>1)
        avg.update_parameters(net)
    close(avg.module[0].running_mean, torch.full((2,), .25*1+.25*2+.5*3))
    assert avg.module[0].num_batches_tracked==30
    assert avg.module.flag
    assert avg.module[0].running_mean.data_ptr()!=net[0].running_mean.data_ptr()

def test_curves_are_means_over_the_steps(tmp_path):
    losses = []
    m = Line()
    class Told(Data):
        def __getitem__(self, step):
            with torch.no_grad(): losses.append(float(m(Data()[step], step)[0]))
            return Data()[step]
    fit(dict(a=phase(m)), Told(), 7, tmp_path, precision='fp32', log_every=3)
    rows = list(csv.DictReader((tmp_path/'curves.csv').open()))
    assert [int(r['step']) for r in rows]==[3, 6, 7]
    for r,part in zip(rows, (losses[:3], losses[3:6], losses[6:])):
        close(float(r['a']), sum(part)/len(part), 1e-5)
        close(float(r['a_twice']), 2*float(r['a']), 1e-5)

def test_curves_average_over_processes_and_are_drawn(tmp_path):
    c = Curves(tmp_path/'c.csv', mean=lambda v: v+1)
    c.add(a=torch.tensor(1.), b=2.); c.add(a=3.)
    c.point(2, lr=.1)
    assert c.rows==[dict(step=2, a=3., b=3., lr=.1)]
    c.save()
    assert (tmp_path/'c.csv').read_text().split()==['step,a,b,lr', '2,3.0,3.0,0.1']
    assert (tmp_path/'c.png').read_bytes()[1:4]==b'PNG'

def test_looking_leaves_no_trace(tmp_path):
    def look(step):
        looked.append(step)
        m.eval(); torch.rand(5); assert not torch.is_grad_enabled()
    ends = []
    for f in (None, look):
        looked,m = [],Line(.3)
        fit(dict(a=phase(m)), Data(), 9, tmp_path/str(f is None), look=f, look_every=4, save_every=100)
        ends.append(params(m))
    assert looked==[4, 8, 9]
    for p,q in zip(*ends): assert torch.equal(p, q)

class Sick(Line): # loss or gradient leaves the numbers at step 2
    def __init__(self, how): super().__init__(); self.how = how
    def forward(self, batch, step):
        loss,logs = super().forward(batch, step)
        if step==2 and self.how=='raise': raise RuntimeError('out of luck')
        # sqrt'(0)
        if step==2: loss = loss*float('inf') if self.how=='loss' else loss+(self.net[0].weight*0).sum().abs().sqrt()
        return loss,logs

@pytest.mark.parametrize('how,error,says',
                         [('loss', FloatingPointError, 'The loss is inf'),
                          ('gradient', FloatingPointError, 'its gradient is not finite'),
                          ('raise', RuntimeError, 'out of luck')])
def test_stops_before_the_weights_are_lost_and_keeps_the_batch(tmp_path, how, error, says):
    m = Sick(how)
    with pytest.raises(error, match=says) as e: fit(dict(a=phase(m)), Data(), 5, tmp_path, save_every=1)
    assert 'step 2' in str(e.value)+''.join(getattr(e.value, '__notes__', []))
    assert all(p.isfinite().all() for p in m.parameters())
    bad = torch.load(tmp_path/'bad_batch.pt', weights_only=True)
    assert (bad['step'],bad['phase'])==(2, 'a') and says in bad['error'] and torch.equal(bad['batch'][0], Data()[2][0])
    saved = torch.load(tmp_path/'checkpoint.pt', weights_only=True)
    assert saved['step']==2 and torch.equal(saved['phases']['a']['module']['net.0.weight'], m.net[0].weight)

def test_checkpoints_that_do_not_fit(tmp_path):
    path,m = tmp_path/'checkpoint.pt',Line()
    fit(dict(a=phase(m)), Data(), 3, tmp_path, 'mine')
    with pytest.raises(ValueError, match='written by other modules.*net.0.weight.*move it away'):
        load_checkpoint(path, dict(a=phase(nn.Linear(2, 2))), 'mine')
    with pytest.raises(ValueError, match='averaged weights'): fit(dict(a=phase(m)), Data(), 4, tmp_path, 'mine', ema=.9)
    with pytest.warns(UserWarning, match='other parameters'):
        out = fit(dict(a=phase(Line())), Data(), 2, tmp_path, 'another')
    aside, = tmp_path.glob('checkpoint-*.pt')
    assert out['resumed_at']==0
    assert torch.load(aside, weights_only=True)['run_id']=='mine'
    assert torch.load(path, weights_only=True)['run_id']=='another'
    whole = path.read_bytes()
    for torn in (whole[:len(whole)//2], b'', b'not a checkpoint'):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match='damaged') as e: fit(dict(a=phase(Line())), Data(), 4, tmp_path, 'another')
        assert '\n' not in str(e.value)
    torch.save(dict(weights=torch.ones(1)), path)
    path.with_suffix('.json').unlink() # the digests of what was saved here
    with pytest.raises(ValueError, match='no checkpoint'): load_checkpoint(path, dict(a=phase(m)))

def test_another_number_of_processes_goes_on_with_a_warning(tmp_path):
    from iutok.training import _rng
    m = Line()
    save_checkpoint(tmp_path/'checkpoint.pt', dict(a=phase(m)), 2, 'x', rng=[_rng(), _rng()])
    with pytest.warns(UserWarning, match='2 processes wrote .* and 1 continue it'):
        out = fit(dict(a=phase(m)), Data(), 4, tmp_path, 'x')
    assert out['resumed_at']==2

def test_refused(tmp_path):
    with pytest.raises(ValueError, match="bf16 or fp32, got 'fp16'"):
        fit(dict(a=phase(Line())), Data(), 1, tmp_path, precision='fp16')
    with pytest.raises(ValueError, match='ema must be a finite number at least 0 and below 1, got 1.5'):
        fit(dict(a=phase(Line())), Data(), 1, tmp_path, ema=1.5)
