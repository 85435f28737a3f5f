"""Merging entry by entry: pruning, then a sum or a sign election; TIES, DARE and magnitude_prune
are such rules.

Only the result is ever a matrix of full size. The adapters' deltas are computed from their factors
one block of rows at a time, and computed again when they are needed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.lora.merge_methods.base import (
    DenseTerm,
    ImpossibleMergeError,
    Merged,
    MergeSettings,
    Term,
    cut_to_rank,
    largest_rank,
    signed_root,
)
from awpf_ext.lora.merge_methods.dense_svd import truncate_dense

_BLOCK = 1 << 19  # entries of a block, summed over all adapters: they fit into the cache


@dataclass(frozen=True, eq=False)
class LazyDelta:
    """scaling * b @ a, computed only for the rows that are asked for."""

    b: Tensor
    a: Tensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def __getitem__(self, rows: slice) -> Tensor:
        return (self.b[rows] @ self.a).mul_(self.scaling)


class EntryRule(NamedTuple):
    """How entries are pruned and combined."""

    random: bool  # keep entries at random (DARE), or those of the largest magnitudes
    elect_sign: bool  # average the entries of the elected sign (TIES), or add all that are kept


def merge_entrywise(
    layer: str, terms: Sequence[Term], settings: MergeSettings, rule: EntryRule
) -> Merged:
    """One layer merged by `rule`, on the deltas or, with merge_space "factors", on the factors."""
    if settings.merge_space == "factors":
        return _merge_factors(layer, terms, settings, rule)
    parts = [LazyDelta(term.b, term.a, term.scaling) for term in terms]
    total = merge_entries(parts, terms, rule, settings, layer)
    seed = _seed(settings.seed, layer)
    return truncate_dense(total, settings.rank or largest_rank(terms), seed)


def merge_entries(
    parts: Sequence[LazyDelta | Tensor],
    terms: Sequence[Term | DenseTerm],
    rule: EntryRule,
    settings: MergeSettings,
    name: str,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Merge matrices of one shape into one; `weights` default to those of the terms."""
    m, n = parts[0].shape
    like = parts[0][:1]
    density = 1.0 if settings.density is None else settings.density
    given = [term.weight for term in terms] if weights is None else weights
    scale = torch.tensor(given, dtype=like.dtype)[:, None, None]
    total = like.new_empty(m, n)
    thresholds = chances = None
    if density < 1 and rule.random:
        chances = [
            torch.Generator().manual_seed(_seed(settings.seed, name, term.source)) for term in terms
        ]
    elif density < 1:
        thresholds = torch.stack([threshold(part, density) for part in parts])[:, None, None]
    step = _rows(n * len(parts))
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        entries = torch.stack([part[rows] for part in parts])
        if thresholds is not None:
            entries *= entries.abs() >= thresholds
        if chances is not None:
            drawn = torch.stack([torch.rand(entries.shape[1:], generator=g) for g in chances])
            entries *= (drawn < density).to(entries.dtype) / density
        if rule.elect_sign:
            sign = torch.where(entries.sum(0) >= 0, 1.0, -1.0)
            agree = entries.sign() == sign
            total[rows] = (entries * agree * scale).sum(0) / agree.sum(0).clamp(min=1)
        else:
            total[rows] = (entries * scale).sum(0)
    return total


def merge_dense_entrywise(
    layer: str, terms: Sequence[DenseTerm], settings: MergeSettings, rule: EntryRule
) -> Tensor:
    """One parameter of whole checkpoints merged by `rule`."""
    return merge_entries([term.delta for term in terms], terms, rule, settings, layer)


def threshold(part: LazyDelta | Tensor, density: float) -> Tensor:
    """The k-th largest magnitude, k = int(density * entries), at least 1.

    A first pass builds a histogram of the magnitudes over the leading half of their bits, which
    sort as the numbers do; a second pass selects within the bin that holds the k-th.
    """
    m, n = part.shape
    wanted = max(1, int(density * (m * n)))
    step = _rows(n)
    blocks = [slice(start, start + step) for start in range(0, m, step)]
    counts = torch.zeros(1 << 15, dtype=torch.int64)
    for rows in blocks:
        counts += torch.bincount(_leading_bits(part[rows]).flatten(), minlength=1 << 15)
    above = counts.flip(0).cumsum(0).flip(0)  # entries in this bin or a higher one
    bin_ = int((above >= wanted).sum()) - 1
    candidates = []
    for rows in blocks:
        block = part[rows]
        candidates.append(block[_leading_bits(block) == bin_].abs())
    inside = torch.cat(candidates)
    rank = wanted - int(above[bin_] - counts[bin_])
    return inside.kthvalue(inside.numel() - rank + 1).values


def _merge_factors(
    layer: str, terms: Sequence[Term], settings: MergeSettings, rule: EntryRule
) -> Merged:
    """Merge the B_t and the A_t separately, as PEFT does; the deltas are never computed."""
    ranks = {term.rank for term in terms}
    if len(ranks) > 1:
        raise ImpossibleMergeError(
            f"merge_space=factors needs adapters of one rank, but {layer} has {sorted(ranks)}; "
            "use merge_space=delta"
        )
    roots = [signed_root(term.coefficient) for term in terms]
    b, a = (
        merge_entries(
            [getattr(term, side) for term in terms],
            terms,
            rule,
            settings,
            f"{layer}.{side}",
            [root[place] for root in roots],
        )
        for place, side in enumerate(("b", "a"))
    )
    return cut_to_rank(b, a, settings.rank)


def _leading_bits(block: Tensor) -> Tensor:
    magnitude = block.abs()
    if magnitude.dtype == torch.float64:
        return magnitude.view(torch.int64) >> 48
    return magnitude.view(torch.int32) >> 16


def _rows(width: int) -> int:
    return max(1, _BLOCK // width)


def _seed(seed: int, *names: str) -> int:
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
