"The AR network: against Hugging Face's own, against closed forms, and the rules of the sequence."
import json, math, sys
from pathlib import Path
import pytest, torch, torch.distributed as dist, torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from iutok.proposals.ar import AR, AR_SIZES, attend, chunked_cross_entropy, ppl, spiral
from iutok.proposals.published import load_hf
from ranks import finish, start_two

ARCHS = ('llama', 'gpt2')

def small(arch='llama', seed=0, head=True, **kw):
    "A random network whose output is not constant."
    torch.manual_seed(seed)
    args = dict(n_codes=13, n_classes=4, length=9, layers=2, width=24, heads=3) | kw
    ar = AR(arch=arch, **args)
    if head and ar.head is not None: nn.init.normal_(ar.head.weight, std=.5)
    return ar

def batch(ar, n=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(ar.n_codes, (n, ar.length), generator=g),torch.randint(ar.n_classes, (n,), generator=g)

# --- Hugging Face
# ------------------------------------------------------------------------------------------------------

W,M,V,P = 8,12,11,6  # width, hidden width, vocabulary = 3 classes + 8 codes, positions

def hf_state(arch):
    "Hugging Face's names and shapes, filled by a formula, so that no generator has to stay the same."
    if arch=='gpt2':
        shapes = {'transformer.wte.weight':(V, W), 'transformer.wpe.weight':(P, W)}
        block = {'ln_1.weight':(W,), 'ln_1.bias':(W,), 'attn.c_attn.weight':(W, 3*W), 'attn.c_attn.bias':(3*W,),
                 'attn.c_proj.weight':(W, W), 'attn.c_proj.bias':(W,), 'ln_2.weight':(W,), 'ln_2.bias':(W,),
                 'mlp.c_fc.weight':(W, M), 'mlp.c_fc.bias':(M,), 'mlp.c_proj.weight':(M, W), 'mlp.c_proj.bias':(W,)}
        shapes |= {f'transformer.h.{i}.{k}':v for i in range(2) for k,
                   v in block.items()} | {'transformer.ln_f.weight':(W,), 'transformer.ln_f.bias':(W,)}
    else:
        block = {f'self_attn.{c}_proj.weight':(W, W) for c in 'qkvo'} | {'mlp.gate_proj.weight':(M, W),
            'mlp.up_proj.weight':(M, W), 'mlp.down_proj.weight':(W, M), 'input_layernorm.weight':(W,),
            'post_attention_layernorm.weight':(W,)}
        shapes = {'model.embed_tokens.weight':(V, W)} | {f'model.layers.{i}.{k}':v for i in range(2) for k,
                                                         v in block.items()} | {'model.norm.weight':(W,),
            'lm_head.weight':(V, W)}
    state = {}
    for n,(k,s) in enumerate(shapes.items()):
        state[k] = .6*torch.sin(torch.arange(math.prod(s))*1.7+.9*n).view(s)
        if len(s)==1 and k.endswith('weight'): state[k] += 1
    return state

def hf_twin(arch):
    ar = AR(V-3, 3, P, layers=2, width=W, heads=2, mlp=M, arch=arch, drop_label=0, positions=P).eval()
    return load_hf(ar, hf_state(arch)),torch.tensor([[0, 7, 1, 1, 4, 2], [5, 3, 3, 6, 0, 7]]),torch.tensor([2, 0])

# From transformers 5.23: loss of these two sequences, and the logits of the codes for the last token of the first one.
STORED = dict(
    llama=(3.167, [1.43034, -0.53761, -1.98054, -1.48928, 0.4564, 1.95636, 1.54575, -0.37442]),
    gpt2=(4.022, [0.40331, -1.32823, -1.76263, -0.47566, 1.27584, 1.78136, 0.54722, -1.22133]))

@pytest.mark.parametrize('arch', ARCHS)
def test_matches_stored_hugging_face_values(arch):
    ar,t,y = hf_twin(arch)
    torch.testing.assert_close(ar.loss(t, y).item(), STORED[arch][0], atol=1e-4, rtol=0)
    torch.testing.assert_close(ar.logits(t, y)[0,-1], torch.tensor(STORED[arch][1]), atol=1e-4, rtol=0)

@pytest.mark.parametrize('arch', ARCHS)
def test_matches_transformers(arch):
    hf = pytest.importorskip('transformers', reason='transformers is not installed; the stored values stand in')
    ids = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    if arch=='gpt2':
        ref = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=V, n_positions=P+1, n_embd=W, n_layer=2, n_head=2, n_inner=M,
                                               **ids))
        state = hf_state(arch) | {
            'transformer.wpe.weight':torch.cat([hf_state(arch)['transformer.wpe.weight'], torch.zeros(1, W)])}
        state['lm_head.weight'] = state['transformer.wte.weight']
    else:
        ref = hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=V, hidden_size=W, intermediate_size=M, num_hidden_layers=2,
                                                 num_attention_heads=2, rms_norm_eps=1e-5, **ids))
        state = hf_state(arch)
    ref.load_state_dict(state)
    ar,t,y = hf_twin(arch)
    seq = ar.sequence(t, y)
    out = ref.eval()(input_ids=seq, labels=seq)
    torch.testing.assert_close(ar.logits(t, y), out.logits[:,:-1,3:], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(ar.loss(t, y), out.loss, atol=1e-5, rtol=1e-5)
    ar.loss(t, y).backward()
    out.loss.backward()
    name = 'transformer.wte.weight' if arch=='gpt2' else 'model.embed_tokens.weight'
    torch.testing.assert_close(ar.embed.weight.grad, dict(ref.named_parameters())[name].grad, atol=2e-5, rtol=1e-3)

def test_load_hf_resizes_the_vocabulary():
    ar = AR(30, 3, P, layers=2, width=W, heads=2, mlp=M, arch='gpt2', drop_label=0, positions=P)
    before = ar.embed.weight.detach().clone()
    load_hf(ar, hf_state('gpt2'))
    torch.testing.assert_close(ar.embed.weight[:V].detach(), hf_state('gpt2')['transformer.wte.weight'])
    torch.testing.assert_close(ar.embed.weight[V:].detach(), before[V:])
    few = AR(4, 3, P, layers=2, width=W, heads=2, mlp=M, arch='gpt2', drop_label=0, positions=P)
    torch.testing.assert_close(load_hf(few, hf_state('gpt2')).embed.weight.detach(),
                               hf_state('gpt2')['transformer.wte.weight'][:7])

def test_load_hf_refuses_what_does_not_fit():
    ar = AR(8, 3, P, layers=3, width=W, heads=2, mlp=M, arch='gpt2', drop_label=0)
    with pytest.raises(ValueError, match='gpt2 with 3 layers'): load_hf(ar, hf_state('gpt2'))
    ar = AR(8, 3, P, layers=2, width=W, heads=2, mlp=M+4, drop_label=0)
    with pytest.raises(ValueError, match='mlp.up.weight is'): load_hf(ar, hf_state('llama'))

def test_a_network_starts_from_text_weights_in_a_folder(tmp_path):
    import transformers as hf
    from iutok.proposals.published import start_from_text
    torch.manual_seed(0)
    text = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_positions=P, n_embd=W, n_layer=2, n_head=2, n_inner=M))
    text.save_pretrained(tmp_path)
    ar = start_from_text(AR(30, 3, P, layers=2, width=W, heads=2, mlp=M, arch='gpt2', drop_label=0, positions=P),
                         tmp_path)
    state = text.state_dict()
    torch.testing.assert_close(ar.blocks[0].norm1.weight.detach(), state['transformer.h.0.ln_1.weight'])
    torch.testing.assert_close(ar.embed.weight.detach(), state['transformer.wte.weight'][:33])
    with pytest.raises(ValueError, match='text_weights=.*nowhere.*cannot be read.*or leave text_weights out'):
        start_from_text(ar, str(tmp_path/'nowhere'))

