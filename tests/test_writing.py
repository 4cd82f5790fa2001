"How the pages are written, as far as a machine can tell."
import ast, io, json, re, subprocess, sys, tokenize
from functools import cache
from importlib.resources import files
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT/'nbs').glob('*.ipynb'))
PAIRS = 'floor', 'ceil', 'vert', 'Vert', 'angle', 'brace'

def formulas(page): # every formula of a page, code left out
    for cell in json.loads(page.read_text())['cells']:
        if cell['cell_type']!='markdown': continue
        text = re.sub(r'```.*?```|`[^`]*`', '', ''.join(cell['source']), flags=re.S)
        for display,inline in re.findall(r'\$\$(.*?)\$\$|\$([^$]+)\$', text, flags=re.S): yield display or inline

def fault(formula): # what does not balance in it, or None
    if formula.replace(r'\{', '').replace(r'\}', '').count('{')!=formula.replace(r'\{', '').replace(r'\}',
        '').count('}'):
        return 'braces'
    if len(re.findall(r'\\left(?![a-zA-Z])', formula))!=len(re.findall(r'\\right(?![a-zA-Z])', formula)):
        return r'\left and \right'
    for name in PAIRS:
        opened,closed = (len(re.findall(rf'\\{side}{name}(?![a-zA-Z])', formula)) for side in 'lr')
        if opened!=closed: return rf'\l{name} and \r{name}'

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_braces_and_brackets_balance_in_every_formula(page):
    wrong = [(fault(f), f) for f in formulas(page) if fault(f)]
    assert not wrong, wrong

@pytest.mark.parametrize('formula, wrong',
                         [('x^{2}', None), ('x^{2', 'braces'), (r'\lfloor x \rfloor', None),
                          ('\\lfloor x \nfloor', r'\lfloor and \rfloor'), (r'\left( x \right)', None),
                          (r'\left( x', r'\left and \right'), (r'a \leftarrow b', None), (r'\{ x \}', None)])
def test_a_broken_formula_is_found(formula, wrong): assert fault(formula)==wrong

ABSOLUTE = re.compile(r"/(tmp|home|root|Users|mnt|opt|srv|scratch|work|workspace)/|Path\('/[^']*/")

@pytest.mark.parametrize('said, found', [("PosixPath('/a/b/c')", True), ('/home/me/iutok', True), ('/work/x', True),
                                         ("PosixPath('runs/quick')", False), ('runs/quick/fsq-s0', False)])
def test_a_path_of_a_machine_is_found(said, found): assert bool(ABSOLUTE.search(said))==found

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_no_page_stores_a_path_of_the_machine_that_ran_it(page):
    outputs = [json.dumps(c.get('outputs', [])) for c in json.loads(page.read_text())['cells']]
    assert not [o[:200] for o in outputs if ABSOLUTE.search(o)]

def prose(markdown): # what is left to read: code blocks, rows of tables and addresses of links are no words
    text = re.sub(r'^```.*?^```$', '', markdown, flags=re.S | re.M)
    text = re.sub(r'^\|.*$', '', text, flags=re.M)
    text = re.sub(r'\]\([^)]*\)', ']', text)
    return [w for w in text.split() if re.search(r'\w', w)] # no bullets, dashes, arrows

@pytest.mark.parametrize('markdown, words', [
    ('one `two` three-four', ['one', '`two`', 'three-four']),
    ('# A title\n- a point', ['A', 'title', 'a', 'point']),
    ('[a link](https://a.b/c d.html), ↓', ['[a', 'link],']),
    ('before\n```bash\nscripts/test # all\n```\nafter', ['before', 'after']),
    ('| usage | 97.3% |\nbelow', ['below'])])
def test_words_are_counted_as_a_reader_would(markdown, words): assert prose(markdown)==words

def test_the_readme_is_read_in_four_minutes(): # at 250 words a minute
    assert len(prose((ROOT/'README.md').read_text()))<=1000

def test_the_readmes_code_fits_the_screen():
    cells = json.loads((ROOT/'nbs'/'index.ipynb').read_text())['cells']
    blocks = [''.join(c['source']) for c in cells if c['cell_type']=='code']
    blocks += re.findall(r'^```.*?^```$', (ROOT/'README.md').read_text(), flags=re.S | re.M)
    assert not [l for b in blocks for l in b.splitlines() if len(l)>120]

