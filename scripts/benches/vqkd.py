"""One full-size step of VQ-KD at batch 2 on this machine's CPU: the paper's student with teachers of CLIP ViT-B/16's and OpenCLIP bigG/14's shape.

Weights are random, sizes are not. Every row's step has been checked: finite loss, all 189 trained tensors and the codebook moved, the teacher did not.
`theirs` is the teacher's forward pass alone; for memory, what weights, gradients and moments of the student and the teacher's weights take at least.
"""
import gc, time, torch
from _measure import peak_in_child, row
from _step import one_step
from iutok.data import Batch
from iutok.distillation import distil_phase, vqkd_tokenizer
from iutok.teachers import load_teacher

TEACHERS = {'clip':'VQ-KD step, batch 2, CLIP ViT-B/16', 'openclip_bigG_14':'VQ-KD step, batch 2, OpenCLIP ViT-bigG/14'}

def paper_step(teacher):
    "Losses, seconds of the step and of the teacher alone, bytes that cannot be avoided; the step is checked."
    torch.manual_seed(0)
    t = load_teacher(teacher, profile='paper', pretrained=False, project=True)
    u8 = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    began = time.perf_counter()
    assert t(u8).isfinite().all()
    alone = time.perf_counter()-began
    tok = vqkd_tokenizer(t.info.dim)
    batch = Batch(u8, torch.zeros(2, dtype=torch.long), torch.arange(2))
    phase = distil_phase(tok, lambda b: t(b.u8))
    losses,seconds = one_step(dict(kd=phase), batch, 25_000, frozen=[t], moving_buffers=['quantizer.codebook','quantizer.initialised'])
    least = sum(p.numel()*p.element_size() for p in t.parameters())+16*sum(p.numel() for p in tok.parameters())
    return losses,seconds,alone,least

def peak(work, side):
    "Peak resident memory of this process over one step, in MB; printed alone by the child."
    from pathlib import Path
    *_,least = paper_step(work)
    if side=='theirs': return least/2**20
    return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmHWM')).split()[1])/1024

def rows():
    "All results, one after the other."
    for teacher,work in TEACHERS.items():
        losses,seconds,alone,least = paper_step(teacher)
        yield row(f'{work} (loss {losses["kd"]:.3f})', "the teacher's forward alone", seconds, alone, 's')
        gc.collect()
        yield row(f'{work}, memory', 'weights, gradients, moments', peak_in_child('vqkd', teacher, 'ours'), least/2**20, 'MB')
