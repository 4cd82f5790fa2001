"Every number leads back to its record, and rows that were measured otherwise share no column."
import copy
from html.parser import HTMLParser
from pathlib import Path
import pandas as pd, pytest
from iutok.files import load_json
from iutok.intervals import Best
from iutok.metrics.scores import UNKNOWN,Protocol
from iutok.provenance import Linked,linked_html,protocol_of,source_of
from iutok.verdict import best_cells

ROOT = Path(__file__).parents[1]
RESULTS = ROOT/'nbs'/'results'
ROWS = load_json(RESULTS/'table1_quick'/'records.json')

class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.cells,self.bold = [],[]
        self.open = []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag=='td': self.cells.append(['', dict(attrs).get('title', '')])
    def handle_endtag(self, tag): assert self.open.pop()==tag # nothing left open
    def handle_data(self, data):
        if 'td' in self.open: self.cells[-1][0] += data
        if 'b' in self.open: self.bold.append(data)

def linked(rows, **kw):
    t = pd.DataFrame({'rFD <1>':['2.1', ''], 'usage':['99%', '98%']}, ['A & "B"', 'C'])
    return Linked(t, {'A & "B"':rows[:2], 'C':rows[2:4]}, {'rFD <1>':'rfd'}, **kw)

def test_every_number_names_its_records_and_nothing_breaks_the_html():
    best = {'rFD <1>':Best('A & "B"', True, .001, 'some test')}
    page = Cells(linked_html(linked(ROWS, best=best, file='nbs/results/x.json')))
    assert [c[0] for c in page.cells]==['2.1', '99%', '', '98%'] and page.open==[]
    for text,title in page.cells:
        assert bool(text)==bool(title)
        if text: assert title.count('commit 17d769b')==2 and title.count('nbs/results/x.json')==2
    assert page.cells[0][1].count('protocol b155ec67')==2 and 'protocol' not in page.cells[1][1]
    assert page.bold==['2.1'] and 'p = 0.001' in page.cells[0][1]

def test_plain_text_says_it_by_name():
    said = repr(linked(ROWS, file='nbs/results/x.json'))
    runs = [r['run'] for r in ROWS[:4]]
    for word in (*runs, '17d769b', 'b155ec67', 'scripts/verify nbs/results/x.json:RUN', 'AVX512'):
        assert word in said

def test_other_protocols_share_no_column_and_rows_need_records():
    rows = copy.deepcopy(ROWS)
    rows[1]['frozen']['score']['n_images'] = 77
    says = 'cannot stand in one column, rFD <1>: .*2,500 images against .* here, .*77 images'
    with pytest.raises(ValueError, match=says): linked(rows)
    with pytest.raises(ValueError, match='where the row C comes from'): linked(ROWS[:2])

@pytest.mark.parametrize('file', sorted(RESULTS.glob('table1_*/records.json')), ids=lambda f: f.parent.name)
def test_committed_records_are_read(file):
    for r in load_json(file):
        p = protocol_of(r, 'rfd')
        assert p.record | dict(r['protocol'], hash=p.hash)==p.record and p.frozen==r['frozen']['score']
        assert p.guidance==UNKNOWN and Protocol.read(p.record)==p
        if r['generations']: assert protocol_of(r, f"gfd_{r['generations'][0]['size']}").frozen==r['frozen']['samples']
        if r.get('judge'): assert protocol_of(r, 'judge_rfd').fd_name=='FD-lite2'
        assert protocol_of(r, 'usage') is None and source_of(r, 'rfd').protocol==p.hash

def test_complete_protocols_of_later_records_come_first():
    r = copy.deepcopy(ROWS[0])
    g,p = r['generations'][0],protocol_of(r, 'rfd')
    full = {k:p.record | dict(guidance=v) for k,v in (('score', 'none'), (g['run'], 1.5), (f"judge {g['run']}", 2.))}
    r['protocols'] = full
    s = g['size']
    guided = [protocol_of(r, k).guidance for k in ('rfd', f'gfd_{s}', f'isc_{s}', f'judge_gfd_{s}')]
    assert guided==['none', 1.5, 1.5, 2.] and 'guidance 1.5' in str(source_of(r, f"gfd_{s}"))

def test_bold_in_the_committed_tables():
    best = best_cells(ROWS)
    assert best['gfd_small'][:2]==('Cluster (effnet)', True) and best['ppl_small'].significant
    assert not best['rfd'].significant and 'usage' not in best and 'codebook_perplexity' not in best
    assert 'paired' in best['ppl_small'].test and 'paired' not in best['rfd'].test
    one = [r for r in ROWS if r['trained']['seed']==0]
    assert not any(b.significant for b in best_cells(one).values())
    borrowed = best_cells(one, spread=ROWS)
    assert borrowed['probe_grid'].significant and not borrowed['gfd_small'].significant
