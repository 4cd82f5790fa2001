"What pictures are made of: boxes by error, maps of codes, drawings read from networks, and the painter's hand."
import json
from pathlib import Path
import pytest, torch
from iutok.data import load_images
from iutok.nets.conv import ConvDecoder, ConvEncoder
from iutok.quantizers import FSQ, VQ
from iutok.tokenizers import Connector, Tokenizer

ROOT = Path(__file__).parents[1]

def tiny(quantizer=None): # a tokenizer nobody trained
    torch.manual_seed(0)
    q = quantizer or FSQ([4, 4])
    body = dict(width=8, n_res=1, attention=False)
    return Tokenizer(ConvEncoder(mults=(1, 1, 1), out_channels=8, **body), q,
                     ConvDecoder(in_channels=8, mults=(1, 1, 1), **body), Connector([8, q.dim]), Connector([q.dim, 8]),
                     image_size=32)

HELD = load_images('fashion', 'test')

# --- curves

@pytest.mark.parametrize('values, marker', [(['.5'], 'o'), (['.5', ''], 'o'), (['.5', '.4'], 'None')])
def test_a_curve_of_one_point_is_seen(values, marker, tmp_path):
    from matplotlib import pyplot as plt
    from iutok.viz import plot_curves
    (tmp_path/'curves.csv').write_text('step,loss\n'+''.join(f'{i},{v}\n' for i,v in enumerate(values)))
    fig = plot_curves(dict(a=tmp_path), ['loss', 'not there'])
    lines = [l for ax in fig.axes for l in ax.lines]
    plt.close(fig)
    assert [l.get_marker() for l in lines]==[marker]

# --- boxes by error

def test_the_box_is_where_the_error_is():
    from iutok.viz import patch_errors
    x = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    wrong = x.clone()
    for i,(r,c) in enumerate([(0, 0), (1, 3), (3, 2)]): wrong[i, :, 8*r+2, 8*c+1] = 64
    e = patch_errors(x, wrong)
    assert e.flatten(1).argmax(1).tolist()==[0, 7, 14] and e.sum().item()==3*64/64
    assert patch_errors(x, wrong, 32).amax().item()==64

@pytest.mark.parametrize('boxes', [0, 1, 3])
def test_as_many_boxes_are_drawn_as_asked_for(boxes):
    from matplotlib import pyplot as plt
    from iutok.viz import compare_worst
    g = torch.Generator().manual_seed(0)
    x,a,b = (torch.randint(0, 256, (4, 3, 32, 32), generator=g).to(torch.uint8) for _ in range(3))
    fig = compare_worst(dict(original=x, one=a, two=b), boxes)
    assert [len(ax.patches) for ax in fig.axes]==[0, 4*boxes, 4*boxes]
    plt.close(fig)

def test_spread_of_patches_is_their_standard_deviation():
    from iutok.viz import patch_spread
    x = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    s = patch_spread(x, 2, 4)
    assert s.shape==(2, 2, 4)
    assert s[1,1,2]==pytest.approx(x[1, :, 4:, 4:6].float().mean(0).std(unbiased=False).item(), abs=1e-4)

# --- maps

def test_classes_are_drawn_by_seed_and_balanced():
    from iutok.maps import random_classes
    a,b,c = (random_classes(HELD, 3, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(a.labels, b.labels) and a.fingerprint==b.fingerprint!=c.fingerprint
    assert a.labels.bincount().max()==4 and len(a.labels.unique())==3

@pytest.mark.parametrize('quantizer', [None, VQ(8, 4), VQ(8, 4, cosine=True)], ids=['fsq', 'vq', 'cosine'])
def test_a_map_holds_the_patches_that_show_something_and_the_codes_they_chose(quantizer):
    from iutok.maps import code_map, map_numbers, random_classes
    from iutok.viz import patch_spread
    tok,some = tiny(quantizer),random_classes(HELD, 2, 3)
    u8 = some.batch(range(6), 32)
    m = code_map(tok, u8, some.labels, perplexity=5, seed=1)
    keep = patch_spread(u8, 8, 8).flatten()>=8
    assert len(m.ids)==keep.sum() and torch.equal(m.ids, tok.encode(u8).flatten()[keep])
    assert len(m.xy)==len(m.ids)+len(m.chosen) and m.xy.isfinite().all()
    assert torch.equal(m.xy, code_map(tok, u8, some.labels, perplexity=5, seed=1).xy)
    if quantizer is not None and quantizer.cosine: assert m.codes.norm(dim=1).sub(1).abs().max()<1e-5
    assert 0<=map_numbers(m)['neighbours']<=1

def test_a_map_of_plain_ground_is_refused():
    from iutok.maps import code_map
    with pytest.raises(ValueError, match='Only 0 patches are no plain ground'):
        code_map(tiny(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))

def test_neighbours_of_two_far_classes_are_of_their_own():
    from iutok.maps import CodeMap, map_numbers
    y = torch.arange(60)%2
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))+20*y[:,None]
    n = map_numbers(CodeMap(x, y, y, None, None, None))
    assert n['neighbours']==n['purity']==1 and n['neighbours_by_chance']==.5

