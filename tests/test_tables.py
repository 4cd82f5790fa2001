"The paper's tables: what is published and nothing else, what is missing, and how much of a gain a null leaves."
import copy, math, re, shlex
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from iutok.analysis import cell,check_frozen
from iutok.files import load_json
from iutok.nulls import at_bits,at_equal_bits,gain_left,gain_over_seeds,gains,in_words,on_equal_bits,paired_interval
from iutok.nulls import pivot,rates,say_difference,usual_size
from iutok.provenance import protocol_of
from iutok.settings import RECIPES,TABLES,parse_words,resolve,run_folder
from iutok.tables import COLUMNS,EMPTY,NOT_RUN,OTHER,PUBLISHED,SHAPES,beside,blocks,by_label,commands,committed
from iutok.tables import Column,check_networks,looks,metric,notes,of_network,published,some,tabulate
from iutok.tables import digits,world_of_record

ROOT = Path(__file__).parents[1]
PAGES = ('table1_tokenizers', *TABLES)
MINI = load_json(ROOT/'nbs'/'results'/'table1_mini'/'records.json')
EMOJI = load_json(ROOT/'nbs'/'results'/'table1_emoji_quick'/'records.json')

# --- what was published, written down a second time ------------------------------------------------------------------

VAL,TRAIN,ADM,UNKNOWN = 'ImageNet val','ImageNet train','batch of the ADM evaluator','not stated'
KNOWN = { # (column, reference): values
    ('FID', UNKNOWN): [4.10, 6.06], ('rFID', UNKNOWN): [2.28],
    ('FID', VAL): [4.9808, 11.1, 9.10], ('IS', VAL): [81.2, 105.1],
    ('PSNR', VAL): [19.970], ('SSIM', VAL): [.50234], ('LPIPS', VAL): [.28323], ('L1', VAL): [.068118],
    ('MSE', VAL): [.0131796], ('usage', VAL): [.059326], ('codebook_entropy', VAL): [6.81237],
    ('cosine_loss', VAL+' at 224 pixels'): [.164310], ('usage', VAL+' at 224 pixels'): [1.],
    ('codebook_entropy', VAL+' at 224 pixels'): [8.94823],
    ('rFID', TRAIN): [10.54, 7.41], ('rFID', VAL): [7.94, 4.98],
    ('FID', TRAIN): [15.98, 15.78, 6.59, 5.88, 5.20],
    ('FID', ADM): [5.46, 3.80, 6.09, 3.07, 2.62, 2.34, 2.18], ('rFID', ADM): [2.19]}

def test_published_cells_are_those_that_can_be_pointed_to_and_no_others():
    found = {}
    for p in PUBLISHED: found.setdefault((p.column, p.against), []).append(p.value)
    assert found.keys()==KNOWN.keys()
    for k,v in KNOWN.items(): assert sorted(found[k])==sorted(v), k
    assert all(p.where and p.page in PAGES for p in PUBLISHED)
    assert len({(p.page, p.row, p.column, p.against) for p in PUBLISHED})==len(PUBLISHED)

@pytest.mark.parametrize('page', PAGES)
def test_a_page_shows_its_numbers_and_marks_every_other_cell(page):
    df = published(page)
    cells = [c for k in df if k not in ('against', 'where') for c in df[k]]
    mine = [p for p in PUBLISHED if p.page==page]
    assert sorted(float(c) for c in cells if c!=EMPTY)==sorted(p.value for p in mine)
    assert all(df[k].ne('').all() for k in df)

@pytest.mark.parametrize('page', SHAPES)
def test_no_cell_of_the_papers_tables_is_filled(page):
    rows,_ = SHAPES[page]
    df = beside(page, [])
    assert list(df.index)==list(rows) and set(df['paper'].to_numpy().ravel())<={EMPTY}
    assert set(df['ours'].to_numpy().ravel())<={NOT_RUN}

# --- rows that are there, and rows that are missing ------------------------------------------------------------------

def clusters(rows): return by_label(rows, 'cluster')

