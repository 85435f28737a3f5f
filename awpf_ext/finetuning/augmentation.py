"""Simple augmentation of prepared images: a shift by up to an eighth, and a horizontal flip."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 8  # an image is moved by at most this part of its height and width


def draw(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3) uniform numbers in [0, 1), on the CPU: two shifts and a flip for each image."""
    return torch.rand(count, 3, generator=generator, device=generator.device).cpu()


def augmented(images: Tensor, drawn: Tensor) -> Tensor:
    """Images (n, height, width, channels), each moved and perhaps flipped as `drawn` says.

    What moves in at an edge repeats the edge's pixels.
    """
    n, height, width, _ = images.shape
    rows = _moved(height, drawn[:, 0])
    columns = _moved(width, drawn[:, 1])
    flipped = drawn[:, 2] >= 0.5
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    return images[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(size: int, drawn: Tensor) -> Tensor:
    """(n, size) indices of the rows or columns that an image is made of after its shift."""
    most = size // SHIFT
    shifts = (drawn * (2 * most + 1)).floor().long() - most
    return (torch.arange(size) + shifts[:, None]).clamp(0, size - 1)
