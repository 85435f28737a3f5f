"""The primitive below every MMD: sums of a mixture of RBF kernels over blocks of pairs.

``rows`` (problems, groups, 2) are ranges of rows of ``z`` (first, one past the last); ``gamma``
(problems, kernels) are the exponents 1 / (2 sigma^2). Ranges describe every layout: a batch, ragged
batches, the groups of a labelled set. ``allow_fp16`` is the last argument of the raw operations:
on CUDA, centred float32 points are then rounded to float16 before they are multiplied.
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
    may_be_differentiated,
    run,
)
from awpf_ext.ops._torch_private import assume_constant_result


@assume_constant_result
def fp16_is_allowed() -> bool:
    """Whether ``torch.set_float32_matmul_precision("medium")`` is set; torch.compile takes the
    answer for a constant."""
    return bool(torch.get_float32_matmul_precision() == "medium")


class _RbfSums(ReverseMode):
    @staticmethod
    def forward(
        z: Tensor,
        rows: Tensor,
        columns: Tensor | None,
        gamma: Tensor,
        centre: Tensor | None,
        allow_fp16: bool,
    ) -> Tensor:
        arguments = (z, rows, columns, gamma, centre, allow_fp16)
        sums: Tensor = run(torch.ops.awpf.rbf_sums, *arguments)
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.allow_fp16 = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (grad.contiguous(), *ctx.saved_tensors, ctx.allow_fp16)
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
        allow_fp16: bool,
    ) -> Tensor:
        arguments = (grad, z, rows, columns, gamma, centre, allow_fp16)
        gradient: Tensor = run(torch.ops.awpf.rbf_sums_backward, *arguments)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass


class _WeightedRbfSums(ReverseMode):
    """sum_gh coefficients[p, g, h] S[p, g, h], and its gradient in the same pass over the
    pairs."""

    @staticmethod
    def forward(
        z: Tensor,
        rows: Tensor,
        gamma: Tensor,
        coefficients: Tensor,
        problem_ids: Tensor | None,
        allow_fp16: bool,
    ) -> tuple[Tensor, Tensor]:
        arguments = (z, rows, gamma, coefficients, allow_fp16)
        sums, gradient = run(torch.ops.awpf.rbf_sums_and_gradient, *arguments)
        return (coefficients * sums).sum((-2, -1)), gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        z, _, _, _, problem_ids, _ = inputs
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(z, gradient, problem_ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        z, gradient, problem_ids = ctx.saved_tensors
        scaled = apply(_ScaledGradient, grad, z, gradient, problem_ids)
        return scaled, None, None, None, None, None


class _ScaledGradient(FirstDerivative):
    @staticmethod
    def forward(grad: Tensor, z: Tensor, gradient: Tensor, problem_ids: Tensor | None) -> Tensor:
        scale = grad.to(gradient.dtype)
        if problem_ids is not None:
            scale = scale.index_select(0, problem_ids)
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
    problem_ids: Callable[[], Tensor],
) -> Tensor:
    """(problems,) constant[p] + sum_gh coefficients[p, g, h] S[p, g, h], float64 for float64
    points, otherwise float32; `problem_ids()` is the problem that each row of z belongs to.

    If z requires a gradient, it is computed together with the sums, which is three quarters of the
    work of computing it later.
    """
    z, gamma, allow_fp16 = z.contiguous(), gamma.detach(), fp16_is_allowed()
    value: Tensor
    if not may_be_differentiated(z):
        coefficients, constant = coefficients.contiguous(), constant.contiguous()
        operation = torch.ops.awpf.rbf_weighted_sums
        value = run(operation, z, rows, gamma, coefficients, constant, allow_fp16)
        return value
    if torch.is_grad_enabled() and z.requires_grad:
        ids = problem_ids() if len(rows) > 1 else None
        arguments = (z, rows, gamma, coefficients.contiguous(), ids, allow_fp16)
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
    arguments = (z.contiguous(), rows, columns, gamma.detach(), centre, fp16_is_allowed())
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
        fp16_is_allowed(),
    )
    return sums


# ---- shapes under compile ----
