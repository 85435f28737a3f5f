"""Two samples x and y, however they are laid out, as ranges of rows of one pooled tensor; and the
kernels over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    as_tensor,
    check_alike,
    check_points,
    is_traced,
    shape_of,
)
from awpf_ext.ops._rbf import median_square_distance

MEDIAN_ROWS = 1024
"""Pools of up to this many rows give the median over all their pairs, larger ones over a seeded
choice of as many rows."""

MEDIAN_SEED = 0


class Samples(NamedTuple):
    """Pooled rows z, ranges of x and y in them, each row's problem, sample sizes, and the shape
    of the result."""

    z: Tensor
    rows: Tensor  # (problems, 2, 2)
    owner: Tensor  # (rows of z,)
    sizes: Tensor  # (problems, 2), float64
    least: int | None  # rows of the smallest sample, where it may be looked at
    shape: tuple[int, ...]


def _check_offsets(name: str, points_name: str, value: Any, points: Tensor) -> Tensor:
    if points.dim() != 2:
        raise ValueError(
            f"{points_name} must have shape (rows, d) with {name}, got {shape_of(points)}"
        )
    offsets = as_tensor(name, value, points.device)
    if offsets.dim() != 1 or offsets.numel() < 2 or offsets.dtype.is_floating_point:
        raise ValueError(
            f"{name} must be a vector of at least two integers (first row of each sample, "
            f"and the number of rows), got {offsets.dtype} of shape {shape_of(offsets)}"
        )
    offsets = offsets.to(torch.int64)
    if not is_traced():
        if int(offsets[0]) != 0 or int(offsets[-1]) != points.shape[0]:
            raise ValueError(
                f"{name} must begin with 0 and end with the {points.shape[0]} rows of "
                f"{points_name}, got {int(offsets[0])} and {int(offsets[-1])}"
            )
        if not bool((offsets.diff() > 0).all()):
            raise ValueError(f"{name} must increase: every sample needs at least one row")
    return offsets


def _ranges(offsets: Tensor) -> Tensor:
    return torch.stack([offsets[:-1], offsets[1:]], dim=-1)


def pool_ragged(function: str, x: Any, y: Any, x_offsets: Any, y_offsets: Any) -> Samples:
    """Samples from concatenated rows and offsets."""
    if x_offsets is None or y_offsets is None:
        raise ValueError("x_offsets and y_offsets must be given together")
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    first = _check_offsets("x_offsets", "x", x_offsets, x)
    second = _check_offsets("y_offsets", "y", y_offsets, y)
    if first.shape != second.shape:
        raise ValueError(
            "x_offsets and y_offsets must name the same number of samples, "
            f"got {first.shape[0] - 1} and {second.shape[0] - 1}"
        )
    rows = torch.stack([_ranges(first), _ranges(second) + x.shape[0]], dim=1)
    sizes = (rows[..., 1] - rows[..., 0]).double()
    owner = torch.cat([_owners(first, x.shape[0]), _owners(second, y.shape[0])])
    least = None if is_traced() else int(sizes.min())
    return Samples(torch.cat([x, y]), rows, owner, sizes, least, (rows.shape[0],))


def _owners(offsets: Tensor, count: int) -> Tensor:
    places = torch.arange(count, device=offsets.device)
    return torch.bucketize(places, offsets[1:], right=True)


def check_width(x: Tensor, y: Tensor) -> None:
    """As many features in x as in y."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            "x and y must have the same number of features d, "
            f"got shapes {shape_of(x)} and {shape_of(y)}"
        )


