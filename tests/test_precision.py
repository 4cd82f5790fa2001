"The machine decides the arithmetic, once, and the record says which."
import re
from pathlib import Path
import pytest, torch
import iutok.precision as precision
from iutok.runs import Run
from iutok.precision import arithmetic, autocast, cpu_kind
from iutok.teachers import load_teacher
from clone import script
from test_resume import ends, rows, same, train

ROOT = Path(__file__).parents[1]

def machine(monkeypatch, native): # as if this CPU multiplied bfloat16 natively, or did not
    monkeypatch.setattr(precision, 'fast_bfloat16', lambda device='cpu': native)

@pytest.mark.parametrize('native, word', [(True, 'bf16'), (False, 'fp32')])
def test_auto_is_what_the_machine_does_best(monkeypatch, native, word):
    machine(monkeypatch, native)
    assert arithmetic('auto', 'cpu')==word
    assert load_teacher('effnet', pretrained=False).fast is native

def test_explicit_bfloat16_on_a_slow_cpu_is_obeyed_with_its_price(monkeypatch):
    machine(monkeypatch, False)
    with pytest.warns(UserWarning, match='5 to 10 times as long as float32') as seen:
        assert arithmetic('bf16', 'cpu')=='bf16'
    assert len(seen)==1
    machine(monkeypatch, True)
    assert arithmetic('bf16', 'cpu')=='bf16'

def test_the_context_multiplies_in_what_its_word_says():
    a = torch.ones(2, 2)
    for word,dtype in dict(bf16=torch.bfloat16, fp32=torch.float32).items():
        with autocast(word): assert (a@a).dtype==dtype

@pytest.mark.parametrize('caps, capability, native', [
    ({}, 'AVX512', True), (dict(ONEDNN_MAX_CPU_ISA='AVX512_CORE_BF16'), 'AVX512', True),
    (dict(ONEDNN_MAX_CPU_ISA='AVX512_CORE_AMX'), 'AVX512', True), (dict(ONEDNN_MAX_CPU_ISA='avx2'), 'AVX512', False),
    (dict(DNNL_MAX_CPU_ISA='AVX512_CORE_VNNI'), 'AVX512', False), ({}, 'AVX2', False)])
def test_a_cpu_whose_instructions_are_capped_is_what_the_caps_leave(monkeypatch, caps, capability, native):
    for k in ('ONEDNN_MAX_CPU_ISA', 'DNNL_MAX_CPU_ISA'): monkeypatch.delenv(k, raising=False)
    for k,v in caps.items(): monkeypatch.setenv(k, v)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: True)
    assert precision.fast_bfloat16('cpu') is native and arithmetic('auto', 'cpu')==('bf16' if native else 'fp32')

@pytest.mark.parametrize('begins', [True, False], ids=['begins in bf16', 'begins in fp32'])
def test_a_run_goes_on_in_the_arithmetic_it_began_with_on_another_machine(tmp_path, monkeypatch, capsys, begins):
    "Bit for bit as if it had stayed where it was."
    machine(monkeypatch, begins)
    train(tmp_path/'stayed')
    train(tmp_path/'moved', stop_after=6)
    machine(monkeypatch, not begins)
    out = train(tmp_path/'moved')
    word = 'bf16' if begins else 'fp32'
    assert out['resumed_at']==6 and out['precision']==word
    assert f'This run began in {word} and goes on in it' in capsys.readouterr().out
    same(ends(tmp_path/'stayed'), ends(tmp_path/'moved'))
    assert rows(tmp_path/'stayed')==rows(tmp_path/'moved')

def test_a_record_holds_what_was_used_and_an_identity_what_was_asked_for(tmp_path):
    a,b = (Run('train_vqgan', dict(profile='mini', precision='auto', seed=0), tmp_path/w, arithmetic=w)
           for w in ('bf16', 'fp32'))
    assert a.id==b.id
    assert (a.record({})['arithmetic'], b.record({})['arithmetic'])==('bf16', 'fp32')
    assert a.record({})['hardware'].items()>=cpu_kind().items()

def test_what_a_comparison_freezes_is_the_arithmetic_that_was_used():
    from types import SimpleNamespace
    from iutok.recipes import pixel_recipe
    run = lambda used: SimpleNamespace(params=dict(precision='auto'), arithmetic=used)
    assert pixel_recipe(run('bf16'))['precision']=='bf16' and pixel_recipe(run('fp32'))['precision']=='fp32'