def test_a_missing_row_is_shown_as_missing():
    rows = [r for r in MINI if (r['tokenizer'].get('teacher') or {}).get('name')!='vit']
    ours = blocks(dict(fashion=rows), clusters, COLUMNS)
    df = beside('table4_cluster_encoders', ours, ('Cluster (convnext)',))
    block = 'ours, fashion, mini (FD-fashion)'
    for n in ('Cluster (vit)', 'Cluster (convnext)'): assert set(df[block].loc[n])=={NOT_RUN}
    assert df['paper'].loc['Cluster (convnext)'].tolist()==[OTHER]
    assert NOT_RUN not in df[block].loc['Cluster (dino)'].tolist()
    assert 'Cluster (vit)' not in ours[0].numbers['row'].tolist() and ours[0].protocol['fd']=='FD-fashion'
    page = looks(df, ours).to_html()
    assert page==looks(df, ours).to_html()!=looks(df.iloc[:1], ours).to_html() # pages run again stay as they are
    assert '#999' in page and page.count('cluster-mae-s0-decoder-scores, commit 66aeb5f')==len(ours[0].said.columns)
    assert '66aeb5f836, seed 0, 1' in notes(ours)

def test_a_table_shows_mean_and_half_the_range():
    b = tabulate(clusters(MINI), COLUMNS)
    both = [r['generations'][0]['gfd'] for r in clusters(MINI)['Cluster (mae)']]
    row = b.numbers.set_index('row').loc['Cluster (mae)']
    assert (row.gFD, row['gFD spread'])==pytest.approx((np.mean(both), abs(both[0]-both[1])/2))
    assert b.said.at['Cluster (mae)', 'gFD']=='1.606 ±\u00a00.109'
    assert 'gFD, NAR' not in b.said and math.isnan(row['gFD, NAR']) # nobody trained one

def both_sizes(): return copy.deepcopy([r for r in MINI if len(r['generations'])==2])

def test_a_column_reads_the_smallest_network_however_they_were_listed():
    rows = both_sizes()
    before = tabulate(by_label(rows), COLUMNS)
    rows[0]['generations'].reverse()
    after = tabulate(by_label(rows), COLUMNS)
    assert after.numbers.equals(before.numbers) and after.said.equals(before.said)
    assert of_network('ar', 'size')(rows[0])=='small' and of_network('ar', 'size', 'large')(rows[0])=='large'

def test_seeds_of_two_networks_have_no_mean():
    rows = copy.deepcopy(MINI)
    for r in rows: # the large network with one seed, the small with the other
        if len(r['generations'])==2: r['generations'].pop(0); r['frozen'].pop('small-s0')
    says = 'cannot stand in one column: the smallest network is large here and small there'
    for call in (lambda: tabulate(by_label(rows), COLUMNS), lambda: gains(rows), lambda: on_equal_bits(rows)):
        with pytest.raises(ValueError, match=says): call()
    with pytest.raises(ValueError, match=says): check_networks(rows, of_network('ar', 'gfd'))
    apart = {s:Column(of_network('ar', 'gfd', s), 'gfd', 'low') for s in ('small', 'large')} | some('rFD')
    assert list(tabulate(by_label(rows), apart).said)==['small', 'large', 'rFD']

@pytest.mark.parametrize('size', ['large', 'small'])
def test_the_page_of_strong_augmentation_says_which_network_it_was(size):
    import iutok.tables
    page = load_json(ROOT/'nbs'/'table5_xl_and_strong_aug.ipynb')
    cell, = (s for c in page['cells'] if 'augmented = [b for' in (s := ''.join(c['source'])))
    strong = both_sizes()
    for r in strong: r['generations'] = [g for g in r['generations'] if g['size']==size]
    small,large = (iutok.tables.of_network('ar', 'gfd', s) for s in ('small', 'large'))
    ns = vars(iutok.tables) | dict(small=small, large=large,
                                   sets=[('fashion', both_sizes(), strong), ('emoji', [], [])],
                                   has_larger=lambda rows: any(large(r) is not None for r in rows),
                                   run=SimpleNamespace(notebook='table5_xl_and_strong_aug'))
    exec(cell, ns)
    plain,augmented = ns['ours'][0],ns['augmented'][0]
    assert list(augmented.said)==(['larger: gFD', 'larger: IS'] if size=='large' else ['gFD', 'IS'])
    for h in augmented.said: assert augmented.said[h].equals(plain.said[h]) # the same numbers under the same heading

