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

def test_a_seed_without_a_network_or_a_judge_says_nothing_of_them():
    rows = [copy.deepcopy(r) for r in load_json(RESULTS/'table1_emoji_quick'/'records.json')[:2]]
    for r in rows: # as later records: every protocol in full
        g,p = r['generations'][0],protocol_of(r, 'rfd').record | dict(crop='centre')
        judged = protocol_of(r, 'judge_rfd').record | dict(crop='centre')
        r['generations'].append(g | dict(size='large', run='larger', gfd=g['gfd']/2))
        r['protocols'] = {'score':p, 'judge score':judged} | {
            f'{k}{n}':(judged if k else p) | dict(crop='drawn') for n in (g['run'], 'larger') for k in ('', 'judge ')}
    few = rows[1]
    few['generations'].pop()
    few['judge'],few['metrics'] = None,{k:v for k,v in few['metrics'].items() if not k.startswith('judge')}
    for k in ('judge score', f"judge {few['generations'][0]['run']}", 'larger', 'judge larger'): few['protocols'].pop(k)
    few['generations'][0] = {k:v for k,v in few['generations'][0].items() if not k.startswith('judge')}
    columns = ['rfd', 'gfd_small', 'gfd_large', 'judge_rfd', 'judge_gfd_small', 'usage']
    t = Linked(pd.DataFrame({c:['1'] for c in columns}, ['a']), dict(a=rows))
    both,first = [r['run'] for r in rows],[rows[0]['run']]
    assert [[s.run for s in t.sources('a', c)] for c in columns]==[both, both, first, first, first, both]

@pytest.mark.parametrize('file', sorted(RESULTS.glob('table1_*/records.json')), ids=lambda f: f.parent.name)
def test_committed_records_are_read(file):
    for r in load_json(file):
        p = protocol_of(r, 'rfd')
        assert p.record | dict(r['protocol'], hash=p.hash)==p.record and p.frozen==r['frozen']['score']
        said = 'none' if 'protocols' in r else UNKNOWN # which older records do not say
        assert p.guidance==said and Protocol.read(p.record)==p
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

# --- protocols

FULL = dict(extractor='fashion-cnn', weights='w', resize='none', pixels='32x32', reference='fashion test',
            n_reference=9,
            n_images=9, crop='centre', value_range='bytes', rounding='truncated', classes='3 classes of 3',
            sampler='top_k 0', guidance=1.)

@pytest.mark.parametrize('field', FULL)
def test_any_field_that_differs_makes_it_another_protocol_and_is_named(field):
    from iutok.metrics.scores import Scores,one_column
    a,b = Protocol(**FULL),Protocol(**FULL | {field:'other'})
    assert a.hash!=b.hash and Protocol(**FULL).hash==a.hash and Protocol.read(a.record)==a
    x,y = (Scores(v, None, None, p) for v,p in ((2., a), (1., b)))
    for call in (lambda: x-y, lambda: x<y, lambda: x>y, lambda: x.minus(y)):
        with pytest.raises(ValueError, match=f'{field} is .* here and .* there'): call()
    with pytest.raises(ValueError, match=f'^b and a cannot stand in one column: .*{field} is other here'):
        one_column(dict(a=x, b=y))
    assert one_column(dict(a=x, c=x))==dict(a=2., c=2.) and x-x==0

def test_what_is_not_recorded_equals_only_the_same():
    few = {k:v for k,v in FULL.items() if k not in ('guidance', 'crop')}
    old,new = Protocol(**few),Protocol(**FULL)
    assert old==Protocol.read(few | dict(fd='FD-fashion')) and old!=new and old.frozen==new.frozen
    assert old.hash==Protocol(**few | dict(crop=UNKNOWN)).hash!=new.hash

def test_jpeg_changes_pixels_and_nothing_else():
    import torch
    from iutok.protocols import through_jpeg
    u8 = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a,b = through_jpeg(u8, 95),through_jpeg(u8, 20)
    err = [(x.float()-u8.float()).abs().mean() for x in (a, b)]
    assert a.shape==u8.shape and a.dtype==torch.uint8 and 0<err[0]<err[1]
    with pytest.raises(ValueError, match='quality'): through_jpeg(u8, 0)
