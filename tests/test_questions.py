"The arithmetic of the pages that go beyond the paper, against scipy, copies and closed forms."
import numpy as np, pandas as pd, pytest, torch
from scipy.stats import kendalltau, norm, spearmanr
from iutok.files import load_json, project_root
from iutok.questions import (CHEAP, crossings, damaged, group_draws, interval, network_rows, taus, training_flops,
                             which_predicts)

RESULTS = project_root()/'nbs'/'results'

@pytest.mark.parametrize('seed', range(5))
def test_weights_are_copies_and_tau_is_scipys(seed):
    g = np.random.default_rng(seed)
    x,y = g.integers(0, 6, (2, 15)) # with ties
    w = group_draws(g.integers(0, 5, 15), 20, seed)
    want = [kendalltau(x[i], y[i]).statistic for i in (np.repeat(np.arange(15), row.astype(int)) for row in w)]
    np.testing.assert_allclose(taus(x, y, w), want, atol=1e-12)
    assert taus(x, y, np.ones((1, 15)))[0]==pytest.approx(kendalltau(x, y).statistic)

def test_a_number_without_differences_has_no_tau():
    assert np.isnan(taus([1, 1, 1], [1, 2, 3], np.ones((2, 3)))).all()

@pytest.mark.parametrize('x, y, w', [([1, 2], [1, 2, 3], np.ones((1, 2))), ([1, 2], [1, 2], np.ones((1, 3))),
                                     ([[1, 2]], [[1, 2]], np.ones((1, 2)))])
def test_other_shapes_are_refused(x, y, w):
    with pytest.raises(ValueError, match='x and y are'): taus(x, y, w)

def test_a_draw_takes_whole_groups_and_as_many_as_there_are():
    groups = ['a', 'b', 'b', 'c', 'c', 'c']
    w = group_draws(groups, 400, 1)
    assert (w[:, 1]==w[:, 2]).all() and (w[:, 3]==w[:, 4]).all()
    assert (w[:, [0, 1, 3]].sum(1)==3).all()
    assert w[:, 0].mean()==pytest.approx(1, abs=.15)
    assert (group_draws(groups, 5, 1)==group_draws(groups, 5, 1)).all()

def test_the_interval_over_groups_holds_the_truth_and_that_over_rows_does_not():
    rho,hits = .8,dict(rows=0, groups=0)
    truth = 2/np.pi*np.arcsin(rho*.95) # four seeds of a Gaussian tokenizer share 95% of their variance
    for t in range(120):
        g = np.random.default_rng(t)
        a,e = g.normal(size=(2, 15))
        both = np.stack([a, rho*a+(1-rho**2)**.5*e])
        x,y = np.sqrt(.95)*both.repeat(4, 1)+np.sqrt(.05)*g.normal(size=(2, 60))
        for k,own in dict(rows=np.arange(60), groups=np.repeat(np.arange(15), 4)).items():
            low,high = interval(taus(x, y, group_draws(own, 300, t)))
            hits[k] += low<=truth<=high
    assert hits['groups']>=106 and hits['groups']>hits['rows']+15 # of 120; 95% are 114

def test_the_interval_is_that_of_quantiles():
    low,high = interval(np.r_[np.random.default_rng(0).normal(size=100_000), np.nan])
    assert (low, high)==pytest.approx((norm.ppf(.025), norm.ppf(.975)), abs=.03)

def toy(n=12, seed=0):
    g = np.random.default_rng(seed)
    true = g.normal(size=n).repeat(2)
    return pd.DataFrame(dict(group='toy', tokenizer=np.arange(n).repeat(2), gfd=true, good=-true+.1*g.normal(size=2*n),
                             back=true+.1*g.normal(size=2*n), noise=np.nan, usage=1.))

def test_signs_say_which_way_is_better():
    names = dict(good=('', 1), back=('', -1), noise=('', 1), usage=('', 1)) # gaps and constants are left out
    t = which_predicts(toy(), names=names, draws=200).set_index('number')
    assert set(t.index)=={'good', 'back'} and (t.tau>.8).all() and (t.low<=t.tau).all() and (t.tau<=t.high).all()
    assert t.best.sum()==pytest.approx(1)
    d = toy()
    assert t.spearman['good']==pytest.approx(spearmanr(d.good, -d.gfd).statistic)
    wrong = which_predicts(d, names=dict(back=('', 1)), draws=50)
    assert wrong.tau[0]==pytest.approx(-t.tau['back'])

