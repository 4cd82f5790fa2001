"Costs: operations against layers counted by hand, hours against their formula; nothing is timed."
import itertools
from dataclasses import replace
from types import SimpleNamespace
import pytest,torch
from hypothesis import given,strategies as st
from torch import nn
from iutok import budget,cost
from iutok.cost import Cost,StepCost,count,fake,flops,measured_rate
from iutok.recipes import RECIPES,build,student_tokenizer
from iutok.teachers import load_teacher

# ---- operations

@pytest.mark.parametrize('k,c,d,side,stride', [(3, 4, 8, 16, 1), (4, 3, 64, 32, 2), (1, 5, 7, 9, 1)])
def test_flops_of_a_convolution(k, c, d, side, stride):
    with fake():
        conv,x = nn.Conv2d(c, d, k, stride, k//2 if k%2 else 1),torch.zeros(3, c, side, side, requires_grad=True)
        out = conv(x)
        by_hand = 2*3*k*k*c*d*out.shape[-1]**2
        assert flops(lambda: conv(x))==by_hand and flops(lambda: conv(x).sum().backward())==3*by_hand

def test_cost_is_that_of_the_layers(monkeypatch):
    few = dict(width=32, mults=[1, 1, 2], n_res=1, image_size=64, n_codes=512, perceptual='none')
    tok,work = build('vqgan-8192-dd2', **few),[]
    # operations from the shapes that arrive
    hooks = [m.register_forward_hook(lambda m,i,o: work.append(2*o.numel()*m.weight[0].numel())) for m in tok.modules()
             if isinstance(m, nn.Conv2d)]
    with torch.no_grad(): tok.eval().decode_latents(tok.latents(torch.zeros(1, 3, 64, 64)))
    for h in hooks: h.remove()
    attention = 5*2*2*256**2*64 # five layers on 256 positions of 64 channels, two products each
    monkeypatch.setattr(budget, 'measured_rate', lambda *a: 1e12)
    run,before = SimpleNamespace(**RECIPES['vqgan-8192-dd2'] | few),torch.get_rng_state()
    c = budget.pixel_cost(run, tok)
    assert torch.equal(torch.get_rng_state(), before)             # a run draws what it would have drawn without
    assert c.forward==sum(work)+attention+2*256*512*256           # and the search
    assert c.parameters['discriminator']==663_361 and c.parameters['encoder']==count(tok.encoder)
    judged = flops(lambda: tok.discriminator(torch.zeros(1, 3, 64, 64)))
    assert 2*sum(work)+7*judged<c.step.flops<3*(sum(work)+attention)+2*256*512*256+11*judged
    assert c.hours==pytest.approx(c.step.flops*96*260_000/1e12/3600)
    decoding = budget.pixel_cost(run, tok, frozen=True, tokens=True)
    assert decoding.step.flops<c.step.flops<3*decoding.step.flops and decoding.step.activations<c.step.activations

# -> products with weights, those of attention, those of the patch embedding, of n tokens and the class token
def vit_work(n, width, depth, into, out=0):
    embed,length = 2*n*into*width,n+1
    return embed+depth*24*length*width**2+(2*n*width*(width+out) if out else 0),depth*4*length**2*width,embed

STUDENT = dict(image_size=64, patch=8, n_codes=128, dim=16, student_width=48, student_depth=2, student_heads=3,
               feature_depth=1, batch_size=12, steps=700)

@pytest.fixture(scope='module')
def teacher(): return load_teacher('timm:vit_tiny_patch16_224', pretrained=False, size=128)

@pytest.mark.parametrize('precision', ['bf16', 'fp32'])
def test_cost_of_vqkd_is_that_of_its_products(monkeypatch, teacher, precision):
    asked = []
    monkeypatch.setattr(budget, 'measured_rate', lambda *a: asked.append(a) or 1e12)
    run = SimpleNamespace(**RECIPES['vqkd-clip-8192'] | STUDENT | dict(precision=precision))
    tok,before = student_tokenizer(run, 192),torch.get_rng_state()
    c,kept = (budget.distil_cost(run, tok, teacher, cached) for cached in (False, True))
    assert torch.equal(torch.get_rng_state(), before)
    lines,attention,embed = (a+b for a,b in zip(vit_work(64, 48, 2, 3*8*8, 16), vit_work(64, 48, 1, 16, 192)))
    search,image = 2*64*128*16,vit_work(64, 48, 2, 3*8*8)[2]
    assert c.forward==lines+attention+search==kept.forward
    # images need no gradient; attention forgets its scores and computes them again
    assert kept.step.flops==3*lines-image+3.5*attention+search
    assert c.step.flops-kept.step.flops==sum(vit_work(64, 192, 12, 3*16*16)[:2])
    assert kept.step.state==16*count(tok)
    assert c.step.state-kept.step.state==sum(p.numel()*p.element_size() for p in teacher.parameters())
    assert c.step.activations==kept.step.activations>4*64*48*10
    assert c.parameters=={'encoder':count(tok.encoder), 'feature_decoder':count(tok.feature_decoder),
                          'teacher (frozen)':count(teacher)}
    assert 'teacher (frozen)' not in kept.parameters
    assert c.hours==pytest.approx(c.step.flops*12*700/1e12/3600) and asked[0][1:]==((12, 65, 48), precision)

def test_vqkd_of_a_convolutional_teacher(monkeypatch): # at a size of its own, whose map is not the student's
    monkeypatch.setattr(budget, 'measured_rate', lambda *a: 1e12)
    run = SimpleNamespace(**RECIPES['vqkd-clip-8192'] | STUDENT)
    t = load_teacher('effnet', pretrained=False, size=96)
    work = []
    hooks = [m.register_forward_hook(lambda m,i,o: work.append(2*o.numel()*m.weight[0].numel())) for m in t.modules()
             if isinstance(m, nn.Conv2d)]
    t(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    for h in hooks: h.remove()
    c,kept = (budget.distil_cost(run, student_tokenizer(run, 112), t, cached) for cached in (False, True))
    assert c.step.flops-kept.step.flops==sum(work)

# ---- hours

numbers = st.integers(1, 10**6)

@given(numbers, numbers, numbers, numbers, st.integers(1, 512), st.floats(1e6, 1e16))
def test_hours_and_memory(n, steps, share, held, processes, rate):
    c = Cost({}, 1, StepCost(n, 7, held), steps, share*processes, processes, rate, '')
    near = lambda v: pytest.approx(v, rel=1e-9)
    assert c.hours==near(n*steps*share*processes/(processes*rate)/3600)
    assert replace(c, steps=3*steps).hours==near(3*c.hours)
    assert replace(c, batch_size=5*c.batch_size).hours==near(5*c.hours)
    assert replace(c, processes=4*processes).hours==near(c.hours/4)==replace(c, rate=4*rate).hours
    assert replace(c, step=StepCost(2*n, 7, held)).hours==near(2*c.hours)
    assert 1e9*c.gigabytes==near(held+7*share) # a process holds its share of the batch, and all of the weights
    assert replace(c, batch_size=4*c.batch_size, processes=4*processes).gigabytes==near(c.gigabytes)

def test_the_table_says_the_hours():
    c = Cost(dict(encoder=1234567, decoder=0), 10**9, StepCost(10**9, 10**6, 10**9), 1000, 36, 1, 1e10, 'by hand')
    assert c.hours==1 and c.gigabytes==1.036
    said = c._repr_markdown_()
    assert '| 1,000 steps of 36 | about 1 h on 1 process at 10 GFLOP/s each (by hand) |' in said
    assert 'encoder 1,234,567' in said and 'decoder' not in said
    assert 'about 30 min on 2 processes' in replace(c, processes=2)._repr_markdown_()

def test_the_rate_is_operations_over_time(monkeypatch): # by a clock that ticks when it is looked at
    calls = []
    class Layer(nn.Linear):
        def forward(self, x): calls.append(x.shape); return super().forward(x)
    ticks = itertools.count()
    monkeypatch.setattr(cost, 'time', SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(cost, 'this_device', lambda: torch.device('cpu'))
    before = torch.get_rng_state()
    rate = measured_rate(lambda: Layer(8, 4, bias=False), (5, 8), 'fp32', seconds=3)
    assert torch.equal(torch.get_rng_state(), before) and len(calls)==1+1+3 # counted once, warmed up once
    # three times forward and backward, until the clock's fourth tick
    assert rate==3 * 3*2*5*8*4 / 4

def test_cost_of_a_proposal_network_is_that_of_its_products():
    from iutok.proposals.ar import AR, AR_SIZES
    ar = AR(512, 10, 64, **AR_SIZES['small'])
    c = budget.proposal_cost(SimpleNamespace(steps=500, batch_size=96, lr=1e-3, precision='fp32'), ar)
    matrices = sum(p.numel() for n,p in ar.named_parameters() if p.ndim==2 and not n.startswith('embed'))
    assert c.parameters['network']==sum(p.numel() for p in ar.parameters())
    assert 2*64*matrices*.9 < c.forward < 2*64*matrices*1.3 # the rest is attention
    assert 2.7*c.forward < c.step.flops < 3.3*c.forward

@pytest.mark.parametrize('form', ['maskgit', 'mage'])
def test_a_masked_network_is_counted_as_if_it_had_to_predict_every_token(form):
    from iutok.proposals.nar import NAR
    net = NAR(64, 10, 16, form=form, layers=2, width=32, heads=2)
    c = budget.proposal_cost(SimpleNamespace(steps=5, batch_size=8, lr=1e-3, precision='fp32'), net)
    matrices = sum(p.numel() for n,p in net.named_parameters() if p.ndim==2 and 'embed' not in n and 'pos' not in n)
    if net.head is None: matrices += 64*32 # the embedding scores
    assert c.parameters['network']==sum(p.numel() for p in net.parameters())
    assert 2*16*matrices*.9 < c.forward < 2*17*matrices*1.3
    assert 2.6*c.forward < c.step.flops < 3.3*c.forward
