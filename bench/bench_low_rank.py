"""Low-rank sums and their truncation.

float32. Errors are Frobenius norms relative to the float64 result; for truncate they are those of
the product of the factors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from comparison import OURS, Contender, Error, Outcome, Work
from goals import by_processor, faster, near_floor
from torch import Tensor

import awpf_ext


class Terms(NamedTuple):
    """u (..., terms, m, r), s (..., terms, r), v (..., terms, n, r), weights (..., terms)."""

    u: Tensor
    s: Tensor
    v: Tensor
    weights: Tensor


def random_terms(*batch_and_terms: int, d: int, rank: int) -> Terms:
    """Terms with orthonormal-like factors and falling singular values."""
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, *batch_and_terms, d, rank, generator=generator) / d**0.5
    s = 1 / torch.arange(1.0, rank + 1).expand(*batch_and_terms, rank)
    return Terms(u, s.contiguous(), v, torch.rand(*batch_and_terms, generator=generator) + 0.5)


def stacked(u: Tensor, s: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """The factors of all terms side by side, multiplied once."""
    scaled = u * (s * weights.unsqueeze(-1)).unsqueeze(-2)
    return scaled.movedim(-3, -2).flatten(-2) @ v.movedim(-3, -2).flatten(-2).mT


def einsum(u: Tensor, s: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """The formula as one einsum."""
    return torch.einsum("...tmr,...tr,...tnr->...mn", u, s * weights.unsqueeze(-1), v)


def loop(u: Tensor, s: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """One product and one addition per term."""
    total = u.new_zeros(*u.shape[:-3], u.shape[-2], v.shape[-2])
    for t in range(u.shape[-3]):
        delta = (u[..., t, :, :] * s[..., t, None, :]) @ v[..., t, :, :].mT
        total = total + weights[..., t, None, None] * delta
    return total


def layer_loop(u: Tensor, s: Tensor, v: Tensor, weights: Tensor) -> Tensor:
    """The loop of merge scripts: layer by layer, term by term."""
    return torch.stack([loop(*layer) for layer in zip(u, s, v, weights, strict=True)])


def distance(result: Tensor, reference: Tensor) -> Error:
    """Relative, in the Frobenius norm."""
    return Error(float((result.double() - reference).norm() / reference.norm()))


def low_rank_sum(layers: int, terms: int, d: int, rank: int) -> Work:
    """Dense sums for a stack of layers."""
    given = random_terms(layers, terms, d=d, rank=rank)
    left = given.u.movedim(-3, -2).flatten(-2).contiguous()
    right = given.v.movedim(-3, -2).flatten(-2).mT.contiguous()
    compiled = torch.compile(stacked, dynamic=False, fullgraph=True)

    @cache
    def reference() -> Tensor:
        return stacked(*(part.double() for part in given))

    contenders = {
        OURS: Contender(lambda: awpf_ext.low_rank_sum(*given)),
        "stacked bmm": Contender(lambda: stacked(*given)),
        "einsum": Contender(lambda: einsum(*given)),
        "loop over terms": Contender(lambda: loop(*given)),
        "loop over layers and terms": Contender(lambda: layer_loop(*given)),
        "torch.compile, stacked": Contender(lambda: compiled(*given), compiles=True),
    }
    floor = Contender(lambda: left @ right, note="bmm of ready factors")
    name = f"low_rank_sum {layers} x ({terms} terms, {d} x {d}, r={rank})"
    return Work(name, contenders, floor, lambda result: distance(result, reference()))


def truncation(d: int, terms: int, rank: int, kept: int, full_svd_once: bool) -> Work:
    """The best rank-`kept` approximation of a sum of terms."""
    given = random_terms(terms, d=d, rank=rank)

    def by_full_svd() -> tuple[Tensor, ...]:
        u, s, vh = torch.linalg.svd(stacked(*given), full_matrices=False)
        return u[:, :kept], s[:kept], vh[:kept].mT

    def by_random_svd() -> tuple[Tensor, ...]:
        return torch.svd_lowrank(stacked(*given), q=kept + 8, niter=2)

    @cache
    def reference() -> Tensor:
        u, s, v, weights = (part.double() for part in given)
        left, right = (factor.movedim(-3, -2).flatten(-2) for factor in (u, v))
        left = left * (s * weights.unsqueeze(-1)).flatten()
        # Singular values of the sum are roots of the eigenvalues of L'L R'R: no QR, unlike ours.
        values, vectors = torch.linalg.eigh(right.mT @ right)
        root = vectors * values.sqrt() @ vectors.mT
        _, basis = torch.linalg.eigh(root @ (left.mT @ left) @ root)
        basis = basis[:, -kept:]
        inverse = vectors / values.sqrt() @ vectors.mT
        return (left @ root @ basis) @ (right @ inverse @ basis).mT

    def error(result: tuple[Tensor, ...]) -> Error:
        u, s, v = (part.double() for part in result)
        return distance((u[:, :kept] * s[:kept]) @ v[:, :kept].mT, reference())

    contenders = {
        OURS: Contender(lambda: awpf_ext.truncate(*given[:3], kept, given.weights)),
        "full SVD of the sum": Contender(by_full_svd, once=full_svd_once),
        "random SVD of the sum": Contender(
            by_random_svd, note="svd_lowrank, approximate", approximate=True
        ),
    }
    name = f"truncate d={d}, {terms} terms of r={rank} to rank {kept}"
    return Work(name, contenders, None, error)


def test_low_rank_sum(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(low_rank_sum, 12, 10, 768, 64),
        by_processor(near_floor(1.0), amx=near_floor(0.5)),
        faster("stacked bmm", 1.2),
        faster("loop over terms", 5),
    )


def test_truncate(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(truncation, 768, 10, 16, kept=16, full_svd_once=False),
        faster("full SVD of the sum", 5),
    )


def test_truncate_large(compare: Callable[..., Outcome]) -> None:
    compare(partial(truncation, 2048, 10, 16, kept=16, full_svd_once=True))
