"""The leading singular triplets of a matrix that is not given by factors."""

from __future__ import annotations

import torch
from torch import Tensor

from awpf_ext.lora.methods.base import Merged, cut
from awpf_ext.ops.low_rank import LowRank

_SMALL = 1024  # up to this side a full SVD takes well under a second
_SPARE = 16  # columns beyond the rank
_STEPS = 12
_CONVERGED = 1e-5  # of the energy in the leading triplets, from one step to the next


def truncate_dense(matrix: Tensor, rank: int, seed: int) -> Merged:
    """`matrix` cut to a rank, with the energy that is lost.

    A full SVD where the matrix is small or much of it is wanted. Otherwise within a block Krylov
    space from a seeded random start, grown until a step adds less than 1e-5 of the energy found:
    each step costs two products with `rank` + 16 columns. The loss reported is the one that
    results.
    """
    smaller = min(matrix.shape)
    width = rank + _SPARE
    if smaller <= _SMALL or 4 * width > smaller:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return cut(LowRank(u, s, vh.mT), rank)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, dtype=matrix.dtype, generator=generator)
    left = torch.linalg.qr(matrix @ start)[0]  # orthonormal, grows by `width` columns a step
    image = matrix.mT @ left  # the matrix seen from there
    energy = _leading_energy(image, rank)
    for _ in range(min(_STEPS, smaller // width - 1)):
        new = matrix @ image[:, -width:]
        for _ in range(2):  # once is not orthogonal to rounding
            new = torch.linalg.qr(new - left @ (left.mT @ new))[0]
        left = torch.cat([left, new], dim=1)
        image = torch.cat([image, matrix.mT @ new], dim=1)
        before, energy = energy, _leading_energy(image, rank)
        if energy - before <= _CONVERGED * energy:
            break
    basis, core = torch.linalg.qr(image)
    v, s, uh = torch.linalg.svd(core)
    # In pieces: a norm in double of the whole would make a copy in double of the whole.
    total = sum(
        float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2
        for rows in matrix.split(256)
    )
    return cut(LowRank(left @ uh.mT[:, :rank], s, basis @ v[:, :rank]), rank, energy=total)


def _leading_energy(image: Tensor, rank: int) -> float:
    values = torch.linalg.eigvalsh((image.mT @ image).double())
    return float(values[-rank:].sum())
