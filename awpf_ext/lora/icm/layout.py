"""A LoRA whose A is fixed, as the vector of all its B: its deltas are linear in that vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The names and shapes of the tensors in the vector, in order, and the tensors beside it."""

    shapes: Mapping[str, tuple[int, ...]]
    fixed: Mapping[str, Tensor]  # the A of all layers

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        shapes = {name: tuple(tensors[name].shape) for name in sorted(tensors) if not is_a(name)}
        fixed = {name: value for name, value in tensors.items() if is_a(name)}
        return cls(shapes, fixed)

    @property
    def size(self) -> int:
        """P, the number of entries of the vector."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(P,)"""
        return torch.cat([tensors[name].flatten() for name in self.shapes])

    def restore(self, vector: Tensor) -> dict[str, Tensor]:
        """All tensors of the LoRA; differentiable."""
        parts = vector.split([math.prod(shape) for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {**self.fixed, **{name: part.view(shape) for (name, shape), part in named}}


def is_a(name: str) -> bool:
    """Whether a tensor is the factor A of a layer, by PEFT's names."""
    return ".lora_A." in name or ".lora_embedding_A" in name
