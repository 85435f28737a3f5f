"""ICM-Fusion: LoRAs fused in the latent space of a network that has learned to encode them.

A reconstruction from the abstract of arXiv 2508.04153, with the shapes of the work it builds on
(ICM-LoRA). What the abstract leaves open is marked in docs/methods/icm_fusion.md.
"""

from __future__ import annotations

from awpf_ext.lora.icm.flat import Flat, Layout, sketch, stacked
from awpf_ext.lora.icm.fusing import fused
from awpf_ext.lora.icm.meta import Inner, MetaSettings, TaskLoss, TrainingSet, meta_train
from awpf_ext.lora.icm.vae import FusionVae

__all__ = [
    "Flat",
    "FusionVae",
    "Inner",
    "Layout",
    "MetaSettings",
    "TaskLoss",
    "TrainingSet",
    "fused",
    "meta_train",
    "sketch",
    "stacked",
]
