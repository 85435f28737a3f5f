"""ICM-Fusion, reconstructed from the abstract of arXiv 2508.04153: fusion in a VAE's latent space.

Architecture and sizes follow the work it builds on (ICM-LoRA). docs/methods/icm_fusion.md marks
what the abstract does not specify.
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
