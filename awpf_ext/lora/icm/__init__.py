"""ICM-Fusion: LoRAs fused in the latent space of a network that has learned to encode them.

A reconstruction from the abstract of arXiv 2508.04153, with the shapes of the work it builds on
(ICM-LoRA). What the abstract leaves open is marked in docs/methods/icm_fusion.md.
"""

from __future__ import annotations

from awpf_ext.lora.icm.flattening import FlatLora, Layout, count_sketch, stack_loras
from awpf_ext.lora.icm.fusion import fuse_loras
from awpf_ext.lora.icm.meta_training import (
    InnerSteps,
    MetaSettings,
    TaskLoss,
    TrainingSet,
    meta_train,
)
from awpf_ext.lora.icm.vae import FusionVae

__all__ = [
    "FlatLora",
    "FusionVae",
    "InnerSteps",
    "Layout",
    "MetaSettings",
    "TaskLoss",
    "TrainingSet",
    "count_sketch",
    "fuse_loras",
    "meta_train",
    "stack_loras",
]
