"""Sums over images from which the closed forms are solved; the images are not kept.

With the feature h of an image (L2-normalised, perhaps lifted to more dimensions):

    G = sum h h',   t_c = sum of h over class c,   n_c,   q = sum |h - mean|^4,

where the mean in q is that of the image's class within its task. The sums of two sets of images are
the sums of their sums, so no result depends on the order of tasks or on their size, except for
rounding (G is kept in float64 up to `FLOAT64_DIM` dimensions, else in float32) and except for q if
a class comes in several tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

FLOAT64_DIM = 1024
ROWS_AT_ONCE = 4096  # limits the memory of lifted features
BLOCK = 1024  # columns of one product: G is symmetric, so half of the products are left out

Lift = Callable[[Tensor], Tensor]


class FeatureSums:
    """The sums of classes 0, 1, ...; `gram` is None where G is not needed."""

    def __init__(self, dim: int, *, with_gram: bool, device: torch.device) -> None:
        dtype = torch.float64 if dim <= FLOAT64_DIM else torch.float32
        self.dim = dim
        self.gram = torch.zeros(dim, dim, dtype=dtype, device=device) if with_gram else None
        self.totals = torch.zeros(0, dim, dtype=torch.float64, device=device)
        self.counts = torch.zeros(0, dtype=torch.int64, device=device)
        self.quartic = torch.zeros((), dtype=torch.float64, device=device)

    @property
    def means(self) -> Tensor:
        """(C, dim) float64, zeros for a class without images."""
        return self.totals / self.counts.clamp_min(1)[:, None]

    def add(self, lift: Lift, x: Tensor, labels: Tensor, classes: int) -> None:
        """Add the lifted rows of x, except to q; there are `classes` classes so far."""
        more = classes - len(self.counts)
        self.totals = torch.cat([self.totals, self.totals.new_zeros(more, self.dim)])
        self.counts = torch.cat([self.counts, self.counts.new_zeros(more)])
        self.counts += torch.bincount(labels, minlength=classes)
        for rows, of_rows in zip(x.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
            h = lift(rows)
            self.totals.index_add_(0, of_rows, h.double())
            if self.gram is not None:
                _add_products(self.gram, h.to(self.gram.dtype))

    def add_quartic(self, lift: Lift, x: Tensor, labels: Tensor) -> None:
        """Add |h - mean|^4 of all rows of a task, with the means of its classes over these rows."""
        if not len(labels):
            return
        own = FeatureSums(self.dim, with_gram=False, device=x.device)
        own.add(lift, x, labels, int(labels.max()) + 1)
        means = own.means
        for rows, of_rows in zip(x.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
            self.quartic += (lift(rows) - means[of_rows]).square().sum(1).square().sum()

    def second_moments(self) -> Tensor:
        """G (dim, dim) in float64."""
        assert self.gram is not None
        lower = self.gram.tril().double()
        return lower.add_(lower.tril(-1).mT)

    def scatter(self) -> Tensor:
        """(dim, dim) float64: the sum of (h - mean)(h - mean)', each with its class's mean."""
        means = self.means
        return self.second_moments().addmm_((means * self.counts[:, None]).mT, means, alpha=-1)

    def state_dict(self) -> dict[str, Tensor]:
        state = {"totals": self.totals, "counts": self.counts, "quartic": self.quartic}
        return state if self.gram is None else {**state, "gram": self.gram}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state_dict` returned; an exported model has no sums, and changes nothing."""
        for name, tensor in state.items():
            setattr(self, name, tensor.to(self.totals.device, copy=True))


def _add_products(gram: Tensor, h: Tensor) -> None:
    """Add h'h to the blocks of `gram` on and below its diagonal."""
    for start in range(0, len(gram), BLOCK):
        stop = min(start + BLOCK, len(gram))
        gram[start:stop, :stop].addmm_(h[:, start:stop].mT, h[:, :stop])
