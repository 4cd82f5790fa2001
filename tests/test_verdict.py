"Reproduced or not: a table is held against the committed one within what seeds and machines leave."
import copy, json
from pathlib import Path
import numpy as np, pytest
from clone import script
from iutok.files import load_json
from iutok.plan import Choice, lists_of, run_named
from iutok.verdict import say_verdict, seed_noise, verdict

ROOT = Path(__file__).parents[1]
ROWS = load_json(ROOT/'nbs'/'results'/'table1_mini'/'records.json')

def nudged(k, factor, name='fsq-s0-scores'): # the committed rows with one number changed
    rows = copy.deepcopy(ROWS)
    next(r for r in rows if r['run']==name)['metrics'][k] *= factor
    return rows

def test_a_table_reproduces_itself():
    cells = verdict(ROWS, ROWS)
    assert cells.within.all() and len(cells)>=13*10 and (cells.tolerance>0).all()

@pytest.mark.parametrize('factor, within', [(1.001, True), (1.5, False), (.5, False)])
def test_a_nudge_is_within_and_a_push_is_not(factor, within):
    cells = verdict(nudged('psnr', factor), ROWS)
    cell = cells[(cells.row=='FSQ') & (cells.column=='psnr')].iloc[0]
    assert cell.within==within and cells.within.sum()==len(cells)-(not within)
    assert ('OUTSIDE' in say_verdict(cells))==(not within)

def test_one_seed_has_more_room_than_the_mean_of_two():
    one = verdict([r for r in ROWS if r['trained']['seed']==0], ROWS).set_index(['row', 'column'])
    two = verdict(ROWS, ROWS).set_index(['row', 'column'])
    a,b = one.loc[('VQGAN', 'psnr')],two.loc[('VQGAN', 'psnr')]
    assert a.tolerance/a.committed==pytest.approx(b.tolerance/b.committed*2**.5)

def test_one_committed_seed_takes_its_room_from_records_with_several():
    one = [r for r in ROWS if r['trained']['seed']==0]
    cells = verdict(one, one, ROWS)
    assert cells.within.all() and len(cells)>=13*10 and (cells.tolerance>0).all()
    with pytest.raises(ValueError, match='several seeds'): verdict(one, one)

def test_noise_is_the_pooled_spread_of_seeds():
    a,b = (np.array([r['metrics']['psnr'] for r in ROWS if r['trained']['seed']==s]) for s in (0, 1))
    mean = (a+b)/2
    want = np.sqrt((((a/mean-1)**2+(b/mean-1)**2).sum())/len(a))
    assert seed_noise(ROWS)['psnr']==(pytest.approx(want), len(a))

def test_other_arithmetic_is_compared_and_other_sizes_are_not():
    rows = copy.deepcopy(ROWS)
    for r in rows: r['frozen']['pixels']['precision'] = 'fp32'
    assert verdict(rows, ROWS).within.all()
    for r in rows: r['frozen']['pixels']['steps'] = 400
    with pytest.raises(ValueError, match='other sizes and are not compared: .*pixels.steps is 400 and 500'):
        verdict(rows, ROWS)
    for r in rows: r['trained']['seed'] += 7
    with pytest.raises(ValueError, match='no VQGAN with seed 7'): verdict(rows, ROWS)

def test_two_worlds_are_never_held_against_each_other():
    rows = copy.deepcopy(ROWS)
    for r in rows: r['frozen']['pixels']['image_size'] = 64
    with pytest.raises(ValueError, match='image_size is 64 and 32'): verdict(rows, ROWS)

# --- the words and the costs of scripts/reproduce

def test_cost_is_that_of_the_records_scaled_by_the_two_machines():
    line = script('reproduce').cost_line('as the committed ones took', [600.]*4, 100e9, 50e9, 2)
    for said in ('4 runs, as the committed', '40 minutes of one core at 100 GFLOP/s', 'about 40 minutes on 2 cores'):
        assert said in line

