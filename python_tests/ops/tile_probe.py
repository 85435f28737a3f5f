"""Run by test_tiles.py in a process of its own: products of float32 matrices, saved under a path.

A low-rank sum of one term with coefficients of one is the plain product of the kernel table.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import awpf_ext


def product(a: Tensor, b: Tensor) -> Tensor:
    return awpf_ext.low_rank_sum(a.unsqueeze(0), torch.ones(1, a.shape[1]), b.unsqueeze(0))


def whole_steps() -> tuple[Tensor, Tensor]:
    """Numbers of one bfloat16 part, in one step of the depth; all sums round."""
    a, b = torch.randn(40, 32), torch.randn(50, 32)
    return a.bfloat16().float(), b.bfloat16().float()


def of_some_parts(bits: int) -> Tensor:
    """Rows of whole numbers, which have as many parts as their bits need."""
    return torch.randint(-(2**bits), 2**bits, (33, 40)).float()


def mixed_scales(rows: int) -> Tensor:
    return torch.randn(rows, 90) * 10 ** torch.empty(rows, 1).uniform_(-20, 17).float()


def not_finite() -> Tensor:
    a = torch.randn(70, 40)
    a[3, 5], a[40, 39], a[69, 0] = float("nan"), float("inf"), -float("inf")
    return a


def operands() -> dict[str, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    random = [torch.nn.functional.normalize(torch.randn(n, 512)) * 2.8 for n in (230, 300)]
    ragged = {
        f"ragged {m} {n} {d}": (torch.randn(m, d), torch.randn(n, d))
        for m, n, d in ((1, 1, 1), (31, 33, 31), (64, 32, 33), (230, 270, 321), (5, 449, 700))
    }
    few = {
        f"{a} bits by {b}": (of_some_parts(a), of_some_parts(b))
        for a, b in ((3, 3), (3, 9), (9, 3), (9, 9), (1, 19), (19, 1), (9, 19), (19, 9))
    }
    return {
        "whole steps": whole_steps(),
        "random": (random[0], random[1]),
        "similar": (random[0], random[0] + 1e-3 * torch.randn(230, 512)),
        "mixed scales": (mixed_scales(70), mixed_scales(40)),
        "not finite": (not_finite(), torch.randn(40, 40)),
        "smallest": (torch.full((2, 3), 1e-45), torch.full((2, 3), 3e38)),
        **ragged,
        **few,
    }


if __name__ == "__main__":
    found = {name: (a, b, product(a, b)) for name, (a, b) in operands().items()}
    torch.save(found, sys.argv[1])
