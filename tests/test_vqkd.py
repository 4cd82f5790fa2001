"""VQ-KD:
the paper's numbers, the step against a second implementation, and training that can be cut, resumed and spread over
processes."""
import sys
from pathlib import Path
from types import SimpleNamespace
import pytest,torch,torch.nn.functional as F
import iutok.quantizers.ema as ema
from iutok.files import load_json
from iutok.settings import resolve
from iutok.training import fit,seed_everything
from iutok.data import Batch,Batches,load_images
from iutok.distillation import Distil,distil_phase,vqkd_tokenizer
from iutok.pixels import to_float
from iutok.quantizers import VQ
from ranks import finish,start_two
from iutok.recipes import RECIPES,student_tokenizer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'tests'/'benches'))

def small(channels=12, n_codes=16, **kw):
    seed_everything(0)
    return vqkd_tokenizer(channels, 32, 4, n_codes, 8, width=32, depth=1, heads=2, **kw)

def teacher(b): # a frozen function of the bytes, on a finer grid than the student's
    assert b.u8.dtype==torch.uint8
    w = torch.randn(12, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return F.conv2d(b.u8.float()/255-.5, w, stride=2)

def test_named_recipes_are_the_papers():
    row = RECIPES['vqkd-clip-8192']
    with torch.device('meta'):
        tok = student_tokenizer(SimpleNamespace(**row), 512)
        big = student_tokenizer(SimpleNamespace(**RECIPES['vqkd-vit-16384']), 768)
    n = lambda m: sum(p.numel() for p in m.parameters())
    assert (n(tok.encoder), n(tok.feature_decoder), n(tok.quantizer)) == (86_404_640, 8_250_368, 0)
    assert tok.quantizer.codebook.shape==(8192, 32) and big.quantizer.codebook.shape==(16384, 32)
    assert tok.image_size==224 and (row['transform'], row['batch_size'], row['precision'])==('default', 512, 'fp32')
    phase = distil_phase(tok, None, row['steps'], row['lr'], row['lr_final'], row['warmup'], row['betas'],
                         row['weight_decay'], row['warm'])
    groups = phase.optimizer.param_groups
    assert [sum(p.numel() for p in g['params']) for g in groups]==[94_224_384, 430_624]
    assert [g['weight_decay'] for g in groups]==[1e-4, 0]
    ids = [id(p) for g in groups for p in g['params']]
    assert len(ids)==len(set(ids))==189 and set(ids)=={id(p) for p in tok.parameters()}
    assert {(g['betas'], g['eps']) for g in groups}=={((.9, .99), 1e-8)}
    lr = [phase.lr(i-1) for i in (1, 25_001, 250_000)]
    assert lr==pytest.approx([2e-12, 2e-4, 1e-5], rel=1e-4)
    assert phase.module.warm==0

def test_feature_decoder_depth_and_codebook_size_are_free():
    tok = vqkd_tokenizer(12, 32, 4, 5, 3, width=32, depth=1, heads=2, feature_depth=3)
    assert len(tok.feature_decoder.blocks)==3 and tok.quantizer.codebook.shape==(5, 3)
    with pytest.raises(ValueError, match='not a multiple'): vqkd_tokenizer(12, 225, 16)

@pytest.mark.parametrize('lookup', ['after', 'before'])
def test_a_step_is_the_written_formula(lookup):
    tok = small(lookup=lookup)
    tok.quantizer.initialised.fill_(True)
    u8 = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    batch,old = Batch(u8, None, None),tok.quantizer.codebook.clone()
    loss,logs = Distil(tok, teacher).train()(batch, 0)
    n = lambda v: v/v.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    with torch.no_grad():
        x = n(tok.encoder(u8.float()/127.5-1).permute(0, 2, 3, 1).reshape(-1, 8))
        at = (x@n(old).T).argmax(1)
        new = old.clone()
        for k in at.unique(): new[k] = n(.99*old[k]+.01*n(x[at==k].mean(0)))
        e = (new if lookup=='after' else old)[at]
        t = F.interpolate(teacher(batch), (8, 8), mode='bicubic').permute(0, 2, 3, 1).reshape(-1, 12)
        t_hat = tok.feature_decoder(e.view(3, 8, 8, 8).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(-1, 12)
        feature,commitment = (1-(n(t_hat)*n(t)).sum(1)).mean(),(e-x).square().mean()
    assert torch.allclose(tok.quantizer.codebook, new, atol=1e-6)
    assert torch.allclose(logs['feature'], feature, atol=1e-5)
    assert torch.allclose(logs['commitment'], commitment, atol=1e-6)
    assert torch.allclose(loss, feature+commitment, atol=1e-5)

def test_what_moves_and_what_does_not():
    from _step import fine,one_step
    tok,t = small(),torch.nn.Conv2d(3, 12, 4, 4)
    batch = Batch(torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8), None, None)
    phases = dict(kd=distil_phase(tok, lambda b: t(to_float(b.u8)).detach()))
    go = lambda: one_step(phases, batch, 25_000, dict(tok=tok, teacher=t), ('teacher.',),
                          ('tok.quantizer.codebook', 'tok.quantizer.initialised'))
    r = go()
    assert fine(r)
    assert 0<r['losses']['kd']<3
    assert r['parameters']==r['should']+2
    assert r['moved']==r['should']==len(list(tok.parameters()))+2
    assert not any('teacher' in k or 'features' in k for k in phases['kd'].module.state_dict())
    for p in tok.feature_decoder.parameters(): p.requires_grad_(False) # the check can fail
    r = go()
    assert not fine(r)
    assert 'tok.quantizer.initialised' in r['wrong']
    assert 'tok.feature_decoder.fc_norm.weight' in r['wrong']

def test_resumed_in_the_middle_is_bit_equal(tmp_path, monkeypatch):
    starts = []
    inner = ema.data_init
    monkeypatch.setattr(ema, 'data_init', lambda *a, **k: (starts.append(1), inner(*a, **k))[1])
    batches = Batches(load_images('fashion', 'test').take(100), 32, 8, 'default', seed=1)
    def train(folder, **kw):
        tok = small()
        out = fit(dict(kd=distil_phase(tok, teacher, 12, lr=2e-3, warm=.25)), batches, 12, tmp_path/folder, 'same',
                  seed=3, **kw)
        return tok.state_dict(),out
    whole,_ = train('whole')
    assert len(starts)==1
    for stop in (2, 7): # before and after the codebook's start
        cut,_ = train(f'cut{stop}', stop_after=stop)
        assert bool(cut['quantizer.initialised'])==(stop==7)
        starts.clear()
        again,out = train(f'cut{stop}')
        assert out['resumed_at']==stop and len(starts)==(stop==2)
        assert again.keys()==whole.keys() and all(torch.equal(again[k], whole[k]) for k in whole)
        assert not torch.equal(again['quantizer.codebook'], cut['quantizer.codebook'])

def train_six_steps(folder): # what each process runs
    from iutok.files import rank,world_size
    torch.set_num_threads(1)
    seen,tok = [],small()
    def features(b): seen.append(b.idx.tolist()); return teacher(b)
    batches = Batches(load_images('fashion', 'test').take(64), 32, 8, seed=1, rank=rank(), world=world_size())
    fit(dict(kd=distil_phase(tok, features, 6, lr=1e-3, warm=.34)), batches, 6, folder, 'r', precision='fp32')
    other = small()
    other.quantizer = VQ(16, 8) # which gets no gradient while the first steps go around it
    fit(dict(kd=distil_phase(other, teacher, 3, lr=1e-3, warm=.67)), batches, 3, f'{folder}/vq', precision='fp32')
    torch.save(dict(tok=tok.state_dict(), vq=other.state_dict(), seen=seen), f'{folder}/end{rank()}.pt')

@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='needs gloo')
def test_two_processes_share_the_features_and_learn_one_codebook(tmp_path):
    code = f"from test_vqkd import train_six_steps; train_six_steps({str(tmp_path/'two')!r})"
    both = start_two('-c', code)
    train_six_steps(tmp_path/'one')
    finish(both)
    a,b,one = (torch.load(tmp_path/f, weights_only=True) for f in ('two/end0.pt', 'two/end1.pt', 'one/end0.pt'))
    # each process asks for its own half
    assert all(len(s)==4 for s in a['seen']+b['seen']) and [x+y for x,y in zip(a['seen'], b['seen'])]==one['seen']
    for net in ('tok', 'vq'):
        for k in one[net]:
            assert torch.equal(a[net][k], b[net][k]), k
            assert torch.allclose(a[net][k].float(), one[net][k].float(), atol=1e-4), k

