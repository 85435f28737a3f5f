"""What the raw operations of `_rbf.py` are to fake tensors and to vmap."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awpf_ext.ops._arguments import result_dtype
from awpf_ext.ops._autograd import batch_first, batching_rule, fake, folded, unfolded


@fake("rbf_sums")
def _(
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Any,
    allow_fp16: bool,
) -> Tensor:
    column_groups = rows.shape[1] if columns is None else columns.shape[1]
    return gamma.new_empty(rows.shape[0], rows.shape[1], column_groups)


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


@fake("rbf_sums_backward")
def _(
    grad: Tensor,
    z: Tensor,
    rows: Tensor,
    columns: Any,
    gamma: Tensor,
    centre: Any,
    allow_fp16: bool,
) -> Tensor:
    return z.new_empty(z.shape)


@fake("rbf_sums_and_gradient")
def _(
    z: Tensor, rows: Tensor, gamma: Tensor, coefficients: Tensor, allow_fp16: bool
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    return torch.empty_like(coefficients), z.new_empty(z.shape, dtype=dtype)


@fake("rbf_permutation_sums")
def _(
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    permutations: int,
    seed: int,
    allow_fp16: bool,
) -> Tensor:
    return gamma.new_empty(rows.shape[0], permutations + 1, 3)


@fake("median_square_distance")
def _(z: Tensor, rows: Tensor, max_rows: int, seed: int) -> Tensor:
    return z.new_empty(rows.shape[0], dtype=torch.float64)


# ---- vmap: a batch of calls is one call with more problems ----


def _fold_ranges(ranges: Tensor, dim: int | None, size: int, rows_each: int) -> Tensor:
    """Ranges of each member of the batch, moved to where its rows lie in the folded z."""
    offsets = torch.arange(size, device=ranges.device) * rows_each
    moved = batch_first(ranges, dim, size) + offsets.view(size, 1, 1, 1)
    return moved.reshape(-1, *moved.shape[2:]).contiguous()


def _fold_points(
    info: Any, dims: tuple[Any, ...], z: Tensor, rows: Tensor, columns: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    size = info.batch_size
    rows_each = batch_first(z, dims[0], size).shape[1]
    moved = None if columns is None else _fold_ranges(columns, dims[2], size, rows_each)
    return folded(z, dims[0], size), _fold_ranges(rows, dims[1], size, rows_each), moved


def _fold_optional(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    return None if value is None else folded(value, dim, size)


@batching_rule("rbf_sums")
def _(
    info: Any,
    dims: tuple[Any, ...],
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Tensor | None,
    allow_fp16: bool,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, others = _fold_points(info, dims, z, rows, columns)
    sums = torch.ops.awpf.rbf_sums(
        points,
        ranges,
        others,
        folded(gamma, dims[3], size),
        _fold_optional(centre, dims[4], size),
        allow_fp16,
    )
    return unfolded(sums, size), 0


@batching_rule("rbf_weighted_sums")
def _(
    info: Any,
    dims: tuple[Any, ...],
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    coefficients: Tensor,
    constant: Tensor,
    allow_fp16: bool,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    values = torch.ops.awpf.rbf_weighted_sums(
        points,
        ranges,
        folded(gamma, dims[2], size),
        folded(coefficients, dims[3], size),
        batch_first(constant, dims[4], size).reshape(-1),
        allow_fp16,
    )
    return unfolded(values, size), 0


@batching_rule("rbf_sums_backward")
def _(
    info: Any,
    dims: tuple[Any, ...],
    grad: Tensor,
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Tensor | None,
    allow_fp16: bool,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, others = _fold_points(info, dims[1:], z, rows, columns)
    gradient = torch.ops.awpf.rbf_sums_backward(
        folded(grad, dims[0], size),
        points,
        ranges,
        others,
        folded(gamma, dims[4], size),
        _fold_optional(centre, dims[5], size),
        allow_fp16,
    )
    return unfolded(gradient, size), 0


@batching_rule("rbf_sums_and_gradient")
def _(
    info: Any,
    dims: tuple[Any, ...],
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    coefficients: Tensor,
    allow_fp16: bool,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    sums, gradient = torch.ops.awpf.rbf_sums_and_gradient(
        points,
        ranges,
        folded(gamma, dims[2], size),
        folded(coefficients, dims[3], size),
        allow_fp16,
    )
    return (unfolded(sums, size), unfolded(gradient, size)), (0, 0)


@batching_rule("rbf_permutation_sums")
def _(
    info: Any,
    dims: tuple[Any, ...],
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    permutations: int,
    seed: int,
    allow_fp16: bool,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    sums = torch.ops.awpf.rbf_permutation_sums(
        points,
        ranges,
        folded(gamma, dims[2], size),
        permutations,
        seed,
        allow_fp16,
    )
    return unfolded(sums, size), 0


@batching_rule("median_square_distance")
def _(
    info: Any, dims: tuple[Any, ...], z: Tensor, rows: Tensor, max_rows: int, seed: int
) -> tuple[Tensor, int]:
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    medians = torch.ops.awpf.median_square_distance(points, ranges, max_rows, seed)
    return unfolded(medians, info.batch_size), 0
