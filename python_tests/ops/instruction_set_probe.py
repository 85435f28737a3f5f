"""Run by test_instruction_sets.py in a process of its own: prints each error over its allowance.

Compact, because every instruction set runs all of it: values and gradients around every tile, all
element types, all operations.
"""

from __future__ import annotations

import json
import math

import references
import torch
from torch import Tensor

import awpf_ext

AWPF = torch.ops.awpf
TYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
ROUNDING = {torch.bfloat16: 4.04e-3, torch.float16: 5.05e-4}
# Groups that are no whole tiles, and so many rows near each other that float32 needs no float64.
IN_SINGLE = (410, 333, 70)
SIZES = ((1, 2, 1), (13, 15, 7), (33, 31, 17), (113, 127, 33), (290, 257, 65), (449, 230, 321))

worst: dict[str, float] = {}


def note(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = float(expected.abs().max()) or 1.0
    ratio = float((found.double() - expected.double()).abs().max()) / scale / tolerance
    worst[name] = max(worst.get(name, 0.0), ratio if math.isfinite(ratio) else 1e300)


def probe_mmd(dtype: torch.dtype, tolerance: float) -> None:
    for n, m, d in SIZES:
        z = (torch.randn(n + m, d) * 2 + 5).to(dtype)
        rows = torch.tensor([[[0, n], [n, n + m]]])
        gamma = torch.tensor([[0.25, 0.5, 1.0, 3.0]], dtype=torch.float64) / (8 * d)
        exact = references.block_sums(z, rows, None, gamma)
        sums = AWPF.rbf_sums(z, rows, None, gamma, None, False)
        note(f"sums {dtype}", sums, exact, tolerance / 50)
        first, second = rows[:, :1].contiguous(), rows[:, 1:].contiguous()
        across = AWPF.rbf_sums(z, first, second, gamma, None, False)
        note(f"rectangles {dtype}", across, exact[:, :1, 1:], tolerance / 50)
        split = AWPF.rbf_permutation_sums(z, rows, gamma, 5, 0, False)[0, 0]
        note(f"permutations {dtype}", split, exact[0].flatten()[[0, 1, 3]], tolerance)
        weights = torch.tensor([[[1.0, -2.0], [-2.0, 1.5]]], dtype=torch.float64)
        gradient = AWPF.rbf_sums_and_gradient(z, rows, gamma, weights, False)[1]
        expected = references.block_gradient(z, [n, m], gamma[0].tolist(), weights[0])
        note(f"gradient {dtype}", gradient, expected, 2 * tolerance)
        median = awpf_ext.median_bandwidth(z)
        note(f"median {dtype}", median, references.sampled_median_distance(z), 1e-7)


def probe_lost_distances(dtype: torch.dtype) -> None:
    """Clusters so far apart that inner products cannot tell the distances within them."""
    for n, m, d in SIZES:
        offset = torch.where(torch.arange(n + m) % 3 == 0, 2.0**15, 0.0)[:, None]
        z = (2.0**-8 * torch.randn(n + m, d) + offset).to(dtype)
        rows = torch.tensor([[[0, n], [n, n + m]]])
        gamma = torch.tensor([[0.5, 3.0]], dtype=torch.float64) * 2**14 / d
        exact = references.block_sums(z, rows, None, gamma)
        note(f"lost {dtype}", AWPF.rbf_sums(z, rows, None, gamma, None, False), exact, 1e-12)


def probe_mmd_in_single(dtype: torch.dtype, tolerance: float) -> None:
    n, m, d = IN_SINGLE
    z = (torch.randn(n + m, d) + 5).to(dtype)
    rows = torch.tensor([[[0, n], [n, n + m]]])
    gamma = torch.tensor([[0.25, 0.5, 1.0]], dtype=torch.float64) / (16 * d)
    exact = references.block_sums(z, rows, None, gamma)
    sums = AWPF.rbf_sums(z, rows, None, gamma, None, False)
    note(f"many sums {dtype}", sums, exact, tolerance / 50)
    split = AWPF.rbf_permutation_sums(z, rows, gamma, 5, 0, False)[0, 0]
    note(f"many permutations {dtype}", split, exact[0].flatten()[[0, 1, 3]], tolerance / 50)
    weights = torch.tensor([[[1.0, -2.0], [-2.0, 1.5]]], dtype=torch.float64)
    gradient = AWPF.rbf_sums_and_gradient(z, rows, gamma, weights, False)[1]
    expected = references.block_gradient(z, [n, m], gamma[0].tolist(), weights[0])
    note(f"many gradients {dtype}", gradient, expected, 2 * tolerance)
    samples = z.split([n, m])
    bandwidth = float((0.5 / gamma[0, 1]).sqrt())
    matrix = awpf_ext.mmd_matrix(z, torch.arange(n + m) // n, bandwidth=bandwidth)
    both = awpf_ext.mmd(*(s.double() for s in samples), bandwidth=bandwidth)
    note(f"matrix {dtype}", matrix[0, 1], both, 1e-5)


def probe_scatter(dtype: torch.dtype, tolerance: float) -> None:
    for n, d, classes in ((5, 3, 2), (300, 33, 7), (700, 129, 5)):
        x, labels = (torch.randn(n, d) + 3).to(dtype), torch.randint(0, classes, (n,))
        parts = awpf_ext.scatter(x, labels, classes)
        for found, expected in zip(parts, references.scatter(x, labels, classes), strict=True):
            note(f"scatter {dtype}", found, expected, tolerance)
    spread = 10.0 ** torch.linspace(-3, 3, 45)
    x, labels = ((torch.randn(600, 45) + 3) * spread).to(dtype), torch.randint(0, 4, (600,))
    within, exact = awpf_ext.scatter(x, labels, 4).within, references.scatter(x, labels, 4)[0]
    size = exact.diagonal().sqrt()
    mixed = torch.outer(size, size)
    note(f"mixed scatter {dtype}", within / mixed, exact / mixed, tolerance)


def probe_low_rank(dtype: torch.dtype, tolerance: float) -> None:
    for terms, m, n, r in ((1, 1, 1, 1), (3, 33, 47, 5), (2, 230, 260, 170)):
        u, v = torch.randn(terms, m, r).to(dtype), torch.randn(terms, n, r).to(dtype)
        s, base = torch.rand(terms, r).to(dtype), torch.randn(m, n).to(dtype)
        expected = references.low_rank_sum(list(u), list(s), list(v), [1.0] * terms, base)
        found = awpf_ext.low_rank_sum(u, s, v, base=base)
        note(f"low rank {dtype}", found, expected, ROUNDING.get(dtype, tolerance))


def splits_of_a_seed() -> list[float]:
    z, rows = torch.arange(40.0).double().unsqueeze(1), torch.tensor([[[0, 17], [17, 40]]])
    gamma = torch.full((1, 1), 0.01, dtype=torch.float64)
    sums: list[float] = AWPF.rbf_permutation_sums(z, rows, gamma, 30, 3, False)[0, :, 0].tolist()
    return sums


def same_for_any_threads() -> bool:
    x, y = torch.randn(900, 40), torch.randn(800, 40)
    torch.set_num_threads(1)
    alone = awpf_ext.mmd(x, y)
    torch.set_num_threads(3)
    return torch.equal(alone, awpf_ext.mmd(x, y))


if __name__ == "__main__":
    torch.manual_seed(0)
    for one, allowed in TYPES.items():
        probe_mmd(one, allowed)
        probe_lost_distances(one)
        probe_mmd_in_single(one, allowed)
        probe_scatter(one, allowed)
        probe_low_rank(one, allowed)
    report = {
        "set": awpf_ext.build_info()["instruction_set"],
        "worst": worst,
        "splits": splits_of_a_seed(),
        "same": same_for_any_threads(),
    }
    print(json.dumps(report))
