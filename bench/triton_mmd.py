"""A simple Triton baseline: block sums of a mixture of RBF kernels, one tile per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tile_sums(
    a, b, half_a, half_b, sums, n, m, d,
    gamma: tl.constexpr, kernels: tl.constexpr, precision: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """gamma: the widest kernel's exponent times log2 e; each further kernel doubles it."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    j = tl.program_id(1) * columns + tl.arange(0, columns)
    product = tl.zeros((rows, columns), tl.float32)
    for k in range(0, d, depth):
        at = k + tl.arange(0, depth)
        left = tl.load(
            a + i[:, None] * d + at, mask=(i[:, None] < n) & (at[None, :] < d), other=0.0
        )
        right = tl.load(
            b + j[:, None] * d + at, mask=(j[:, None] < m) & (at[None, :] < d), other=0.0
        )
        product = tl.dot(left, tl.trans(right), product, input_precision=precision)
    norm_a = tl.load(half_a + i, mask=i < n, other=0.0)
    norm_b = tl.load(half_b + j, mask=j < m, other=0.0)
    square = tl.maximum(2 * (norm_a[:, None] + norm_b[None, :] - product), 0.0)
    value = tl.exp2(-gamma * square)
    total = value
    for _ in tl.static_range(kernels - 1):
        value = value * value
        total += value
    total = tl.where((i[:, None] < n) & (j[None, :] < m), total, 0.0)
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(sums + place, tl.sum(total) / kernels)


def block_sum(a: Tensor, b: Tensor, widest: float, kernels: int, tile: int = 128) -> Tensor:
    """The sum over all pairs; `widest` is the smallest exponent, the others double it."""
    (n, d), m = a.shape, b.shape[0]
    grid = (triton.cdiv(n, tile), triton.cdiv(m, tile))
    sums = torch.empty(grid, device=a.device)
    halves = [0.5 * points.float().square().sum(1) for points in (a, b)]
    _tile_sums[grid](
        a, b, *halves, sums, n, m, d,
        gamma=widest * 1.4426950408889634, kernels=kernels,
        precision="tf32x3" if a.dtype == torch.float32 else "tf32",
        rows=tile, columns=tile, depth=32 if a.dtype == torch.float32 else 64, num_warps=8,
    )  # fmt: skip
    return sums.double().sum()


def mmd(x: Tensor, y: Tensor, widest: float, kernels: int) -> Tensor:
    """Squared MMD, biased, in three blocks."""
    n, m = x.shape[0], y.shape[0]
    within = block_sum(x, x, widest, kernels) / n**2 + block_sum(y, y, widest, kernels) / m**2
    return within - 2 * block_sum(x, y, widest, kernels) / (n * m)
