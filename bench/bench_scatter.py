"""LDA scatter.

float32. The error is that of the within-class scatter, relative to its largest entry.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from comparison import OURS, Contender, Error, Outcome, Work
from goals import by_processor, faster, near_floor
from torch import Tensor

import awpf_ext

BLOCK = 128


def class_means(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Means and counts by index_add."""
    counts = torch.bincount(labels, minlength=classes).to(x.dtype)
    sums = x.new_zeros(classes, x.shape[1]).index_add(0, labels, x)
    return sums / counts.unsqueeze(1), counts


def between_scatter(means: Tensor, counts: Tensor) -> Tensor:
    """S_B from class means."""
    grand = (counts.unsqueeze(1) * means).sum(0) / counts.sum()
    weighted = (means - grand) * counts.sqrt().unsqueeze(1)
    return weighted.mT @ weighted


def indexed(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """S_W and S_B: means by index_add, a centred copy, one product."""
    means, counts = class_means(x, labels, classes)
    centred = x - means[labels]
    return centred.mT @ centred, between_scatter(means, counts)


def by_moments(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """S_W = X'X - sum n_c mu_c mu_c': no centred copy, but cancellation."""
    means, counts = class_means(x, labels, classes)
    return x.mT @ x - means.mT @ (counts.unsqueeze(1) * means), between_scatter(means, counts)


def loop(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """S_W and S_B, class by class."""
    within = x.new_zeros(x.shape[1], x.shape[1])
    between = torch.zeros_like(within)
    grand = x.mean(0)
    for c in range(classes):
        rows = x[labels == c]
        mean = rows.mean(0)
        within += (rows - mean).mT @ (rows - mean)
        between += rows.shape[0] * torch.outer(mean - grand, mean - grand)
    return within, between


def scatter(rows: int, d: int, classes: int) -> Work:
    """Scatter matrices of labelled rows."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    x = 3 + centres[labels] + 0.5 * torch.randn(rows, d, generator=generator)
    compiled = torch.compile(indexed, dynamic=False, fullgraph=True)

    def block_triangle() -> list[Tensor]:
        return [x[:, i : i + BLOCK].mT @ x[:, : i + BLOCK] for i in range(0, d, BLOCK)]

    def with_sklearn() -> tuple[Tensor]:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        lda = LinearDiscriminantAnalysis(solver="lsqr").fit(x.numpy(), labels.numpy())
        return (torch.from_numpy(lda.covariance_) * rows,)

    @cache
    def reference() -> Tensor:
        return indexed(x.double(), labels, classes)[0]

    def error(result: tuple[Tensor, ...]) -> Error:
        return Error(float((result[0].double() - reference()).abs().max() / reference().max()))

    contenders = {
        OURS: Contender(lambda: awpf_ext.scatter(x, labels, classes)),
        "native op": Contender(
            lambda: torch.ops.awpf.scatter(x[None], labels[None], classes), stage=True
        ),
        "eager, indexed": Contender(lambda: indexed(x, labels, classes)),
        "eager, loop": Contender(lambda: loop(x, labels, classes)),
        "eager, moments": Contender(lambda: by_moments(x, labels, classes)),
        "torch.compile, indexed": Contender(lambda: compiled(x, labels, classes), compiles=True),
        "scikit-learn": Contender(with_sklearn, note="LDA.fit, which also solves"),
    }
    floor = Contender(block_triangle, note=f"X'X, blocks of {BLOCK} of the lower triangle")
    return Work(f"scatter {rows} x {d}, {classes} classes", contenders, floor, error)


def test_scatter(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(scatter, 50_000, 512, 100),
        by_processor(near_floor(1.0), amx=near_floor(0.5)),
        faster("eager, indexed", 2),
        faster("eager, loop", 2),
    )
