"""Inception features and statistics against torch-fidelity, from the same 512 images of 299 pixels and the same random
weights, on one thread in float32; and the covariance that streams against numpy on all features at once."""
import os
IMAGES,SIDE,BATCH,THREADS = 512,299,32,1
for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'): os.environ[k] = str(THREADS)
import tempfile, time
from pathlib import Path
import numpy as np, torch
from _measure import medians, peak_extra, row
from iutok.data import load_images
from iutok.metrics import FeatureStats, frechet_distance, inception_score, kernel_distance, precision_recall
from iutok.metrics.inception import Inception

torch.set_num_threads(THREADS)

def networks():
    "torch-fidelity's extractor and ours, with the same random weights."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    with tempfile.TemporaryDirectory() as tmp:
        path = str(Path(tmp)/'w.pth')
        torch.save(Inception(pretrained=False, fast=False).net.state_dict(), path)
        return FeatureExtractorInceptionV3('theirs', ['2048', 'logits_unbiased'], path),Inception(weights=path)

def take_turns(*nets, u8):
    "Seconds and outputs of each network; they take turns batch by batch, so that a busy moment hits all of them."
    spent,outs = [0.]*len(nets),[[] for _ in nets]
    for n in nets: n(u8[:2])
    for part in u8.split(BATCH):
        for i,net in enumerate(nets):
            start = time.perf_counter()
            outs[i].append(net(part))
            spent[i] += time.perf_counter()-start
    return spent,[[torch.cat(o) for o in zip(*out)] for out in outs]

def timed(fn):
    start = time.perf_counter()
    out = fn()
    return time.perf_counter()-start,out

def scores(f, logits):
    "FID, KID, IS and precision and recall of the first half against the second, by torch-fidelity."
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric
    a,b = f.chunk(2)
    size = len(a)//2
    prc = prc_features_to_metric(a, b, verbose=False, save_cpu_ram=False)
    return dict(FID=[*fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), False).values()][0],
                KID=[*kid_features_to_metric(a, b, kid_subset_size=size, verbose=False).values()][0],
                IS=isc_features_to_metric(logits)['inception_score_mean'], precision=prc['precision'],
                recall=prc['recall'])

def our_scores(f, logits):
    "The same by iutok."
    a,b = f.chunk(2)
    fid = frechet_distance(*[FeatureStats().update(x) for x in (a, b)])
    prdc = precision_recall(a, b)
    return dict(FID=fid, KID=kernel_distance(a, b, subset_size=len(a)//2)[0], IS=inception_score(logits)[0],
                precision=prdc.precision, recall=prdc.recall)

def inception():
    "Features and statistics: time, distance of the features, distance of the scores."
    n = int(os.environ.get('BENCH_IMAGES', IMAGES))
    u8 = load_images('emoji', 'train').batch(range(n), SIDE)
    theirs,ours = networks()
    (theirs_s,ours_s),(want,got) = take_turns(theirs, ours, u8=u8)
    cov_s,_ = timed(lambda: (want[0].numpy().mean(0), np.cov(want[0].numpy(), rowvar=False)))
    stream_s,_ = timed(lambda: FeatureStats().update(got[0]).sigma)
    work = f'Inception features and statistics, {n} at {SIDE}'
    peer = 'torch-fidelity, float32'
    yield row(work, peer, (ours_s+stream_s)/n*1e3, (theirs_s+cov_s)/n*1e3, 'ms/img', 1/1.3)
    far = ((got[0]-want[0]).norm()/want[0].norm()).item()
    yield row('Inception features, relative distance', 'limit of 1e-3', far, 1e-3, '', 1.)
    scale = want[1].std() # logits of random weights are so far apart that torch-fidelity's logarithms fail
    a,b = our_scores(got[0], got[1]/scale),scores(want[0], want[1]/scale)
    for k in a: yield row(f'{k}, relative difference', 'limit of 1e-4', abs(a[k]-b[k])/abs(b[k]), 1e-4, '', 1.)

def stream(blocks):
    s = FeatureStats()
    for f in blocks: s.update(f)
    return s.sigma

def covariance(n=20_000, d=2048):
    "Time on the hoarded matrix, and the memory that 50,000 features need when they come in batches."
    f = torch.randn(n, d)
    ours_s,theirs_s = medians(lambda: stream(f.split(50)), lambda: np.cov(f.numpy(), rowvar=False), runs=3, warmup=0)
    yield row(f'covariance of {n:,} x {d}', 'numpy, all at once', ours_s, theirs_s, 's', 1.)
    some = torch.randn(250, d)
    extra = peak_extra(lambda: stream(some for _ in range(200)))
    yield row(f'extra memory for 50,000 x {d}', 'limit', extra, 300, 'MB', 1.)

def rows():
    "All results, one after the other."
    yield from covariance()
    yield from inception()
