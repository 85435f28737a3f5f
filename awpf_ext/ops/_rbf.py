"""The primitive under every MMD: block sums of a mixture of RBF kernels, and what goes with it.

``rows`` (problems, groups, 2) names ranges of rows of ``z`` (first, one past the last); ``gamma``
(problems, kernels) are the exponents 1 / (2 sigma^2). Any layout is ranges: a batch, ragged
batches, the groups of a labelled set. ``one_product`` is a last argument of the raw operations:
on CUDA, float32 points are multiplied as what float16 keeps of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from awpf_ext.ops._arguments import result_dtype
from awpf_ext.ops._autograd import (
    FirstDerivative,
    ReverseMode,
    apply,
    batch_first,
    batching_rule,
    fake,
    folded,
    may_be_differentiated,
    run,
    unfolded,
)


def one_product_is_enough() -> bool:
    """What the user set for all float32 products of torch; a constant of a compiled trace."""
    return bool(torch.get_float32_matmul_precision() == "medium")


# What torch.compiler.assume_constant_result does, which would import the compiler here.
one_product_is_enough._dynamo_marked_constant = True  # type: ignore[attr-defined]


def last_argument(one_product: bool) -> tuple[bool, ...]:
    """Of a raw operation, which need not be told what it assumes."""
    return (one_product,) if one_product else ()


class _RbfSums(ReverseMode):
    @staticmethod
    def forward(
        z: Tensor,
        rows: Tensor,
        columns: Tensor | None,
        gamma: Tensor,
        centre: Tensor | None,
        one_product: bool,
    ) -> Tensor:
        last = last_argument(one_product)
        sums: Tensor = run(torch.ops.awpf.rbf_sums, z, rows, columns, gamma, centre, *last)
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.one_product = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (grad.contiguous(), *ctx.saved_tensors, ctx.one_product)
        gradient = apply(_RbfSumsGradient, *arguments)
        return gradient, None, None, None, None, None


class _RbfSumsGradient(FirstDerivative):
    @staticmethod
    def forward(
        grad: Tensor,
        z: Tensor,
        rows: Tensor,
        columns: Tensor | None,
        gamma: Tensor,
        centre: Tensor | None,
        one_product: bool,
    ) -> Tensor:
        arguments = (grad, z, rows, columns, gamma, centre, *last_argument(one_product))
        gradient: Tensor = run(torch.ops.awpf.rbf_sums_backward, *arguments)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass


class _WeightedRbfSums(ReverseMode):
    """sum_gh coefficients[p, g, h] S[p, g, h], with its gradient found in the same pass over
    the pairs."""

    @staticmethod
    def forward(
        z: Tensor,
        rows: Tensor,
        gamma: Tensor,
        coefficients: Tensor,
        owner: Tensor,
        one_product: bool,
    ) -> tuple[Tensor, Tensor]:
        arguments = (z, rows, gamma, coefficients, *last_argument(one_product))
        sums, gradient = run(torch.ops.awpf.rbf_sums_and_gradient, *arguments)
        return (coefficients * sums).sum((-2, -1)), gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        z, _, _, _, owner, _ = inputs
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(z, gradient, owner)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        z, gradient, owner = ctx.saved_tensors
        scaled = apply(_ScaledGradient, grad, z, gradient, owner)
        return scaled, None, None, None, None, None


class _ScaledGradient(FirstDerivative):
    @staticmethod
    def forward(grad: Tensor, z: Tensor, gradient: Tensor, owner: Tensor) -> Tensor:
        scale = grad.to(gradient.dtype).index_select(0, owner)
        return (gradient * scale.unsqueeze(-1)).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass


def weighted_rbf_sums(
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    coefficients: Tensor,
    constant: Tensor,
    owner: Callable[[], Tensor],
) -> Tensor:
    """(problems,) constant[p] + sum_gh coefficients[p, g, h] S[p, g, h], float64 for float64
    points, else float32; `owner()` is the problem of each row of z.

    Where a gradient will be asked for, it is found together with the sums, at three quarters of
    the work.
    """
    z, gamma, enough = z.contiguous(), gamma.detach(), one_product_is_enough()
    value: Tensor
    if not may_be_differentiated(z):
        coefficients, constant = coefficients.contiguous(), constant.contiguous()
        operation = torch.ops.awpf.rbf_weighted_sums
        value = run(operation, z, rows, gamma, coefficients, constant, enough)
        return value
    if torch.is_grad_enabled() and z.requires_grad:
        arguments = (z, rows, gamma, coefficients.contiguous(), owner(), enough)
        value = apply(_WeightedRbfSums, *arguments)[0]
    else:
        value = (coefficients * rbf_sums(z, rows, gamma)).sum((-2, -1))
    return (constant + value).to(result_dtype(z.dtype))


def rbf_sums(
    z: Tensor,
    rows: Tensor,
    gamma: Tensor,
    columns: Tensor | None = None,
    centre: Tensor | None = None,
) -> Tensor:
    """(problems, groups, column groups) float64 sums; differentiable in z, once."""
    arguments = (z.contiguous(), rows, columns, gamma.detach(), centre, one_product_is_enough())
    sums: Tensor = apply(_RbfSums, *arguments)
    return sums


def median_square_distance(z: Tensor, rows: Tensor, max_rows: int, seed: int) -> Tensor:
    """(problems,) float64 lower medians of the squared distances; no gradient."""
    medians: Tensor = run(
        torch.ops.awpf.median_square_distance, z.detach().contiguous(), rows, max_rows, seed
    )
    return medians


def rbf_permutation_sums(
    z: Tensor, rows: Tensor, gamma: Tensor, permutations: int, seed: int
) -> Tensor:
    """(problems, 1 + permutations, 3) float64 sums xx, xy, yy; no gradient."""
    sums: Tensor = run(
        torch.ops.awpf.rbf_permutation_sums,
        z.detach().contiguous(),
        rows,
        gamma.detach(),
        permutations,
        seed,
        *last_argument(one_product_is_enough()),
    )
    return sums


# ---- shapes under compile ----


@fake("rbf_sums")
def _(
    z: Tensor,
    rows: Tensor,
    columns: Tensor | None,
    gamma: Tensor,
    centre: Any,
    one_product: bool = False,
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
    one_product: bool = False,
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
    one_product: bool = False,
) -> Tensor:
    return z.new_empty(z.shape)


@fake("rbf_sums_and_gradient")
def _(
    z: Tensor, rows: Tensor, gamma: Tensor, coefficients: Tensor, one_product: bool = False
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
    one_product: bool = False,
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
    one_product: bool = False,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, others = _fold_points(info, dims, z, rows, columns)
    sums = torch.ops.awpf.rbf_sums(
        points,
        ranges,
        others,
        folded(gamma, dims[3], size),
        _fold_optional(centre, dims[4], size),
        *last_argument(one_product),
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
    one_product: bool = False,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    values = torch.ops.awpf.rbf_weighted_sums(
        points,
        ranges,
        folded(gamma, dims[2], size),
        folded(coefficients, dims[3], size),
        batch_first(constant, dims[4], size).reshape(-1),
        one_product,
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
    one_product: bool = False,
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
        *last_argument(one_product),
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
    one_product: bool = False,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    sums, gradient = torch.ops.awpf.rbf_sums_and_gradient(
        points,
        ranges,
        folded(gamma, dims[2], size),
        folded(coefficients, dims[3], size),
        *last_argument(one_product),
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
    one_product: bool = False,
) -> tuple[Tensor, int]:
    size = info.batch_size
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    sums = torch.ops.awpf.rbf_permutation_sums(
        points,
        ranges,
        folded(gamma, dims[2], size),
        permutations,
        seed,
        *last_argument(one_product),
    )
    return unfolded(sums, size), 0


@batching_rule("median_square_distance")
def _(
    info: Any, dims: tuple[Any, ...], z: Tensor, rows: Tensor, max_rows: int, seed: int
) -> tuple[Tensor, int]:
    points, ranges, _ = _fold_points(info, (*dims[:2], None), z, rows, None)
    medians = torch.ops.awpf.median_square_distance(points, ranges, max_rows, seed)
    return unfolded(medians, info.batch_size), 0
