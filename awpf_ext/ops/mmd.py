"""Squared maximum mean discrepancy between samples, and between all pairs of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    FLOATING,
    accepts_numpy,
    check_alike,
    check_choice,
    check_count,
    check_finite,
    check_labels,
    check_points,
    check_range,
    is_traced,
    may_look,
    result_dtype,
    shape_of,
)
from awpf_ext.ops._constants import remembered, repeated_on
from awpf_ext.ops._rbf import median_square_distance, rbf_sums, weighted_rbf_sums
from awpf_ext.ops._samples import (
    MEDIAN_ROWS,
    MEDIAN_SEED,
    Samples,
    check_unbiased,
    check_width,
    exponents,
    pool,
    pool_batch,
    pool_one,
)
from awpf_ext.ops._sharded import Ranks, Shard, chosen_rows, shard, sharded_rbf_sums

ESTIMATORS = ("biased", "unbiased")


@accepts_numpy
def mmd(
    x: Any,
    y: Any,
    *,
    bandwidth: float | Sequence[float] | Tensor | str = "median",
    scales: Sequence[float] = (1.0,),
    estimator: str = "biased",
    x_offsets: Any = None,
    y_offsets: Any = None,
    group: Any = None,
    check: bool = False,
) -> Tensor:
    """Squared MMD between x (..., n, d) and y (..., m, d) under a mixture of RBF kernels.

    k(a, b) = mean over bandwidths sigma and scales c of exp(-|a - b|^2 / (2 c sigma^2)).

    ``bandwidth``: sigma as a number, several, a tensor (one a problem, or several in a last
    dimension), or "median": the median distance between the pooled points, without a gradient
    (:func:`median_bandwidth`). ``estimator``: "biased" is never negative (but for rounding) and
    zero for equal samples; "unbiased" has mean zero when both samples come from one distribution,
    so it is negative about half of the time then. ``x_offsets``, ``y_offsets``: ragged batches,
    sample b being the rows ``x[x_offsets[b]:x_offsets[b + 1]]``. ``group``: a torch.distributed
    process group over whose ranks the rows are spread; every rank passes its own x (n, d) and
    y (m, d), either possibly without rows, and gets the value of all of them. ``check``: look at
    the values of CUDA tensors too, which waits for the GPU; without it a NaN, a median of zero or
    wrong offsets there give a NaN or a wrong value. On the CPU values are always looked at.

    Returns one value a problem: float64 for float64 input, else float32.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if group is not None:
        if x_offsets is not None or y_offsets is not None:
            raise ValueError("x_offsets and y_offsets cannot be given together with group")
        return _sharded_mmd(x, y, bandwidth, scales, estimator, group)
    samples = pool("mmd", x, y, x_offsets, y_offsets, check)
    check_unbiased(estimator, samples.least)
    gamma = exponents(bandwidth, scales, samples.z, samples.rows, samples.shape, check)
    how = estimate_for(samples, estimator)
    value = weighted_rbf_sums(
        samples.z, samples.rows, gamma, how.square, how.constant, samples.owner
    )
    return value.reshape(samples.shape)


def _sharded_mmd(
    x: Any, y: Any, bandwidth: Any, scales: Sequence[float], estimator: str, group: Any
) -> Tensor:
    ranks = Ranks(group)

    def check() -> tuple[Tensor, Tensor]:
        points = [
            check_points("mmd", name, value, allow_empty=True)
            for name, value in (("x", x), ("y", y))
        ]
        check_alike(x=points[0], y=points[1])
        for name, value in zip("xy", points, strict=True):
            if value.dim() != 2:
                raise ValueError(f"{name} must have shape (n, d) with group, got {shape_of(value)}")
        check_width(*points)
        return points[0], points[1]

    own = ranks.agree(check, lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), 2))
    samples = shard(ranks, torch.cat(own), torch.tensor([len(own[0]), len(own[1])]))
    sizes = samples.group_sizes
    for name, size in zip("xy", sizes.tolist(), strict=True):
        if size == 0:
            raise ValueError(f"{name} must have at least one row (n >= 1) over all ranks, got none")
    check_unbiased(estimator, int(sizes.min()))
    how = estimate(sizes.to(samples.z.device, torch.float64), estimator)
    sums = sharded_rbf_sums(samples, _sharded_exponents(samples, bandwidth, scales))
    value = how.constant + (how.square * sums[0]).sum()
    return value.to(result_dtype(own[0].dtype))


