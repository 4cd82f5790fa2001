"The masked proposal network: its masks, its loss, its sizes, and MAGE's own code."
import math
import pytest, torch
from iutok.proposals.nar import FORMS, NAR

def small(form='maskgit', **kw):
    torch.manual_seed(0)
    if form=='mage': kw = dict(decoder_layers=1) | kw
    return NAR(**dict(n_codes=13, n_classes=4, length=9, form=form, layers=2, width=24, heads=3) | kw)

def batch(net, n=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(net.n_codes, (n, net.length), generator=g),torch.randint(net.n_classes, (n,), generator=g)

@pytest.mark.parametrize('form', FORMS)
def test_the_contract(form):
    net = small(form)
    t,y = batch(net)
    assert (net.n_codes, net.length, net.n_prefix, net.mask_id)==(13, 9, 1, 13)
    assert NAR(**net.config()).config()==net.config()
    net(t, y).backward()
    logits = net.eval().logits(t.masked_fill(t==2, net.mask_id), y)
    assert logits.shape==(5, 9, 13) and logits.dtype==torch.float32
    assert net.null_like(y).tolist()==[4]*5
    assert math.isclose(small(form).eval().loss(t, y).item(), math.log(13), abs_tol=.4)
