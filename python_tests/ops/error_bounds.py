"""What rounding may do to a matrix computation, whichever library and processor do it.

BLAS and LAPACK sum in another order on every processor, so bounds follow from the problem (its
roundoff, norm, size, and the gap of its singular values), not from what one machine gave.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def backward_error(dtype: torch.dtype, norm: Tensor | float, size: int) -> float:
    """|E| (Frobenius) where a product or factorization of A in `dtype` is exact for A + E.

    10 sqrt(size) eps |A|: each element is the sum of up to `size` products, whose roundings add up
    like a random walk (Higham and Mary, 2019). An SVD passes a matrix through a bidiagonalization,
    iterations and two products, hence the 10. For A = L R' factorized through L and R, `norm` is
    |L| |R|, which exceeds |A| where terms cancel.
    """
    return 10 * math.sqrt(size) * torch.finfo(dtype).eps * float(norm)


def sum_error(dtype: torch.dtype, count: int) -> float:
    """Of a sum of `count` products one after the other, relative to the sum of their magnitudes:
    the roundings, up to eps / 2 each, add up like a random walk, here of twice the usual length.
    """
    return math.sqrt(count) * torch.finfo(dtype).eps


def truncation_error(exact: Tensor, rank: int, backward: float) -> float:
    """How far the best approximation of `rank` moves (Frobenius) where `exact` moves by `backward`.

    By sigma_k / (sigma_k - sigma_{k+1}) of it: an element between singular vectors i <= k < j turns
    them into each other by 1 / (sigma_i - sigma_j) of itself, which the approximation shows at the
    size sigma_i. On the way the gap may shrink by `backward` at each end.
    """
    values = [*torch.linalg.svdvals(exact.double()).tolist(), 0.0]
    kept, cut = values[rank - 1], values[rank] if rank < min(exact.shape) else 0.0
    gap = kept - cut - 2 * backward
    assert gap > 0, f"singular values {kept} and {cut} cannot be told apart"
    return (kept + backward) / gap * backward


def check_truncation(found: Any, exact: Tensor, norm: Tensor | float) -> None:
    """U, S, V are the leading singular triplets of `exact`, whatever the gap of its values.

    The triplets themselves are ill-conditioned where values are close. What every backward stable
    SVD gives is that U and V are orthonormal, that A V = U S and A'U = V S, and that S are the
    largest singular values, which move by no more than A does (Weyl).
    """
    dtype, size = found.s.dtype, max(exact.shape)
    bound = backward_error(dtype, norm, size)
    u, s, v, exact = (part.cpu().double() for part in (*found, exact))
    for basis in (u, v):
        error = (basis.T @ basis - torch.eye(len(s), dtype=torch.float64)).norm()
        assert error <= backward_error(dtype, len(s) ** 0.5, size)
    assert (exact @ v - u * s).norm() <= bound
    assert (exact.T @ u - v * s).norm() <= bound
    assert (s - torch.linalg.svdvals(exact)[: len(s)]).abs().max() <= bound
