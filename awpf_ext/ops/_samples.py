"""Two samples x and y, in either layout, as ranges of rows of one pooled tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    as_tensor,
    can_inspect,
    check_alike,
    check_finite,
    check_points,
    check_values,
    shape_of,
)
from awpf_ext.ops._constants import batch_ranges, single_ranges

BLOCK_BYTES = 1 << 24
"""Bytes of the points of a block of problems, see `blocks_of_problems`."""


class PooledSamples(NamedTuple):
    """The pooled rows of all problems, and where in them each problem's x and y are."""

    z: Tensor
    rows: Tensor  # (problems, 2, 2)
    problem_ids: Callable[[], Tensor]  # (rows of z,): the problem that each row belongs to
    lengths: tuple[int, int] | None  # n and m, if they are the same for all problems
    smallest: int | None  # rows of the smallest sample, if that is known
    shape: tuple[int, ...]  # of the result

    def sizes(self) -> Tensor:
        """(problems, 2), float64."""
        return (self.rows[..., 1] - self.rows[..., 0]).double()


def _check_offsets(
    name: str, points_name: str, value: Any, points: Tensor, validate: bool
) -> Tensor:
    """Check offsets, and leave them on their device."""
    if points.dim() != 2:
        raise ValueError(
            f"{points_name} must have shape (rows, d) with {name}, got {shape_of(points)}"
        )
    offsets = as_tensor(name, value)
    check_values(name, offsets, points)
    if offsets.dim() != 1 or offsets.numel() < 2 or offsets.dtype.is_floating_point:
        raise ValueError(
            f"{name} must be a vector of at least two integers (first row of each sample, "
            f"and the number of rows), got {offsets.dtype} of shape {shape_of(offsets)}"
        )
    offsets = offsets.to(torch.int64)
    if can_inspect(offsets, validate):
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
    function: str, x: Any, y: Any, x_offsets: Any, y_offsets: Any, validate: bool
) -> PooledSamples:
    """Samples from concatenated rows and offsets."""
    if x_offsets is None or y_offsets is None:
        raise ValueError("x_offsets and y_offsets must be given together")
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    first = _check_offsets("x_offsets", "x", x_offsets, x, validate)
    second = _check_offsets("y_offsets", "y", y_offsets, y, validate)
    if first.shape != second.shape:
        raise ValueError(
            "x_offsets and y_offsets must name the same number of samples, "
            f"got {first.shape[0] - 1} and {second.shape[0] - 1}"
        )
    smallest = None
    if can_inspect(first, validate) and can_inspect(second, validate):
        smallest = int(torch.minimum(first.diff().cpu(), second.diff().cpu()).min())
    _check_points(validate, x=x, y=y)
    first, second = first.to(x.device), second.to(x.device)
    rows = torch.stack([_ranges(first), _ranges(second) + x.shape[0]], dim=1)

    def problem_ids() -> Tensor:
        return torch.cat(
            [_problem_of_rows(first, x.shape[0]), _problem_of_rows(second, y.shape[0])]
        )

    return PooledSamples(torch.cat([x, y]), rows, problem_ids, None, smallest, (rows.shape[0],))


def _check_points(validate: bool, **points: Tensor) -> None:
    """Check for NaN and infinity on request, on devices whose kernels do not."""
    if any(
        value.device.type != "cpu" and can_inspect(value, validate) for value in points.values()
    ):
        check_finite(**points)


def _problem_of_rows(offsets: Tensor, count: int) -> Tensor:
    indices = torch.arange(count, device=offsets.device)
    return torch.bucketize(indices, offsets[1:], right=True)


def check_width(x: Tensor, y: Tensor) -> None:
    """Check that x and y have the same number of features."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            "x and y must have the same number of features d, "
            f"got shapes {shape_of(x)} and {shape_of(y)}"
        )


def pool_batch(function: str, x: Any, y: Any, validate: bool) -> PooledSamples:
    """Samples from x (..., n, d) and y (..., m, d) with broadcast batch dimensions."""
    x, y = check_points(function, "x", x), check_points(function, "y", y)
    check_alike(x=x, y=y)
    check_width(x, y)
    _check_points(validate, x=x, y=y)
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

    def problem_ids() -> Tensor:
        ids = torch.arange(problems, device=x.device)
        return torch.cat([ids.repeat_interleave(n), ids.repeat_interleave(m)])

    if shape:
        x, y = x.reshape(problems * n, d), y.reshape(problems * m, d)
    z = torch.cat([x, y])
    rows = batch_ranges(problems, n, m, x.device)
    return PooledSamples(z, rows, problem_ids, (n, m), min(n, m), shape)


def blocks_of_problems(x: Any, y: Any) -> list[tuple[Tensor, Tensor]]:
    """Blocks of a large batch (problems, n, d) and (problems, m, d) of CPU tensors, or none.

    To pool a large batch takes new memory, which takes the system far longer to provide than it
    takes to fill. The pool of a block is small enough for the allocator to use its memory again.
    """
    if not (type(x) is Tensor and type(y) is Tensor and x.dim() == y.dim() == 3):
        return []
    if x.device.type != "cpu" or len(x) != len(y) or x.nbytes + y.nbytes < 2 * BLOCK_BYTES:
        return []
    size = max(1, len(x) * BLOCK_BYTES // (x.nbytes + y.nbytes))
    return list(zip(x.split(size), y.split(size), strict=True))


def pool(
    function: str, x: Any, y: Any, x_offsets: Any, y_offsets: Any, validate: bool
) -> PooledSamples:
    """Samples in either layout."""
    if x_offsets is None and y_offsets is None:
        return pool_batch(function, x, y, validate)
    return pool_ragged(function, x, y, x_offsets, y_offsets, validate)


def pool_one(function: str, x: Any, validate: bool) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """One sample per problem from x (..., n, d): its rows, their ranges (problems, 1, 2), and the
    shape of the result."""
    x = check_points(function, "x", x)
    _check_points(validate, x=x)
    (n, d), shape = x.shape[-2:], tuple(x.shape[:-2])
    problems = math.prod(shape)
    return x.reshape(problems * n, d), single_ranges(problems, n, x.device), shape


def check_unbiased(estimator: str, smallest: int | None) -> None:
    """Check that no sample has fewer than two rows: the unbiased estimator divides by n - 1."""
    if estimator == "unbiased" and smallest is not None and smallest < 2:
        raise ValueError(
            'estimator="unbiased" needs at least two rows in every sample, '
            f"got a sample of {smallest}"
        )
