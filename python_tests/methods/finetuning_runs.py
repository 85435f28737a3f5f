"""Quick runs of the fine-tuning methods on the tiny CLIP; for their tests."""

from __future__ import annotations

from awpf_ext.methods import create_method
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.trainer import train

QUICK = {"epochs": 2, "batch_size": 8, "buffer": 6, "learning_rate": 1e-3}


def run(name, stream, settings=None, folder=None, **options):
    """A result, its method, and the state it ends with."""
    method = create_method(name, stream, {**QUICK, **(settings or {})}, seed=3)
    kept = None if folder is None else RunFolder(folder)
    result = train(stream, method, folder=kept, **options)
    return result, method
