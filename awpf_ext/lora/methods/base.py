"""What every merge method is given for one layer, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops.low_rank import LowRank, truncate


class Term(NamedTuple):
    """What one adapter adds to one layer, scaling * b @ a, and how much of it is wanted."""

    b: Tensor  # (m, r)
    a: Tensor  # (r, n)
    scaling: float
    weight: float
    source: str  # names the adapter's content, whatever its place among the others

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def coefficient(self) -> float:
        return self.weight * self.scaling


class Merged(NamedTuple):
    """One layer of the result, b @ a, and what cutting it to a rank has cost.

    Energies are squared Frobenius norms; both are 0 where nothing was cut.
    """

    b: Tensor  # (m, k)
    a: Tensor  # (k, n)
    energy: float = 0.0  # before the cut
    lost: float = 0.0

    @property
    def kept(self) -> float:
        """The share of the energy that is left."""
        return 1.0 - self.lost / self.energy if self.energy > 0 else 1.0


@dataclass(frozen=True)
class Settings:
    """What can be chosen; each method takes some of it."""

    rank: int | None = None
    density: float | None = None
    on: str = "delta"
    common: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A way to merge: `merge(layer, terms, settings)` makes one layer of the result.

    together: all layers at once, where the method needs to see them so; then all adapters are in
    memory.
    """

    merge: Callable[[str, Sequence[Term], Settings], Merged]
    takes: tuple[str, ...] = ()
    density: float | None = None  # where none is given; None: one has to be
    keeps_one: bool = True  # one adapter at weight 1 and density 1 is its own merge
    together: Callable[[Mapping[str, Sequence[Term]], Settings], dict[str, Merged]] | None = None


def summed(terms: Sequence[Term]) -> LowRank:
    """All singular triplets of the weighted sum, zeros included."""
    return truncate(
        [term.b for term in terms],
        None,
        [term.a.mT for term in terms],
        rank=sum(term.rank for term in terms),
        weights=[term.coefficient for term in terms],
    )


def svd_of(term: Term) -> LowRank:
    """Singular triplets of scaling * b @ a; the weight stays outside."""
    return truncate([term.b], None, [term.a.mT], rank=term.rank, weights=[term.scaling])


def rank_of_sum(s: Tensor, terms: Sequence[Term]) -> int:
    """The rank of a weighted sum with singular values `s`, at least 1: PEFT knows no rank 0.

    Terms that cancel leave rounding behind, which their own size tells from the rest.
    """
    grams = [(term.b.mT @ term.b, term.a @ term.a.mT) for term in terms]
    sizes = [
        abs(term.coefficient) * math.sqrt(max(float((left * right).sum()), 0.0))
        for term, (left, right) in zip(terms, grams, strict=True)
    ]
    return max(1, numerical_rank(s, sum(term.rank for term in terms), max(sizes)))


def numerical_rank(s: Tensor, depth: int, scale: float = 0.0) -> int:
    """How many singular values of a product of inner size `depth` are not rounding alone, beside
    its largest singular value or a larger `scale`."""
    largest = max(float(s[:1].sum()), scale)
    return int((s > largest * torch.finfo(s.dtype).eps * depth).sum())


def cut(svd: LowRank, rank: int, energy: float | None = None) -> Merged:
    """The leading `rank` triplets as two factors, the singular values shared evenly."""
    squares = svd.s.double().square()
    total = float(squares.sum()) if energy is None else energy
    root = svd.s[:rank].sqrt()
    lost = float(squares[rank:].sum()) if energy is None else total - float(squares[:rank].sum())
    return Merged(svd.u[:, :rank] * root, (svd.v[:, :rank] * root).mT, total, max(lost, 0.0))


def at_most(b: Tensor, a: Tensor, rank: int | None) -> Merged:
    """b @ a, cut to a rank where one is wanted."""
    if rank is None:
        return Merged(b, a)
    return cut(truncate([b], None, [a.mT], rank=a.shape[0]), rank)


def orthogonalised(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (polar factor).

    Directions that two columns share exactly have no nearest counterpart; there the factor maps
    onto the span of the columns only.
    """
    u, s, vh = torch.linalg.svd(columns, full_matrices=False)
    kept = numerical_rank(s, columns.shape[1])
    polar: Tensor = u[:, :kept] @ vh[:kept]
    return polar


def widest(terms: Sequence[Term]) -> int:
    """The largest rank among the adapters, at most that of the layer."""
    m, n = terms[0].b.shape[0], terms[0].a.shape[1]
    return min(max(term.rank for term in terms), m, n)


def signed_root(value: float) -> tuple[float, float]:
    """Two factors of one size whose product is `value`; the sign is on the second."""
    root = math.sqrt(abs(value))
    return root, math.copysign(root, value)