# --- drawings

@pytest.mark.parametrize('n, says', [(0, 'nothing to learn'), (7, '7 parameters'), (1500, '1.5 k parameters'),
                                     (29_298_176, '29.3 M parameters')])
def test_a_size_in_words(n, says):
    from iutok.drawing import size_of
    m = torch.nn.Module()
    if n: m.p = torch.nn.Parameter(torch.empty(n, device='meta'))
    assert size_of(m)==says

def test_a_drawing_says_what_the_object_is():
    from matplotlib import pyplot as plt
    from iutok.drawing import Sheet, draw_tokenizer, shapes
    tok = tiny()
    assert shapes(tok)==dict(image='3×32×32', map='8×8×8', latents='2×8×8', ids='8×8', out='3×32×32')
    s = Sheet(13, 1.2)
    draw_tokenizer(s, tok, .6, 'mine', 'losses\nL1')
    said = ' '.join(t.get_text() for t in s.ax.texts)
    n = sum(p.numel() for p in tok.encoder.parameters())
    assert f'{n/1000:.1f} k parameters' in said and '4·4 codes in 2 dimensions' in said and 'mine' in said
    plt.close(s.fig)
    tok.post_encode = None
    with pytest.raises(ValueError, match='8 channels reach a quantizer of 2'): shapes(tok)

# --- the painter

def test_what_is_painted_can_be_taken_back():
    from iutok.painter import Painter
    p = Painter(tiny(), HELD.batch(range(6), 32), palette=5)
    first = p.picture
    p.brush = next(k for k in range(16) if k!=int(p.ids[2,5]))
    p.press(2, 5)
    assert int(p.ids[2,5])==p.brush and (p.ids!=p.start).sum()==1 and not torch.equal(p.picture, first)
    p.press(0, 0); p.reset(); p.undo(); p.undo(); p.undo(); p.undo()
    assert torch.equal(p.ids, p.start) and torch.equal(p.picture, first)

def test_buttons_do_what_hands_do():
    pytest.importorskip('ipywidgets')
    from iutok.painter import Painter, colour, face
    p = Painter(tiny(), HELD.batch(range(6), 32), palette=3)
    top,bottom = face(p).children
    picture,grid,palette = top.children
    was = picture.value
    palette.children[0].children[1].click()
    assert p.brush==p.palette[0] and f'code {p.brush}' in bottom.children[2].value
    p.brush = (int(p.ids[1,1])+5)%16
    grid.children[1].children[1].click()
    assert int(p.ids[1,1])==p.brush and picture.value!=was
    assert grid.children[1].children[1].style.button_color==colour(p.brush)
    bottom.children[0].click()
    assert picture.value==was and '0 of 64' in bottom.children[2].value

@pytest.mark.parametrize('row, col, code', [(8, 0, 1), (0, -1, 1), (0, 0, -1), (0, 0, 1.5)])
def test_places_and_codes_that_are_none_are_refused(row, col, code):
    from iutok.painter import paint
    with pytest.raises(ValueError, match='must be a whole number'): paint(torch.zeros(8, 8).long(), row, col, code)

# --- the pages

@pytest.mark.parametrize('page', ['fig_framework', 'fig_architectures', 'fig_codebook_tsne', 'fig_reconstructions',
                                  'fig_what_a_code_means', 'fig_sampling', 'doctor', 'errata'])
def test_a_page_says_its_question_its_cost_and_what_we_conclude(page):
    cells = json.loads((ROOT/'nbs'/f'{page}.ipynb').read_text())['cells']
    first,last = (''.join(c['source']) for c in (cells[0], cells[-1]))
    assert first.startswith('# ') and '\n> ' in first and 'Cost:' in first and 'Expect:' in first
    assert last.startswith(('## What we conclude', '## What to read from it'))
    errors = [o for c in cells for o in c.get('outputs', []) if o['output_type']=='error']
    assert not errors