def test_a_tokenizer_says_nothing_about_the_machine_that_saved_it(tmp_path, monkeypatch):
    "Same files, same hash; each machine runs it in its own best arithmetic."
    from iutok.quantizers import Fixed
    from iutok.tokenizers import TeacherEncoder, Tokenizer
    def make(native):
        machine(monkeypatch, native)
        torch.manual_seed(0)
        encoder = TeacherEncoder('effnet', size=32)
        return Tokenizer(encoder, Fixed(8, encoder.teacher.info.dim), image_size=32)
    a,b = make(True),make(False)
    a.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert a.fingerprint()==b.fingerprint()==loaded.fingerprint() and a.encoder.config()==b.encoder.config()
    assert a.encoder.teacher.fast and not b.encoder.teacher.fast and not loaded.encoder.teacher.fast

def test_ids_hardly_depend_on_the_arithmetic():
    "Float32 wherever a tokenizer is loaded; what bfloat16 would change is measured and small."
    from iutok.data import load_images
    from iutok.evaluation import ids_that_differ
    from iutok.files import load_json
    from iutok.quantizers import FSQ
    from iutok.nets.conv import ConvEncoder
    from iutok.tokenizers import Tokenizer
    torch.manual_seed(0)
    body = dict(width=8, n_res=1, attention=False, refine=False)
    tok = Tokenizer(ConvEncoder(mults=(1, 1), out_channels=2, **body), FSQ([3, 3]), image_size=32)
    u8 = load_images('fashion', 'test').batch(range(8), 32)
    exact = tok.encode(u8)
    assert 0<=ids_that_differ(tok, u8)<.2 and torch.equal(tok.encode(u8), exact)
    shares = load_json(ROOT/'nbs'/'results'/'table1_quick'/'arithmetic.json')
    assert {'VQGAN', 'VQ-KD (effnet)', 'Cluster (effnet)'}<=set(shares) and max(shares.values())<.2

def test_no_other_place_decides():
    "Only the precision chapter names the instruction sets, and nothing else turns bfloat16 on by itself."
    for path in (ROOT/'iutok').rglob('*.py'):
        if path.name in ('precision.py', '_modidx.py'): continue
        text = path.read_text()
        assert not re.search(r'avx512_bf16|amx_tile|autocast\([^)]*bfloat16', text), path.name

@pytest.mark.parametrize('where', ['pixels', 'small-s0'])
def test_a_table_refuses_rows_of_unlike_arithmetic(where):
    import copy
    from iutok.analysis import check_frozen
    frozen = {'pixels':dict(precision='fp32'), 'small-s0':dict(network={}, budget=dict(precision='fp32'), order='x')}
    a = dict(run='vqgan-s0-scores', trained=dict(seed=0), frozen=frozen)
    b = copy.deepcopy(a) | dict(run='fsq-s0-scores')
    check_frozen([a, b])
    part = b['frozen'][where]
    part.get('budget', part)['precision'] = 'bf16'
    with pytest.raises(ValueError, match='(?=.*precision)(?=.*bf16)(?=.*fp32)') as e: check_frozen([a, b])
    assert 'vqgan-s0-scores and fsq-s0-scores cannot stand in one table' in str(e.value)

@pytest.mark.parametrize('half, turned, ok', [
    (1.01, 1.001, True), (.99, .995, True), (1.03, 1., False), (.82, 1., False), (float('nan'), 1., False),
    (.82, .44, None), (1., 1.03, None), (1., float('nan'), None)]) # losses, where float32 ends at 1
def test_a_loss_in_bfloat16_is_judged_on_both_sides_or_not_at_all(monkeypatch, half, turned, ok):
    monkeypatch.syspath_prepend(ROOT/'tests'/'benches')
    import bf16
    losses = {'fp32':1., 'fp32:turned':turned, 'bf16':half}
    monkeypatch.setattr(bf16, 'child', lambda _, what: dict(loss=losses[what.partition(':')[2]]))
    rows = list(bf16.rows())
    assert [r['ok'] for r in rows]==[None, ok]*len(bf16.LOSS)
    bench = script('bench')
    assert bench.show(rows[1]).split('loss')[-1].split()[1:4]==['0.98', 'to', '1.02']
    assert bench.show(rows[1]).endswith({True:'ok', False:'MISSED', None:'against itself'}[ok])
    assert ('not judgeable' in bench.show(rows[1]))==(ok is None) and not bench.show(rows[0]).endswith('itself')

@pytest.mark.parametrize('turned', [False, True])
def test_the_bench_of_bfloat16_trains(monkeypatch, turned): # it says how far the two end from each other
    monkeypatch.syspath_prepend(Path(__file__).parent/'benches')
    import bf16, trainers
    for k in ('STEPS', 'RATE', 'SIDE', 'IMAGES'): monkeypatch.setattr(trainers, k, getattr(trainers, k))
    few,more = (bf16.left('vqkd', 'fp32', turned, steps)['loss'] for steps in (10, 60))
    assert 0<more<few
