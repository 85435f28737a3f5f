"""Data that mix scales, and what is asked of the MMD on them.

Every reference takes differences of the rows first: whatever depends on a centre loses the
distances of points far from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from references import FIVE, estimate, mmd_weights
from torch import Tensor

DOUBLE = torch.float64
SIZES = ((2, 2, 1), (2, 3, 64), (20, 15, 8), (12, 14, 300), (90, 60, 16), (150, 140, 4))
DTYPES = (torch.float32, torch.bfloat16, DOUBLE)

# Each makes two samples whose bulk has distances of about sqrt(2 d).
Make = Callable[[int, int, int, float], tuple[Tensor, Tensor]]


def one_outlier(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(n, d, dtype=DOUBLE), torch.randn(m, d, dtype=DOUBLE) + 0.1
    x[0] = strength
    return x, y


def an_outlier_in_each(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    """Close to each other."""
    x, y = one_outlier(n, m, d, strength)
    y[-1] = strength + 0.5
    return x, y


def two_clusters_in_both(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(n, d, dtype=DOUBLE), torch.randn(m, d, dtype=DOUBLE) + 0.1
    x[::2] += strength
    y[::2] += strength
    return x, y


def far_samples(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, dtype=DOUBLE), torch.randn(m, d, dtype=DOUBLE) + strength


def scales_of_rows(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    z = torch.randn(n + m, d, dtype=DOUBLE)
    z *= strength ** torch.linspace(-1, 1, n + m, dtype=DOUBLE)[torch.randperm(n + m)][:, None]
    return z[:n], z[n:]


def duplicates(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    """A few different rows, `strength` bandwidths apart."""
    few = strength * torch.randn(max(2, (n + m) // 5), d, dtype=DOUBLE)
    return few[torch.randint(0, len(few), (n,))], few[torch.randint(0, len(few), (m,))]


def coarse_and_fine(n: int, m: int, d: int, strength: float) -> tuple[Tensor, Tensor]:
    return strength * torch.randn(n, d, dtype=DOUBLE), torch.randn(m, d, dtype=DOUBLE)


HOSTILE: dict[Make, tuple[float, ...]] = {
    one_outlier: (1e7, 1e10, 1e13),
    an_outlier_in_each: (1e7, 1e10),
    two_clusters_in_both: (1e6, 1e8, 1e11),
    far_samples: (1e6, 1e8),
    scales_of_rows: (1e3, 1e6),
    duplicates: (1e6, 1e8, 1e15),
    coarse_and_fine: (1e6, 1e10),
}


@dataclass(frozen=True)
class Case:
    name: str
    x: Tensor
    y: Tensor
    sigmas: list[float]

    @property
    def z(self) -> Tensor:
        return torch.cat([self.x, self.y])

    @property
    def rows(self) -> Tensor:
        n, total = len(self.x), len(self.x) + len(self.y)
        return torch.tensor([[[0, n], [n, total]]])

    @property
    def gamma(self) -> Tensor:
        return torch.tensor([[0.5 / sigma**2 for sigma in self.sigmas]], dtype=DOUBLE)


def bandwidths(x: Tensor, y: Tensor, d: int) -> dict[str, list[float]]:
    """Of the bulk, which is the usual one, and of what is typical for all of the data."""
    bulk = math.sqrt(d)
    z = torch.cat([x, y])
    typical = max(bulk, float((z - z.mean(0)).square().sum(1).mean().sqrt()))
    return {
        "the bulk": [bulk],
        "five": [bulk * math.sqrt(scale) for scale in FIVE],
        "of very different width": [bulk, 1e4 * bulk, typical],
        "a thousandth": [1e-3 * typical],
    }


def cases(
    dtypes: tuple[torch.dtype, ...] = DTYPES, sizes: tuple[tuple[int, int, int], ...] = SIZES
) -> Iterator[Case]:
    for make, strengths in HOSTILE.items():
        for strength in strengths:
            for n, m, d in sizes:
                samples = make(n, m, d, strength)
                for number, (width, sigmas) in enumerate(bandwidths(*samples, d).items()):
                    dtype = dtypes[(number + d + n) % len(dtypes)]
                    x, y = (sample.to(dtype) for sample in samples)
                    name = f"{make.__name__} {strength:g}, {n} {m} {d}, {width}, {dtype}"
                    yield Case(name, x, y, sigmas)


@dataclass(frozen=True)
class Reference:
    """Kernel values, and how strongly each pair of rows is pulled together where they grow."""

    kernel: Tensor
    slope: Tensor
    differences: Tensor  # [i, j]: row j minus row i
    width: float  # of the narrowest kernel

    @classmethod
    def of(cls, case: Case) -> Reference:
        z = case.z.double()
        kernel, slope = torch.zeros(2, len(z), len(z), dtype=DOUBLE)
        differences = z - z[:, None]
        squares = differences.square().sum(-1)
        for sigma in case.sigmas:
            value = torch.exp(squares * (-0.5 / sigma**2)) / len(case.sigmas)
            kernel += value
            slope += value / sigma**2
        return cls(kernel, slope, differences, min(case.sigmas))

    def sums(self, n: int) -> Tensor:
        kernel = self.kernel
        across = kernel[:n, n:].sum()
        return torch.stack([kernel[:n, :n].sum(), across, across, kernel[n:, n:].sum()]).view(2, 2)


def ratio_of_sums(sums: Tensor, exact: Tensor, n: int, m: int) -> float:
    """The largest error of both estimators over what the contract allows."""
    scale = float(exact[0, 0]) / n**2 + float(exact[1, 1]) / m**2
    worst = 0.0
    for estimator in ("biased", "unbiased"):
        found, wanted = (
            float(estimate(s[0, 0], s[0, 1], s[1, 1], n, m, estimator)) for s in (sums, exact)
        )
        ratio = abs(found - wanted) / (1e-5 * abs(wanted) + 1e-9 * scale)
        worst = max(worst, ratio if math.isfinite(ratio) else math.inf)
    return worst


def ratio_of_gradient(found: Tensor, reference: Reference, weights: Tensor, n: int) -> float:
    """The largest error of a value over 1e-5 of the terms that it is the sum of, where the sums of
    the groups have those weights."""
    group = (torch.arange(len(reference.slope)) >= n).long()
    pulls = (weights + weights.T)[group][:, group] * reference.slope
    exact = torch.einsum("ij,ijk->ik", pulls, reference.differences)
    terms = torch.einsum("ij,ijk->ik", pulls.abs(), reference.differences.abs())
    # What pairs at the distance of one bandwidth would pull: the scale of rounding errors.
    terms += 1e-4 * pulls.abs().sum(1, keepdim=True) * reference.width
    error = (found.double() - exact).abs()
    smallest = max(torch.finfo(found.dtype).tiny, 1e-285)
    ratio = (error / (1e-5 * terms + smallest)).max()
    return float(ratio) if bool(torch.isfinite(ratio)) else math.inf


def measure(case: Case, operations: Any) -> dict[str, float]:
    """Errors over what is allowed, of every raw operation."""
    n, m = len(case.x), len(case.y)
    z, rows, gamma = case.z, case.rows, case.gamma
    exact = Reference.of(case)
    sums = operations.rbf_sums(z, rows, None, gamma, None, False)[0]
    weights, one = mmd_weights(n, m, "biased"), torch.ones(1, 1, 1, dtype=DOUBLE)
    again, gradient = operations.rbf_sums_and_gradient(z, rows, gamma, weights[None], False)
    x_rows, y_rows = rows[:, :1].contiguous(), rows[:, 1:].contiguous()
    across = operations.rbf_sums(z, x_rows, y_rows, gamma, None, False)[0, 0, 0]
    pulled = operations.rbf_sums_backward(one, z, x_rows, y_rows, gamma, None, False)
    only_across = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=DOUBLE)
    xx, xy, yy = operations.rbf_permutation_sums(z, rows, gamma, 3, 0, False)[0, 0]
    found = {
        "sums": sums,
        "sums with a gradient": again[0],
        "two sides": torch.stack([sums[0, 0], across, across, sums[1, 1]]).view(2, 2),
        "permutations": torch.stack([xx, xy, xy, yy]).view(2, 2),
    }
    ratios = {name: ratio_of_sums(value, exact.sums(n), n, m) for name, value in found.items()}
    ratios["gradient"] = ratio_of_gradient(gradient, exact, weights, n)
    # The result has the type of the points, unlike the other.
    rounding = 1e3 if z.dtype == torch.bfloat16 else 1
    ratios["gradient of two sides"] = ratio_of_gradient(pulled, exact, only_across, n) / rounding
    return ratios
