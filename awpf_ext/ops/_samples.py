"""Two samples x and y, however they are laid out, as ranges of rows of one pooled tensor; and the
kernels over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    as_tensor,
    check_alike,
    check_finite,
    check_points,
    may_look,
    shape_of,
)
from awpf_ext.ops._constants import batch_ranges, numbers_on, repeated_on, single_ranges
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
    owner: Callable[[], Tensor]  # (rows of z,)
    lengths: tuple[int, int] | None  # rows of x and of y where all problems have as many
    least: int | None  # rows of the smallest sample, where it may be looked at
    shape: tuple[int, ...]

    def sizes(self) -> Tensor:
        """(problems, 2), float64."""
        return (self.rows[..., 1] - self.rows[..., 0]).double()


def _check_offsets(name: str, points_name: str, value: Any, points: Tensor, check: bool) -> Tensor:
    """Offsets where they came, which may still be the CPU."""
    if points.dim() != 2:
        raise ValueError(
            f"{points_name} must have shape (rows, d) with {name}, got {shape_of(points)}"
        )
    offsets = as_tensor(name, value)
    if offsets.dim() != 1 or offsets.numel() < 2 or offsets.dtype.is_floating_point:
        raise ValueError(
            f"{name} must be a vector of at least two integers (first row of each sample, "
            f"and the number of rows), got {offsets.dtype} of shape {shape_of(offsets)}"
        )
    offsets = offsets.to(torch.int64)
    if may_look(offsets, check):
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


def pool_ragged(
    function: str, x: Any, y: Any, x_offsets: Any, y_offsets: Any, check: bool
) -> Samples:
    """Samples from concatenated rows and offsets."""
    if x_offsets is None or y_offsets is None:
        raise ValueError("x_offsets and y_offsets must be given together")
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    first = _check_offsets("x_offsets", "x", x_offsets, x, check)
    second = _check_offsets("y_offsets", "y", y_offsets, y, check)
    if first.shape != second.shape:
        raise ValueError(
            "x_offsets and y_offsets must name the same number of samples, "
            f"got {first.shape[0] - 1} and {second.shape[0] - 1}"
        )
    least = None
    if may_look(first, check) and may_look(second, check):
        least = int(torch.minimum(first.diff().cpu(), second.diff().cpu()).min())
    _check_points(check, x=x, y=y)
    first, second = first.to(x.device), second.to(x.device)
    rows = torch.stack([_ranges(first), _ranges(second) + x.shape[0]], dim=1)

    def owner() -> Tensor:
        return torch.cat([_owners(first, x.shape[0]), _owners(second, y.shape[0])])

    return Samples(torch.cat([x, y]), rows, owner, None, least, (rows.shape[0],))


def _check_points(check: bool, **points: Tensor) -> None:
    """On request, where the kernels do not look themselves."""
    if any(value.device.type != "cpu" and may_look(value, check) for value in points.values()):
        check_finite(**points)


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


def pool_batch(function: str, x: Any, y: Any, check: bool) -> Samples:
    """Samples from x (..., n, d) and y (..., m, d) with broadcast batch dimensions."""
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    _check_points(check, x=x, y=y)
    shape = tuple(x.shape[:-2])
    if y.shape[:-2] != x.shape[:-2]:
        try:
            shape = tuple(torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]))
        except RuntimeError:
            raise ValueError(
                "the batch dimensions of x and y must broadcast, "
                f"got shapes {shape_of(x)} and {shape_of(y)}"
            ) from None
        x, y = x.expand(*shape, *x.shape[-2:]), y.expand(*shape, *y.shape[-2:])
    (n, d), m = x.shape[-2:], y.shape[-2]
    problems = math.prod(shape)

    def owner() -> Tensor:
        places = torch.arange(problems, device=x.device)
        return torch.cat([places.repeat_interleave(n), places.repeat_interleave(m)])

    if shape:
        x, y = x.reshape(problems * n, d), y.reshape(problems * m, d)
    z = torch.cat([x, y])
    rows = batch_ranges(problems, n, m, x.device)
    return Samples(z, rows, owner, (n, m), min(n, m), shape)


def pool(function: str, x: Any, y: Any, x_offsets: Any, y_offsets: Any, check: bool) -> Samples:
    """Samples however they are laid out."""
    if x_offsets is None and y_offsets is None:
        return pool_batch(function, x, y, check)
    return pool_ragged(function, x, y, x_offsets, y_offsets, check)


def pool_one(function: str, x: Any, check: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """One sample a problem from x (..., n, d): its rows, their ranges (problems, 1, 2), the
    shape of the result."""
    x = check_points(function, "x", x)
    _check_points(check, x=x)
    (n, d), shape = x.shape[-2:], tuple(x.shape[:-2])
    problems = math.prod(shape)
    return x.reshape(problems * n, d), single_ranges(problems, n, x.device), shape


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
    check: bool = False,
) -> Tensor:
    """gamma = 1 / (2 sigma^2 scale) for every bandwidth and scale: (problems, kernels), float64."""
    factors = _positive("scales", scales)
    problems = rows.shape[0]
    if isinstance(bandwidth, str):
        if bandwidth != "median":
            raise ValueError(f'bandwidth must be a number, several, or "median", got {bandwidth!r}')
        squares = median_square_distance(z, rows, MEDIAN_ROWS, MEDIAN_SEED).unsqueeze(-1)
    elif isinstance(bandwidth, Tensor):
        squares = _sigma_tensor(bandwidth, shape, z) ** 2
    else:
        values = bandwidth if isinstance(bandwidth, Sequence) else [bandwidth]
        sigmas = _positive("bandwidth", values)
        variances = [(sigma * sigma) * factor for sigma in sigmas for factor in factors]
        if not all(0 < variance < math.inf for variance in variances):
            raise ValueError("bandwidth: every bandwidth must be a positive, finite number")
        return repeated_on(tuple(0.5 / variance for variance in variances), problems, z.device)
    gamma = (0.5 / (squares.unsqueeze(-1) * numbers_on(factors, z.device))).flatten(1).contiguous()
    looked = z.device.type != "cpu" and may_look(gamma, check)  # on the CPU the kernels do
    if looked and not bool((gamma.isfinite() & (gamma > 0)).all()):
        raise ValueError(_NO_GAMMA)
    return gamma


_NO_GAMMA = (
    "bandwidth: every bandwidth must be a positive, finite number (the median is zero where at "
    "least half of the pairs of points are equal)"
)


def _positive(name: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number or a sequence of numbers, got {values!r}"
        ) from None
    if not numbers:
        raise ValueError(f"{name} must hold at least one number, got none")
    for number in numbers:
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {number}")
    return numbers


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
