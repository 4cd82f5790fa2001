"A record is found, planned, run again and compared; what cannot be run again says why."
import copy
from pathlib import Path
import pytest
from clone import script
from iutok.files import load_json,save_json
from iutok.settings import resolve
from iutok.verify import chain,compare,find_record,kind_of_machine,matches,numbers,spread_of,why_not,words_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT/'nbs'/'results'
QUICK = RESULTS/'table1_quick'/'runs.json'
RUNS = {r['run']:r for r in load_json(QUICK)}

@pytest.mark.parametrize('file', sorted(RESULTS.glob('*/runs.json')), ids=lambda f: f.parent.name)
def test_every_committed_run_can_be_run_again_or_says_what_is_missing(file):
    known = {r['run']:r for r in load_json(file)}
    for r in known.values():
        assert why_not(r) is None
        try: assert chain(r, known)[-1] is r
        except ValueError as e: # a page that keeps its rows alone says so
            assert 'whose record is not here' in str(e) and not file.parent.name.startswith(('table1_', 'table3_'))
        words = dict(w.split('=', 1) for w in words_of(r, {}, 'runs/verify'))
        assert words['name']==r['run'] and words['run_root']=='runs/verify'

def test_the_words_give_the_same_parameters_and_the_new_places():
    from iutok.settings import parse_words
    r = RUNS['fsq-s0-scores']
    places = {u['run']:f"/tmp/new/{u['run']}" for u in r['uses'].values()}
    now = resolve('evaluate', parse_words('evaluate', words_of(r, places, '/tmp/new')))
    assert (now['tokenizer'], now['ars'])==('/tmp/new/fsq-s0', ['/tmp/new/fsq-s0-ar-small-s0'])
    for k,v in r['params'].items():
        if k not in ('tokenizer', 'ars'): assert now[k]==v

def changed(r, **kw): return copy.deepcopy(r) | kw

def test_machines_of_one_kind_repeat_themselves_and_others_are_draws():
    a,spread = RUNS['vqgan-s0-scores'],spread_of(RUNS.values())
    near = changed(a, metrics={k:v*(1+3e-5) for k,v in a['metrics'].items()})
    assert matches(compare(a, near)) and {c.says for c in compare(a, near)}=={'equal'}
    moved = changed(a, metrics=a['metrics'] | dict(rfd=a['metrics']['rfd']*1.05))
    assert not matches(compare(a, moved)) or [c.name for c in compare(a, moved) if c.says=='OUTSIDE']==['rfd']
    for hw in (dict(native_bf16=False), dict(threads=2), dict(capability='AVX2'), dict(cpu='another')):
        there = changed(moved, hardware=a['hardware'] | hw)
        assert kind_of_machine(there)!=kind_of_machine(a)
        cell = {c.name:c for c in compare(a, there, spread)}['rfd']
        assert cell.says=='within' and matches(compare(a, there, spread))
    far = changed(there, metrics=a['metrics'] | dict(rfd=a['metrics']['rfd']*3))
    assert {c.name:c for c in compare(a, far, spread)}['rfd'].says=='OUTSIDE'
    assert not matches(compare(a, changed(there, metrics={}, generations=[]), spread)) # nothing came back
    assert {c.says for c in compare(a, there)}=={'equal', 'unknown'}

def test_times_are_no_numbers():
    assert not [k for r in RUNS.values() for k in numbers(r) if 'seconds' in k]
    t2i = load_json(RESULTS/'table3_emoji_quick'/'runs.json')
    assert all(numbers(r) for r in t2i)

BAD = [(lambda r: r.pop('params'), 'is no record of a run'), (lambda r: r.update(notebook='train_x'), 'no such runner'),
       (lambda r: r['params'].update(data='imagenet'), 'data_root=PATH'),
       (lambda r: r.update(processes=4), '4 processes'),
       (lambda r: r['params'].update(data='folder:/no/such'), 'that folder is not here'),
       (lambda r: r['params'].update(colour='red'), "no parameter 'colour'"),
       (lambda r: r['hardware'].update(gpus=['A100']), 'no GPU')]
