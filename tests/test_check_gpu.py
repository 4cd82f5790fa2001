"""The script that people with a GPU run: what it says where both sides agree, differ, or one of them breaks."""
import importlib.machinery,importlib.util,json,sys
from pathlib import Path
import pytest,torch
import trainers

ROOT = Path(__file__).parents[1]

@pytest.fixture
def script():
    loader = importlib.machinery.SourceFileLoader('check_gpu', str(ROOT/'scripts'/'check_gpu'))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('check_gpu', loader))
    loader.exec_module(module)
    return module

def run(script, monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['check_gpu', *words])
    with pytest.raises(SystemExit) as e: script.main()
    return e.value.code

def test_every_kind_of_training_is_checked():
    names = [f.__name__ for f in trainers.TRAINERS]
    assert len(set(names))==len(names)==14 and trainers.DRAWN<=set(names)

def test_losses_of_both_sides(script):
    a,b = script.losses('vqgan'),script.losses('vqgan')
    assert a==b and len(a['losses'])==trainers.STEPS and all(v==v for v in a['losses'])

@pytest.mark.parametrize('name,there,fine', [
    ('vqgan', [1., .5], True), ('vqgan', [1., .5005], True), ('vqgan', [1., .502], False), ('nar', [1., .55], True),
    ('nar', [1., .7], False)])
def test_how_far_apart_losses_may_be(script, monkeypatch, name, there, fine):
    sides = {True:dict(device='cpu', losses=[1., .5]), False:dict(device='cuda:0', losses=there)}
    monkeypatch.setattr(script, 'elsewhere', lambda name,cpu: sides[cpu])
    r = script.compared(name)
    assert r['ok']==fine and 'on cuda:0' in r['says']

def test_timings_are_right_about_what_they_time(script, monkeypatch, tmp_path, capsys):
    out = tmp_path/'out.json'
    assert run(script, monkeypatch, '--sizes', 'toy', '--only', 'lookup,sampling', '--out', str(out))==0
    kept = json.loads(out.read_text())
    assert [r['check'] for r in kept['rows']]==['lookup', 'sampling'] and kept['hardware'] and kept['git']
    assert '2 of 2 checks are fine' in capsys.readouterr().out

def test_what_breaks_is_a_row_and_the_exit_code(script, monkeypatch, tmp_path, capsys):
    def broken(toy): raise RuntimeError('CUDA error: out of luck')
    monkeypatch.setitem(script.TIMED, 'lookup', broken)
    monkeypatch.setattr(script, 'elsewhere', lambda name,cpu: dict(error='no kernel image'))
    out = tmp_path/'out.json'
    assert run(script, monkeypatch, '--sizes', 'toy', '--only', 'ar,lookup', '--out', str(out))==1
    said = capsys.readouterr().out
    assert 'RuntimeError: CUDA error: out of luck' in said and 'no kernel image' in said and 'Not: ar, lookup.' in said
    assert "there is no check 'vqqan'" in run(script, monkeypatch, '--only', 'vqqan')

def test_random_states_of_a_gpu_travel(monkeypatch): # a stand-in for a GPU's generator
    from iutok.training import _rng,_set_rng
    state = torch.arange(5, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: state)
    got = []
    monkeypatch.setattr(torch.cuda, 'set_rng_state', got.append)
    _set_rng(_rng())
    assert torch.equal(got[0], state)
