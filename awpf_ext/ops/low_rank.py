"""Sums of low-rank terms: computed as one product, and truncated to a given rank."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import NamedTuple

from awpf_ext._library import require
from awpf_ext.ops._arguments import (
    FLOATING,
    accepts_numpy,
    as_tensor,
    check_alike,
    check_dense,
    check_integer,
    check_values,
    shape_of,
)
from awpf_ext.ops._autograd import ReverseMode, apply, run
from awpf_ext.ops._types import TensorOrArray


class LowRank(NamedTuple, Generic[TensorOrArray]):
    """A matrix U diag(S) V' of rank k."""

    u: TensorOrArray
    """(..., m, k)"""
    s: TensorOrArray
    """(..., k)"""
    v: TensorOrArray
    """(..., n, k)"""


class _LowRankSum(ReverseMode):
    @staticmethod
    def forward(u: Tensor, v: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
        total: Tensor = run(torch.ops.awpf.low_rank_sum, u, v, coefficients, base)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        u, v, coefficients, base = inputs
        ctx.save_for_backward(u, v, coefficients)
        ctx.has_base = base is not None

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, v, coefficients = ctx.saved_tensors
        with torch.autocast(u.device.type, enabled=False):
            scale = coefficients.to(u.dtype).unsqueeze(-2)
            toward_u = grad.unsqueeze(-3) @ v
            toward_v = grad.mT.unsqueeze(-3) @ u
            of_coefficients = (u.to(torch.float64) * toward_u).sum(-2)
        of_base = grad if ctx.has_base else None
        return toward_u * scale, toward_v * scale, of_coefficients, of_base


class _Terms(NamedTuple):
    """Checked terms, with one batch dimension."""

    u: Tensor  # (batch, terms, m, r)
    v: Tensor  # (batch, terms, n, r)
    coefficients: Tensor  # (batch, terms, r), float64
    shape: tuple[int, ...]  # of the batch


def _check_factor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray (or a sequence of them), "
            f"got {type(value).__name__}"
        )
    check_dense(name, value)
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    return value


