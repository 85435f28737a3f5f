"""Principal components of a few long vectors, from their Gram matrix.

The vectors may be in half precision: only a part of their entries is converted at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_AT_ONCE = 1 << 16  # entries of each vector that are converted at a time
_RELATIVE = 1e-7  # a component with less of the variance of the first is rounding


class Pca(NamedTuple):
    """x is about mean + sum_k sqrt(variance_k) c_k basis_k, with scores c_k of variance 1."""

    mean: Tensor  # (P,)
    basis: Tensor  # (K, P), orthonormal
    variance: Tensor  # (K,), falling
    total: float  # variance of the vectors, over all components
    rest: int  # number of further components with variance

    @classmethod
    def fit(cls, vectors: Tensor, most: int) -> Pca:
        """The `most` leading components of (N, P), fewer if there are not as many."""
        mean = torch.cat([part.float().mean(dim=0) for part in vectors.split(_AT_ONCE, dim=1)])
        gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=mean.device)
        for _, part in _deviations(vectors, mean):
            wide = part.double()
            gram += wide @ wide.T
        values, places = torch.linalg.eigh(gram / len(vectors))
        values, places = values.flip(0), places.flip(1)
        count = int((values > _RELATIVE * values[0].clamp_min(1e-30)).sum())
        kept = min(count, most)
        places = places[:, :kept] / (len(vectors) * values[:kept]).sqrt()
        basis = mean.new_empty(kept, len(mean))
        for entries, part in _deviations(vectors, mean):
            basis[:, entries] = places.T.float() @ part
        for row in basis:  # signs as eigh returns them depend on the order of the vectors
            row *= row[row.abs().argmax()].sign()
        total = float(values.clamp_min(0).sum())
        return cls(mean, basis, values[:kept].float(), total, count - kept)

    def noise(self, components: int) -> float:
        """sigma^2 of probabilistic PCA: the mean variance of the components after the first ones.

        The likelihood's maximum would divide by P, but N vectors have N - 1 directions only.
        """
        discarded = self.total - float(self.variance[:components].double().sum())
        count = len(self.variance) - components + self.rest
        smallest = 1e-3 * float(self.variance[components - 1])
        return max(discarded / count, smallest) if count else smallest

    def scores(self, vectors: Tensor) -> Tensor:
        """(N, K), whitened."""
        found = self.mean.new_zeros(len(vectors), len(self.basis))
        for entries, part in _deviations(vectors, self.mean):
            found += part @ self.basis[:, entries].T
        return found / self.variance.sqrt()

    def vectors(self, scores: Tensor) -> Tensor:
        """(N, P) from scores (N, k) of the first k components; differentiable."""
        count = scores.shape[-1]
        return self.mean + (scores * self.variance[:count].sqrt()) @ self.basis[:count]

    def projected(self, vectors: Tensor, components: int) -> Tensor:
        """The best approximation of vectors (N, P) by the first components."""
        return self.vectors(self.scores(vectors)[:, :components])


def _deviations(vectors: Tensor, mean: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Those from the mean, in single precision, and the entries they are of, part by part."""
    for start in range(0, len(mean), _AT_ONCE):
        entries = slice(start, start + _AT_ONCE)
        yield entries, vectors[:, entries].float() - mean[entries]


def explained_variance(vectors: Tensor, found: Tensor, mean: Tensor) -> float | None:
    """1 - |vectors - found|^2 / |vectors - mean|^2; None if the vectors are the mean."""
    spread = float((vectors - mean).double().square().sum())
    return 1 - float((vectors - found).double().square().sum()) / spread if spread else None
