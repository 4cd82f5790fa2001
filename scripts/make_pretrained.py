#!/usr/bin/env python
"""Build iutok/assets/pretrained/NAME: a tokenizer in float16, its AR network in bfloat16, its records and a card.

Usage: scripts/make_pretrained.py NAME RUN_FOLDER [AR_RUN_FOLDER]
e.g. scripts/make_pretrained.py quick/vqkd-effnet runs/quick/vqkd-effnet-s0-decoder \\
                                runs/quick/vqkd-effnet-s0-decoder-ar-small-s0
"""
import sys
from pathlib import Path

import torch
from iutok import Tokenizer, load_proposal
from iutok.pretrained import slim_copy

ASSETS = Path(__file__).resolve().parents[1]/'iutok'/'assets'/'pretrained'

def main(name, run, network=None):
    "One tokenizer, and the network where one is named."
    tok = Tokenizer.from_pretrained(run)
    if network: load_proposal(network, tok).to(torch.bfloat16).save(ASSETS/name, slim_copy(tok).float())
    print(tok.save_pretrained(ASSETS/name, name, slim=True))

if __name__ == '__main__':
    if len(sys.argv) not in (3, 4): sys.exit(__doc__)
    main(*sys.argv[1:])
