"""The leading singular triplets of a matrix that is not given by factors."""

from __future__ import annotations

import torch
from torch import Tensor

from awpf_ext.lora.methods.base import Merged, cut
from awpf_ext.ops.low_rank import LowRank

_SMALL = 1024  # up to this side a full SVD takes well under a second
_SPARE = 16  # columns beyond the rank: the further the spectrum falls, the faster it converges
_PASSES = 30
_CONVERGED = 1e-5  # of the energy in the leading triplets, from one pass to the next


def truncate_dense(matrix: Tensor, rank: int, seed: int) -> Merged:
    """`matrix` cut to a rank, with the energy that is lost.

    A full SVD where the matrix is small or most of it is wanted. Otherwise by subspace iteration
    from a seeded random start, until a pass adds less than 1e-5 of the energy found: each pass
    costs two products with `rank` + 16 columns. The loss that is reported is the one that results.
    """
    smaller = min(matrix.shape)
    width = rank + _SPARE
    if smaller <= _SMALL or width > smaller // 2:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return cut(LowRank(u, s, vh.mT), rank)
    start = torch.randn(
        matrix.shape[1], width, dtype=matrix.dtype, generator=torch.Generator().manual_seed(seed)
    )
    left = torch.linalg.qr(matrix @ start)[0]
    energy = 0.0
    for _ in range(_PASSES):
        right = torch.linalg.qr(matrix.mT @ left)[0]
        left, core = torch.linalg.qr(matrix @ right)
        before = energy
        energy = float(torch.linalg.svdvals(core)[:rank].double().square().sum())
        if energy - before <= _CONVERGED * energy:
            break
    u, s, vh = torch.linalg.svd(core)
    total = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2
    return cut(LowRank(left @ u, s, right @ vh.mT), rank, energy=total)
