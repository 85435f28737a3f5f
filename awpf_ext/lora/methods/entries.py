"""Merging entry by entry: pruning, then a sum or an election of signs (TIES, DARE, magnitude).

A delta of full size exists at most once, as the result: the adapters' deltas are made of their
factors a block of rows at a time, and made again where they are needed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.errors import UserError
from awpf_ext.lora.methods.base import Merged, Settings, Term, at_most, signed_root, widest
from awpf_ext.lora.methods.dense import truncate_dense

_BLOCK = 1 << 19  # entries of a block, of all adapters together: it stays in the cache


@dataclass(frozen=True, eq=False)
class Product:
    """scaling * b @ a, of which only slices of rows are made."""

    b: Tensor
    a: Tensor
    scaling: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]

    def __getitem__(self, rows: slice) -> Tensor:
        return (self.b[rows] @ self.a).mul_(self.scaling)


class Rule(NamedTuple):
    """How entries are thinned out, and whether signs are elected or all that is left is added."""

    random: bool
    elect: bool


TIES = Rule(random=False, elect=True)
MAGNITUDE_PRUNE = Rule(random=False, elect=False)
DARE_LINEAR = Rule(random=True, elect=False)
DARE_TIES = Rule(random=True, elect=True)


def entrywise(rule: Rule, doc: str) -> Callable[[str, Sequence[Term], Settings], Merged]:
    """The merge method of a rule."""

    def merge(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
        if settings.on == "factors":
            return _on_factors(layer, terms, settings, rule)
        parts = [Product(term.b, term.a, term.scaling) for term in terms]
        total = merge_entries(parts, terms, rule, settings, layer)
        return truncate_dense(total, settings.rank or widest(terms), _seed(settings.seed, layer))

    merge.__doc__ = doc
    return merge


ties = entrywise(
    TIES,
    """TIES (arXiv 2306.01708) on the deltas D_t = s_t B_t A_t, a layer at a time.

    Trim: of each D_t the `density` share of largest magnitude stays. Elect: each entry's sign is
    that of the sum over t. Merge: the mean of w_t D_t over those t whose entry has that sign.
    """,
)
dare_ties = entrywise(
    DARE_TIES,
    """DARE (arXiv 2311.03099), then the election and mean of TIES: each entry of D_t stays with
    probability `density`, divided by it.

    What stays depends on the seed, the layer's name and the adapter's content only.
    """,
)
dare_linear = entrywise(
    DARE_LINEAR,
    """DARE (arXiv 2311.03099), then the weighted sum: each entry of D_t stays with probability
    `density`, divided by it.

    What stays depends on the seed, the layer's name and the adapter's content only.
    """,
)
magnitude_prune = entrywise(
    MAGNITUDE_PRUNE,
    """The weighted sum of the D_t after each is trimmed to the `density` share of its entries of
    largest magnitude.""",
)


def merge_entries(
    parts: Sequence[Product | Tensor],
    terms: Sequence[Term],
    rule: Rule,
    settings: Settings,
    name: str,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """One matrix from matrices of one shape; `weights` are the terms' where none are given."""
    m, n = parts[0].shape
    like = parts[0][:1]
    share = 1.0 if settings.density is None else settings.density
    given = [term.weight for term in terms] if weights is None else weights
    scale = torch.tensor(given, dtype=like.dtype)[:, None, None]
    total = like.new_empty(m, n)
    thresholds = chances = None
    if share < 1 and rule.random:
        chances = [
            torch.Generator().manual_seed(_seed(settings.seed, name, term.source)) for term in terms
        ]
    elif share < 1:
        thresholds = torch.stack([threshold(part, share) for part in parts])[:, None, None]
    step = _rows(n * len(parts))
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        entries = torch.stack([part[rows] for part in parts])
        if thresholds is not None:
            entries *= entries.abs() >= thresholds
        if chances is not None:
            drawn = torch.stack([torch.rand(entries.shape[1:], generator=g) for g in chances])
            entries *= (drawn < share).to(entries.dtype) / share
        if rule.elect:
            sign = torch.where(entries.sum(0) >= 0, 1.0, -1.0)
            agree = entries.sign() == sign
            total[rows] = (entries * agree * scale).sum(0) / agree.sum(0).clamp(min=1)
        else:
            total[rows] = (entries * scale).sum(0)
    return total


def threshold(part: Product | Tensor, share: float) -> Tensor:
    """The k-th largest magnitude, k = int(share * entries), at least 1.

    A first pass counts magnitudes by the leading half of their bits, which order as the numbers do;
    a second one selects within the one bin that holds the k-th.
    """
    m, n = part.shape
    wanted = max(1, int(share * (m * n)))
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


def _on_factors(layer: str, terms: Sequence[Term], settings: Settings, rule: Rule) -> Merged:
    """The same on the B_t and the A_t apart, as PEFT does: no delta is made, and none is meant."""
    ranks = {term.rank for term in terms}
    if len(ranks) > 1:
        raise UserError(
            f"on=factors needs adapters of one rank, but {layer} has {sorted(ranks)}; use on=delta"
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
    return at_most(b, a, settings.rank)


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
