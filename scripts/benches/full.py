"""One optimisation step of generator and discriminator at the paper's full size, one 256x256 image, on this CPU.

Each row runs in a process of its own: is the loss finite, did everything move that should and nothing else, how long, how much memory at most."""
import json, os, resource, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

ROWS = ('vqgan-8192-dd2', 'cvqvae-8192', 'fsq-8000', 'llamagen-16384x8', 'decoder-llamagen', 'decoder-vit')

def one_step(
    name:str, # a pixel recipe
)->dict:      # losses per phase; parameters in all, that should move, that moved; wrong: names that did not do what they should; seconds; peak_mb of this process
    "Build a recipe at full size with fresh weights (VGG's too) and train it for one step on one random image."
    import torch
    from iutok.core import seed_everything
    from iutok.data import Batch
    from iutok.losses.recon import VGG16, perceptual_vgg
    from iutok.recipes import RECIPES, build, pixel_phases
    seed_everything(0)
    run,frozen = SimpleNamespace(**RECIPES[name]),name.startswith('decoder')
    tok,perceptual = build(name),perceptual_vgg(VGG16(), [torch.rand(c) for c in (64, 128, 256, 512, 512)])
    phases = pixel_phases(run, tok, frozen=frozen, perceptual=perceptual)
    owned = {'tok':tok, 'disc':phases['d'].module.disc, 'perceptual':perceptual.net[0]}
    named = {f'{k}.{n}':p for k,m in owned.items() for n,p in m.named_parameters()}
    still = ('perceptual.', *(('tok.encoder.', 'tok.post_encode.', 'tok.quantizer.') if frozen else ()))
    should = {n for n in named if not n.startswith(still)}
    before = {n:p.detach().clone() for n,p in named.items()}
    x = torch.randint(0, 256, (1, 3, run.image_size, run.image_size), dtype=torch.uint8)
    batch,step,losses,began = Batch(x, torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)),run.steps-1,{},time.time()
    for k,p in phases.items():
        p.module.train()
        p.set_lr(step)
        p.optimizer.zero_grad(set_to_none=True)
        loss,_ = p.module(batch, step)
        loss.backward()
        p.optimizer.step()
        losses[k] = loss.item()
    seconds = time.time()-began
    moved = {n for n,p in named.items() if not torch.equal(p, before[n])}
    return dict(losses=losses, parameters=len(named), should=len(should), moved=len(moved), wrong=sorted(moved^should), seconds=seconds, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)

def rows():
    for name in ROWS:
        r = json.loads(subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(Path(__file__).parents[2]))).stdout.splitlines()[-1])
        fine = not r['wrong'] and all(abs(v)<float('inf') for v in r['losses'].values())
        work = f"{name}: {r['moved']} of {r['parameters']} tensors moved"
        for unit,v in (('s', r['seconds']), ('MB', r['peak_mb'])): yield dict(work=work, peer='none (one step, batch 1)', ours=v, theirs=None, unit=unit, ratio=None, target=None, ok=fine)

if __name__=='__main__': print(json.dumps(one_step(sys.argv[1])))
