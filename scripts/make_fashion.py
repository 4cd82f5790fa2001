#!/usr/bin/env python
"""Build iutok/assets/fashion.npz.xz from Debian's dataset-fashion-mnist: the first 2,000 training and 500 test images
of every class.

The classes take turns (image i is of class i % 10), so that any prefix is balanced. The file is the same, byte for
byte, on every run.
Usage: scripts/make_fashion.py [FOLDER_WITH_THE_FOUR_IDX_GZ_FILES]
"""
import gzip, io, lzma, sys
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).resolve().parents[1]/'iutok'/'assets'

def read_idx(path):
    "The array in a gzipped IDX file: magic number (its last byte counts the dimensions), sizes, bytes."
    raw = gzip.decompress(Path(path).read_bytes())
    shape = np.frombuffer(raw, '>i4', count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4+4*raw[3]).reshape(shape)

def first_of_each(images, labels, n):
    "The first n images of every class, the classes taking turns."
    rows = np.stack([np.flatnonzero(labels == c)[:n] for c in range(10)], axis=1).ravel()
    return images[rows], labels[rows]

def main(folder='/usr/share/datasets/fashion-mnist'):
    arrays = {}
    for ours, theirs, n in (('train', 'train', 2000), ('test', 't10k', 500)):
        x, y = (read_idx(Path(folder)/f'{theirs}-{kind}-ubyte.gz') for kind in ('images-idx3', 'labels-idx1'))
        arrays[f'{ours}_images'], arrays[f'{ours}_labels'] = first_of_each(x, y, n)
    npz = io.BytesIO()
    np.savez(npz, **arrays)
    packed = lzma.compress(npz.getvalue(), preset=9|lzma.PRESET_EXTREME)
    out = ASSETS/'fashion.npz.xz'
    out.write_bytes(packed)
    print(f'{out.name}: {len(packed)/1e6:.2f} MB, ' + ', '.join(f'{k} {v.shape}' for k, v in arrays.items()))

if __name__ == '__main__': main(*sys.argv[1:])
