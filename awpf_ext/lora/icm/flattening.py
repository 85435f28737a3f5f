"""A LoRA as one vector: the concatenation of all its tensors, each standardised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class FlatLora(NamedTuple):
    """A flattened LoRA and the statistics of its n tensors; several have a leading dimension."""

    values: Tensor  # (P,) float32; each tensor has mean 0 and standard deviation 1
    mean: Tensor  # (n,)
    std: Tensor  # (n,); 0 for a constant tensor, whose values are 0


@dataclass(frozen=True)
class Layout:
    """The names and shapes of the tensors in a flattened LoRA, in order."""

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        return cls({name: tuple(tensors[name].shape) for name in sorted(tensors)})

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes.values()]

    @property
    def size(self) -> int:
        """P, the number of all entries."""
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> FlatLora:
        """Flatten and standardise; ValueError if the tensors do not match this layout."""
        found = Layout.of(tensors)
        for name in self.shapes.keys() | found.shapes.keys():
            expected, shape = self.shapes.get(name), found.shapes.get(name)
            if shape != expected:
                raise ValueError(f"{name} has shape {shape}; expected {expected}")
        return self.standardised(torch.cat([tensors[name].flatten() for name in self.shapes]))

    def standardised(self, entries: Tensor) -> FlatLora:
        """Standardise the entries (P,) of each tensor to mean 0 and standard deviation 1."""
        parts = entries.float().split(self.sizes)
        mean = torch.stack([part.mean() for part in parts])
        std = torch.stack([part.std(correction=0) for part in parts])
        # The computed deviation of equal numbers is not exactly 0.
        std = torch.where(std <= 1e-6 * mean.abs(), 0.0, std)
        divisor = self._per_entry(torch.where(std > 0, std, torch.inf))
        return FlatLora((torch.cat(parts) - self._per_entry(mean)) / divisor, mean, std)

    def rescaled(self, values: Tensor, most: float) -> Tensor:
        """Bring each tensor to mean 0 and standard deviation 1, scaling it by at most `most`."""
        parts = values.split(self.sizes)
        mean = torch.stack([part.mean() for part in parts])
        std = torch.stack([part.std(correction=0) for part in parts])
        return (values - self._per_entry(mean)) * self._per_entry(std.reciprocal().clamp(max=most))

    def entries(self, flat: FlatLora) -> Tensor:
        """The entries (P,) before standardisation; differentiable."""
        return flat.values * self._per_entry(flat.std) + self._per_entry(flat.mean)

    def restore(self, flat: FlatLora) -> dict[str, Tensor]:
        """The original tensors; differentiable with respect to the values."""
        parts = self.entries(flat).split(self.sizes)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def _per_entry(self, of_tensors: Tensor) -> Tensor:
        """Repeat one number per tensor for each of its entries."""
        sizes = torch.tensor(self.sizes, device=of_tensors.device)
        return of_tensors.repeat_interleave(sizes, output_size=self.size)


def stack_loras(flats: Sequence[FlatLora]) -> FlatLora:
    """Stack flattened LoRAs along a new first dimension."""
    return FlatLora(*(torch.stack(parts) for parts in zip(*flats, strict=True)))


def count_sketch(entries: Tensor, size: int, seed: int = 0) -> Tensor:
    """(size,) of unit length: a random projection of the entries (P,).

    A count sketch: each entry is added to or subtracted from one of `size` sums, which the seed
    chooses. Cosines of sketches are those of the vectors, up to about 1 / sqrt(size).
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(size, entries.shape, generator=generator)
    sign = 2 * torch.randint(2, entries.shape, generator=generator) - 1
    signed = entries.float() * sign.to(entries.device)
    sums = entries.new_zeros(size, dtype=torch.float32)
    return normalize(sums.index_add(0, place.to(entries.device), signed), dim=0)
