"""ICM-Fusion, reconstructed from the abstract of arXiv 2508.04153: fusion in a VAE's latent space.

docs/methods/icm_fusion.md marks what the abstract does not specify.
"""

from __future__ import annotations

from awpf_ext.lora.icm.layout import Layout
from awpf_ext.lora.icm.least_cosine import least_cosine_weights
from awpf_ext.lora.icm.pca import Pca, explained_variance
from awpf_ext.lora.icm.search import Decoder, Found, Loss, refined, searched
from awpf_ext.lora.icm.vae import FusionVae, VaeSettings, train_vae

__all__ = [
    "Decoder",
    "Found",
    "FusionVae",
    "Layout",
    "Loss",
    "Pca",
    "VaeSettings",
    "explained_variance",
    "least_cosine_weights",
    "refined",
    "searched",
    "train_vae",
]
