"A VQGAN that is killed in the middle of training and started again ends with the same weights as one that was left alone."
import csv,signal,subprocess,sys,time
from pathlib import Path
import torch

TRAIN = '''
import sys,time,torch
from types import SimpleNamespace
from iutok.core import seed_everything
from iutok.data import Batches,load_images
from iutok.quantizers import VQ
from iutok.recipes import conv_tokenizer,pixel_phases
from iutok.training import fit
torch.set_num_threads(1)
folder,pause = sys.argv[1],float(sys.argv[2])
run = SimpleNamespace(width=8, mults=[1, 2], n_res=1, latent=8, attention=False, image_size=32, steps=24, l1=1., mse=1., perceptual='none', gan=1., gan_start=.25, gan_gain=.8,
                      disc_depth=1, disc_width=8, lr=2e-3, lr_final=0., warmup=.1, warm=.2, disc_lr=1e-3)
class Slow(Batches): # leaves time to be killed
    def __getitem__(self, step): time.sleep(pause); return super().__getitem__(step)
seed_everything(0)
tok = conv_tokenizer(run, VQ(16, 4, init='kmeans'))
batches = Slow(load_images('fashion', 'test').take(200), 32, 8, 'strong', seed=1)
out = fit(pixel_phases(run, tok), batches, run.steps, folder, 'vqgan-test', seed=0, clip=1., ema=.9, save_every=5, log_every=4)
torch.save(dict(tok=tok.state_dict(), ema=out['ema'].state_dict(), resumed=out['resumed_at']), f'{folder}/end.pt')
'''

def test_killed_training_ends_with_the_same_weights(tmp_path):
    script = tmp_path/'train.py'
    script.write_text(TRAIN)
    cmd = lambda name,pause: [sys.executable, str(script), str(tmp_path/name), str(pause)]
    root = Path(__file__).parents[1]
    subprocess.run(cmd('whole', 0), check=True, cwd=root)
    p = subprocess.Popen(cmd('killed', .3), cwd=root)
    deadline = time.time()+120
    while not (tmp_path/'killed'/'checkpoint.pt').exists():
        assert time.time()<deadline and p.poll() is None
        time.sleep(.05)
    time.sleep(.5) # somewhere after a checkpoint, with steps that will be lost
    p.send_signal(signal.SIGKILL); p.wait()
    assert not (tmp_path/'killed'/'end.pt').exists()
    subprocess.run(cmd('killed', 0), check=True, cwd=root)
    a,b = (torch.load(tmp_path/k/'end.pt', weights_only=True) for k in ('whole', 'killed'))
    assert a['resumed']==0 and 0<b['resumed']<24
    for part in ('tok', 'ema'):
        for k in a[part]: assert torch.equal(a[part][k], b[part][k]), k
    rows = [[{k:v for k,v in r.items() if k!='images_per_s'} for r in csv.DictReader((tmp_path/k/'curves.csv').open())] for k in ('whole', 'killed')]
    assert rows[0]==rows[1] and len(rows[0])==6
