"""A masked network in 16 steps against our autoregressive one token by token: the mini networks of the same size, 64
tokens, one thread. A row tells seconds for the whole batch.

16 passes over 65 positions are 16 times the work of 64 passes over one, so a CPU that is busy gains nothing. Alone, an
image waits for 64 small passes or for 16 larger ones.
"""
import os
os.environ['OMP_NUM_THREADS'] = '1'
import torch
from _measure import medians, row
from iutok.decoding import fill
from iutok.proposals.ar import AR, AR_SIZES
from iutok.proposals.nar import NAR, NAR_SIZES
from iutok.sampling import sample

torch.set_num_threads(1)
STEPS = 16

def rows():
    "All results; the ratio is of seconds, so 1/4 is four times the images a second."
    torch.manual_seed(0)
    ar,nar = AR(512, 10, 64, **AR_SIZES['small']).eval(),NAR(512, 10, 64, **NAR_SIZES['nar_small']).eval()
    for batch,aim in ((1, 1/4), (256, None)):
        y = torch.arange(batch)%10
        times = medians(lambda: fill(nar, y, steps=STEPS), lambda: sample(ar, y), runs=5 if batch==1 else 3)
        yield row(f'mini, 64 tokens, {STEPS} steps, batch {batch}', 'our AR', *times, 's', aim)
