"A caption, a class, a file or a run may be called anything: no page takes it for a tag of HTML."
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
import mistune,pandas as pd,pytest
from PIL import Image
from clone import script
from iutok import analysis,viz
from iutok.files import load_json
from iutok.nets.conv import ConvEncoder
from iutok.plan import Choice
from iutok.pretrained import Tokenizer,card
from iutok.provenance import Linked
from iutok.quantizers import FSQ
from iutok.report import Page,prose,where_from,with_sources,write_report
from iutok.runs import Run
from iutok.tables import COLUMNS,by_label,looks,tabulate

ROOT = Path(__file__).parents[1]
BAD = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\' | `'
ROWS = load_json(ROOT/'nbs'/'results'/'table1_mini'/'records.json')
PICTURE = Image.new('RGB', (4, 4))

class Tags(HTMLParser):
    def __init__(self): super().__init__(); self.tags,self.text = [],''
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text += data

def harmless(page): # what a reader sees and is told on hover
    p = Tags()
    p.feed(page)
    assert not [t for t in p.tags if t[0]=='script' or any(k.startswith('on') for k in t[1])]
    assert not [t for t in p.tags if t[1].get('src', 'data:')[:5]!='data:']
    return p.text+' '.join(str(a.get(k) or '') for _,a in p.tags for k in ('title', 'alt'))

def markdown(text): return mistune.create_markdown(escape=False, plugins=['table'])(text) # as notebooks are exported

def hostile(): # records of a run that somebody gave these names
    rows = deepcopy(by_label(ROWS, 'cluster')['Cluster (mae)'])
    for r in rows:
        r['run'] = r['tokenizer']['teacher']['name'] = BAD
        r['git']['commit'],r['hardware'] = BAD,{k:BAD if isinstance(v, str) else v for k,v in r['hardware'].items()}
    return rows

def of_analysis(d):
    df = pd.DataFrame({BAD:[BAD]}, [BAD])
    return analysis.report(d/'r.html', BAD, [(BAD, [BAD, df, (BAD, PICTURE)])]).read_text()

def of_tooltips(d):
    b = tabulate({BAD:hostile()}, COLUMNS, BAD)
    said = b.said.copy()
    said.insert(0, BAD, BAD)
    return looks(said, [b]).to_html()

def of_report(d):
    out = lambda **kw: dict(cell_type='code', source='', outputs=[dict(data=kw)])
    cells = [dict(cell_type='markdown', source='# A page\n> asks'),
             out(**{'text/markdown':f'| {BAD} | b |\n|---|---|'}), out(**{'text/plain':repr(BAD)}),
             out(**{'text/html':pd.DataFrame([BAD])._repr_html_()})]
    page = Page(BAD, dict(cells=cells), True, hostile())
    return write_report(d/'r.html', Choice('smoke'), [page, Page(BAD, dict(cells=cells[:1]), True)]).read_text()

def of_site(d):
    make = script('site').output
    outs = [dict(output_type='stream', text=[BAD]), dict(output_type='error', ename=BAD, evalue=BAD),
            *(dict(output_type='display_data', data={k:BAD}) for k in ('text/plain', 'text/markdown'))]
    return ''.join(map(make, outs))

def of_run(d):
    params = dict(profile='smoke', data=f'folder:{BAD}', name=BAD, tokenizer=BAD, extractor=None)
    return markdown(Run('train_vqgan', params, d/BAD.replace('/', ''))._repr_markdown_())

def of_card(d):
    about = dict(data=f'folder:{BAD}', teacher=dict(name=BAD, source=BAD, profile='mini'))
    tok = Tokenizer(ConvEncoder(width=8, mults=(1, 1), n_res=1, out_channels=2, attention=False), FSQ([4, 4]),
                    image_size=8, about=about)
    scores = hostile()[0] | dict(notebook='evaluate', protocol=dict(fd=BAD, images=BAD))
    text = card(tok, BAD, [scores], network=True)
    code = text.partition('```python\n')[2].partition('```')[0]
    compile(code, 'card', 'exec') # nor is a name code
    assert repr(BAD) in code
    return markdown(text.partition('---\n')[2].partition('---\n')[2])

def of_links(d):
    rows = hostile()
    return Linked(pd.DataFrame({BAD:[BAD]}, [BAD]), {BAD:rows}, {BAD:'rfd'}, file=BAD)._repr_html_()

def of_hovers(d):
    rows = hostile()
    name = analysis.label(rows[0])
    table = pd.DataFrame({'a':[1]}, [name]).to_html()
    return with_sources(table, where_from(rows))

MADE = [of_analysis, of_tooltips, of_report, of_site, of_run, of_card, of_links, of_hovers,
        lambda d: viz.img_tag(PICTURE, BAD)]

@pytest.mark.parametrize('made', MADE, ids=lambda f: f.__name__)
def test_a_name_is_no_tag(tmp_path, made):
    text = harmless(made(tmp_path))
    assert 'alert(1)' in text # it is shown, as what it is

def test_a_cell_of_markdown_holds_one_line_of_text():
    assert viz.in_cell('a|b\n<b>') == r'a\|b \<b>'
    assert harmless(prose(f"| a | {viz.in_cell(BAD)} |\n|---|---|\n| 1 | 2 |")).strip().startswith('a')

def test_a_class_or_a_file_with_such_a_name_is_shown_by_the_notebook_as_text():
    from iutok.inspection import Finding,Look
    look = Look(f'folder:{BAD}', {}, [Finding(True, BAD)])
    assert not hasattr(look, '_repr_html_') and not hasattr(look, '_repr_markdown_') and BAD in repr(look)

def test_ordinary_names_stay_as_they_are():
    assert viz.in_cell('folder:/a b/c_d.png & [1, 2]')=='folder:/a b/c_d.png & [1, 2]'
    folder = ROOT/'iutok'/'assets'/'pretrained'/'quick'/'fsq'
    made = card(Tokenizer.load(folder), 'quick/fsq', load_json(folder/'records.json'), True, 'float16')
    assert made==(folder/'README.md').read_text()