# --- sizes
# -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('size,kw,count', [
    ('gpt2_medium',  {},                  312_772_608), ('gpt2_medium', dict(positions=257), 311_987_200),
    ('gpt2_xl',      {},                1_491_907_200), ('gpt2_xl', dict(positions=257),   1_490_680_000),
    ('llama_medium', {},                  327_156_736)])
def test_parameter_counts_of_the_paper(size, kw, count):
    with torch.device('meta'): ar = AR(8192, 1000, 256, drop_label=0, **AR_SIZES[size]|kw)
    assert sum(p.numel() for p in ar.parameters())==count

def test_vocabulary_of_the_paper():
    assert AR(8192, 1000, 4, drop_label=0).vocab==9192
    assert AR(8192, 1000, 4).vocab==9193 and AR(8000, 1000, 4).vocab==9001

@pytest.mark.parametrize('arch', ARCHS)
def test_rebuilt_from_its_config(arch, tmp_path):
    ar = small(arch).eval()
    save_file(ar.state_dict(), tmp_path/'ar.safetensors')  # fails for tensors that share memory
    twin = AR(**json.loads(json.dumps(ar.config()))).eval()
    twin.load_state_dict(load_file(tmp_path/'ar.safetensors'))
    assert twin.config()==ar.config()
    assert torch.equal(twin.logits(*batch(ar)), ar.logits(*batch(ar)))

