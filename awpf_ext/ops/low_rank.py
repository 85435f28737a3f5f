"""Sums of low-rank terms: built as one product, and cut back to a given rank."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext._library import require
from awpf_ext.ops._arguments import FLOATING, accepts_numpy, as_tensor, check_alike, shape_of
from awpf_ext.ops._autograd import (
    ReverseMode,
    apply,
    batching_rule,
    fake,
    folded,
    run,
    unfolded,
)


class LowRank(NamedTuple):
    """U diag(S) V' with U (..., m, k), S (..., k), V (..., n, k)."""

    u: Tensor
    s: Tensor
    v: Tensor


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


@fake("low_rank_sum")
def _(u: Tensor, v: Tensor, coefficients: Tensor, base: Tensor | None) -> Tensor:
    return u.new_empty(u.shape[0], u.shape[2], v.shape[2])


@batching_rule("low_rank_sum")
def _(
    info: Any,
    dims: tuple[Any, ...],
    u: Tensor,
    v: Tensor,
    coefficients: Tensor,
    base: Tensor | None,
) -> tuple[Tensor, int]:
    size = info.batch_size
    total = torch.ops.awpf.low_rank_sum(
        folded(u, dims[0], size),
        folded(v, dims[1], size),
        folded(coefficients, dims[2], size),
        None if base is None else folded(base, dims[3], size),
    )
    return unfolded(total, size), 0


class _Terms(NamedTuple):
    """u (batch, terms, m, r), v (batch, terms, n, r), coefficients (batch, terms, r) in
    float64, the batch shape."""

    u: Tensor
    v: Tensor
    coefficients: Tensor
    shape: tuple[int, ...]


def _check_factor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray (or a sequence of them), "
            f"got {type(value).__name__}"
        )
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
    ones = [term.new_ones(term.shape[-1]) for term in us]
    ss = ones if s is None else [_check_factor(f"s[{t}]", term) for t, term in enumerate(s)]
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
    tensor = as_tensor("weights", weights).to(like.device)
    if tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise TypeError(f"weights must be real numbers, got {tensor.dtype}")
    try:
        return tensor.to(torch.float64).expand(shape)
    except RuntimeError:
        raise ValueError(
            f"weights must have shape {shape} (one a term), got {shape_of(tensor)}"
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
def low_rank_sum(u: Any, s: Any, v: Any, weights: Any = None, base: Any = None) -> Tensor:
    """base + sum_t w_t U_t diag(s_t) V_t', as one product.

    u (..., T, m, r), s (..., T, r) or None for ones, v (..., T, n, r), weights (..., T), base
    (..., m, n); or sequences of T tensors (m, r_t), (r_t,), (n, r_t) where ranks differ. Batch
    dimensions broadcast. Differentiable in everything. Returns (..., m, n) in the type of u;
    products and sums are kept in float32 for half-precision input.
    """
    terms = _terms("low_rank_sum", u, s, v, weights)
    shape = (*terms.shape, terms.u.shape[-2], terms.v.shape[-2])
    if base is not None:
        base = _check_factor("base", base)
        check_alike(u=terms.u, base=base)
        try:
            base = base.expand(shape).reshape(-1, *shape[-2:]).contiguous()
        except RuntimeError:
            raise ValueError(f"base must have shape {shape}, got {shape_of(base)}") from None
    total: Tensor = apply(
        _LowRankSum,
        terms.u.contiguous(),
        terms.v.contiguous(),
        terms.coefficients.contiguous(),
        base,
    )
    return total.reshape(shape)


@accepts_numpy
def truncate(u: Any, s: Any, v: Any, rank: int, weights: Any = None) -> LowRank:
    """The best approximation of rank ``rank`` of sum_t w_t U_t diag(s_t) V_t', singular values
    in falling order.

    By QR of the stacked factors and an SVD of the small core between them; where the stacked
    rank exceeds half the smaller side, by an SVD of the sum itself, which is cheaper then.
    Arguments as in :func:`low_rank_sum`. Half-precision input is computed and returned in
    float32. A rank above that of the sum gives all there is.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"rank must be an integer of at least 1, got {rank!r}")
    terms = _terms("truncate", u, s, v, weights)
    dtype = torch.float64 if terms.u.dtype == torch.float64 else torch.float32
    left, right = (_stack(factor).to(dtype) for factor in (terms.u, terms.v))
    coefficients = terms.coefficients.flatten(-2).to(dtype)
    # Autocast would round the products between the factorisations to bfloat16.
    with torch.autocast(left.device.type, enabled=False):
        u, s, v = _decompose(left, coefficients, right)
    kept = min(rank, s.shape[-1])
    u, s, v = u[..., :kept], s[..., :kept], v[..., :kept]
    return LowRank(*(part.reshape(*terms.shape, *part.shape[1:]) for part in (u, s, v)))


def _decompose(left: Tensor, coefficients: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triplets of left diag(coefficients) right', by whichever way is cheaper."""
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
