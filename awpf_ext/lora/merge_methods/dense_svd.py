"""The leading singular triplets of a dense matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from awpf_ext.lora.merge_methods.base import Merged, cut
from awpf_ext.ops.low_rank import LowRank

_SMALL = 1024  # up to this size a full SVD takes well under a second
_SPARE = 16  # columns beyond the rank
_STEPS = 12
_CONVERGED = 1e-5  # relative change of the leading triplets' energy from one step to the next


def truncate_dense(matrix: Tensor, rank: int, seed: int) -> Merged:
    """`matrix` cut to `rank`, with the energy that is lost.

    A full SVD is used if the matrix is small or the rank is large. Otherwise the triplets come from
    a block Krylov space with a seeded random start, which grows until a step adds less than 1e-5 of
    the energy found; each step takes two products with `rank` + 16 columns. The reported loss is
    the actual one.
    """
    smaller = min(matrix.shape)
    width = rank + _SPARE
    if smaller <= _SMALL or 4 * width > smaller:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return cut(LowRank(u, s, vh.mT), rank)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], width, dtype=matrix.dtype, generator=generator)
    left = torch.linalg.qr(matrix @ start)[0]  # orthonormal, grows by `width` columns per step
    image = matrix.mT @ left  # the matrix in the basis `left`
    energy = _leading_energy(image, rank)
    for _ in range(min(_STEPS, smaller // width - 1)):
        new = matrix @ image[:, -width:]
        for _ in range(2):  # one pass is not orthogonal up to rounding
            new = torch.linalg.qr(new - left @ (left.mT @ new))[0]
        left = torch.cat([left, new], dim=1)
        image = torch.cat([image, matrix.mT @ new], dim=1)
        before, energy = energy, _leading_energy(image, rank)
        if energy - before <= _CONVERGED * energy:
            break
    basis, core = torch.linalg.qr(image)
    v, s, uh = torch.linalg.svd(core)
    # In pieces, as the norm in double would convert the whole matrix to double.
    total = sum(
        float(torch.linalg.vector_norm(rows, dtype=torch.float64)) ** 2
        for rows in matrix.split(256)
    )
    return cut(LowRank(left @ uh.mT[:, :rank], s, basis @ v[:, :rank]), rank, energy=total)


def _leading_energy(image: Tensor, rank: int) -> float:
    values = torch.linalg.eigvalsh((image.mT @ image).double())
    return float(values[-rank:].sum())
