"One training step at full size, checked: is the loss finite, did everything move that should, and nothing else?"
import resource, time, torch

_BITS = {1:torch.int8, 2:torch.int16, 4:torch.int32, 8:torch.int64}
def _mark(t): # a number that a change of the tensor's bits changes
    t = t.detach().contiguous()
    return t.view(torch.uint8 if t.dtype==torch.bool else _BITS[t.element_size()]).sum(dtype=torch.int64).item()

def one_step(
    phases:dict,      # name -> Phase, stepped in turn as `fit` does
    batch,            # what their modules take
    step:int,         # one at which all of them act and the learning rates are large enough to show
    owned:dict,       # name -> module whose parameters are watched
    still:tuple=(),   # prefixes of names that must stay as they are to the last bit
    buffers:tuple=(), # names of buffers that must move, too
    precision:str='fp32', # or bf16
)->dict:              # losses per phase; tensors in all, that should move, that moved; wrong: names that did not do what they should; seconds; peak_mb of this process
    "Step every phase once."
    named = {f'{k}.{n}':t for k,m in owned.items() for n,t in [*m.named_parameters(), *m.named_buffers()] if isinstance(t, torch.nn.Parameter) or f'{k}.{n}' in buffers or f'{k}.{n}'.startswith(still or ('\0',))}
    should = {n for n in named if not n.startswith(still or ('\0',)) or n in buffers}
    before,losses,began = {n:_mark(t) for n,t in named.items()},{},time.time()
    for k,p in phases.items():
        p.module.train()
        p.set_lr(step)
        p.optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=precision=='bf16'): loss,_ = p.module(batch, step)
        loss.backward()
        p.optimizer.step()
        losses[k] = loss.item()
    seconds = time.time()-began
    moved = {n for n,t in named.items() if _mark(t)!=before[n]}
    return dict(losses=losses, parameters=len(named), should=len(should), moved=len(moved), wrong=sorted(moved^should), seconds=seconds, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)

def fine(r): # a result of one_step
    return not r['wrong'] and all(abs(v)<float('inf') for v in r['losses'].values())
