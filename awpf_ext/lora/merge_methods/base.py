"""Inputs, result and settings of a merge method, and the low-rank algebra that methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import UserError
from awpf_ext.ops.low_rank import LowRank, truncate


class ImpossibleMergeError(UserError):
    """These sources cannot be merged in this way; other methods or weights may work."""


class Term(NamedTuple):
    """One adapter's term of a layer's merged sum: its delta scaling * b @ a and its weight."""

    b: Tensor  # (m, r)
    a: Tensor  # (r, n)
    scaling: float
    weight: float
    source: str  # hash of the adapter's content: does not depend on the order of the adapters

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def coefficient(self) -> float:
        return self.weight * self.scaling


class DenseTerm(NamedTuple):
    """One checkpoint's term of a parameter's merged sum: its change as a matrix, and its weight."""

    delta: Tensor  # (m, n)
    weight: float
    source: str  # hash of the checkpoint's content


class Merged(NamedTuple):
    """One layer of the result, b @ a, and what was lost by cutting it to a rank.

    Energies are squared Frobenius norms; both are 0 if nothing was cut.
    """

    b: Tensor  # (m, k)
    a: Tensor  # (k, n)
    energy: float = 0.0  # before the cut
    lost: float = 0.0

    @property
    def energy_kept(self) -> float:
        """The fraction of the energy that was kept."""
        return 1.0 - self.lost / self.energy if self.energy > 0 else 1.0


@dataclass(frozen=True)
class MergeSettings:
    """Settings of the merge methods; each method takes some of them."""

    rank: int | None = None
    density: float | None = None
    merge_space: str = "delta"
    common_fraction: float = 1.0
    seed: int = 0


MergeDense = Callable[[str, Sequence[DenseTerm], MergeSettings], Tensor]


@dataclass(frozen=True)
class MergeMethod:
    """A merge method: `merge(layer, terms, settings)` computes one layer of the result.

    weigh: the weights that `merge` gets instead of the given ones, from the terms of all layers,
    which it reads one after the other; for a method that looks at whole adapters.
    merge_dense: computes the merged change of one matrix of whole checkpoints; None: the method is
    for adapters only.
    others: what `merge_dense` leaves (vectors, embeddings, kernels of convolutions) is added up
    with the weights ("sum") or that divided by the number of checkpoints ("mean"); "same":
    `merge_dense` merges them, too, as its rule is one for single entries.
    """

    merge: Callable[[str, Sequence[Term], MergeSettings], Merged]
    takes: tuple[str, ...] = ()
    density: float | None = None  # default; None: the user has to give one
    keeps_one: bool = True  # a single adapter at weight 1 and density 1 is returned as it is
    weigh: Callable[[Iterable[Sequence[Term]]], list[float]] | None = None
    merge_dense: MergeDense | None = None
    others: Literal["sum", "mean", "same"] = "sum"


def dense_sum(layer: str, terms: Sequence[DenseTerm], settings: MergeSettings) -> Tensor:
    """sum_t w_t D_t of whole matrices."""
    total = terms[0].weight * terms[0].delta
    for term in terms[1:]:
        total.add_(term.delta, alpha=term.weight)
    return total


def svd_of_matrix(matrix: Tensor) -> LowRank:
    """All singular triplets of a matrix."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return LowRank(u, s, vh.mT)


def svd_of_sum(terms: Sequence[Term]) -> LowRank:
    """All singular triplets of the weighted sum, including zeros."""
    return truncate(
        [term.b for term in terms],
        None,
        [term.a.mT for term in terms],
        rank=sum(term.rank for term in terms),
        weights=[term.coefficient for term in terms],
    )


def svd_of(term: Term) -> LowRank:
    """Singular triplets of scaling * b @ a; the weight is not applied."""
    return truncate([term.b], None, [term.a.mT], rank=term.rank, weights=[term.scaling])


def rank_of_sum(s: Tensor, terms: Sequence[Term]) -> int:
    """The rank of a weighted sum with singular values `s`, at least 1 since PEFT has no rank 0.

    Terms that cancel leave rounding errors, which are recognised by comparison with the norms of
    the terms.
    """
    grams = [(term.b.mT @ term.b, term.a @ term.a.mT) for term in terms]
    sizes = [
        abs(term.coefficient) * math.sqrt(max(float((left * right).sum()), 0.0))
        for term, (left, right) in zip(terms, grams, strict=True)
    ]
    return max(1, numerical_rank(s, sum(term.rank for term in terms), max(sizes)))


def numerical_rank(s: Tensor, depth: int, scale: float = 0.0) -> int:
    """The number of singular values above rounding level, for a product of inner size `depth`;
    rounding is relative to the largest singular value or to a larger `scale`."""
    largest = max(float(s[:1].sum()), scale)
    return int((s > largest * torch.finfo(s.dtype).eps * depth).sum())


def cut(svd: LowRank, rank: int, energy: float | None = None) -> Merged:
    """The leading `rank` triplets as two factors, which share the singular values equally."""
    squares = svd.s.double().square()
    total = float(squares.sum()) if energy is None else energy
    root = svd.s[:rank].sqrt()
    lost = float(squares[rank:].sum()) if energy is None else total - float(squares[:rank].sum())
    return Merged(svd.u[:, :rank] * root, (svd.v[:, :rank] * root).mT, total, max(lost, 0.0))


def cut_to_rank(b: Tensor, a: Tensor, rank: int | None) -> Merged:
    """b @ a, cut to `rank` if one is given."""
    if rank is None:
        return Merged(b, a)
    return cut(truncate([b], None, [a.mT], rank=a.shape[0]), rank)


def orthogonalised(columns: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (polar factor).

    If the columns are linearly dependent, the nearest matrix is not unique; the factor then only
    spans the space of the columns.
    """
    u, s, vh = torch.linalg.svd(columns, full_matrices=False)
    kept = numerical_rank(s, columns.shape[1])
    polar: Tensor = u[:, :kept] @ vh[:kept]
    return polar


def largest_rank(terms: Sequence[Term]) -> int:
    """The largest rank among the adapters, at most the full rank of the layer."""
    m, n = terms[0].b.shape[0], terms[0].a.shape[1]
    return min(max(term.rank for term in terms), m, n)


def signed_root(value: float) -> tuple[float, float]:
    """Two factors of equal magnitude whose product is `value`; the second has the sign."""
    root = math.sqrt(abs(value))
    return root, math.copysign(root, value)
