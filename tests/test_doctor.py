"What the codebook doctor measures, against scikit-learn and closed forms; its sentences come when they should."
import math
import pytest, torch
from iutok.doctor import Finding, doctor, findings_of_ids, place_bits, purity, purity_by_chance, repeats, report
from iutok.quantizers import FSQ
from iutok.nets.conv import ConvDecoder, ConvEncoder
from iutok.tokenizers import Connector, Tokenizer

def drawn(seed, *shape, k): return torch.randint(0, k, shape, generator=torch.Generator().manual_seed(seed))

@pytest.mark.parametrize('seed', range(4))
def test_purity_is_that_of_the_contingency_table(seed):
    from sklearn.metrics.cluster import contingency_matrix
    ids,y = drawn(seed, 30, 4, 4, k=9),drawn(seed+10, 30, k=5)
    table = contingency_matrix(y.repeat_interleave(16), ids.flatten())
    assert purity(ids, y)==pytest.approx(table.max(0).sum()/table.sum(), abs=1e-12)

@pytest.mark.parametrize('seed', range(4))
def test_place_bits_are_the_mutual_information_of_code_and_place(seed):
    from sklearn.metrics import mutual_info_score
    ids = (drawn(seed, 50, 3, 3, k=6)+torch.arange(9).view(3, 3)*(seed%2))%7
    places = torch.arange(9).repeat(50)
    assert place_bits(ids, 7)==pytest.approx(mutual_info_score(ids.flatten(), places)/math.log(2), abs=1e-9)

def test_chance_is_deterministic_and_the_most_common_class_for_one_code():
    y = torch.tensor([0]*7+[1]*3)
    ids = torch.zeros(10, 2, 2).long()
    assert purity_by_chance(ids, y)==purity(ids, y)==.7
    many = drawn(0, 10, 8, 8, k=64)
    assert purity_by_chance(many, y, seed=3)==purity_by_chance(many, y, seed=3)

def test_repeats_of_a_chessboard_and_of_one_code():
    board = (torch.arange(8)[:,None]+torch.arange(8))%2
    assert repeats(board[None])==(0., .5) and repeats(torch.zeros(3, 4, 4).long())==(1., 1.)
    assert repeats(torch.zeros(3, 1, 1).long())[0]==0 # there are no neighbours

def by_name(findings): return {f.name:f for f in findings}

@pytest.mark.parametrize('ids, odd', [
    (drawn(0, 100, 8, 8, k=64), set()),
    (torch.zeros(100, 8, 8).long(), {'usage'}), # a neighbour is the same by chance, too
    (torch.arange(64).view(1, 8, 8).expand(100, 8, 8), {'fixed places', 'place'}),
    (drawn(0, 100, 8, 8, k=16)*4, {'usage'}),
    (drawn(0, 4, 8, 8, k=64), {'tokens', 'place'})])
def test_sentences_come_where_something_is_odd_and_only_there(ids, odd):
    assert {f.name for f in findings_of_ids(ids, 64) if f.cause}==odd

def test_codes_that_know_the_class_are_told_from_those_that_do_not():
    y = torch.arange(100)%4
    knowing,blind = drawn(0, 100, 4, 4, k=8)+8*y[:,None,None],drawn(0, 100, 4, 4, k=32)
    a,b = (by_name(findings_of_ids(x, 32, labels=y)) for x in (knowing, blind))
    assert a['purity'].value==1 and a['class'].value==pytest.approx(2, abs=.15) and not a['purity'].cause
    assert b['class'].value<.05 and b['purity'].cause

def tiny(levels=(4, 4)): # a tokenizer nobody trained
    torch.manual_seed(0)
    body = dict(width=8, n_res=1, attention=False)
    return Tokenizer(ConvEncoder(mults=(1, 1, 1), out_channels=8, **body), FSQ(list(levels)),
                     ConvDecoder(in_channels=8, mults=(1, 1, 1), **body), Connector([8, len(levels)]),
                     Connector([len(levels), 8]), image_size=32)

def test_a_whole_tokenizer_is_looked_over_the_same_way_twice():
    u8 = drawn(0, 12, 3, 32, 32, k=256).to(torch.uint8)
    tok = tiny()
    a,b = doctor(tok, u8, torch.arange(12)%3),doctor(tok, u8, torch.arange(12)%3)
    assert a==b and all(isinstance(f, Finding) and isinstance(f.value, (int, float)) for f in a)
    assert {'usage', 'class', 'unsteady', 'reconstruction', 'come back'}<=set(by_name(a))
    tok.decoder = None
    assert 'reconstruction' not in by_name(doctor(tok, u8)) and 'class' not in by_name(doctor(tok, u8))

def test_a_report_has_a_line_for_each_finding_and_one_for_each_cause():
    found = [Finding('usage', .25, 'share of codes', 'few', 'It collapsed.'), Finding('place', 2., 'bits', 'much', '')]
    lines = report(found).splitlines()
    assert len(lines)==3 and '25.0%' in lines[0] and 'It collapsed.' in lines[1] and '2 bits' in lines[2]

@pytest.mark.parametrize('call, error, said', [
    (lambda: purity(torch.zeros(3, 2).long(), torch.zeros(2).long()), ValueError, '3 images but 2 labels'),
    (lambda: purity(torch.zeros(0, 2).long(), torch.zeros(0).long()), ValueError, '0 images'),
    (lambda: purity(torch.zeros(2, 2), torch.zeros(2).long()), TypeError, 'ids must be whole numbers'),
    (lambda: purity(torch.zeros(2, 2).long(), torch.tensor([-1, 0])), ValueError, 'labels must be at least 0'),
    (lambda: purity_by_chance(torch.zeros(2, 2).long(), torch.tensor([1, 0]), shuffles=0), ValueError, 'shuffles must'),
    (lambda: findings_of_ids(torch.full((2, 2, 2), 9), 4), ValueError, 'outside'),
    (lambda: doctor(tiny(), torch.zeros(4, 3, 32, 32), torch.zeros(3).long()), ValueError, '4 images but 3 labels')])
def test_bad_input_earns_one_sentence(call, error, said):
    with pytest.raises(error) as e: call()
    assert said in str(e.value) and '\n' not in str(e.value)
