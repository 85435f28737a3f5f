"""Small runs of the methods that train a LoRA for each task."""

from __future__ import annotations

import torch

from awpf_ext.methods import create_method
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.trainer import train

QUICK = {"epochs": 4, "batch_size": 6, "learning_rate": 2e-2, "lora_rank": 2}
FEW = {
    "population": 3,
    "vae_steps": 6,
    "fusion_every": 3,
    "search_steps": 3,
    "refine_steps": 2,
    "image_batch": 3,
}
BOTH = ["lora_merge", "icm_fusion"]


def settings_of(name, given=None):
    return {**QUICK, **(FEW if name == "icm_fusion" else {}), **(given or {})}


def run(name, stream, settings=None, folder=None, seed=3, **options):
    method = create_method(name, stream, settings_of(name, settings), seed=seed)
    kept = None if folder is None else RunFolder(folder)
    return train(stream, method, folder=kept, **options), method


def differing(state, other):
    assert state.keys() == other.keys()
    return [key for key in state if not torch.equal(state[key], other[key])]