def pool_batch(function: str, x: Any, y: Any) -> Samples:
    """Samples from x (..., n, d) and y (..., m, d) with broadcast batch dimensions."""
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    try:
        shape = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        raise ValueError(
            "the batch dimensions of x and y must broadcast, "
            f"got shapes {shape_of(x)} and {shape_of(y)}"
        ) from None
    x, y = x.expand(*shape, *x.shape[-2:]), y.expand(*shape, *y.shape[-2:])
    (n, d), m = x.shape[-2:], y.shape[-2]
    problems = math.prod(shape)
    first = torch.arange(problems, device=x.device)
    rows = torch.stack(
        [
            torch.stack([first * n, first * n + n], dim=-1),
            torch.stack([first * m, first * m + m], dim=-1) + problems * n,
        ],
        dim=1,
    )
    z = torch.cat([x.reshape(problems * n, d), y.reshape(problems * m, d)])
    sizes = torch.tensor([[n, m]], dtype=torch.float64, device=x.device).expand(problems, 2)
    owner = torch.cat([first.repeat_interleave(n), first.repeat_interleave(m)])
    return Samples(z, rows, owner, sizes, min(n, m), tuple(shape))


def pool_one(function: str, x: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """One sample a problem from x (..., n, d): its rows, their ranges (problems, 1, 2), the
    shape of the result."""
    x = check_points(function, "x", x)
    (n, d), shape = x.shape[-2:], tuple(x.shape[:-2])
    problems = math.prod(shape)
    first = torch.arange(problems, device=x.device) * n
    return x.reshape(problems * n, d), torch.stack([first, first + n], dim=-1).unsqueeze(1), shape


def check_unbiased(estimator: str, least: int | None) -> None:
    """The unbiased estimator divides by n - 1."""
    if estimator == "unbiased" and least is not None and least < 2:
        raise ValueError(
            f'estimator="unbiased" needs at least two rows in every sample, got a sample of {least}'
        )


def exponents(
    bandwidth: float | Sequence[float] | Tensor | str,
    scales: Sequence[float],
    z: Tensor,
    rows: Tensor,
    shape: tuple[int, ...],
) -> Tensor:
    """gamma = 1 / (2 sigma^2 scale) for every bandwidth and scale: (problems, kernels), float64."""
    factors = _positive("scales", scales, z)
    problems = rows.shape[0]
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f'bandwidth must be a number, several, or "median", got {bandwidth!r}')
        squares = median_square_distance(z, rows, MEDIAN_ROWS, MEDIAN_SEED).unsqueeze(-1)
    elif isinstance(bandwidth, Tensor):
        squares = _sigma_tensor(bandwidth, shape, z) ** 2
    else:
        values = bandwidth if isinstance(bandwidth, Sequence) else [bandwidth]
        squares = (_positive("bandwidth", values, z) ** 2).expand(problems, -1)
    variances = squares.unsqueeze(-1) * factors
    return (0.5 / variances).flatten(1).contiguous()


def _positive(name: str, values: Any, like: Tensor) -> Tensor:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number or a sequence of numbers, got {values!r}"
        ) from None
    if not numbers:
        raise ValueError(f"{name} must hold at least one number, got none")
    for number in numbers:
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")
    return torch.tensor(numbers, dtype=torch.float64, device=like.device)


def _sigma_tensor(bandwidth: Tensor, shape: tuple[int, ...], z: Tensor) -> Tensor:
    if bandwidth.requires_grad:
        raise ValueError("bandwidth must not require a gradient: pass bandwidth.detach()")
    if bandwidth.device != z.device:
        raise ValueError(f"bandwidth must be on {z.device} like x, got {bandwidth.device}")
    if not bandwidth.dtype.is_floating_point:
        raise TypeError(f"bandwidth must be a floating-point tensor, got {bandwidth.dtype}")
    got = shape_of(bandwidth)
    sigma = bandwidth.to(torch.float64)
    problems = math.prod(shape)
    if got in ((), shape):
        return sigma.expand(shape).reshape(problems, 1)
    if got[:-1] == shape:
        return sigma.reshape(problems, got[-1])
    raise ValueError(
        f"bandwidth must have shape {shape} (one a problem) or {(*shape, 'kernels')}, got {got}"
    )
