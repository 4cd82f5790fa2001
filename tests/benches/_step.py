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
)->dict:              # losses per phase; how many tensors there are, should move, moved; seconds; peak_mb of this
                      # process; wrong: names that did not do what they should
    "Step every phase once."
    rests = lambda name: name.startswith(tuple(still))
    every = {f'{k}.{n}':t for k,m in owned.items() for n,t in [*m.named_parameters(), *m.named_buffers()]}
    named = {n:t for n,t in every.items() if isinstance(t, torch.nn.Parameter) or n in buffers or rests(n)}
    should = {n for n in named if n in buffers or not rests(n)}
    before = {n:_mark(t) for n,t in named.items()}
    losses = {}
    began = time.time()
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    return dict(losses=losses, parameters=len(named), should=len(should), moved=len(moved), wrong=sorted(moved^should),
                seconds=seconds, peak_mb=peak)

def fine(r): # a result of one_step
    return not r['wrong'] and all(abs(v)<float('inf') for v in r['losses'].values())