def test_the_larger_network_of_table_1_stands_beside_what_is_committed_of_table_5():
    page = load_json(ROOT/'nbs'/'table5_xl_and_strong_aug.ipynb')
    shown = next(''.join(o['data']['text/html']) for c in page['cells'] if 'augmented = [b for' in ''.join(c['source'])
                 for o in c['outputs'])
    assert 'larger: gFD' in shown and ', strong' in shown
    for block in ('fashion, quick', 'fashion, mini'): assert block in shown

def test_the_same_pair_of_two_worlds_has_two_rows():
    one = gains(EMOJI)
    both = pivot(pd.concat([one.assign(world=w) for w in ('emoji', 'fashion')]))
    alone = pivot(one.assign(world='emoji'))
    assert alone.equals(pivot(one)) and len(both)==2*len(alone)>0
    for w in ('emoji', 'fashion'): assert both.loc[w].equals(alone)

def test_what_seeds_share_is_shown_once_and_what_they_do_not_is_said():
    rows = [r for r in copy.deepcopy(MINI) if r['run'].startswith('vqgan')]
    rows[0]['metrics']['million'] = None
    rows[1]['metrics']['million'] = 3.
    b = tabulate(by_label(rows), dict(million=Column(metric('million'), 'million', form='{:.1f}', spread=False)))
    assert b.said.million.tolist()==['3.0']
    assert say_difference(dict(difference=math.nan, difference_low=math.nan))=='no seed in common'

def test_a_mean_of_fewer_seeds_than_the_row_has_says_so():
    assert cell([1., None, 3.], '{:.1f}')=='2.0 ±\u00a01.0 (2 of 3 seeds)'
    assert [cell(v, '{:.0f}') for v in ([1., 3.], [None, 3.], [None, None], [])]==['2 ±\u00a01', '3', '', '']

def test_every_network_of_a_row_has_its_own_protocol():
    r = copy.deepcopy(EMOJI[0])
    g = r['generations'][0]
    r['generations'].append(g | dict(kind='nar', size='nar_small', run='masked', nats_in_order=3.))
    p = protocol_of(r, 'gfd_small').record
    r['protocols'] = {g['run']:p | dict(sampler='top_k 0'), 'masked':p | dict(sampler='order halton')}
    hashes = [protocol_of(r, f'gfd_{s}').hash for s in ('small', 'nar_small')]
    b = tabulate({'a':[r]}, some('gFD', 'gFD, NAR'))
    titles = re.findall('title="([^"]*)"', looks(b.said, [b]).to_html())
    assert len(set(hashes))==2 and [t.split('protocol ')[1] for t in titles]==hashes

def test_bold_is_what_is_significantly_best():
    b = tabulate(clusters(MINI), COLUMNS)
    assert b.best['PPL'].significant and b.best['PPL'].row=='Cluster (effnet)'
    assert not b.best['gFD'].significant and 'usage' not in b.best # seeds overlap; usage has no better side
    assert looks(b.said, [b]).to_html().count('font-weight')==sum(x.significant for x in b.best.values())

def test_a_column_has_one_number_of_decimals():
    cases = (([.757, 1.218], '{:.3f}'), ([None, 1986.4, 3.], '{:.0f}'), ([45.4, 9.], '{:.1f}'), ([12., 2.4], '{:.2f}'),
             ([.0449, .5], '{:.3f}'), ([], '{:.3f}'), ([0., None], '{:.3f}'), ([-40., 1.], '{:.1f}'))
    for values,form in cases:
        assert digits(values)==form, values

@pytest.mark.parametrize('change, says', [
    (lambda r: r['frozen']['score'] | dict(n_images=100), 'score.n_images is'),
    (lambda r: r['frozen']['score'] | dict(extractor='other'), 'score.extractor is'),
    (lambda r: {}, 'is only on one side')])