def test_trained_at_224_used_at_256():
    seed_everything(0)
    tok = vqkd_tokenizer(12, 224, 16, 32, 8, width=32, depth=1, heads=2).eval()
    u8 = torch.randint(256, (1, 3, 256, 256), dtype=torch.uint8)
    assert tok.encode(u8).shape==(1, 14, 14)
    tok.image_size = 256
    assert tok.encode(u8).shape==(1, 16, 16)
    with torch.no_grad(): assert tok.feature_decoder(tok.quantize(to_float(u8)).z_q).shape==(1, 12, 16, 16)
    wide = torch.randint(256, (1, 3, 224, 320), dtype=torch.uint8)
    assert tok.quantize(to_float(wide)).idx.shape==(1, 14, 20)
    whole,left = tok.quantize(to_float(wide)).idx,tok.encoder.pos_embed.clone()
    with torch.no_grad(): tok.encoder.pos_embed[:, 1:] += torch.randn_like(left[:, 1:])
    assert not torch.equal(tok.quantize(to_float(wide)).idx, whole) # positions matter off the native grid, too

def test_full_size_step_with_a_teacher_of_clips_shape():
    from _step import fine
    from vqkd import paper_step
    r = paper_step('clip')
    # a cosine of about 0 between random features, and a small commitment
    assert fine(r) and r['should']==191 and .5<r['losses']['kd']<1.5

