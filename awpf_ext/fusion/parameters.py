"""Fusing an old and a new parameter matrix: SVD-mask, QR-mask, stack and delta-stack.

`fuse` checks its arguments and calls one of four functions, which are the formulas. Tensors are
(..., m, n) with any batch dimensions. All are differentiable where the decomposition is (distinct
singular values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from awpf_ext.ops._arguments import accepts_numpy, check_dense, check_values, is_number, shown
from awpf_ext.ops._types import NDArray, TensorOrArray
from awpf_ext.ops.low_rank import low_rank_sum

Fusion = Literal["svd_mask", "qr_mask", "stack", "delta_stack"]


def svd_mask(old: Tensor, new: Tensor, bias: float = 0.6) -> Tensor:
    """RAPF's fusion: in the left singular basis of `old`, take more of `new` where it changed more.

    U = left singular vectors of old, R_old = U' old, R_new = U' new, D = |R_new - R_old|,
    M = min(1, D / max D + bias); the result is U [M R_new + (1 - M) R_old].
    """
    return _masked_mix(torch.linalg.svd(old)[0], old, new, bias)


def qr_mask(old: Tensor, new: Tensor, bias: float = 0.6) -> Tensor:
    """CalFuse's fusion: RAPF's mask in the basis Q of old = Q R (R's diagonal positive).

    All of R_new = Q' new is used, not only its upper triangle, so that nothing of `new` is lost.
    The mask depends on magnitudes only, so that the signs that would make the diagonal positive
    cancel.
    """
    return _masked_mix(torch.linalg.qr(old, mode="complete")[0], old, new, bias)


def stack(
    old: Tensor, new: Tensor, weight: float | Tensor = 0.5, rank: int | None = None
) -> Tensor:
    """Low-rank stacking: [B_old | B_new] [(1 - w) A_old; w A_new], each B A a rank-r SVD.

    At full rank (rank=None) this is (1 - w) old + w new.
    """
    u, s, vh = torch.linalg.svd(torch.stack([old, new], dim=-3), full_matrices=False)
    w = _on(old, weight)
    weights = torch.stack([1 - w, w], dim=-1)
    fused: Tensor = low_rank_sum(
        u[..., :rank], s[..., :rank], vh[..., :rank, :].mT, weights=weights
    )
    return fused


def delta_stack(
    old: Tensor, new: Tensor, weight: float | Tensor = 0.5, rank: int | None = None
) -> Tensor:
    """Add the task's change to the old parameters: old + w svd_r(new - old).

    Unlike `stack` it never truncates `old`, which may have full rank. At full rank (rank None) this
    is (1 - w) old + w new.
    """
    u, s, vh = torch.linalg.svd((new - old).unsqueeze(-3), full_matrices=False)
    weights = _on(old, weight).unsqueeze(-1)
    fused: Tensor = low_rank_sum(
        u[..., :rank], s[..., :rank], vh[..., :rank, :].mT, weights=weights, base=old
    )
    return fused


FUSIONS: Mapping[Fusion, Callable[..., Tensor]] = {
    "svd_mask": svd_mask,
    "qr_mask": qr_mask,
    "stack": stack,
    "delta_stack": delta_stack,
}
_PARAMETERS: Mapping[Fusion, tuple[str, ...]] = {
    "svd_mask": ("bias",),
    "qr_mask": ("bias",),
    "stack": ("weight", "rank"),
    "delta_stack": ("weight", "rank"),
}


@accepts_numpy
def fuse(
    old: TensorOrArray,
    new: TensorOrArray,
    method: Fusion = "delta_stack",
    *,
    weight: float | Tensor | NDArray | None = None,
    rank: int | None = None,
    bias: float | None = None,
) -> TensorOrArray:
    """Fuse an old and a new parameter matrix.

    Half precision is computed in float32. Differentiable where the decomposition is (distinct
    singular values).

    Args:
        old: Matrices (..., m, n).
        new: Matrices of the same shape, dtype and device.
        method: "delta_stack" (old + w svd_r(new - old)), "stack" (both as rank-r SVDs, weighted),
            or a mask in the singular basis ("svd_mask", as RAPF) or the QR basis ("qr_mask", as
            CalFuse) of `old` that takes more of `new` where it changed more.
        weight: For the stacks: weight w of the new matrix in [0, 1], a number or one for each batch
            entry; by default 0.5.
        rank: For the stacks: rank r of each term; by default full rank.
        bias: For the masks: what is added to the mask, in [0, 1]; by default 0.6.

    Returns:
        Matrices of the same shape and dtype.

    Example:
        >>> awpf_ext.fuse(torch.zeros(2, 2), torch.eye(2), weight=0.25)
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    if method not in FUSIONS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(FUSIONS)}")
    before, after = _check_matrices(old, new)
    given = {
        name: value
        for name, value in (("weight", weight), ("rank", rank), ("bias", bias))
        if value is not None
    }
    for name in given:
        if name not in _PARAMETERS[method]:
            raise ValueError(
                f"{name} was given, but {method} takes {' and '.join(_PARAMETERS[method])} only"
            )
    _check_parameters(before, weight, rank, bias)
    precise = torch.promote_types(before.dtype, torch.float32)
    fused = FUSIONS[method](before.to(precise), after.to(precise), **given)
    return fused.to(before.dtype)  # type: ignore[return-value]