def test_every_link_of_the_readme_leads_somewhere():
    links = re.findall(r'\]\(([^)]*)\)', (ROOT/'README.md').read_text())
    assert len(links)>10
    assert not [l for l in links if '://' not in l and not (ROOT/l).exists()]

def code_lines(): # file -> its lines of code, notebooks by their code cells
    for page in PAGES:
        cells = [''.join(c['source']) for c in json.loads(page.read_text())['cells'] if c['cell_type']=='code']
        yield page, [l for c in cells for l in c.splitlines()]
    for folder in ('scripts', 'tests'):
        for f in sorted((ROOT/folder).rglob('*')):
            if f.is_file() and f.suffix in ('.py', '.sh', ''): yield f, f.read_text().splitlines()
    yield ROOT/'setup.py', (ROOT/'setup.py').read_text().splitlines()

@pytest.mark.parametrize('file, lines', list(code_lines()), ids=lambda v: v.name if isinstance(v, Path) else '')
def test_no_line_of_code_is_longer_than_120_characters(file, lines):
    assert not [l for l in lines if len(l)>120]

CHAPTERS = [p for p in PAGES if re.match(r'\d\d_', p.name)]

@pytest.mark.parametrize('page', CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_ends_with_what_to_remember_and_with_exercises(page):
    last = ''.join(json.loads(page.read_text())['cells'][-1]['source'])
    head,_,answers = last.partition('<details>')
    remember,_,exercises = head.partition('## Exercises')
    assert remember.startswith('## What to remember') and 3<=remember.count('\n- ')<=6
    asked = re.findall(r'^\d\. ', exercises, flags=re.M)
    assert 2<=len(asked)<=4 and answers.rstrip().endswith('</details>')
    assert len(re.findall(r'^\d\. ', answers, flags=re.M))==len(asked)

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_no_picture_is_stored_twice(page):
    for cell in json.loads(page.read_text())['cells']:
        for o in cell.get('outputs', []): assert not {'image/png', 'image/jpeg'} <= set(o.get('data', {}))

def written(page): # all its Markdown
    cells = json.loads(page.read_text())['cells']
    return '\n'.join(''.join(c['source']) for c in cells if c['cell_type']=='markdown')

def title(page): return re.search(r'^# (.+)$', written(page), re.M)[1].strip()

@pytest.mark.parametrize('before, page, after', zip([None, *CHAPTERS], CHAPTERS, [*CHAPTERS[1:], None]),
                         ids=[p.stem for p in CHAPTERS])
def test_a_chapter_says_what_we_have_and_leads_to_its_neighbours(before, page, after):
    last = ''.join(json.loads(page.read_text())['cells'][-1]['source'])
    where = last.partition('**Where we are.** ')[2].partition('\n\n## Exercises')[0]
    assert where
    for word,other in (('Before', before), ('Next', after)):
        if other is not None: assert f'**{word}:** [{title(other)}]({other.name})' in ' '.join(where.split())

@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.stem)
def test_links_lead_to_notebooks_that_are_there(page): # JupyterLab opens them; the site makes them links to pages
    text = re.sub(r'```.*?```', '', written(page), flags=re.S)
    to = re.findall(r'\]\(([\w.]+\.(?:ipynb|html))(?:#[^)]*)?\)', text)
    assert not [t for t in to if t.endswith('.html') or not (ROOT/'nbs'/t).exists()]

def defined(page): # public functions and classes that a chapter gives to the library
    code = [''.join(c['source']) for c in json.loads(page.read_text())['cells'] if c['cell_type']=='code']
    for text in code:
        if not re.search(r'^#\|\s*export\b', text, re.M): continue
        for n in ast.parse(text).body:
            if not isinstance(n, (ast.FunctionDef, ast.ClassDef)) or n.name.startswith('_'): continue
            if not any('patch' in ast.unparse(d) for d in n.decorator_list): yield n.name

