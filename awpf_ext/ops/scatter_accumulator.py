"""The scatter of data that arrives in pieces."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Self

from awpf_ext._library import require
from awpf_ext.ops._arguments import (
    FLOATING,
    MOST_CLASSES,
    accepts_numpy,
    check_dense,
    check_integer,
    check_means,
    shape_of,
)
from awpf_ext.ops._types import NDArray
from awpf_ext.ops.low_rank import low_rank_sum
from awpf_ext.ops.scatter import (
    Scatter,
    between_scatter,
    check_labelled_points,
    check_overflow,
    scatter64,
)

MOST_FEATURES = 2**20


class ScatterAccumulator:
    """Scatter of data that arrives in pieces.

    Up to rounding, the result does not depend on how the data was split or merged. Counts, means
    and within-class scatter are kept in float64 and combined by Chan's update.

    Args:
        num_classes: Number of classes.
        dim: Number of features d.
        device: Where the sums are kept; every piece must be there too.

    Example:
        >>> accumulator = awpf_ext.ScatterAccumulator(num_classes=2, dim=1)
        >>> for x, label in ((0.0, 0), (2.0, 0), (5.0, 1), (7.0, 1)):
        ...     _ = accumulator.update(torch.tensor([[x]]), torch.tensor([label]))
        >>> accumulator.result().within
        tensor([[4.]], dtype=torch.float64)
    """

    def __init__(
        self, num_classes: int, dim: int, device: torch.device | str | None = None
    ) -> None:
        num_classes = check_integer("num_classes", num_classes, MOST_CLASSES)
        dim = check_integer("dim", dim, MOST_FEATURES)
        check_means(num_classes, dim)
        double = {"dtype": torch.float64, "device": device}
        self.num_classes = num_classes
        self.dim = dim
        try:
            self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
            self.means = torch.zeros(num_classes, dim, **double)  # type: ignore[arg-type]
            self.within = torch.zeros(dim, dim, **double)  # type: ignore[arg-type]
        except RuntimeError as error:
            if "can't allocate" not in str(error):
                raise
            raise MemoryError(
                f"not enough memory for {num_classes} classes of {dim} features"
            ) from None

    @torch.no_grad()
    @accepts_numpy
    def update(
        self, x: Tensor | NDArray, labels: Tensor | NDArray, *, validate: bool = False
    ) -> Self:
        """Add rows.

        Args:
            x: Points (n, d); n may be 0.
            labels: The class of each point (n,).
            validate: As in :func:`awpf_ext.scatter`.

        Returns:
            The accumulator itself.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch.Tensor or a numpy.ndarray, got {type(x).__name__}")
        check_dense("x", x)
        if x.dim() != 2 or x.shape[-1] != self.dim or x.dtype not in FLOATING:
            raise ValueError(
                f"x must be floating-point of shape (n, {self.dim}), "
                f"got {x.dtype} of shape {shape_of(x)}"
            )
        require(x.device, "ScatterAccumulator")
        if x.device != self.within.device:
            raise ValueError(
                f"x must be on {self.within.device} like the accumulator, got {x.device}"
            )
        if x.shape[0] > 0:
            x, labels, classes = check_labelled_points(
                "ScatterAccumulator", x, labels, self.num_classes, validate
            )
            found = scatter64(x, labels, classes)
            self._combine(found.counts, found.means, found.within)
        return self

    @torch.no_grad()
    def merge(self, other: ScatterAccumulator) -> Self:
        """Add all rows that another accumulator of the same shape has seen."""
        if not isinstance(other, ScatterAccumulator):
            raise TypeError(f"other must be a ScatterAccumulator, got {type(other).__name__}")
        if (other.num_classes, other.dim) != (self.num_classes, self.dim):
            raise ValueError(
                f"other must have {self.num_classes} classes of {self.dim} features, "
                f"got {other.num_classes} of {other.dim}"
            )
        self._combine(other.counts, other.means, other.within)
        return self

    def _combine(self, counts: Tensor, means: Tensor, within: Tensor) -> None:
        total = self.counts + counts
        share = counts.double() / total.clamp(min=1).double()
        shift = means - self.means
        shifts = shift.mT.unsqueeze(0)
        of_means = (self.counts.double() * share).unsqueeze(0)
        within = low_rank_sum(shifts, of_means, shifts, base=self.within + within)
        check_overflow(within)
        self.within = within
        self.means = self.means + share.unsqueeze(-1) * shift
        self.counts = total

    def result(self) -> Scatter[Tensor]:
        """The scatter of all rows seen, in float64."""
        between = between_scatter(self.means, self.counts.double())
        check_overflow(between)
        return Scatter(self.within.clone(), between, self.means.clone(), self.counts.clone())