@pytest.mark.parametrize('kw,said',
                         [(dict(arch='bert'), 'arch must be one of llama, gpt2'), (dict(heads=5), 'do not fit'),
                          (dict(width=9, heads=3), 'even for llama'), (dict(drop_label=1.), 'drop_label'),
                          (dict(arch='gpt2', positions=8), 'too few'), (dict(layers=0), 'layers must be')])
def test_wrong_sizes_are_refused(kw, said):
    with pytest.raises(ValueError, match=said): small(**kw)

# --- the network
# -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
def test_causal(arch):
    ar = small(arch).eval()
    t,y = batch(ar)
    base = ar.logits(t, y)
    for j in range(ar.length):
        other = t.clone()
        other[:,j] = (t[:,j]+1)%ar.n_codes
        moved = ar.logits(other, y)
        assert torch.equal(moved[:,:j+1], base[:,:j+1])
        if j+1<ar.length: assert (moved[:,j+1:]!=base[:,j+1:]).any(-1).all()
    assert (ar.logits(t, (y+1)%4)!=base).any(-1).all()  # the class reaches every position

@pytest.mark.parametrize('l,s', [(1, 1), (1, 7), (7, 7), (3, 7), (6, 7)])
def test_attention_equals_the_slow_form(l, s):
    q,k,v = torch.randn(2, 3, l, 4),torch.randn(2, 3, s, 4),torch.randn(2, 3, s, 4)
    slow = torch.zeros_like(q)
    for i in range(l):
        n = s-l+i+1
        w = (torch.einsum('bhd,bhsd->bhs', q[:,:,i], k[:,:,:n])/2).softmax(-1)
        slow[:,:,i] = torch.einsum('bhs,bhsd->bhd', w, v[:,:,:n])
    torch.testing.assert_close(attend(q, k, v), slow)

@pytest.mark.parametrize('arch', ARCHS)
def test_pieces_through_a_cache_equal_the_whole(arch):
    ar = small(arch).eval()
    x = ar.embed(ar.sequence(*batch(ar))[:,:-1])
    cache = torch.full((2, 2, 5, 3, 9, 8), math.nan)  # nothing unwritten may be read
    with torch.no_grad():
        parts = [ar.run(x[:,a:b], cache, a) for a,b in ((0, 4), (4, 5), (5, 8), (8, 9))]
        torch.testing.assert_close(torch.cat(parts, 1), ar.run(x))

def test_llama_starts_at_ln_v():
    ar = small(head=False)
    assert ar.loss(*batch(ar)).item()==pytest.approx(math.log(13+5), abs=1e-5)
    assert ar.embed.weight.std().item()==pytest.approx(.02, rel=.15)

def test_gpt2_init():
    ar = AR(512, 10, 64, arch='gpt2', layers=3)
    assert ar.head is None and ar.dropout==.1 and ar.pos.weight.shape==(65, 96)
    assert ar.blocks[0].mlp.up.weight.std().item()==pytest.approx(.02, rel=.05)
    assert ar.blocks[0].mlp.down.weight.std().item()==pytest.approx(.02/6**.5, rel=.05)
    assert ar.blocks[0].attn.qkv.bias.abs().max()==0
    assert ar.loss(*batch(ar)).item()==pytest.approx(math.log(523), abs=.05)

