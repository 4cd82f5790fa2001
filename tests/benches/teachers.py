"""Teacher features against the plain timm call (float32, contiguous, inference mode), both from the same uint8 images
at 224 pixels, on two threads."""
import os
THREADS,BATCH,SIDE = 2,32,224
for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ[k] = str(THREADS)
import timm, torch
from _measure import medians, row
from iutok.data import load_images, sequential
from iutok.teachers import effnet, load_teacher

torch.set_num_threads(THREADS)

def plain(net, info):
    "A function that calls a network as its model card says: u8 -> features."
    mean,std = (torch.tensor(v).view(3, 1, 1) for v in (info.mean, info.std))
    @torch.inference_mode()
    def run(u8): return net((u8.float()/255-mean)/std)
    return run

def sides():
    "Name, our teacher, the plain call and the largest ratio of times that meets the aim."
    t = load_teacher('effnet')
    net = effnet(features_only=True, out_indices=(3,)).eval()
    yield 'effnet',t,plain(lambda x: net(x)[-1], t.info),1/3
    t = load_teacher('dino', profile='paper', pretrained=False)
    net = timm.create_model('vit_base_patch16_224', num_classes=0).eval()
    net.load_state_dict(load_teacher('dino', profile='paper', pretrained=False, fast=False).net.net.state_dict())
    def patches(x): return net.forward_features(x)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    yield 'ViT-B/16, random weights',t,plain(patches, t.info),1.

def rows():
    "All results, one after the other."
    u8 = next(iter(sequential(load_images('fashion', 'test'), SIDE, BATCH))).u8
    for name,t,theirs,target in sides():
        work = f'{name}, {BATCH} images at {SIDE}'
        ours_s,theirs_s = medians(lambda: t(u8), lambda: theirs(u8))
        yield row(work, 'timm, float32', ours_s/BATCH*1e3, theirs_s/BATCH*1e3, 'ms/img', target)
        yield row(work+', for information', 'timm, float32', BATCH/ours_s, BATCH/theirs_s, 'img/s')
        want = theirs(u8)
        far = ((t(u8)-want).norm()/want.norm()).item()
        yield row(name+', distance from its features', 'limit of 2 %', far*100, 2., '%', 1.)
