"One file with all tables and figures: complete, whole without the network, and fit for a phone."
import json, re, shutil, subprocess
from pathlib import Path
import pytest
from iutok.plan import Choice, artefacts
from iutok.report import pages_of, plain_maths, prose, short_name, write_report

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

@pytest.fixture(scope='module')
def report(tmp_path_factory): # of a clone where nothing was run
    root = tmp_path_factory.mktemp('clone')
    (root/'nbs').symlink_to(ROOT/'nbs')
    return write_report(root/'report.html', Choice('mini', root=str(root)))

def test_every_table_and_figure_has_a_section_and_nothing_is_fetched(report):
    text = report.read_text()
    assert re.findall(r'<section id="(\w+)"', text)==list(artefacts('mini'))
    assert 'Nothing was run: all pages are as committed.' in text
    for link in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert link.startswith(('data:', '#', 'https://arxiv.org', 'https://')), link[:60]
    assert not re.search(r'src="http|<script|<link rel="stylesheet|@import|url\(', text)
    assert report.stat().st_size<5e6

def test_a_report_of_no_pages_says_so(tmp_path):
    assert pages_of(Choice('smoke', root=str(tmp_path)))==[] # its notebooks are not there
    assert '0 runs with a record' in write_report(tmp_path/'r.html', Choice('smoke'), []).read_text()

LOOK = """
<iframe id=f src="report.html" width={width} height=900></iframe><pre id=out></pre><script>
f.onload = () => setTimeout(() => {{
  const d = f.contentDocument, all = q => [...d.querySelectorAll(q)];
  all('img').forEach(i => i.loading = 'eager');
  setTimeout(() => out.textContent = JSON.stringify({{
    sections: all('section').map(s => [s.id, s.querySelectorAll('table').length, s.querySelectorAll('img').length]),
    broken: all('img').filter(i => !i.naturalWidth).length, named: all('img').every(i => i.alt),
    lost: all('nav a').filter(a => !d.getElementById(a.getAttribute('href').slice(1))).length,
    from: all('th[title]').length, width: d.documentElement.scrollWidth}}), 3000)
}}, 0)</script>"""

@pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed")
@pytest.mark.parametrize('width', [390, 1200])
def test_a_browser_shows_it_whole_on_a_phone_and_on_a_desktop(report, width):
    look = report.with_name(f'look-{width}.html')
    look.write_text(LOOK.format(width=width))
    options = ['headless=new', 'no-sandbox', 'disable-gpu', 'allow-file-access-from-files', 'enable-logging=stderr',
               'virtual-time-budget=9000', 'window-size=1400,1000', 'dump-dom']
    command = [CHROMIUM, *(f'--{o}' for o in options), str(look)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = [l for l in r.stderr.splitlines() if 'CONSOLE' in l]
    assert not said, said
    got = json.loads(re.search(r'<pre id="out">(.*?)</pre>', r.stdout, re.S)[1])
    assert [s[0] for s in got['sections']]==list(artefacts('mini'))
    unrun = re.findall(r'Not run yet: <code>scripts/reproduce (\w+)', report.read_text())
    for name,tables,images in got['sections']:
        assert (tables if name.startswith('table') else images) or name in unrun, f'{name} shows nothing'
    assert got['broken']==got['lost']==0 and got['named'] and got['from']>10
    assert got['width']<=width, f"it is {got['width']} pixels wide"

@pytest.mark.parametrize('text, want', [
    ('$K=512$ and $8\\times8$', '*K=512* and *8×8*'), ('from 5 $ to 6', 'from 5 $ to 6'),
    ('$$\\lambda_\\text{adaptive}\\,x$$', '\n\n> λ_adaptive x\n\n')])
def test_formulas_are_written_in_plain_letters(text, want): assert plain_maths(text)==want

def test_links_lead_to_pages_of_the_report_and_to_nowhere_else():
    text = prose('[a](fig_x.ipynb#there), [b](20_q.ipynb), [c](https://arxiv.org/abs/1)', ['fig_x'])
    assert '<a href="#fig_x">a</a>, b, <a href="https://arxiv.org/abs/1">c</a>' in text

def test_pages_have_short_names():
    assert [short_name(n) for n in ('table4_cluster_encoders', 'fig_what_predicts', 'table_teachers')]==[
        'table 4', 'what predicts', 'teachers']