@pytest.mark.parametrize('arch', ARCHS)
def test_loss_is_cross_entropy_over_the_vocabulary(arch):
    ar = small(arch).eval()
    t,y = batch(ar)
    x = ar.run(ar.embed(ar.sequence(t, y)[:,:-1]))
    full = F.log_softmax(F.linear(x, ar.output).double(), -1)
    by_hand = -sum(full[b,i,t[b,i]+5] for b in range(5) for i in range(9))/45
    assert ar.loss(t, y).item()==pytest.approx(by_hand.item(), abs=1e-5)
    assert torch.equal(ar.logits(t, y), ar.scores(x)) and ar.scores(x).shape[-1]==13
    torch.testing.assert_close(ar.scores(x), F.linear(x, ar.output)[...,5:])
    # class ids take a share
    assert ar.loss(t, y).item()>F.cross_entropy(ar.logits(t, y).flatten(0, 1), t.flatten()).item()

def test_sequence_layout():
    ar = small()
    t,y = batch(ar)
    seq = ar.sequence(t, y)
    assert torch.equal(seq[:,0], y) and torch.equal(seq[:,1:]-5, t) and seq.max()<ar.vocab
    assert torch.equal(ar.sequence(t.to(torch.int16), y.to(torch.uint8)), seq)  # as stored
    assert small(drop_label=0).sequence(t, y)[:,1:].min()==4+t.min()
    for bad,said in ((lambda: ar.sequence(t-1, y), 'span -1'),
                     (lambda: ar.sequence(t+ar.n_codes, y), 'tokens must lie'),
                     (lambda: ar.sequence(t, y+4), 'labels must lie'),
                     (lambda: ar.sequence(t.view(5, 3, 3), y), 'Want tokens'),
                     (lambda: ar.sequence(t, y[:4]), 'Want tokens')):
        with pytest.raises(ValueError, match=said): bad()

# --- dropped labels
# ----------------------------------------------------------------------------------------------------

def test_labels_are_dropped_at_the_rate_and_not_in_place():
    ar = small(drop_label=.25)
    y = torch.randint(4, (40000,))
    kept = y.clone()
    torch.manual_seed(5)
    out = ar.drop(y)
    assert torch.equal(y, kept)
    assert (out==4).float().mean().item()==pytest.approx(.25, abs=4*(.25*.75/40000)**.5)
    assert torch.equal(out[out!=4], y[out!=4])
    assert (ar.drop(y)!=out).any()                      # a new draw
    torch.manual_seed(5)
    assert torch.equal(ar.drop(y), out)                 # from torch's generator

def test_labels_are_dropped_in_training_only():
    ar = small(drop_label=.999)
    t,y = batch(ar)
    null = torch.full_like(y, ar.null)
    assert ar.loss(t, y).item()==pytest.approx(ar.eval().loss(t, null).item(), abs=1e-6)
    assert abs(ar.loss(t, y).item()-ar.loss(t, null).item())>1e-4
    none = small(drop_label=0)
    assert none.null is None and torch.equal(none.drop(y), y)

# --- perplexity
# --------------------------------------------------------------------------------------------------------

def test_ppl_weighs_by_tokens():
    ar = small('gpt2')                                  # dropout would show if eval mode were forgotten
    t,y = batch(ar, 7)
    whole = ar.eval().loss(t, y).item()
    ar.train()
    for bs in (1, 3, 7, 100):
        got = ppl(ar, t.view(7, 3, 3).to(torch.uint8), y.to(torch.uint8), bs)
        assert got['loss_nats']==pytest.approx(whole, abs=1e-5)
        assert got['ppl']==pytest.approx(math.exp(whole), rel=1e-5)
    assert ar.training
    with pytest.raises(ValueError, match='span'): ppl(ar, t+50, y)
    assert ar.training                                  # put back after an error, too
    with pytest.raises(ValueError, match='at least one'): ppl(ar, t[:0], y[:0])