def _masked_mix(basis: Tensor, old: Tensor, new: Tensor, bias: float) -> Tensor:
    """basis [M basis' new + (1 - M) basis' old]; equal matrices have D = 0 and are returned."""
    in_basis = basis.mT @ old
    moved = basis.mT @ new - in_basis
    change = moved.abs()
    largest = change.amax(dim=(-2, -1), keepdim=True)
    mask = (change / largest.clamp_min(torch.finfo(old.dtype).tiny) + bias).clamp(max=1)
    return basis @ (in_basis + mask * moved)


def _on(old: Tensor, weight: float | Tensor) -> Tensor:
    """The weight on the device of `old`; filling in a number does not wait, copying it would."""
    return weight.to(old) if isinstance(weight, Tensor) else old.new_full((), weight)


def _check_matrices(old: object, new: object) -> tuple[Tensor, Tensor]:
    for name, matrix in (("old", old), ("new", new)):
        if not isinstance(matrix, Tensor):
            raise TypeError(
                f"{name} is a {type(matrix).__name__}; expected a tensor or NumPy array"
            )
        check_dense(name, matrix)
    assert isinstance(old, Tensor)
    assert isinstance(new, Tensor)
    if old.dim() < 2 or old.shape != new.shape:
        raise ValueError(
            f"old and new have shapes {tuple(old.shape)} and {tuple(new.shape)}; expected two "
            "equal shapes (..., m, n)"
        )
    if 0 in old.shape[-2:]:
        raise ValueError(f"old and new have shape {tuple(old.shape)}; expected m and n above 0")
    if not old.is_floating_point() or old.dtype != new.dtype:
        raise TypeError(
            f"old and new have types {old.dtype} and {new.dtype}; expected one floating-point type"
        )
    if old.device != new.device:
        raise ValueError(f"old is on {old.device} and new on {new.device}; expected one device")
    return old, new


def _check_parameters(
    old: Tensor, weight: float | Tensor | NDArray | None, rank: int | None, bias: float | None
) -> None:
    if isinstance(weight, Tensor):
        check_values("weight", check_dense("weight", weight), old)
        if weight.dtype.is_complex or weight.dtype == torch.bool:
            raise TypeError(f"weight has type {weight.dtype}; expected real numbers")
        if weight.dim() and weight.shape != old.shape[:-2]:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected a number or one for each batch "
                f"entry, {tuple(old.shape[:-2])}"
            )
    elif weight is not None and not _is_share(weight):
        raise ValueError(f"weight is {shown(weight)}; expected 0 to 1, the share of the new side")
    if rank is not None and (not _is_integer(rank) or rank < 1):
        raise ValueError(
            f"rank is {shown(rank)}; expected a positive integer, or None for full rank"
        )
    if bias is not None and not _is_share(bias):
        raise ValueError(f"bias is {shown(bias)}; expected 0 to 1")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return is_number(value) and bool(0 <= value <= 1)  # type: ignore[operator]