def test_two_protocols_in_one_block_are_refused_and_named(change, says):
    rows = [dict(r) for r in MINI]
    rows[-1]['frozen'] = rows[-1]['frozen'] | dict(score=change(rows[-1]))
    with pytest.raises(ValueError, match='cannot stand in one table') as e:
        blocks(dict(fashion=rows), by_label, COLUMNS)
    assert says in str(e.value) and rows[-1]['run'] in str(e.value) and '\n' not in str(e.value)

def test_second_judges_are_compared_wherever_there_are_some():
    def row(n, score, samples):
        return dict(run=n, trained=dict(seed=0), frozen={}, judge=dict(score=score, samples=samples))
    rows = [row('a', 1, None), row('b', 1, dict(n=9)), row('c', 1, dict(n=8))] # the first drew nothing
    says = 'b and c cannot stand in one table: judge.samples.n is 9 and 8'
    with pytest.raises(ValueError, match=says): check_frozen(rows)
    check_frozen([rows[0], rows[1], row('d', None, dict(n=9)), dict(rows[0], judge=None)])

def test_codebooks_of_other_sizes_and_seeds_that_come_twice_are_refused():
    other = MINI[0] | dict(tokenizer=MINI[0]['tokenizer'] | dict(n_codes=4096))
    with pytest.raises(ValueError, match='has 4096'): blocks(dict(fashion=[*MINI[1:], other]), by_label, COLUMNS)
    tabulate(by_label([*MINI[1:], other]), COLUMNS, codebooks=False)
    with pytest.raises(ValueError, match='twice with the same seed'): by_label([*MINI, MINI[0]])

def test_pages_without_rows_read_what_is_committed():
    assert {r['id'] for r in committed('table4_cluster_encoders', 'mini')}=={r['id'] for r in MINI}
    assert committed('table4_cluster_encoders', 'quick', 'emoji')[0]['profile']=='quick'
    assert committed('table4_cluster_encoders', 'mini', also=())==[]
    t2i = committed('table3_coco_t2i', 'quick', 'emoji', scores='evaluate_t2i')
    assert {world_of_record(r) for r in t2i}=={'emoji'} and {world_of_record(r) for r in MINI}=={'fashion'}

@pytest.mark.parametrize('page', TABLES)
def test_a_page_has_a_row_for_every_profile_and_world(page):
    for profile in ('smoke', 'quick', 'mini', 'paper'):
        p = resolve(page, dict(profile=profile))
        assert (p['rows'], run_folder(p).name)==([], page)
        if profile=='paper': continue
        colour = resolve(page, dict(recipe=f'emoji-{profile}-{page}'))
        assert run_folder(colour).parent.name==f'emoji-{profile}'

@pytest.mark.parametrize('profile, world', [('smoke', 'fashion'), ('quick', 'emoji'), ('mini', 'fashion')])
def test_the_commands_of_a_missing_row_build_on_each_other(profile, world):
    made = set()
    for line in commands('vqkd', 'effnet2', profile, world, name='-k2048', n_codes=2048):
        script,notebook,*words = shlex.split(line)
        given = parse_words(notebook, words)
        params = resolve(notebook, given)
        used = [given[k] for k in ('tokenizer',) if k in given]+given.get('ars', [])
        assert script=='scripts/run' and set(used)<=made and RECIPES[params['recipe']]['notebook']==notebook
        made.add(str(run_folder(params).relative_to(ROOT)))
    assert any(m.endswith('-scores') for m in made) and len(made)==4

# --- how much of a gain is left --------------------------------------------------------------------------------------

def test_the_share_left_follows_its_closed_form():
    g = np.random.default_rng(0)
    for p,t,a in zip(g.normal(5, 1, 50), g.normal(2, .3, 50), g.uniform(-1, 2, 50)):
        n = t+a*(p-t) # a null that leaves the share a
        assert gain_left(p, n, t)==pytest.approx(a)
        assert gain_left(-p, -n, -t, lower=False)==pytest.approx(a)
        assert gain_left(3*p+1, 3*n+1, 3*t+1)==pytest.approx(a) # of units it knows nothing
        assert math.isnan(gain_left(t, n, p))