def _is_ragged(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _join_ragged(u: Any, s: Any, v: Any, weights: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Terms of different ranks (m, r_t), (r_t,), (n, r_t) as one term of rank sum_t r_t."""
    if not (_is_ragged(u) and _is_ragged(v) and (s is None or _is_ragged(s))):
        raise TypeError("u, s and v must all be tensors or all be sequences of tensors")
    count = len(u)
    if count == 0 or len(v) != count or (s is not None and len(s) != count):
        raise ValueError(
            "u, s and v must hold the same number of terms, at least one, "
            f"got {count}, {'none' if s is None else len(s)} and {len(v)}"
        )
    us = [_check_factor(f"u[{t}]", term) for t, term in enumerate(u)]
    vs = [_check_factor(f"v[{t}]", term) for t, term in enumerate(v)]
    if s is None:
        ss = [term.new_ones(term.shape[-1:]) for term in us]
    else:
        ss = [_check_factor(f"s[{t}]", term) for t, term in enumerate(s)]
    for t, (left, middle, right) in enumerate(zip(us, ss, vs, strict=True)):
        check_alike(**{"u[0]": us[0], f"u[{t}]": left, f"s[{t}]": middle, f"v[{t}]": right})
        rank = left.shape[-1] if left.dim() == 2 else -1
        if (
            left.dim() != 2
            or right.dim() != 2
            or shape_of(middle) != (rank,)
            or right.shape[-1] != rank
            or left.shape[0] != us[0].shape[0]
            or right.shape[0] != vs[0].shape[0]
        ):
            raise ValueError(
                f"term {t}: u, s and v must have shapes (m, r), (r,) and (n, r) with the m and n "
                f"of term 0, got {shape_of(left)}, {shape_of(middle)} and {shape_of(right)}"
            )
    if weights is not None:
        scale = _check_weights(weights, (count,), us[0])
        ss = [term.double() * scale[t] for t, term in enumerate(ss)]
    return torch.cat(us, -1), torch.cat([term.double() for term in ss]), torch.cat(vs, -1)


def _check_weights(weights: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    tensor = as_tensor("weights", weights)
    check_values("weights", tensor, like)
    tensor = tensor.to(like.device)
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise TypeError(f"weights must be real numbers, got {tensor.dtype}")
    try:
        return tensor.to(torch.float64).expand(shape)
    except RuntimeError:
        raise ValueError(
            f"weights must have shape {shape} (one per term), got {shape_of(tensor)}"
        ) from None


def _terms(function: str, u: Any, s: Any, v: Any, weights: Any) -> _Terms:
    if _is_ragged(u) or _is_ragged(v):
        left, coefficients, right = _join_ragged(u, s, v, weights)
        require(left.device, function)
        return _Terms(left[None, None], right[None, None], coefficients[None, None], ())
    u, v = _check_factor("u", u), _check_factor("v", v)
    check_alike(u=u, v=v)
    require(u.device, function)
    if u.dim() < 3 or v.dim() < 3 or u.shape[-1] != v.shape[-1] or u.shape[-3] != v.shape[-3]:
        raise ValueError(
            "u and v must have shapes (..., terms, m, r) and (..., terms, n, r), "
            f"got {shape_of(u)} and {shape_of(v)}"
        )
    terms, rank = u.shape[-3], u.shape[-1]
    pieces = [u.shape[:-3], v.shape[:-3]]
    if s is not None:
        s = _check_factor("s", s)
        check_alike(u=u, s=s)
        if s.dim() < 2 or tuple(s.shape[-2:]) != (terms, rank):
            raise ValueError(f"s must have shape (..., {terms}, {rank}), got {shape_of(s)}")
        pieces.append(s.shape[:-2])
    try:
        shape = torch.broadcast_shapes(*pieces)
    except RuntimeError:
        raise ValueError(
            "the batch dimensions of u, s and v must broadcast, got "
            + ", ".join(str(tuple(piece)) for piece in pieces)
        ) from None
    coefficients = u.new_ones((terms, rank), dtype=torch.float64) if s is None else s.double()
    coefficients = coefficients.expand(*shape, terms, rank)
    if weights is not None:
        coefficients = coefficients * _check_weights(weights, (*shape, terms), u).unsqueeze(-1)
    batch = math.prod(shape)
    return _Terms(
        u.expand(*shape, *u.shape[-3:]).reshape(batch, *u.shape[-3:]),
        v.expand(*shape, *v.shape[-3:]).reshape(batch, *v.shape[-3:]),
        coefficients.reshape(batch, terms, rank),
        tuple(shape),
    )


@accepts_numpy
def low_rank_sum(
    u: TensorOrArray | Sequence[TensorOrArray],
    s: TensorOrArray | Sequence[TensorOrArray] | None,
    v: TensorOrArray | Sequence[TensorOrArray],
    weights: TensorOrArray | Sequence[float] | None = None,
    base: TensorOrArray | None = None,
) -> TensorOrArray:
    """Sum of low-rank terms, base + sum_t w_t U_t diag(s_t) V_t', as one product.

    Batch dimensions broadcast. Differentiable in all arguments.

    Args:
        u: Left factors (..., T, m, r), or a sequence of T matrices (m, r_t) if ranks differ.
        s: Values (..., T, r), or a sequence of T vectors (r_t,). None stands for ones.
        v: Right factors (..., T, n, r), or a sequence of T matrices (n, r_t).
        weights: Weights w (..., T). None stands for ones.
        base: A matrix (..., m, n) to add.

    Returns:
        A matrix (..., m, n) of the dtype of u. Half-precision input is accumulated in float32.

    Example:
        >>> u, v = torch.ones(2, 3, 1), torch.ones(2, 2, 1)
        >>> awpf_ext.low_rank_sum(u, None, v, weights=[1.0, 0.5])
        tensor([[1.5000, 1.5000],
                [1.5000, 1.5000],
                [1.5000, 1.5000]])
    """
    terms: _Terms = _terms("low_rank_sum", u, s, v, weights)
    shape = (*terms.shape, terms.u.shape[-2], terms.v.shape[-2])
    added: Tensor | None = None
    if base is not None:
        added = _check_factor("base", base)
        check_alike(u=terms.u, base=added)
        try:
            added = added.expand(shape).reshape(-1, *shape[-2:]).contiguous()
        except RuntimeError:
            raise ValueError(f"base must have shape {shape}, got {shape_of(added)}") from None
    total: Tensor = apply(
        _LowRankSum,
        terms.u.contiguous(),
        terms.v.contiguous(),
        terms.coefficients.contiguous(),
        added,
    )
    return total.reshape(shape)  # type: ignore[return-value]


@accepts_numpy
def truncate(
    u: TensorOrArray | Sequence[TensorOrArray],
    s: TensorOrArray | Sequence[TensorOrArray] | None,
    v: TensorOrArray | Sequence[TensorOrArray],
    rank: int,
    weights: TensorOrArray | Sequence[float] | None = None,
) -> LowRank[TensorOrArray]:
    """The best approximation of sum_t w_t U_t diag(s_t) V_t' with a given rank.

    It is computed by QR decompositions of the stacked factors and an SVD of the small matrix
    between them, or, if the stacked rank exceeds half the smaller side, by an SVD of the sum, which
    is cheaper then. Differentiable if singular values are distinct.

    Args:
        u: As in :func:`awpf_ext.low_rank_sum`.
        s: As in :func:`awpf_ext.low_rank_sum`.
        v: As in :func:`awpf_ext.low_rank_sum`.
        rank: The rank of the result. If the sum has a lower rank, that is the rank of the result.
        weights: As in :func:`awpf_ext.low_rank_sum`.

    Returns:
        The factors, with singular values in descending order; float64 for float64 input, otherwise
        float32.

    Example:
        >>> u, s, v = torch.eye(3)[None], torch.tensor([[3.0, 2.0, 1.0]]), torch.eye(3)[None]
        >>> awpf_ext.truncate(u, s, v, rank=2).s
        tensor([3., 2.])
    """
    rank = check_integer("rank", rank, sys.maxsize)
    terms: _Terms = _terms("truncate", u, s, v, weights)
    check_values("u", terms.u)
    dtype = torch.float64 if terms.u.dtype == torch.float64 else torch.float32
    left, right = (_stack(factor).to(dtype) for factor in (terms.u, terms.v))
    coefficients = terms.coefficients.flatten(-2).to(dtype)
    # Autocast would round the products between the factorisations to bfloat16.
    with torch.autocast(left.device.type, enabled=False):
        found = _decompose(left, coefficients, right)
    kept = (part[..., : min(rank, part.shape[-1])] for part in found)
    factors = (part.reshape(*terms.shape, *part.shape[1:]) for part in kept)
    result: LowRank[Tensor] = LowRank(*factors)
    return result  # type: ignore[return-value]


def _decompose(left: Tensor, coefficients: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The SVD of left diag(coefficients) right', by whichever way is cheaper."""
    m, n, depth = left.shape[-2], right.shape[-2], left.shape[-1]
    if depth > min(m, n) // 2:
        return _svd(low_rank_sum(left[:, None], coefficients[:, None], right[:, None]))
    q_left, r_left = torch.linalg.qr(left * coefficients.unsqueeze(-2))
    q_right, r_right = torch.linalg.qr(right)
    u, s, v = _svd(r_left @ r_right.mT)
    return q_left @ u, s, q_right @ v


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if bool(matrix.isfinite().all()):
            raise
        raise ValueError("u, s, v or weights hold a NaN or an infinity") from None
    return u, s, vh.mT


def _stack(factor: Tensor) -> Tensor:
    """(batch, terms, m, r) as (batch, m, terms r)."""
    return factor.movedim(1, 2).flatten(-2)