def test_rows_of_several_groups_are_never_ranked_together():
    d = toy()
    d.loc[3, 'group'] = 'another'
    with pytest.raises(ValueError, match='several groups: toy, another'): which_predicts(d, names=dict(good=('', 1)))

def test_a_row_without_the_target_is_named():
    d = toy().assign(judge_gfd=float('nan'))
    with pytest.raises(ValueError, match='has no judge_gfd'): which_predicts(d, 'judge_gfd', dict(good=('', 1)))

@pytest.mark.parametrize('folder, groups, judged', [
    ('table1_mini', {'fashion, mini, small':26, 'fashion, mini, large':13}, False),
    ('table1_emoji_quick', {'emoji, quick, small':10}, True)])
def test_committed_records_become_rows(folder, groups, judged):
    records = load_json(RESULTS/folder/'records.json')
    df = network_rows(records, {records[0]['id']:7.})
    assert df.groupby('group').size().to_dict()==groups
    assert df.judge_gfd.notna().all()==judged and set(CHEAP)<=set(df)
    first = df[df.run==records[0]['run']].iloc[0]
    g = records[0]['generations'][0]
    assert (first.noise, first.gfd, first.ppl)==(7., g['gfd'], g['ppl'])
    assert first.saved==pytest.approx((records[0]['metrics']['codebook_entropy']-np.log(g['ppl']))/np.log(2))

def test_damage_hits_the_share_it_should_and_only_near_codes():
    book = torch.arange(40.)[:, None]
    idx = torch.randint(40, (200, 4, 4), generator=torch.Generator().manual_seed(0))
    bad = damaged(idx, book, .3, near=2, seed=1)
    hit = bad!=idx
    assert hit.float().mean().item()==pytest.approx(.3, abs=.03)
    assert ((bad-idx).abs()[hit]<=2).all() # of a code at the end of the line the second neighbour is two away
    assert torch.equal(damaged(idx, book, 1., near=39).ne(idx), torch.ones_like(idx).bool())
    for how in (dict(share=1.5), dict(near=40), dict(near=0)):
        with pytest.raises(ValueError): damaged(idx, book, **how)

def test_compute_is_six_times_parameters_times_tokens():
    r = dict(params=dict(steps=10, batch_size=4), metrics=dict(parameters=100), frozen=dict(network=dict(length=16)))
    assert training_flops(r)==6*100*10*4*16 and training_flops(r, 64)==4*training_flops(r)

def test_crossings_of_lines_over_log_x():
    x = np.geomspace(1, 1e4, 5)
    a,b = np.log(x),5-np.log(x)
    assert crossings(x, a, b)==pytest.approx([np.exp(2.5)])
    assert crossings(x, a, a+1)==[] and crossings(x, a, a)==[]
    assert crossings(x, [3, 0, -1, -1, -9], 0*x)==pytest.approx([10]) # where they meet
    assert crossings(x, [3, 0, 0, 0, -9], 0*x)==pytest.approx([100]) and crossings(x, [0, 0, 1, 0, 0], 0*x)==[]
    wave = np.array([1, -1, 1, -1, 1.])
    assert len(crossings(x, wave, 0*wave))==4
    for bad in (x[::-1], np.r_[0, x[1:]], x[1:]):
        with pytest.raises(ValueError, match='ascend'): crossings(bad, a, b)

@pytest.mark.parametrize('notebook', ['train_vqgan', 'train_vqkd'])
def test_a_quantizer_is_a_parameter_only_where_one_is_asked_for(notebook):
    from iutok.settings import resolve
    plain = resolve(notebook, dict(profile='smoke'))
    asked = resolve(notebook, dict(profile='smoke', quantizer='bsq'))
    assert 'quantizer' not in plain and asked==plain | dict(quantizer='bsq')
    with pytest.raises(ValueError, match='quantizer'): resolve(notebook, dict(quantizer='wavelet'))
    kind = dict(train_vqgan='pixels', train_vqkd='features')[notebook]
    row = resolve(notebook, dict(recipe=f'mini-quantizer-{kind}', quantizer='lfq'))
    assert row['quantizer']=='lfq'
    from iutok.settings import run_folder
    assert run_folder(row).name=={'pixels':'pixels-lfq-s0', 'features':'effnet-lfq-s0'}[kind]

