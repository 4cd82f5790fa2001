"The plan of large runs: its record is what the bench would write, and its hours are the closed form."
import importlib.util,json
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT/'nbs/results/scale/rows.json').read_text())
CELLS = [''.join(c['source']) for c in json.loads((ROOT/'nbs/at_scale.ipynb').read_text())['cells']
         if c['cell_type']=='code']

@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT/'tests'/'benches')
    spec = importlib.util.spec_from_file_location('bench_scale', ROOT/'tests'/'benches'/'scale.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def test_the_record_is_of_the_bench(bench, monkeypatch): # its own rows, all of them
    monkeypatch.setattr(bench, 'child', lambda *_: dict(seconds=1., mb=1.))
    monkeypatch.setattr(bench, 'MORE', 1)
    assert [(r['work'], r['peer'], r['unit']) for r in bench.rows()]==[
        (r['work'], r['peer'], r['unit']) for r in RECORD['rows']]
    assert RECORD['machine']['cpu'] and '/' not in RECORD['machine']['cpu']

@pytest.mark.parametrize('name', ['shards', 'kmeans', 'statistics', 'batches', 'index', 'pictures', 'lookup'])
def test_a_work_can_be_measured(bench, name): # at a small size
    made = bench.measured(name, 100)
    assert made['seconds']>=0 and made['mb']>=0

def page(*starts): # names that some cells of the page define
    names = {}
    for c in CELLS:
        if c.startswith(starts): exec(c, names)
    return names

def test_the_slowest_part_decides():
    p = page('GPU = ', 'def stage(')
    second = p['SHARE']*p['GPU']['bf16'] # operations of a GPU in one
    for kind,given in dict(GPUs=dict(operations=8*3600*second), CPUs=dict(read=8*3600*p['CORES']),
                           network=dict(brought=3600*p['NET'])).items():
        s = p['stage']('x', 8, **given)
        assert s['hours']==pytest.approx(1) and s['waits']==f'for {kind}'
        assert p['stage']('x', 16, **given)['hours']==pytest.approx(.5)
    both = p['stage']('x', 8, operations=8*3600*second, read=99*8*3600*p['CORES'], word='bf16')
    assert both['waits']=='for CPUs' and both['hours']==pytest.approx(99)
    slow = p['stage']('x', 8, operations=second, word='fp32')['hours']/p['stage']('x', 8, operations=second)['hours']
    assert slow==pytest.approx(p['GPU']['bf16']/p['GPU']['fp32'])
