"""One optimisation step of generator and discriminator at the paper's full size, one 256x256 image, on this CPU.

Each row runs in a process of its own: is the loss finite, did everything move that should and nothing else, how long,
how much memory at most."""
import json, sys
from types import SimpleNamespace
from _measure import child, row
from _step import fine, one_step

ROWS = ('vqgan-8192-dd2', 'cvqvae-8192', 'fsq-8000', 'llamagen-16384x8', 'decoder-llamagen', 'decoder-vit')

def full_step(
    name:str, # a pixel recipe
)->dict:      # as `one_step`
    "Build a recipe at full size with fresh weights (VGG's too) and train it for one step on one random image."
    import torch
    from iutok.training import seed_everything
    from iutok.data import Batch
    from iutok.losses.recon import VGG16, perceptual_vgg
    from iutok.recipes import RECIPES, build, pixel_phases
    seed_everything(0)
    run = SimpleNamespace(**RECIPES[name])
    frozen = name.startswith('decoder')
    tok = build(name)
    perceptual = perceptual_vgg(VGG16(), [torch.rand(c) for c in (64, 128, 256, 512, 512)])
    phases = pixel_phases(run, tok, frozen=frozen, perceptual=perceptual)
    still = ('perceptual.',)
    if frozen: still += ('tok.encoder.', 'tok.post_encode.', 'tok.quantizer.')
    x = torch.randint(0, 256, (1, 3, run.image_size, run.image_size), dtype=torch.uint8)
    batch = Batch(x, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    owned = dict(tok=tok, disc=phases['d'].module.disc, perceptual=perceptual.net[0])
    return one_step(phases, batch, run.steps-1, owned, still)

def rows():
    "Seconds and memory of each recipe's step."
    for name in ROWS:
        r = child(__file__, name)
        work = f"{name}: {r['moved']} of {r['parameters']} tensors moved"
        for unit,value in (('s', r['seconds']), ('MB', r['peak_mb'])):
            yield row(work, 'none (one step, batch 1)', value, None, unit) | dict(ok=fine(r))

if __name__=='__main__': print(json.dumps(full_step(sys.argv[1])))