def test_a_linear_codec_is_the_principal_plane_where_codes_are_plenty():
    from iutok.quantizers import VQ
    from iutok.questions import LinearCodec, codec_scores, fit_codec
    torch.manual_seed(0)
    x = torch.randn(600, 2)@torch.randn(2, 5)+3
    codec = LinearCodec(x, VQ(4, 2))
    torch.testing.assert_close(codec.up(codec.down(x)), x, rtol=0, atol=1e-3) # a plane is its own principal plane
    fitted = fit_codec(x, VQ(64, 2, init='kmeans'), steps=60, batch_size=200)
    s = codec_scores(fitted, x.view(60, 10, 5), torch.arange(60)%3)
    assert s['kept']>.9 and 0<s['usage']<=1 and s['perplexity']<=64 and abs(s['bits']-np.log2(s['perplexity']))<1e-4
    again = fit_codec(x, VQ(64, 2, init='kmeans'), steps=60, batch_size=200) # the directions need no seed
    assert codec_scores(again, x.view(60, 10, 5), torch.arange(60)%3)==s
    with pytest.raises(ValueError, match='have no 6 directions'): LinearCodec(x, VQ(4, 6))

def test_photographs_are_tiles_and_means_are_means():
    from iutok.questions import cell_means, photographs
    t = photographs(16, 2)
    assert t.shape==(48, 3, 16, 16) and t.dtype==torch.uint8 and len({x.float().mean().item() for x in t})>40
    g = photographs(16, 2, grey=True)
    assert torch.equal(g[:, 0], g[:, 1]) and not torch.equal(t[:, 0], t[:, 1])
    ramp = torch.arange(16, dtype=torch.uint8).expand(1, 3, 16, 16)*8
    assert (cell_means(ramp, 4).float()-ramp.float()).abs()[..., 2:-2].max()<=8 # all but the edges follow a ramp
    assert torch.equal(cell_means(ramp, 16), ramp)

def test_a_tokenizer_that_keeps_means_is_as_good_as_means():
    from iutok.adapters import Adapted
    from iutok.questions import cell_means, transfer_scores
    u8 = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tok = Adapted(lambda x: torch.arange(6)[:, None, None].expand(6, 4, 4),
                  lambda idx: (cell_means(u8, 4)[idx[:, 0, 0]].float()+.5)/127.5-1, 6, 16)
    s = transfer_scores(tok, u8)
    assert s['psnr']==pytest.approx(s['means_psnr'], abs=1e-3) and s['ssim']==pytest.approx(s['means_ssim'], abs=1e-4)
    assert (s['usage'], s['perplexity'])==pytest.approx((1, 6))

def test_budget_rows_join_a_network_with_its_scores():
    from iutok.questions import budget_rows
    runs = load_json(RESULTS/'table1_mini'/'runs.json')
    df = budget_rows([runs])
    assert len(df)==39 and df.gfd.notna().all() and set(df.order)=={'raster'} and set(df.group)=={'fashion, mini'}
    one = df[df.run=='fsq-s0-ar-large-s0'].iloc[0]
    assert one.tokenizer=='FSQ' and one.flops==6*937_856*500*96*64 and one.ppl==pytest.approx(11.3358, abs=1e-3)
    scores = next(r for r in runs if r['run']=='fsq-s0-scores')
    assert one.gap==pytest.approx(one.gfd-scores['metrics']['rfd'])
    alone = budget_rows([[r for r in runs if r['notebook']=='train_ar'], [scores, *runs]])
    assert len(alone)==39 and alone[alone.run==one.run].gfd.item()==one.gfd # what was scored later wins
    with pytest.raises(ValueError, match='record of fsq-s0-ar-large-s0 is missing'): budget_rows([[scores]])

def test_a_small_network_learns_and_is_the_same_twice():
    from iutok.proposals import AR
    from iutok.questions import fit_small
    y = torch.arange(120)%3
    def losses():
        torch.manual_seed(0)
        return fit_small(AR(9, 3, 16, layers=1, width=16, heads=1), (y*2)[:, None].expand(120, 16), y, 60, 32, .02)
    a = losses()
    assert len(a)==60 and a[-1]<a[0]/3 and a==losses()

def test_learned_codes_start_alike():
    from iutok.quantizers import VQ, quantizer_of
    from iutok.questions import start_alike
    torch.manual_seed(0)
    z = torch.randn(1, 3, 200, 1)
    want = VQ(16, 3, init='kmeans')
    want(z)
    for kind in ('cvq', 'simvq', 'ibq'):
        q = quantizer_of(kind, 16, 3)
        start_alike(q, z)
        torch.testing.assert_close(q.codebook.detach(), want.codebook.detach())
    q = quantizer_of('lfq', 8)
    start_alike(q, z) # has nothing to start
