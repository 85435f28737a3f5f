"""Fake-tensor and vmap rules of the raw operations (``torch.ops.awpf.*``).

A fake function describes the outputs, for torch.compile and torch.export. The vmap rules come from
one table: a batch of calls is one call with more problems, so that each argument is folded into its
leading dimension, and each output is unfolded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from awpf_ext._library import MISSING_CPU
from awpf_ext.ops._arguments import result_dtype

F = TypeVar("F", bound=Callable[..., Any])


def fake(name: str) -> Callable[[F], F]:
    """Register the fake implementation of an operation."""
    if MISSING_CPU is not None:
        return lambda function: function
    return cast(Callable[[F], F], torch.library.register_fake(f"awpf::{name}"))


@fake("rbf_sums")
def _(
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Tensor | None,
    allow_fp16: bool,
) -> Tensor:
    column_groups = rows.shape[1] if columns is None else columns.shape[1]
    return gamma.new_empty(rows.shape[0], rows.shape[1], column_groups)


@fake("rbf_sums_backward")
def _(
    grad: Tensor,
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Tensor | None,
    allow_fp16: bool,
) -> Tensor:
    return z.new_empty(z.shape)


@fake("rbf_weighted_sums")
def _(
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    coefficients: Tensor,
    constant: Tensor,
    allow_fp16: bool,
) -> Tensor:
    return gamma.new_empty(rows.shape[0], dtype=result_dtype(z.dtype))


@fake("rbf_sums_and_gradient")
def _(
    z: Tensor, rows: Tensor, gamma: Tensor, coefficients: Tensor, allow_fp16: bool
) -> tuple[Tensor, Tensor]:
    gradient = z.new_empty(z.shape, dtype=result_dtype(z.dtype))
    return torch.empty_like(coefficients), gradient


@fake("rbf_permutation_sums")
def _(
    z: Tensor, rows: Tensor, gamma: Tensor, permutations: int, seed: int, allow_fp16: bool
) -> Tensor:
    return gamma.new_empty(rows.shape[0], permutations + 1, 3)


@fake("median_square_distance")
def _(z: Tensor, rows: Tensor, max_rows: int, seed: int) -> Tensor:
    return z.new_empty(rows.shape[0], dtype=torch.float64)


@fake("scatter")
def _(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    batch, _, d = x.shape
    square = x.new_empty(batch, d, d, dtype=torch.float64)
    means = x.new_empty(batch, num_classes, d, dtype=torch.float64)
    counts = labels.new_empty(batch, num_classes)
    return square, torch.empty_like(square), means, counts


@fake("low_rank_sum")
def _(u: Tensor, v: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    return u.new_empty(u.shape[0], u.shape[2], v.shape[2])


# ---- vmap ----

BATCH = "batch"  # a tensor whose leading dimension counts problems or rows, or None
POINTS = "points"  # the rows of points z that the ranges are about
RANGES = "ranges"  # ranges of rows of z, which move with the folded rows, or None
VALUE = "value"  # not a tensor

VMAP_ARGUMENTS = {
    "rbf_sums": (POINTS, RANGES, RANGES, BATCH, BATCH, VALUE),
    "rbf_sums_backward": (BATCH, POINTS, RANGES, RANGES, BATCH, BATCH, VALUE),
    "rbf_weighted_sums": (POINTS, RANGES, BATCH, BATCH, BATCH, VALUE),
    "rbf_sums_and_gradient": (POINTS, RANGES, BATCH, BATCH, VALUE),
    "rbf_permutation_sums": (POINTS, RANGES, BATCH, VALUE, VALUE, VALUE),
    "median_square_distance": (POINTS, RANGES, VALUE, VALUE),
    "scatter": (BATCH, BATCH, VALUE),
    "low_rank_sum": (BATCH, BATCH, BATCH, BATCH),
}


def _batch_first(value: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch dimension in front; an argument without one is expanded."""
    return value.movedim(dim, 0) if dim is not None else value.expand(size, *value.shape)


def _fold_batch(value: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch dimension merged into the leading one, contiguous."""
    moved = _batch_first(value, dim, size)
    return moved.reshape(size * moved.shape[1], *moved.shape[2:]).contiguous()


def _fold_ranges(ranges: Tensor, dim: int | None, size: int, rows: int) -> Tensor:
    """Ranges of all members of the batch, moved to where their rows lie in the folded z."""
    offsets = torch.arange(size, device=ranges.device) * rows
    moved = _batch_first(ranges, dim, size) + offsets.view(size, 1, 1, 1)
    return moved.reshape(-1, *moved.shape[2:]).contiguous()


def _unfold_batch(value: Tensor, size: int) -> Tensor:
    """The reverse of `_fold_batch`, for outputs."""
    return value.reshape(size, value.shape[0] // size, *value.shape[1:])


def _register_vmap(name: str, kinds: tuple[str, ...]) -> None:
    operation = getattr(torch.ops.awpf, name)
    points = kinds.index(POINTS) if POINTS in kinds else None

    def rule(info: Any, dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size, rows = info.batch_size, 0
        if points is not None:
            rows = _batch_first(args[points], dims[points], size).shape[1]

        def folded(kind: str, value: Any, dim: int | None) -> Any:
            if kind == VALUE or value is None:
                return value
            if kind == RANGES:
                return _fold_ranges(value, dim, size, rows)
            return _fold_batch(value, dim, size)

        outputs = operation(*map(folded, kinds, args, dims))
        if isinstance(outputs, Tensor):
            return _unfold_batch(outputs, size), 0
        return tuple(_unfold_batch(value, size) for value in outputs), (0,) * len(outputs)

    torch.library.register_vmap(f"awpf::{name}", rule)


if MISSING_CPU is None:
    for _name, _kinds in VMAP_ARGUMENTS.items():
        _register_vmap(_name, _kinds)
