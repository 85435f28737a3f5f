"""A LoRA as one vector: all its tensors, each standardised, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize


class FlatLora(NamedTuple):
    """A flattened LoRA, and what was taken out of its n tensors; a leading axis for several."""

    values: Tensor  # (P,) float32; each tensor's part has mean 0 and standard deviation 1
    mean: Tensor  # (n,)
    std: Tensor  # (n,); 0 of a constant tensor, whose part is 0


@dataclass(frozen=True)
class Layout:
    """Which tensors a flattened LoRA consists of, in their order."""

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
        """ValueError where the tensors are not those of this layout."""
        found = Layout.of(tensors)
        for name in self.shapes.keys() | found.shapes.keys():
            expected, shape = self.shapes.get(name), found.shapes.get(name)
            if shape != expected:
                raise ValueError(f"{name} has shape {shape}; expected {expected}")
        return self.standardised(torch.cat([tensors[name].flatten() for name in self.shapes]))

    def standardised(self, entries: Tensor) -> FlatLora:
        """The entries (P,) of all tensors, each tensor's brought to mean 0 and deviation 1."""
        parts = entries.float().split(self.sizes)
        mean = torch.stack([part.mean() for part in parts])
        std = torch.stack([part.std(correction=0) for part in parts])
        # The deviation of equal numbers is not 0 to the last bit.
        std = torch.where(std <= 1e-6 * mean.abs(), 0.0, std)
        divisor = self._spread(torch.where(std > 0, std, torch.inf))
        return FlatLora((torch.cat(parts) - self._spread(mean)) / divisor, mean, std)

    def rescaled(self, values: Tensor, most: float) -> Tensor:
        """Each tensor's values with mean 0 and deviation 1, or `most` times what it was."""
        parts = values.split(self.sizes)
        mean = torch.stack([part.mean() for part in parts])
        std = torch.stack([part.std(correction=0) for part in parts])
        return (values - self._spread(mean)) * self._spread(std.reciprocal().clamp(max=most))

    def entries(self, flat: FlatLora) -> Tensor:
        """(P,): the tensors' entries again; differentiable."""
        return flat.values * self._spread(flat.std) + self._spread(flat.mean)

    def restore(self, flat: FlatLora) -> dict[str, Tensor]:
        """The tensors again; differentiable in the values."""
        parts = self.entries(flat).split(self.sizes)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def _spread(self, of_tensors: Tensor) -> Tensor:
        """A number a tensor to one an entry."""
        sizes = torch.tensor(self.sizes, device=of_tensors.device)
        return of_tensors.repeat_interleave(sizes, output_size=self.size)


def stack_loras(flats: Sequence[FlatLora]) -> FlatLora:
    """Several along a new first axis."""
    return FlatLora(*(torch.stack(parts) for parts in zip(*flats, strict=True)))


def count_sketch(entries: Tensor, size: int, seed: int = 0) -> Tensor:
    """(size,) of unit length: a random projection of the entries (P,).

    A count sketch: each entry is added to one of `size` sums, or subtracted; which, the seed says.
    Cosines of sketches are those of the vectors, up to about 1 / sqrt(size).
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(size, entries.shape, generator=generator)
    sign = 2 * torch.randint(2, entries.shape, generator=generator) - 1
    signed = entries.float() * sign.to(entries.device)
    sums = entries.new_zeros(size, dtype=torch.float32)
    return normalize(sums.index_add(0, place.to(entries.device), signed), dim=0)