def test_the_ablation_plan_can_be_run_and_its_records_are_of_it():
    folder = ROOT/'nbs'/'results'/'ablations'
    plan = load_json(folder/'plan.json')
    base = resolve('train_vqkd', plan['base']['params'])
    for name,row in plan.items():
        p = resolve(row['notebook'], row['params'])
        changed = {k for k in p if p[k]!=base[k]}
        assert changed<={'teacher_size','n_codes','dim'} and len(changed)==1 if row['axis'] not in ('all',
            "CLIP's projection") else changed<={'teacher','project'}, name
        if (folder/f'{name}.json').exists():
            r = load_json(folder/f'{name}.json')
            assert all(r['params'][k]==v for k,v in row['params'].items())
            assert not r['git']['dirty']
            assert {'usage', 'codebook_perplexity','probe_mean','probe_grid'}<=set(r['metrics'])
    assert {p.stem for p in folder.glob('*.json')}-{'plan'}<=set(plan)

@pytest.mark.parametrize('name', ['random','pixels','edges'])
def test_a_teacher_that_understands_nothing_can_be_learned_from(name, tmp_path):
    from iutok.teachers import load_teacher
    from iutok.tokenizers import Tokenizer,teacher_side
    images = load_images('fashion', 'train').take(200)
    t = load_teacher(name, 'smoke', size=teacher_side(name, 8, 'smoke'))
    tok = small(t.info.dim)
    phase,losses = distil_phase(tok, lambda b: t(b.u8), 30, lr=2e-3, warmup=0.),[]
    phase.module.register_forward_hook(lambda m, i, o: losses.append(o[1]['feature'].item()))
    fit(dict(kd=phase), Batches(images, 32, 16), 30, tmp_path/'run', 'x', precision='fp32')
    assert len(losses)==30 and sum(losses[-5:])<.9*sum(losses[:5]), losses
    idx = tok.encode(images.batch(range(20), 32))
    assert len(idx.unique())>4
    tok.save(tmp_path)
    assert torch.equal(Tokenizer.load(tmp_path).encode(images.batch(range(20), 32)), idx)
