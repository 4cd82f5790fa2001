"One full-size training step, checked: the loss is finite, everything that should move moves, nothing else does."
import time, torch

def marks(module):
    "A number per tensor of a module, changed by any change of its bits."
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {n:t.detach().contiguous().view(torch.uint8 if t.dtype==torch.bool else {1:torch.int8, 2:torch.int16, 4:torch.int32, 8:torch.int64}[t.element_size()]).sum(dtype=torch.int64).item() for n,t in state.items()}

def one_step(phases, batch, step, frozen=(), moving_buffers=(), precision='fp32'):
    """Step every phase once, as `fit` does, and return its losses and the seconds.

    `step` has to be one at which the learning rate is large enough to show in float32; `frozen` are modules that must stay as they are to the last bit.
    Raises AssertionError, with names, when a trained tensor (or a buffer whose name ends in one of `moving_buffers`) did not move, or anything else did.
    """
    module = {k:p.module for k,p in phases.items()}
    before,still = {k:marks(m) for k,m in module.items()},[marks(m) for m in frozen]
    trained = {id(q) for p in phases.values() for q in p.parameters}
    losses,began = {},time.perf_counter()
    for k,p in phases.items():
        p.module.train()
        p.set_lr(step)
        p.optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=precision=='bf16'): loss,_ = p.module(batch, step)
        loss.backward()
        p.optimizer.step()
        losses[k] = loss.item()
    seconds = time.perf_counter()-began
    assert all(abs(v)<float('inf') for v in losses.values()), f'losses are not finite: {losses}'
    for k,m in module.items():
        after,params = marks(m),dict(m.named_parameters())
        should = {n for n in after if (id(params[n]) in trained if n in params else n.endswith(tuple(moving_buffers) or ('\0',)))}
        moved = {n for n in after if after[n]!=before[k][n]}
        assert should<=moved, f'{k}: did not move: {sorted(should-moved)[:5]}'
        assert all(n in should or n not in params for n in moved), f'{k}: moved without being trained: {sorted(moved-should)[:5]}'
    assert still==[marks(m) for m in frozen], 'a frozen module changed'
    return losses,seconds
