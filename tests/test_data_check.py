"Looking data sets over: what is wrong is said in words, with a name; what is right is left alone."
import os, re, subprocess, sys, zipfile
from pathlib import Path
import pytest
from PIL import Image
from iutok.files import load_json
from iutok.inspection import look_over
from test_data_sets import FLAT, NUMBERS, SYNSETS, TRAIN, jpeg, plain, shard, tree
from iutok.splits import GROUND_TRUTH

ROOT = Path(__file__).parents[1]

def wrong(look): return [f.text for f in look.findings if f.wrong]

def shop(root, train=12, val=3):
    return tree(root, [f'train/{c}/{i:02}.jpg' for c in ('bag', 'coat') for i in range(train)]
                + [f'val/{c}/{i:02}.jpg' for c in ('bag', 'coat') for i in range(val)])

def test_a_sound_folder_has_nothing_to_mend(tmp_path):
    look = look_over(f'folder:{shop(tmp_path/"s")}', cache=tmp_path)
    assert not wrong(look) and look.table.to_dict('list')=={'train':[12, 12], 'held out':[3, 3]}
    assert 'Nothing is missing or misplaced.' in str(look) and look.sheet(each=4).size==(4*50-2, 2*50-2)
    assert '24 images to train on, 6 images held out, 2 classes.' in str(look)

@pytest.mark.parametrize('harm, says', [
    (lambda r: (r/'val'/'coat'/'9.jpg').write_bytes((r/'train'/'bag'/'03.jpg').read_bytes()),
     'trained on, too: 1, such as val/coat/9.jpg, which is train/bag/03.jpg'),
    (lambda r: (r/'train'/'hat').mkdir(), 'train/hat/ is empty'),
    (lambda r: [f.rename(f.parents[1]/f.name) for f in (r/'val'/'bag').iterdir()],
     'beside the folders of val/ and are not read: 00.jpg, 01.jpg, 02.jpg'),
    (lambda r: tree(r, ['train/Coat /1.jpg']), 'nearly agree: Coat , coat'),
    (lambda r: [(r/'train'/'bag'/f'{i:02}.jpg').write_bytes(b'') for i in range(9)], '9 of the 30 files .*zero bytes'),
    (lambda r: (r/'val').rename(r/'held'), 'are these classes or splits')])
def test_what_is_wrong_with_a_folder_is_said(tmp_path, harm, says):
    root = shop(tmp_path/'s')
    harm(root)
    look = look_over(f'folder:{root}', cache=tmp_path)
    assert any(re.search(says, t) for t in wrong(look)), str(look)

def test_what_is_only_to_be_known_is_no_fault(tmp_path):
    root = shop(tmp_path/'s')
    tree(root, ['train/scarf/1.jpg'])
    (root/'train'/'coat'/'copy.jpg').write_bytes((root/'train'/'coat'/'05.jpg').read_bytes())
    Image.new('RGB', (300, 20)).save(root/'train'/'coat'/'banner.png')
    (root/'train'/'coat'/'old.jpg').write_bytes(b'no')
    (root/'train'/'coat'/'05.txt').write_text('a coat')
    look = look_over(f'folder:{root}', cache=tmp_path)
    assert not wrong(look)
    for words in ('copies of another one: 2', 'fewer than 10 images to train on: scarf (1)', 'old.jpg (not an image)',
                  'Classes without an image held out: scarf', 'Less than 32 pixels', 'three times as long',
                  '1 of 33 images'):
        assert words in str(look), words

def test_named_sets_are_held_against_their_sizes(tmp_path):
    root = tree(tmp_path/'in', TRAIN+[f'val/{n}' for n in FLAT])
    assert f'takes {GROUND_TRUTH}' in wrong(look_over('imagenet', root, tmp_path))[0]
    (root/GROUND_TRUTH).write_text('\n'.join(map(str, NUMBERS)))
    said = '\n'.join(wrong(look_over('imagenet', root, tmp_path)))
    assert 'to train on: 6, and imagenet has 1,281,167, so 1,281,161 are missing.' in said
    assert f'Classes: {len(SYNSETS)}, and imagenet has 1,000.' in said
    assert "needs data_root" in str(look_over('ffhq')) and 'is not a folder' in str(look_over('ffhq', tmp_path/'gone'))

def test_archives_and_shards_are_looked_over_too(tmp_path):
    (tmp_path/'c').mkdir()
    with zipfile.ZipFile(tmp_path/'c'/'a.zip', 'w') as z:
        for i in (1, 2, 27000): z.writestr(f'{i:05}.jpg', jpeg(i))
    assert 'to train on: 2, and celeba_hq has 27,000' in str(look_over('celeba_hq', tmp_path/'c', tmp_path))
    for k in (0, 1): shard(tmp_path/f'{"train" if k else "val"}-0.tar', plain(k))
    assert 'Nothing is missing' in str(look_over(f'wds:{tmp_path}/{{train,val}}-0.tar', cache=tmp_path))
    assert 'there is no' in str(look_over('wds:none.tar', tmp_path, tmp_path))

def test_the_page_keeps_what_it_says(tmp_path):
    root = shop(tmp_path/'my images', 6, 2)
    (root/'train'/'hat').mkdir()
    env = os.environ | dict(IUTOK_HERE=str(tmp_path), IUTOK_CACHE=str(tmp_path/'cache'), PYTHONPATH=str(ROOT))
    words = ['data=folder:my images', 'profile=smoke', f'run_root={tmp_path/"runs"}']
    done = subprocess.run([sys.executable, ROOT/'scripts'/'run', 'check_data', *words], cwd=ROOT, env=env,
                          capture_output=True, text=True)
    assert done.returncode==0, done.stderr[-2000:]
    out = tmp_path/'runs'/'check_data'
    record,said = load_json(out/'record.json'),(out/'said.txt').read_text()
    assert record['metrics']==dict(train=12, test=4, to_mend=1) and '- train/hat/ is empty.' in said
    assert Image.open(out/'sheet.png').size==(8*50-2, 2*50-2)
