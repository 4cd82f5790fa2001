"""One full-size step of VQ-KD at batch 2 on this CPU: the paper's student with teachers of the shape of CLIP ViT-B/16
and of OpenCLIP bigG/14, weights random.

Each row runs in a process of its own: is the loss finite, did all 189 trained tensors and the codebook move and no
tensor of the teacher, how long (against the teacher's forward pass alone), how much memory at most (against weights,
gradients and moments alone). The teacher of bigG's shape takes about 4 GB in bfloat16 and twice that for a moment."""
import json, sys, time
from _measure import child, row
from _step import fine, one_step

TEACHERS = {'clip':'CLIP ViT-B/16', 'openclip_bigG_14':'OpenCLIP ViT-bigG/14'}

def paper_step(
    teacher:str, # its name at profile paper
)->dict:         # as `one_step`, and alone: seconds of the teacher's forward pass;
                 # least_mb: what weights, gradients and moments take
    "The paper's VQ-KD for one step at the peak of its learning rate, on two random images."
    import torch
    from iutok.training import seed_everything
    from iutok.data import Batch
    from iutok.distillation import distil_phase, vqkd_tokenizer
    from iutok.teachers import load_teacher
    seed_everything(0)
    t = load_teacher(teacher, profile='paper', pretrained=False)
    u8 = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    began = time.time()
    t(u8)
    alone = time.time()-began
    tok = vqkd_tokenizer(t.info.dim)
    phases = dict(kd=distil_phase(tok, lambda b: t(b.u8)))
    moving = ('tok.quantizer.codebook', 'tok.quantizer.initialised')
    r = one_step(phases, Batch(u8, None, None), 25_000, dict(tok=tok, teacher=t), ('teacher.',), moving)
    frozen = sum(p.numel()*p.element_size() for p in t.parameters())
    trained = sum(p.numel() for p in tok.parameters())
    least = frozen+16*trained # weight, gradient and two moments, each of 4 bytes
    return r | dict(alone=alone, least_mb=least/2**20)

def rows():
    "Seconds and memory of each teacher's step."
    for name,what in TEACHERS.items():
        r = child(__file__, name)
        work = f"VQ-KD of {what}, batch 2: {r['moved']} of {r['parameters']} moved"
        loss = f"loss {r['losses']['kd']:.3f}"
        time_row = row(work, "the teacher's forward alone", r['seconds'], r['alone'], 's')
        memory_row = row(f'{work}, {loss}', 'weights, gradients, moments', r['peak_mb'], r['least_mb'], 'MB')
        for one in (time_row, memory_row): yield one | dict(ok=fine(r))

if __name__=='__main__': print(json.dumps(paper_step(sys.argv[1])))
