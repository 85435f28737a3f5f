"""Class statistics: for each class a mean and a factor of its covariance, to draw old classes from.

A class with n images of width d keeps F, min(n - 1, d) rows with F'F = its covariance: the triangle
of a QR factorisation of the centred images, so the covariance is kept and the images are not.
A draw is

    mean + F'z + sqrt(c) (z' - gamma sum(z')),      z, z' standard normal,

whose covariance is F'F + (v + a - b) I + b 11', with the added variance v and RAPF's shrinkage: a
and b are the means of the covariance's diagonal and off-diagonal (0 without shrinkage). No d x d
matrix is made and nothing is factored at a draw. c = v + a - b > 0, because b <= a.

For the shrinkage of the covariance that all classes share (pooled_covariance.py) a class also keeps
the sum of |x - mean|^4 over its images.

The statistics are append-only: each task adds one block that never changes, stored as
one file per block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StatisticsBlock:
    """The statistics of the classes of one task; `factors` concatenates the rows of all classes."""

    counts: Tensor  # (k,) int64, training images of each class; 0: there is nothing to draw from
    means: Tensor  # (k, d) float32
    ranks: Tensor  # (k,) int64, rows of each class in `factors`
    factors: Tensor  # (sum of ranks, d) float32
    residuals: Tensor  # (k,) float32, variance of every direction beyond what the factor holds
    quartics: Tensor  # (k,) float64, sum of |x - mean|^4 over the images

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in vars(self).values())


class ClassStatistics:
    """Statistics of classes 0, 1, ... in the order they were added.

    added_variance: added to every variance. shrinkage: add the mean variance and the mean
    covariance, which keeps the draws of a class with few images from lying in a thin subspace.
    max_rank: keep only that many principal directions per class and spread the remaining variance
    evenly (None: all).
    """

    def __init__(
        self,
        dim: int,
        *,
        added_variance: float = 1e-4,
        shrinkage: bool = False,
        max_rank: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.dim = dim
        self.added_variance = added_variance
        self.shrinkage = shrinkage
        self.max_rank = max_rank
        self.device = torch.device(device)
        self.blocks: list[StatisticsBlock] = []
        self._factors: list[Tensor] = []  # one view into its block per class
        self._counts = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._means = torch.zeros(0, dim, device=self.device)
        self._variances = torch.zeros(0, device=self.device)  # mean over directions
        self._noise = torch.zeros(0, device=self.device)  # c of the module's formula
        self._gamma = torch.zeros(0, device=self.device)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=self.device)
        self._in_scatter = 0  # blocks that `_scatter` holds

    def __len__(self) -> int:
        """Number of classes, including those without images."""
        return len(self._factors)

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    @property
    def counts(self) -> Tensor:
        """(C,) training images of each class."""
        return self._counts

    @property
    def means(self) -> Tensor:
        """(C, d) mean of each class; zeros where there are no images."""
        return self._means

    @property
    def drawable(self) -> Tensor:
        """Ids of the classes that had at least one training image."""
        return self._counts.nonzero().flatten()

    def add(self, x: Tensor, labels: Tensor, classes: range) -> None:
        """Append a block for `classes`, which must follow those here, from features (n, d)."""
        if classes.start != len(self) or classes.step != 1:
            raise ValueError(f"classes is {classes}; expected a range that starts at {len(self)}")
        order = labels.argsort(stable=True)
        counts = torch.bincount(labels - classes.start, minlength=len(classes))
        rows_of = torch.split(x[order].float(), counts.tolist())
        means = torch.stack([rows.mean(0) if len(rows) else rows.sum(0) for rows in rows_of])
        truncated = [
            truncate_factor(covariance_factor(rows, mean), self.max_rank)
            for rows, mean in zip(rows_of, means, strict=True)
        ]
        factors = [factor for factor, _ in truncated]
        residuals = torch.stack([residual for _, residual in truncated])
        variances = torch.stack([factor.square().sum() for factor in factors]) / self.dim
        borrowed = self._borrowed_variance(counts, variances + residuals)
        residuals = torch.where(counts == 1, borrowed, residuals)
        self.append(
            StatisticsBlock(
                counts=counts,
                means=means,
                ranks=torch.tensor([len(factor) for factor in factors]),
                factors=torch.cat(factors),
                residuals=residuals,
                quartics=torch.stack(
                    [quartic_sum(rows, mean) for rows, mean in zip(rows_of, means, strict=True)]
                ),
            )
        )

    def append(self, block: StatisticsBlock) -> None:
        """Append a block that `add` returned, in this or an earlier process."""
        factors = torch.split(block.factors.to(self.device), block.ranks.tolist())
        residuals = block.residuals.to(self.device)
        square = torch.stack([factor.square().sum() for factor in factors])
        total = torch.stack([factor.sum(1).square().sum() for factor in factors])
        variance = square / self.dim + residuals  # mean of the covariance's diagonal
        noise, covariance = residuals + self.added_variance, torch.zeros_like(residuals)
        if self.shrinkage:
            covariance = (total - square) / (self.dim * max(self.dim - 1, 1))
            noise = noise + variance + self.added_variance - covariance
        # noise I + covariance 11' is the square of sqrt(noise) (I - gamma 11').
        stretch = (1 + self.dim * covariance / noise).clamp_min(0).sqrt()
        self.blocks.append(block)
        self._factors += factors
        self._counts = torch.cat([self._counts, block.counts.to(self.device)])
        self._means = torch.cat([self._means, block.means.to(self.device)])
        self._variances = torch.cat([self._variances, variance])
        self._noise = torch.cat([self._noise, noise])
        self._gamma = torch.cat([self._gamma, (1 - stretch) / self.dim])

    def draw(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """One feature (n, d) for each class id in `classes` (n,), computed in one batch.

        Rows of one class share one product with its factor, so that the cost is the arithmetic and
        one small call per distinct class.
        """
        classes = classes.to(self.device)
        order = classes.argsort(stable=True)
        counts = torch.bincount(classes, minlength=len(self)).tolist()
        by_class = classes[order]
        drawn = self._normal(len(classes), self.dim, generator)
        if self.shrinkage:
            drawn -= self._gamma[by_class, None] * drawn.sum(1, keepdim=True)
        drawn *= self._noise[by_class, None].sqrt()
        parts = torch.split(drawn, counts)
        for part, mean, factor in zip(parts, self._means, self._factors, strict=True):
            if len(part):
                part.add_(mean).addmm_(self._normal(len(part), len(factor), generator), factor)
        return torch.empty_like(drawn).index_copy_(0, order, drawn)

    def quartic_sum(self) -> Tensor:
        """The sum of |x - mean of its class|^4 over all images, float64."""
        sums = [block.quartics.sum().to(self.device) for block in self.blocks]
        return torch.stack(sums).sum() if sums else self._scatter.new_zeros(())

    def scatter(self) -> Tensor:
        """(d, d) float64: the sum of (x - mean)(x - mean)' over all images, each with its class's
        mean. Variance that `max_rank` cut off is spread evenly.

        A block enters at the first call after it came, by one product with its factors.
        """
        for block in self.blocks[self._in_scatter :]:
            degrees = (block.counts.to(self.device) - 1).clamp_min(0).double()
            weights = degrees.sqrt().repeat_interleave(block.ranks.to(self.device))
            rows = weights[:, None] * block.factors.to(self.device)
            self._scatter = torch.addmm(self._scatter, rows.mT, rows)
            self._scatter.diagonal().add_(degrees @ block.residuals.to(self.device).double())
        self._in_scatter = len(self.blocks)
        return self._scatter

    def _normal(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        return torch.randn(rows, columns, generator=generator, device=self.device)

    def _borrowed_variance(self, counts: Tensor, variances: Tensor) -> Tensor:
        """Mean variance of all classes with at least two images; 0 if there is none."""
        measured = torch.cat([self._variances[self._counts > 1], variances[counts > 1]])
        return measured.mean() if len(measured) else torch.zeros((), device=self.device)


def covariance_factor(x: Tensor, mean: Tensor) -> Tensor:
    """F with F'F = covariance of the rows of x (n, d) around their mean: min(n - 1, d) rows.

    A Householder reflection that sends (1, ..., 1) to the first axis turns n centred rows, whose
    sum is 0, into n - 1 rows with the same second moments; their QR triangle is F.
    """
    count = len(x)
    if count < 2:
        return x.new_zeros(0, x.shape[1])
    centred = x - mean
    reflected = centred[1:] + centred[0] / (count**0.5 - 1)
    triangle: Tensor = torch.linalg.qr(reflected / (count - 1) ** 0.5, mode="r").R
    return triangle


def quartic_sum(x: Tensor, mean: Tensor) -> Tensor:
    """The sum of |x - mean|^4 over the rows of x, float64."""
    return (x - mean).double().square().sum(1).square().sum()


def truncate_factor(factor: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """The `rank` principal rows of a factor, and the mean variance per direction of the others."""
    if rank is None or len(factor) <= rank:
        return factor, factor.new_zeros(())
    vectors = torch.linalg.eigh(factor @ factor.mT).eigenvectors[:, -rank:]
    kept = vectors.mT @ factor
    left = (factor.square().sum() - kept.square().sum()).clamp_min(0)
    return kept, left / factor.shape[1]
