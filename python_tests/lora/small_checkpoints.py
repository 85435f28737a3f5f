"""Small checkpoints: a base, and others that were fine-tuned from it."""

from __future__ import annotations

import torch

SHAPES = {
    "visual.mlp.weight": (20, 12),
    "visual.proj": (9, 14),
    "visual.mlp.bias": (20,),
    "visual.conv1.weight": (8, 3, 2, 2),
    "visual.positional_embedding": (5, 12),
    "text_projection": (6, 6),
    "logit_scale": (),
}


def random_model(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=made) for name, shape in SHAPES.items()}