def test_a_run_that_nobody_made_has_an_estimate_by_its_steps():
    r,lists = script('reproduce'),lists_of('mini', 'emoji')
    quick = [dict(notebook='train_ar', params=dict(size='small', steps=100), seconds=s) for s in (50., 70.)]
    def seconds(name, steps):
        c = Choice('mini', 'emoji', overrides=dict(train_ar=dict(steps=steps)))
        return r.estimated(run_named(name, lists), c, quick)
    assert seconds('vqgan-s0-ar-small-s0', 400)==pytest.approx(4*60)
    assert seconds('vqgan-s0-ar-large-s0', 100)==pytest.approx(r.LIKE['train_ar-large'][1]*60)
    assert r.estimated(run_named('vqgan-s0', lists), Choice('mini', 'emoji'), quick) is None

def test_the_cost_of_a_plan_says_what_is_known_and_what_is_estimated(monkeypatch, capsys, tmp_path):
    r = script('reproduce')
    monkeypatch.setattr(r, 'machine_rate', lambda: 70e9)
    quick = ROOT/'nbs'/'results'/'table1_quick'
    took = next(x['seconds'] for x in load_json(quick/'runs.json') if x['run']=='vqgan-s0')
    runs = [run_named(n, lists_of('quick')) for n in ('vqgan-s0', 'vqgan-s7', 'fsq-s0-ar-large-s0')]
    r.plan(runs, quick, Choice('quick'), 2)
    said = capsys.readouterr().out
    for part in (f'{took:.0f} s when', 's, like 2 of train_vqgan', '2 runs, as the committed', 'other 1 runs',
                 '3 runs to make'):
        assert part in said, said
    c = Choice('mini', 'emoji')
    r.plan([run_named('vqgan-s0', lists_of('mini', 'emoji'))], quick.with_name('table1_emoji_mini'), c, 2)
    assert 's, estimated' in (said := capsys.readouterr().out) and f'1 runs, {r.GUESS}' in said

@pytest.mark.parametrize('args, said', [
    (['--teachers', 'efnet'], "no teacher 'efnet'"), (['--teachers', 'timm:a/b'], "no teacher 'timm:a/b'"),
    (['full', '--profile', 'smoke'], 'full is the profile mini'), (['--cores', '0'], 'at least 1'),
    (['emoji', '--profile', 'paper'], 'leave emoji out'), (['emoji', '--teachers', 'clip_large'], 'in colour'),
    (['emoji', '--teachers', 'dinov2'], "no teacher 'dinov2' in colour")])
def test_words_of_reproduce_are_judged_before_anything_runs(monkeypatch, args, said):
    monkeypatch.setattr('sys.argv', ['reproduce', *args])
    with pytest.raises(SystemExit, match=said): script('reproduce').arguments()

@pytest.mark.parametrize('args, world, profile', [
    ([], 'fashion', 'quick'), (['full'], 'fashion', 'mini'), (['fashion'], 'fashion', 'quick'),
    (['--profile', 'smoke'], 'fashion', 'smoke'), (['full', 'train_ar.steps=3'], 'fashion', 'mini'),
    (['emoji'], 'emoji', 'quick'), (['emoji', 'full'], 'emoji', 'mini'), (['full', 'emoji', '-n'], 'emoji', 'mini'),
    (['emoji', 'full', 'train_ar.steps=3'], 'emoji', 'mini'), (['emoji', '--profile', 'smoke'], 'emoji', 'smoke')])
def test_words_of_reproduce_name_a_world_and_sizes(monkeypatch, args, world, profile):
    monkeypatch.setattr('sys.argv', ['reproduce', *args])
    a = script('reproduce').arguments()
    assert (a.world, a.profile)==(world, profile) and a.words in ([], ['train_ar.steps=3']) and not a.targets

def test_a_network_whose_size_has_an_underscore_is_judged_too():
    rows = json.loads(json.dumps(ROWS).replace('"small"', '"llama_medium"'))
    cells = verdict(rows, rows)
    assert 'gfd_llama_medium' in set(cells.column) and cells.within.all()