def test_bfloat16_is_close():
    ar = small(width=48).eval()
    t,y = batch(ar)
    with torch.autocast('cpu', torch.bfloat16): half = ar.loss(t, y)
    assert half.dtype==torch.float32
    torch.testing.assert_close(half, ar.loss(t, y), atol=.05, rtol=0)

def test_learns_a_rule():
    ar = small(head=False, drop_label=0, n_codes=6, length=6)
    opt = torch.optim.AdamW(ar.parameters(), 1e-2)
    for step in range(80):
        y,first = torch.randint(4, (64,)),torch.randint(6, (64,))
        t = (first[:,None]+y[:,None]*torch.arange(6))%6
        opt.zero_grad()
        ar(t, y).backward()
        opt.step()
    assert math.log(6)/6-.02<ar.loss(t, y).item()<math.log(6)/6+.1  # only the first token is free

# --- the loss in chunks
# --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('half', (False, True))
def test_large_vocabularies_go_in_chunks_with_the_same_loss_and_gradients(arch, half, monkeypatch):
    from iutok.proposals import ar as page
    ar = small(arch, dropout=0., drop_label=0)
    def go():
        ar.zero_grad()
        with torch.autocast('cpu', torch.bfloat16, enabled=half): loss = ar.loss(*batch(ar))
        (3*loss).backward()
        return loss.detach(),[p.grad.clone() for p in ar.parameters()]
    plain,grads = go()
    seen,chunked = [],page.chunked_cross_entropy
    monkeypatch.setattr(page, 'chunked_cross_entropy', lambda *a: seen.append(a[-1]) or chunked(*a))
    for large in (2**23, 300, 20, 1):
        monkeypatch.setattr(page, 'LARGE', large)
        loss,others = go()
        torch.testing.assert_close(loss, plain, atol=2e-6 if not half else 2e-2, rtol=0)
        scale = max(g.abs().max() for g in grads)
        for a,b in zip(others, grads): assert (a-b).abs().max()<(2e-6 if not half else 3e-2)*scale
        with torch.no_grad(): torch.testing.assert_close(ar.loss(*batch(ar)), plain, atol=2e-2, rtol=0)
    assert set(seen)=={300//2//17, 1} and len(seen)>=6       # rows at a time; the largest bound asked for none

# --- orders
# --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('arch', ARCHS)
def test_random_order_is_raster_where_the_order_is_raster(arch):
    plain,net = small(arch).eval(),small(arch, order='random').eval()
    net.load_state_dict(plain.state_dict(), strict=False)
    t,y = batch(net)
    rows = torch.arange(9).expand(5, 9)
    assert torch.equal(net.loss(t, y, rows), net.loss(t, y))  # what evaluation does
    assert torch.equal(net.logits(t, y), net.scores(net.run(net.embed(net.sequence(t, y)[:,:-1]), None, 0, rows)))
    with torch.no_grad():
        for table in (net.place, net.target): table.weight.zero_()
    torch.testing.assert_close(net.loss(t, y), plain.loss(t, y))
    mixed = torch.rand(5, 9, generator=torch.Generator().manual_seed(2)).argsort(1)
    torch.testing.assert_close(net.loss(t, y, mixed), plain.loss(t.gather(1, mixed), y)) # without places: another text

def test_random_order_is_new_in_training_and_knows_where_it_is():
    ar = small(order='random', drop_label=0)
    t,y = batch(ar)
    losses = [ar.loss(t, y).item() for _ in range(4)]
    assert len(set(losses))==4 and ar.eval().loss(t, y).item()==ar.loss(t, y).item()
    swap = torch.tensor([1, 0, *range(2, 9)]).expand(5, 9)
    x = ar.embed(ar.sequence(t, y)[:,:-1])
    a,b = (ar.run(x, None, 0, p) for p in (None, swap))
    assert ((a-b)[:,0].abs()>0).any()                         # the first row is asked for another place

@pytest.mark.parametrize('order', ('spiral', 'random'))
@pytest.mark.parametrize('arch', ARCHS)
def test_orders_sample_what_they_score_and_come_back_in_raster_order(arch, order):
    from iutok.sampling import greedy
    ar = small(arch, order=order).eval()
    for p in ar.parameters():
        if p.ndim>1: nn.init.normal_(p, std=.4)
    y,z = torch.arange(4),torch.zeros(4, 9).long()
    for j in (spiral(9) if order=='spiral' else range(9)):
        with torch.no_grad(): z[:,j] = ar.logits(z, y)[:,j].argmax(-1)
    assert torch.equal(greedy(ar, y), z)
    assert AR(**ar.config()).config()==ar.config() and ar.config()['order']==order
    assert 'order' not in small().config()                    # the identity of a plain network stays
    by_hand = F.cross_entropy(ar.logits(z, y).flatten(0, 1), z.flatten())
    assert ar.loss(z, y)>by_hand and abs(ar.loss(z, y)-by_hand)<2 # classes take a share

def test_spiral_visits_every_place_once_and_steps_to_a_neighbour():
    for side in (1, 2, 5, 16):
        s = spiral(side**2)
        assert torch.equal(s.sort().values, torch.arange(side**2))
        at = torch.stack([s//side, s%side])
        assert (at.diff(dim=1).abs().sum(0)==1).all()
    for kw,said in ((dict(order='spiral', length=8), 'square grid'), (dict(order='hilbert'), 'order must be one of')):
        with pytest.raises(ValueError, match=said): small(**kw)

# --- sharded over processes
# --------------------------------------------------------------------------------------------------------

def sharded(rank, world): # two steps; the batch is dealt out
    ar = small(drop_label=0)
    if world>1:
        from torch.distributed.fsdp import fully_shard
        for b in ar.blocks: fully_shard(b)
        fully_shard(ar)
    t,y = batch(ar, 4)
    mine = slice(rank*4//world, (rank+1)*4//world)
    opt,losses = torch.optim.AdamW(ar.parameters(), 1e-2),[]
    for _ in range(2):
        opt.zero_grad()
        loss = ar(t[mine], y[mine])
        loss.backward()
        opt.step()
        losses.append(loss.detach())
    return ar,torch.stack(losses)

def worker(folder):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    ar,losses = sharded(rank, 2)
    held = sum(p.to_local().numel() for p in ar.parameters())
    whole = get_model_state_dict(ar, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    dist.all_reduce(losses)
    if rank==0:
        save_file(whole, folder/'ar.safetensors')
        torch.save(dict(losses=losses/2, held=held), folder/'out.pt')
    dist.barrier()
    t,y = batch(ar, 4)
    before = ar(t, y).detach()
    ar.reshard()                                              # a forward pass leaves the outermost part whole
    with torch.no_grad():
        for p in ar.parameters(): p.zero_()
    set_model_state_dict(ar, load_file(folder/'ar.safetensors'), options=StateDictOptions(full_state_dict=True))
    assert torch.equal(ar(t, y).detach(), before)             # loaded again, sharded
    dist.destroy_process_group()

@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason='needs torch.distributed with gloo')
def test_sharded_over_two_processes_it_steps_and_saves_as_one_does(tmp_path):
    finish(start_two(__file__, str(tmp_path)))
    ar,losses = sharded(0, 1)
    out = torch.load(tmp_path/'out.pt', weights_only=True)
    torch.testing.assert_close(out['losses'], losses, atol=1e-5, rtol=1e-5)
    assert out['held']<.6*sum(p.numel() for p in ar.parameters())
    for k,v in load_file(tmp_path/'ar.safetensors').items():
        torch.testing.assert_close(v, ar.state_dict()[k], atol=1e-4, rtol=1e-4, msg=k)
    AR(**ar.config()).load_state_dict(load_file(tmp_path/'ar.safetensors'))

if __name__=='__main__': worker(Path(sys.argv[1]))

def test_a_loss_that_nobody_learns_from_makes_no_gradients(monkeypatch):
    x,w,target = torch.randn(20, 4),torch.nn.Parameter(torch.randn(7, 4)),torch.arange(20)%7
    learned = chunked_cross_entropy(x, w, target, 6)
    monkeypatch.setattr(torch.Tensor, 'addmm_', None) # what sums the matrix's gradient
    with torch.no_grad(): assert chunked_cross_entropy(x, w, target, 6)==learned.detach()
    with pytest.raises(TypeError): chunked_cross_entropy(x, w, target, 6)
