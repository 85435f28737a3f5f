"""Fusing an old and a new parameter matrix: SVD-mask, QR-mask, stack and delta-stack.

`fuse` checks and dispatches; the four functions below it are the formulas. Tensors are (..., m, n)
with any batch dimensions, and everything is differentiable where the factorisation is (distinct
singular values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from awpf_ext.ops._arguments import accepts_numpy
from awpf_ext.ops.low_rank import low_rank_sum


def svd_mask(old: Tensor, new: Tensor, bias: float = 0.6) -> Tensor:
    """RAPF's fusion: in the left singular basis of `old`, take more of `new` where it moved more.

    U = left singular vectors of old, R_old = U' old, R_new = U' new, D = |R_new - R_old|,
    M = min(1, D / max D + bias); the result is U [M R_new + (1 - M) R_old].
    """
    return _masked_mix(torch.linalg.svd(old)[0], old, new, bias)


def qr_mask(old: Tensor, new: Tensor, bias: float = 0.6) -> Tensor:
    """CalFuse's fusion: RAPF's mask in the basis Q of old = Q R (R's diagonal positive).

    All of R_new = Q' new enters, not its triangle alone, so nothing of `new` is lost. The mask sees
    magnitudes only, so the signs that make the diagonal positive cancel and are not applied.
    """
    return _masked_mix(torch.linalg.qr(old, mode="complete")[0], old, new, bias)


def stack(
    old: Tensor, new: Tensor, weight: float | Tensor = 0.5, rank: int | None = None
) -> Tensor:
    """Low-rank stacking: [B_old | B_new] [(1 - w) A_old; w A_new], each B A a rank-r SVD.

    At full rank (rank None) this is (1 - w) old + w new.
    """
    u, s, vh = torch.linalg.svd(torch.stack([old, new], dim=-3), full_matrices=False)
    w = _on(old, weight)
    weights = torch.stack([1 - w, w], dim=-1)
    return low_rank_sum(u[..., :rank], s[..., :rank], vh[..., :rank, :].mT, weights=weights)


def delta_stack(
    old: Tensor, new: Tensor, weight: float | Tensor = 0.5, rank: int | None = None
) -> Tensor:
    """Stack the task's change on the old parameters: old + w svd_r(new - old).

    Unlike `stack` it never truncates `old`, which may have full rank. At full rank (rank None) this
    is (1 - w) old + w new.
    """
    u, s, vh = torch.linalg.svd((new - old).unsqueeze(-3), full_matrices=False)
    weights = _on(old, weight).unsqueeze(-1)
    return low_rank_sum(
        u[..., :rank], s[..., :rank], vh[..., :rank, :].mT, weights=weights, base=old
    )


FUSIONS: Mapping[str, Callable[..., Tensor]] = {
    "svd_mask": svd_mask,
    "qr_mask": qr_mask,
    "stack": stack,
    "delta_stack": delta_stack,
}
_PARAMETERS = {
    "svd_mask": ("bias",),
    "qr_mask": ("bias",),
    "stack": ("weight", "rank"),
    "delta_stack": ("weight", "rank"),
}


@accepts_numpy
def fuse(
    old: Any,
    new: Any,
    method: str = "delta_stack",
    *,
    weight: float | Tensor | None = None,
    rank: int | None = None,
    bias: float | None = None,
) -> Tensor:
    """Fuse two parameter matrices (..., m, n) of one type into one of the same shape and type.

    method: svd_mask or qr_mask (with `bias`, default 0.6), stack or delta_stack (with `weight` of
    the new side in [0, 1], default 0.5, a number or one for each batch entry, and `rank`, default
    full). NumPy arrays come back as NumPy arrays; half precision is computed in float32.
    """
    for name, matrix in (("old", old), ("new", new)):
        if not isinstance(matrix, Tensor):
            raise TypeError(
                f"{name} is a {type(matrix).__name__}; expected a tensor or NumPy array"
            )
    if method not in FUSIONS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(FUSIONS)}")
    _check_matrices(old, new)
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
    _check_parameters(old, weight, rank, bias)
    precise = torch.promote_types(old.dtype, torch.float32)
    return FUSIONS[method](old.to(precise), new.to(precise), **given).to(old.dtype)


def _masked_mix(basis: Tensor, old: Tensor, new: Tensor, bias: float) -> Tensor:
    """basis [M basis' new + (1 - M) basis' old]; equal matrices have D = 0 and stay as they are."""
    in_basis = basis.mT @ old
    moved = basis.mT @ new - in_basis
    distance = moved.abs()
    largest = distance.amax(dim=(-2, -1), keepdim=True)
    mask = (distance / largest.clamp_min(torch.finfo(old.dtype).tiny) + bias).clamp(max=1)
    return basis @ (in_basis + mask * moved)


def _on(old: Tensor, weight: float | Tensor) -> Tensor:
    """The weight beside `old`; a number is filled in there, since copying it would wait."""
    return weight.to(old) if isinstance(weight, Tensor) else old.new_full((), weight)


def _check_matrices(old: Tensor, new: Tensor) -> None:
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


def _check_parameters(
    old: Tensor, weight: float | Tensor | None, rank: int | None, bias: float | None
) -> None:
    if isinstance(weight, Tensor):
        if weight.dim() and weight.shape != old.shape[:-2]:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected a number or one for each batch "
                f"entry, {tuple(old.shape[:-2])}"
            )
    elif weight is not None and not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 to 1, the share of the new side")
    if rank is not None and (not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank is {rank!r}; expected a positive integer, or None for full rank")
    if bias is not None and not 0 <= bias <= 1:
        raise ValueError(f"bias is {bias}; expected 0 to 1")