def _sharded_exponents(samples: Shard, bandwidth: Any, scales: Sequence[float]) -> Tensor:
    """`exponents` over the rows of all ranks."""
    if isinstance(bandwidth, str) and bandwidth == "median":
        z, rows = chosen_rows(samples, MEDIAN_ROWS, MEDIAN_SEED)
    else:
        z, rows = samples.z, samples.rows(samples.ranks.rank)
    return exponents(bandwidth, scales, z, rows, ())


class Estimate(NamedTuple):
    """Squared MMD = xx S_xx + 2 xy S_xy + yy S_yy + constant, S being block sums with their
    diagonals."""

    xx: Tensor
    xy: Tensor
    yy: Tensor
    constant: Tensor
    square: Tensor  # the coefficients as (..., 2, 2)

    def value(self, xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
        """The squared MMD for given block sums."""
        within = self.xx * xx + self.yy * yy  # symmetric in x and y to the last bit
        return within + 2 * self.xy * xy + self.constant


def estimate(sizes: Tensor, estimator: str) -> Estimate:
    """The estimator's coefficients for sample sizes (..., 2)."""
    n, m = sizes[..., 0], sizes[..., 1]
    xy = -1 / (n * m)
    if estimator == "biased":
        xx, yy, constant = 1 / (n * n), 1 / (m * m), torch.zeros_like(n)
    else:  # the diagonals, n and m in all, do not count
        xx, yy = 1 / (n * (n - 1)), 1 / (m * (m - 1))
        constant = -1 / (n - 1) - 1 / (m - 1)
    square = torch.stack([xx, xy, xy, yy], dim=-1)
    return Estimate(xx, xy, yy, constant, square.reshape(*n.shape, 2, 2))


def estimate_for(samples: Samples, estimator: str) -> Estimate:
    """The estimator's coefficients for each problem."""
    if samples.lengths is None or is_traced():
        return estimate(samples.sizes(), estimator)
    return _estimate_of_batch(*samples.lengths, len(samples.rows), estimator, samples.z.device)


@remembered
def _estimate_of_batch(
    n: int, m: int, problems: int, estimator: str, device: torch.device
) -> Estimate:
    return estimate(repeated_on((float(n), float(m)), problems, device), estimator)


@accepts_numpy
def mmd_matrix(
    x: Any,
    groups: Any,
    *,
    num_groups: int | None = None,
    bandwidth: float | Sequence[float] | Tensor | str = "median",
    scales: Sequence[float] = (1.0,),
    estimator: str = "biased",
    group: Any = None,
    check: bool = False,
) -> Tensor:
    """Squared MMD between every pair of groups of the rows of x (n, d), in one pass: (G, G),
    zero on the diagonal.

    ``groups`` (n,) holds each row's group, 0 to G - 1; ``num_groups`` is G, needed under
    torch.compile and vmap and in CUDA graphs, where labels cannot be looked at, and with
    ``group``; elsewhere finding it waits for a GPU. One bandwidth serves all pairs; "median" takes
    all rows together. Other arguments as in :func:`mmd`. On CUDA without ``check`` rows with a
    group outside 0 to G - 1 do not count, and a group without rows gives NaN.
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if group is not None:
        return _sharded_matrix(x, groups, num_groups, bandwidth, scales, estimator, group)
    x, labels, num_groups = _check_groups(x, groups, num_groups, check)
    sorted_x, sizes = _sorted(x, labels, num_groups)
    if may_look(sizes, check):
        _check_sizes(sizes, estimator)
    ends = sizes.cumsum(0)
    rows = torch.stack([ends - sizes, ends], dim=-1).unsqueeze(0)
    gamma = exponents(bandwidth, scales, sorted_x, rows, (), check)
    return _matrix(rbf_sums(sorted_x, rows, gamma)[0], sizes, estimator).to(result_dtype(x.dtype))


def _check_groups(
    x: Any, groups: Any, num_groups: int | None, check: bool, *, allow_empty: bool = False
) -> tuple[Tensor, Tensor, int]:
    x = check_points("mmd_matrix", "x", x, allow_empty=allow_empty)
    if x.dim() != 2:
        raise ValueError(f"x must have shape (n, d), got {shape_of(x)}")
    labels = check_labels("groups", groups, x)
    if shape_of(labels) != (x.shape[0],):
        raise ValueError(
            f"groups must have shape ({x.shape[0]},) for x of shape {shape_of(x)}, "
            f"got {shape_of(labels)}"
        )
    if num_groups is None:
        check_count("num_groups", labels)
        num_groups = max(1, int(labels.max()) + 1)
    elif num_groups < 1:
        raise ValueError(f"num_groups must be at least 1, got {num_groups}")
    if may_look(labels, check):
        check_range("groups", labels, num_groups)
        if x.device.type != "cpu":
            check_finite(x=x)
    return x, labels, num_groups


def _sorted(x: Tensor, labels: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The rows by group, those of no group last, and the size of each group."""
    places = torch.where((labels >= 0) & (labels < num_groups), labels, num_groups)
    sizes = labels.new_zeros(num_groups + 1).scatter_add(0, places, torch.ones_like(places))
    return x[torch.argsort(places, stable=True)], sizes[:num_groups]


def _matrix(sums: Tensor, sizes: Tensor, estimator: str) -> Tensor:
    """(G, G) from the block sums between the groups."""
    within, counts = sums.diagonal(), sizes.to(sums.device, torch.float64)
    pairs = torch.stack(torch.broadcast_tensors(counts.unsqueeze(1), counts.unsqueeze(0)), dim=-1)
    matrix = estimate(pairs, estimator).value(within.unsqueeze(1), sums, within.unsqueeze(0))
    off_diagonal = ~torch.eye(len(sums), dtype=torch.bool, device=sums.device)
    return torch.where(off_diagonal, matrix, 0.0)


def _sharded_matrix(
    x: Any,
    groups: Any,
    num_groups: int | None,
    bandwidth: Any,
    scales: Sequence[float],
    estimator: str,
    group: Any,
) -> Tensor:
    ranks = Ranks(group)

    def check() -> tuple[Tensor, Tensor, int]:
        if num_groups is None:
            raise ValueError("num_groups must be given with group")
        return _check_groups(x, groups, num_groups, True, allow_empty=True)

    own, labels, count = ranks.agree(
        check, lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), found[2])
    )
    samples = shard(ranks, *_sorted(own, labels, count))
    _check_sizes(samples.group_sizes, estimator)
    sums = sharded_rbf_sums(samples, _sharded_exponents(samples, bandwidth, scales))
    return _matrix(sums[0], samples.group_sizes, estimator).to(result_dtype(own.dtype))


def _check_sizes(sizes: Tensor, estimator: str) -> None:
    least = int(sizes.argmin())
    needed = 2 if estimator == "unbiased" else 1
    if int(sizes[least]) < needed:
        raise ValueError(
            f"groups: group {least} has {int(sizes[least])} rows, "
            f'and estimator="{estimator}" needs at least {needed}'
        )


@accepts_numpy
def median_bandwidth(x: Any, y: Any = None, *, check: bool = False) -> Tensor:
    """The median distance between the points of x (and y) pooled: the sigma of
    ``bandwidth="median"``.

    Over all pairs of different points for up to 1,024 pooled rows, above that over all pairs of
    1,024 rows chosen with a fixed seed; the lower of the two middle values; computed in double
    precision; without a gradient. float64 for float64 input, else float32; one value for each
    batch dimension. ``check`` as in :func:`mmd`.
    """
    if y is None:
        z, rows, shape = pool_one("median_bandwidth", x, check)
    else:
        z, rows, *_, shape = pool_batch("median_bandwidth", x, y, check)
    squares = median_square_distance(z, rows, MEDIAN_ROWS, MEDIAN_SEED)
    return squares.sqrt().reshape(shape).to(result_dtype(z.dtype))