def test_the_range_over_seeds_holds_every_choice():
    out = gain_over_seeds([4., 5.], [3.], [1., 2.])
    every = [(3-t)/(p-t) for p in (4, 5) for t in (1, 2)]
    assert out==dict(share=pytest.approx(1.5/3), low=min(every), high=max(every), draws=4, gained=4)
    some = gain_over_seeds([1.5, 4.], [3.], [1., 2.]) # one choice in four has no gain
    assert (some['draws'], some['gained'])==(4, 3) and math.isnan(some['low'])
    assert math.isnan(gain_over_seeds([], [1.], [1.])['share'])

def test_students_interval_holds_the_truth_as_often_as_it_says():
    g = np.random.default_rng(0)
    ends = [paired_interval(g.normal(1, 2, 3), np.zeros(3))[1:] for _ in range(3000)]
    assert abs(np.mean([a<=1<=b for a,b in ends])-.95)<.015
    assert paired_interval([2.], [1.])[0]==1 and math.isnan(paired_interval([2.], [1.])[1])

def test_what_random_weights_leave_in_colour():
    df = gains(EMOJI).set_index('measure')
    mean = lambda n,get: np.mean([get(r) for r in by_label(EMOJI)[n]])
    nats = lambda r: r['generations'][0]['loss_nats']
    p,n,t = (mean(k, nats) for k in ('VQGAN', 'Cluster (random)', 'Cluster (effnet)'))
    assert df.share['nats per token']==pytest.approx((n-t)/(p-t)) and .15<df.share['nats per token']<.3
    assert math.isnan(df.share['gFD']) and 'gFD: no gain over VQGAN' in in_words(gains(EMOJI))
    assert gains(EMOJI, 'best').baseline[0]=='FSQ' and pivot(gains(EMOJI)).shape==(1, 4)
    assert len(gains(MINI))==0 and in_words(gains(MINI))=='' # no null there

def test_bits_of_old_records_are_those_that_new_ones_hold():
    for r in EMOJI:
        assert rates(r)==pytest.approx((r['metrics']['bits_codebook'], r['generations'][0]['bits']))
    assert all(0<b<a for a,b in map(rates, MINI))

def test_a_null_is_read_between_its_points_only():
    line = [(10., 3.), (30., 1.), (20., 2.)]
    for x in np.linspace(10, 30, 9): assert at_bits(line, x)==pytest.approx(4-x/10)
    assert at_bits(line, 9.9) is None and at_bits(line, 31) is None
    cases = {(15., 2.):'teacher better', (15., 3.):'teacher worse', (9., 2.):'teacher better with fewer',
             (9., 4.):'undecided', (31., 2.):'null better with fewer', (31., .5):'undecided'}
    for point,said in cases.items(): assert at_equal_bits(point, line).startswith(said), point
    assert at_equal_bits((9., 4.), [(10., 3.)], lower=False).startswith('teacher better')

def test_rows_of_other_sizes_count_for_their_rate_alone():
    def larger(r):
        t,g = r['tokenizer'] | dict(n_codes=4096),r['generations'][0]
        return r | dict(run='larger', tokenizer=t, generations=[g | dict(loss_nats=g['loss_nats']/2, gfd=80.)])
    more = larger(next(r for r in EMOJI if r['run'].startswith('cluster-random')))
    usual,others = usual_size([*EMOJI, more])
    assert (usual, others)==(EMOJI, [more])
    said = lambda rows: on_equal_bits(rows).iloc[:, 0]['Cluster (effnet)', 'random', 'gFD']
    own = [r for r in EMOJI if r['run'].startswith('cluster-effnet')]
    gfd,bits = (np.mean([r['generations'][0][k] for r in own]) for k in ('gfd', 'bits'))
    assert said(EMOJI).startswith(f'teacher better with fewer bits: {gfd:.4g} with {bits:.0f} bits')
    assert f' at {bits:.0f} bits' in said([*EMOJI, more])
    assert on_equal_bits(MINI).empty