@pytest.mark.parametrize('spoil, said', BAD, ids=[s for _,s in BAD])
def test_why_not(spoil, said, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    r = copy.deepcopy(RUNS['fsq-s0'])
    spoil(r)
    assert said in why_not(r)

def test_run_folders_are_found_with_what_lies_beside_them(tmp_path):
    for n in ('fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-scores'): save_json(tmp_path/n/'record.json', RUNS[n])
    for what in (tmp_path/'fsq-s0-scores', tmp_path/'fsq-s0-scores'/'record.json'):
        record,known = find_record(str(what))
        assert [r['run'] for r in chain(record, known)]==['fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-scores']
    with pytest.raises(ValueError, match='did not finish'): find_record(str(tmp_path))

def test_what_a_run_is_built_on_may_lie_elsewhere(tmp_path):
    there = {n:str(tmp_path/f'there{i}'/n) for i,n in enumerate(('fsq-s0', 'fsq-s0-ar-small-s0'))}
    for n,p in there.items():
        built = dict(tokenizer=there['fsq-s0']) if n!='fsq-s0' else {}
        save_json(Path(p)/'record.json', RUNS[n] | dict(params=RUNS[n]['params'] | built))
    params = RUNS['fsq-s0-scores']['params'] | dict(tokenizer=there['fsq-s0'], ars=[there['fsq-s0-ar-small-s0']])
    save_json(tmp_path/'here'/'fsq-s0-scores'/'record.json', RUNS['fsq-s0-scores'] | dict(params=params))
    record,known = find_record(str(tmp_path/'here'/'fsq-s0-scores'))
    assert [r['run'] for r in chain(record, known)]==['fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-scores']

# --- scripts/verify, with runs that are made up

@pytest.fixture
def verify(monkeypatch, tmp_path):
    v = script('verify')
    monkeypatch.setattr(v, 'ROOT', tmp_path)
    made = []
    def rerun(record, places, root, more):
        made.append(record['run'])
        save_json(tmp_path/record['run']/'record.json', v.answer(record))
        return tmp_path/record['run']
    monkeypatch.setattr(v, 'rerun', rerun)
    v.answer,v.made = lambda r: r,made
    return v

def code(v, *args):
    with pytest.raises(SystemExit) as e: v.main([*args])
    return e.value.code

def test_all_that_is_missing_is_made_and_the_exit_code_tells(verify, capsys):
    what = f'{QUICK}:fsq-s0-scores'
    assert code(verify, what)==0 and verify.made==['fsq-s0', 'fsq-s0-ar-small-s0', 'fsq-s0-scores']
    assert 'fsq-s0-scores: matches' in capsys.readouterr().out
    verify.answer = lambda r: r | dict(metrics={k:v*1.1 for k,v in r['metrics'].items()})
    assert code(verify, what)==1 and 'OUTSIDE' in capsys.readouterr().out

def test_what_is_there_is_used_and_all_makes_it_again(verify, tmp_path):
    save_json(tmp_path/'runs'/'quick'/'fsq-s0'/'record.json', RUNS['fsq-s0'])
    what = f'{QUICK}:fsq-s0-scores'
    assert code(verify, what)==0 and verify.made==['fsq-s0-ar-small-s0', 'fsq-s0-scores']
    verify.made.clear()
    assert code(verify, '--all', what)==0 and len(verify.made)==3
    verify.made.clear()
    save_json(tmp_path/'runs'/'quick'/'fsq-s0'/'record.json', RUNS['fsq-s0'] | dict(id='another'))
    assert code(verify, what)==0 and len(verify.made)==3

def test_a_plan_runs_nothing(verify, capsys):
    verify.main(['-n', f'{QUICK}:fsq-s0-scores'])
    out = capsys.readouterr().out
    assert '61 s when it was recorded' in out and '3 runs to make; nothing was run.' in out and not verify.made

@pytest.mark.parametrize('args, said', [
    ([], 'name one record'), (['-x', 'a'], 'no option -x'), ([f'{QUICK}:nothing'], "holds no run 'nothing'"),
    (['no/such/run'], 'does not exist'), ([f'{QUICK}:fsq-s0', 'flux=3'], "no parameter 'flux'")])
def test_words_are_judged_first(verify, capsys, args, said):
    assert code(verify, *args)==2 and said in capsys.readouterr().err and not verify.made