def test_a_name_that_other_pages_use_is_named_where_it_is_explained():
    code = {p:set(re.findall(r'\w+', '\n'.join(''.join(c['source']) for c in json.loads(p.read_text())['cells']
                                               if c['cell_type']=='code'))) for p in PAGES}
    used = [(p,n) for p in CHAPTERS for n in defined(p) if sum(n in words for q,words in code.items() if q!=p)>1]
    said = lambda p: ' '.join(map(''.join, re.findall(r'^```(.*?)^```|`([^`]+)`', written(p), re.S|re.M)))
    named = {p:set(re.findall(r'\w+', said(p))) for p in CHAPTERS}
    missing = [f'{n} in {p.stem}' for p,n in used if n not in named[p]]
    assert len(used)>300 and len(missing)<=len(used)//50, missing

def test_the_glossary_is_in_order_and_calls_chapters_by_their_titles():
    table = written(ROOT/'nbs'/'glossary.ipynb')
    rows = re.findall(r'^\| \*\*(.+?)\*\* \| (.+?) \| \[(.+?)\]\((.+?)\) \|$', table, re.M)
    assert len(rows)>80
    terms = [r[0].casefold() for r in rows]
    assert terms==sorted(set(terms))
    assert not [r for r in rows if title(ROOT/'nbs'/r[3])!=r[2]]

# --- spelling --------------------------------------------------------------------------------------------------------

def spoken(): # file -> what people wrote into it; of a page its cells, without outputs
    for page in PAGES:
        yield page, [(c['cell_type'], ''.join(c['source'])) for c in json.loads(page.read_text())['cells']]
    own = [*ROOT.glob('*.md'), *ROOT.glob('*.toml'), *ROOT.glob('tests/**/*.py'), *ROOT.glob('scripts/*')]
    for f in sorted(own):
        if f.is_file(): yield f, [('markdown' if f.suffix=='.md' else 'code', f.read_text())]

def misspelt(folder): # what codespell finds: 'file:line: word ==> word'
    asked = [sys.executable, '-m', 'codespell_lib', '--toml', ROOT/'pyproject.toml', '.']
    return subprocess.run(asked, cwd=folder, capture_output=True, text=True).stdout.splitlines()

def test_nothing_is_misspelt(tmp_path):
    for f,texts in spoken():
        (tmp_path/f.name).write_text('\n'.join(t for _,t in texts))
    (tmp_path/'planted').write_text('one that is '+'sep'+'erate')
    assert misspelt(tmp_path)==['./planted:1: sep'+'erate ==> separate']

def read(kind, text): # words that are read as English: prose, comments, docstrings
    if kind=='markdown':
        text = re.sub(r'```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]+\$', ' ', text, flags=re.S)
        text = re.sub(r'\]\([^)]*\)|https?://\S+|<[^>]+>', ' ', text)
    else:
        try: tree = ast.parse(text)
        except SyntaxError: return [] # bash, or a cell's magic
        docs = [ast.get_docstring(n) or '' for n in ast.walk(tree)
                if isinstance(n, (ast.Module, ast.FunctionDef, ast.ClassDef))]
        comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type==tokenize.COMMENT]
        text = re.sub(r'`[^`]*`', ' ', '\n'.join(docs+comments))
    return re.findall('[A-Za-z]+', text)

BOTH = {'program', 'practice', 'story', 'meter', 'writable', 'License'} # computers; a noun; a tale; a device; names

@cache
def of_america(): # spellings for which British English has another
    table = (files('codespell_lib')/'data'/'dictionary_en-GB_to_en-US.txt').read_text()
    return {l.split('->')[1].strip(' ,') for l in table.splitlines() if '->' in l}

def american(words): return sorted({w for w in words if w.lower() in of_america() and w not in BOTH})

@pytest.mark.parametrize('kind, text, found', [
    ('markdown', 'The color and the centre.', ['color']), ('markdown', 'as `color` in `code`', []),
    ('code', 'color = 1 # its colour', []), ('code', 'def f(color):\n    "Normalize it."', ['Normalize'])])
def test_american_spelling_is_found(kind, text, found): assert american(read(kind, text))==found

def test_prose_is_spelt_as_the_british_do():
    seen = {f.name:american(w for kind,text in texts for w in read(kind, text)) for f,texts in spoken()}
    assert not {k:v for k,v in seen.items() if v}
