"""MMD in plain PyTorch, as it is usually written, and the float64 references."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The usual mixture of five kernels: factors of sigma squared."""


SIGMAS = (0.5, 0.5**0.5, 1.0, 2.0**0.5, 2.0)
"""The same mixture around sigma = 1, for rows of length one."""


def two_samples(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two samples with slightly different means, (..., n, d) each."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, *shape, generator=generator)
    return x, y + 0.05


def two_samples_of_length_one(*shape: int) -> tuple[Tensor, Tensor]:
    """The same, with rows of length one: what the features of an encoder look like."""
    x, y = two_samples(*shape)
    return normalize(x, dim=-1), normalize(y, dim=-1)


def usual_sigma(x: Tensor) -> float:
    """About the median distance of standard normal points."""
    return float((2 * x.shape[-1]) ** 0.5)


def exponents(sigma: float, scales: Sequence[float] = SCALES) -> list[float]:
    """1 / (2 sigma^2 scale)."""
    return exponents_of([sigma * scale**0.5 for scale in scales])


def exponents_of(sigmas: Sequence[float]) -> list[float]:
    """1 / (2 sigma^2)."""
    return [0.5 / sigma**2 for sigma in sigmas]


def gram(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    """The matrix of kernel values, (..., n, m)."""
    squares = (a * a).sum(-1).unsqueeze(-1) + (b * b).sum(-1).unsqueeze(-2) - 2 * (a @ b.mT)
    squares = squares.clamp_min(0)
    total = torch.exp(-gammas[0] * squares)
    for gamma in gammas[1:]:
        total = total + torch.exp(-gamma * squares)
    return total / len(gammas)


def cdist_gram(a: Tensor, b: Tensor, gammas: Sequence[float]) -> Tensor:
    """The same by torch.cdist."""
    squares = torch.cdist(a, b).square()
    return torch.stack([torch.exp(-gamma * squares) for gamma in gammas]).mean(0)


def mmd(x: Tensor, y: Tensor, gammas: Sequence[float]) -> Tensor:
    """Squared MMD, biased, in three blocks."""
    within = gram(x, x, gammas).mean((-2, -1)) + gram(y, y, gammas).mean((-2, -1))
    return within - 2 * gram(x, y, gammas).mean((-2, -1))


def cdist_mmd(x: Tensor, y: Tensor, gammas: Sequence[float]) -> Tensor:
    """Squared MMD, biased, by torch.cdist."""
    within = cdist_gram(x, x, gammas).mean() + cdist_gram(y, y, gammas).mean()
    return within - 2 * cdist_gram(x, y, gammas).mean()


def mean_kernel64(a: Tensor, b: Tensor, gammas: Sequence[float], panel: int = 512) -> Tensor:
    """The mean kernel value of a (n, d) against b (m, d) in float64, computed by panels of rows."""
    a, b = a.double(), b.double()
    sums = [gram(part, b, gammas).sum() for part in a.split(panel)]
    return torch.stack(sums).sum() / (a.shape[0] * b.shape[0])
