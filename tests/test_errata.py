"Every trap of the errata page is there once or more, and names a test or a chapter that exists; its lines run."
import ast, json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
CELLS = json.loads((ROOT/'nbs'/'errata.ipynb').read_text())['cells']
ROWS = [[c.strip() for c in l.strip('|').split(' | ')] for c in CELLS if c['cell_type']=='markdown'
        for l in ''.join(c['source']).splitlines() if re.match(r'\| [ATB]\d', l)]

def test_every_trap_of_the_specification_has_a_row():
    there = {t.strip() for r in ROWS for t in r[0].split(',')}
    assert there=={f'A{i}' for i in range(1, 23)} | {f'T{i}' for i in range(1, 38)} | {f'B{i}' for i in range(1, 13)}

def test_a_row_says_what_they_do_and_what_iutok_does_in_a_sentence_each():
    for row in ROWS:
        assert len(row)==4, row
        assert all(10<len(t)<260 and t.endswith('.') for t in row[1:3]) or row[2] in ('A copy.', 'As it means.'), row

@pytest.mark.parametrize('row', ROWS, ids=lambda r: r[0])
def test_its_test_or_chapter_exists(row):
    links = re.findall(r'\[([^\]]+)\]\(([^)]+)\)', row[3])
    assert links
    for said,where in links:
        path = ROOT/'nbs'/where
        assert path.resolve().exists(), where
        if '::' not in said: continue
        file,test = said.split('::')
        assert Path(where).stem==file
        assert test in {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)}, said

def test_the_demonstrations_show_what_the_rows_say(tmp_path):
    source = [''.join(c['source']) for c in CELLS if c['cell_type']=='code' and not c['metadata'].get('tags')]
    names = dict(numbers={})
    for s in source:
        if 'start_run(' in s or 'run.record' in s: continue
        exec(s.replace('from iutok.runs import start_run\n', ''), names)
    n = names['numbers']
    assert (n['levels_lost'], n['levels_lost_when_rounded'])==(63, 0)
    assert n['darker_by']==pytest.approx(.5, abs=.01)
    assert n['restart_with_flag']<.01 and n['restart_without']>1
    assert (n['share_once'], n['share_twice'])==pytest.approx((.99, .9801), abs=1e-6)
    assert n['cosine_mean']==pytest.approx(n['arccos_mean'], abs=1e-4)==pytest.approx(2/3.14159265, abs=1e-3)
    assert n['cosine_above_9_tenths']>1.5*n['arccos_above_9_tenths']
    assert n['masks_left_by_the_rule']==1 and n['classes_of_the_same_number']<100
