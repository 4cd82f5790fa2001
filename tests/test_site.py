"""The book as web pages: every notebook is there, links lead somewhere, formulas are formulas, search finds, and a
browser has nothing to complain about."""
import importlib.machinery,importlib.util,re,shutil,subprocess
from pathlib import Path
import pytest
pytest.importorskip('latex2mathml')

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

@pytest.fixture(scope='module')
def script():
    loader = importlib.machinery.SourceFileLoader('site_script', str(ROOT/'scripts'/'site'))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('site_script', loader))
    loader.exec_module(module)
    return module

@pytest.fixture(scope='module')
def site(script, tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    return out,script.build(out)

def test_every_notebook_is_a_page_with_a_title(site):
    out,pages = site
    names = {p.stem for p in (ROOT/'nbs').glob('*.ipynb')}
    assert {p.path.stem for p in pages}==names=={p.stem for p in out.glob('*.html')}
    assert all(p.title and p.title!=p.path.stem for p in pages)
    nav = re.search(r'<nav>.*?</nav>', (out/'index.html').read_text(), re.S)[0]
    assert all(f'href="{p.url}"' in nav for p in pages) # reachable from every page
    assert 'Other pages' not in nav # every page has its part

def test_no_link_is_dead_and_a_dead_one_is_found(script, site, tmp_path):
    assert script.dead_links(site[0])==[]
    (tmp_path/'a.html').write_text('<h2 id="x">x</h2><a href="b.html">b</a><a href="#x">x</a><a href="#y">y</a>'
                                   '<a href="https://example.org">far</a><img src="gone.png">')
    assert script.dead_links(tmp_path)==[('a.html', 'b.html'), ('a.html', '#y'), ('a.html', 'gone.png')]

def test_formulas_are_read_without_a_network(script, site):
    assert '<mfrac>' in script.prose(r'$\frac{1}{2}$') and 'display="block"' in script.prose('$$x^2$$')
    assert script.prose('from 5$ to 6$ and `$x$`').count('<math')==0
    for p in site[1]:
        plain = re.sub(r'<pre.*?</pre>|<math.*?</math>', '', p.body, flags=re.S)
        assert 'FORMULA' not in plain and not re.search(r'<code>\\', plain) and '$$' not in plain, p.url
    assert not any(re.search(r'<(?:script|link)[^>]+https?:', f.read_text()) for f in site[0].glob('*.html'))

def test_what_machines_read_leads_to_every_page_and_holds_every_public_name(site):
    out,pages = site
    short,full = ((out/f'{n}.txt').read_text() for n in ('llms', 'llms-full'))
    links = re.findall(r'^- \[(.+)\]\(([^)]+)\): (.*)$', short, re.M)
    assert [(p.title, p.url, p.about) for p in pages]==links # in the order of the menu
    for text in (short, full): assert re.match(r'# iutok\n\n> .+\n\n', text) # as llmstxt.org wants it
    parts = dict(zip(*[iter(re.split(r'^## (.+)$', full, flags=re.M)[1:])]*2))
    for name in parts:
        module = importlib.import_module(name)
        for k in module.__all__:
            v = getattr(module, k)
            if k.startswith('_') or not callable(v) or getattr(v, '__module__', None)!=name: continue
            if v.__name__!=k: continue # a partial, or another name of something
            doc = ((vars(v) if isinstance(v, type) else {}).get('__doc__', v.__doc__) or '').strip().split('\n')[0]
            if doc.startswith(f'{k}('): doc = '' # what a dataclass says of itself
            assert re.search(rf'^- `{k}\(.*`{": "*bool(doc)}{re.escape(doc)}', parts[name], re.M), f'{name}.{k}'
    offered = {path.stem for path in (ROOT/'iutok').glob('*.py')}-{'__init__', '_modidx'}
    assert {f'iutok.{m}' for m in offered}<=parts.keys()
    assert '- `Tokenizer.encode(images, batch_size: int=256)`: Images to token grids;' in parts['iutok.tokenizers']

def test_names_lead_to_the_cell_that_defines_them(script, site):
    out,pages = site
    by = {p.path.stem:p for p in pages}
    kmeans = by['23_quantizers.kmeans']
    assert 'kmeans' in kmeans.names and '_seeds' not in kmeans.names and 'take' not in kmeans.names # a method of Rows
    vq = (out/'24_quantizers.vq.html').read_text()
    assert '<a id="def-vq_loss"></a><pre class=exported' in vq
    assert 'href="#def-data_init"><code>data_init</code></a> k-means over the first batch of all ranks</li>' in vq
    said = lambda text: script.with_names(script.Page(kmeans.path, '', '', text, [], {}), pages)
    code = '<code>vq_loss</code>'
    assert said(f'<p>{code}</p>')==f'<p><a class=name href="24_quantizers.vq.html#def-vq_loss">{code}</a></p>'
    assert 'href="60_sampling.html#def-sample"' in said('<code>iutok.sampling.sample</code>')
    for text in ('<code>share</code>', '<code>sample</code>', '<code>no_such_name</code>', f'<pre>{code}</pre>',
                 f'<a href="x">{code}</a>'): assert said(text)==text

def browsed(url): # what a browser made of a page, and what it had to say
    done = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr',
                           '--virtual-time-budget=5000', '--dump-dom', url],
                          capture_output=True, text=True, timeout=240)
    return done.stdout,[l for l in done.stderr.splitlines() if ':CONSOLE' in l]

@pytest.mark.skipif(not CHROMIUM, reason='needs Chromium')
@pytest.mark.parametrize('page,there', [('index.html?q=commitment loss', 'href="24_quantizers.vq.html'),
                                        ('index.html?q=zebrafish qwertz', 'nothing found'),
                                        ('51_proposals.ar.html', '<math')])
def test_in_a_browser(site, page, there):
    made,said = browsed(f'file://{site[0]}/{page}')
    assert said==[] and there in made and 'data-theme' in made
    if '?q=' in page: assert there in re.search(r'<div id="?found.*?</header>', made, re.S)[0]

def test_a_picture_says_what_it_shows_in_words(script, site):
    made = script.said('## A title\nfirst\n\nRows are *pictures*, `a<b` and $\\frac{1}{2}$.\n\n$$x$$')
    assert made=='Rows are pictures, a<b and … .'
    assert script.said('## A title\nits text\n```\ncode\n```')=='its text'
    assert script.said('# Only a title')=='' and script.said('word '*99).endswith('word …')
    for p in site[1]:
        alts = re.findall(r'<img loading=lazy alt="([^"]*)" src="data:', p.body)
        assert all(len(a)>20 for a in alts), (p.url, alts)
