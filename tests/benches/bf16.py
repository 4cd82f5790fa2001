"""Training in bfloat16 against float32: the loss that is left after 2,000 steps at toy size, for every tokenizer.

A lower loss is as much of a difference as a higher one. Where a GAN or a choice of codes is in play, two trainings part
ways after the first difference in rounding, so a third one shows how far float32 parts from itself when the images of
each batch come in another order; where that is further than the aim, bfloat16 is not judged.
IUTOK_STEPS=200 takes fewer steps. The loss is the mean over the last tenth of them."""
import csv, json, os, sys, tempfile, time
from pathlib import Path
from _measure import child, near, row

ROOM = .02 # share by which the losses may differ
STEPS = int(os.environ.get('IUTOK_STEPS', 2000))
LOSS = dict(cluster='codes', vqkd='kd_feature', fsq='g_rec', decoder='g_rec', cvqvae='g_rec', vqgan='g_rec')

class Turned:
    "The same batches, their images in another order."
    def __init__(self, batches): self.batches,self.batch_size = batches,batches.batch_size
    def __getitem__(self, step):
        b = self.batches[step]
        return type(b)(*(t.flip(0) for t in b))

def left(name, precision, turned=False, steps=STEPS):
    "Loss at the end, and CPU seconds."
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch, trainers
    from iutok.data import load_images
    from iutok.training import fit,seed_everything,warmup_cosine
    torch.set_num_threads(1)
    trainers.IMAGES = load_images('fashion').take(2000) # more than can be learned by heart
    trainers.STEPS,trainers.RATE = steps,warmup_cosine(1e-3, steps, steps//20)
    if LOSS[name]=='g_rec': trainers.SIDE = 16 # pixels
    seed_everything(0)
    phases,batches = getattr(trainers, name)()
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fit(phases, Turned(batches) if turned else batches, steps, folder, precision=precision, log_every=steps//10)
        with open(f'{folder}/curves.csv') as f: last = list(csv.DictReader(f))[-1]
    return dict(loss=float(last[LOSS[name]]), seconds=time.process_time()-began)

def rows():
    "float32 to itself, and bfloat16 to float32."
    for name in LOSS:
        full,turned,half = (child(__file__, f'{name}:{how}')['loss'] for how in ('fp32', 'fp32:turned', 'bf16'))
        what = f'{name}: loss after {STEPS:,} steps'
        again = row(f'{what}, float32, batches turned', 'itself, float32', turned, full, 'loss')
        yield again
        yield near(f'{what}, bfloat16', 'itself, float32', half, full, 'loss', ROOM, again['ratio'])

if __name__=='__main__':
    name,precision,*turned = sys.argv[1].split(':')
    print(json.dumps(left(name, precision, bool(turned))))
