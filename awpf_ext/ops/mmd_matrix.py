"""The squared MMD between all pairs of groups of rows, in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from awpf_ext.ops._arguments import (
    FLOATING,
    MOST_CLASSES,
    accepts_numpy,
    can_inspect,
    check_choice,
    check_count,
    check_finite,
    check_integer,
    check_labels,
    check_points,
    check_range,
    is_traced,
    result_dtype,
    shape_of,
)
from awpf_ext.ops._estimators import ESTIMATORS, estimator_weights
from awpf_ext.ops._rbf import rbf_sums
from awpf_ext.ops._sharded import agree, shard, sharded_rbf_sums, world_of
from awpf_ext.ops._types import Bandwidth, Estimator, Scales, TensorOrArray
from awpf_ext.ops.bandwidth import compute_gamma, sharded_gamma

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@accepts_numpy
def mmd_matrix(
    x: TensorOrArray,
    groups: TensorOrArray,
    *,
    num_groups: int | None = None,
    bandwidth: Bandwidth = "median",
    scales: Scales = (1.0,),
    estimator: Estimator = "biased",
    group: ProcessGroup | None = None,
    validate: bool = False,
) -> TensorOrArray:
    """Squared MMD between every pair of groups of the rows of x, in one pass.

    One bandwidth serves all pairs; "median" is the median distance between all rows of x.
    Differentiable once in x.

    Args:
        x: Points (n, d).
        groups: The group of each row (n,), integers from 0 to G - 1.
        num_groups: G. It must be given under torch.compile and torch.func, in CUDA graphs, and with
            `group`; elsewhere it defaults to the largest group plus one, for which a GPU must be
            waited for.
        bandwidth: As in :func:`awpf_ext.mmd`, one for all pairs.
        scales: As in :func:`awpf_ext.mmd`.
        estimator: As in :func:`awpf_ext.mmd`.
        group: As in :func:`awpf_ext.mmd`.
        validate: Check the values of CUDA tensors too. Without it, rows with a group outside 0 to
            G - 1 are ignored there, and a group without rows results in NaN.

    Returns:
        A matrix (G, G), zero on the diagonal, float64 for float64 points, otherwise float32.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [0.0], [1.0], [5.0], [6.0]])
        >>> groups = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> matrix = awpf_ext.mmd_matrix(x, groups, bandwidth=1.0)
        >>> (matrix > 1e-6).tolist()
        [[False, False, True], [False, False, True], [True, True, False]]
    """
    check_choice("estimator", estimator, ESTIMATORS)
    if group is not None:
        matrix = _sharded_matrix(x, groups, num_groups, bandwidth, scales, estimator, group)
        return matrix  # type: ignore[return-value]
    points, labels, num_groups = _check_groups(x, groups, num_groups, validate)
    z, sizes = _sorted_by_group(points, labels, num_groups)
    if can_inspect(sizes, validate):
        _check_sizes(sizes, estimator)
    ends = sizes.cumsum(0)
    rows = torch.stack([ends - sizes, ends], dim=-1).unsqueeze(0)
    gamma = compute_gamma(bandwidth, scales, z, rows, (), validate)
    matrix = _matrix(rbf_sums(z, rows, gamma)[0], sizes, estimator)
    return matrix.to(result_dtype(points.dtype))  # type: ignore[return-value]


def _check_groups(
    x: Any, groups: Any, num_groups: int | None, validate: bool, *, allow_empty: bool = False
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
    n = x.shape[0]
    if num_groups is None:
        check_count("num_groups", labels)
        num_groups = max(1, int(labels.max()) + 1)
        if num_groups > n:
            raise ValueError(
                f"groups must be integers from 0 to G - 1 of which each has a row, got "
                f"{num_groups - 1} among {n} rows"
            )
    elif allow_empty or is_traced():  # other ranks have rows too; n may be a symbol
        num_groups = check_integer("num_groups", num_groups, MOST_CLASSES)
    else:
        num_groups = check_integer("num_groups", num_groups, n, ", since each needs a row of x")
    if can_inspect(labels, validate):
        check_range("groups", labels, num_groups)
        if x.device.type != "cpu":
            check_finite(x=x)
    return x, labels, num_groups


def _sorted_by_group(x: Tensor, labels: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The rows sorted by group, those of no group last, and the size of each group."""
    index = torch.where((labels >= 0) & (labels < num_groups), labels, num_groups)
    sizes = labels.new_zeros(num_groups + 1).scatter_add(0, index, torch.ones_like(index))
    return x[torch.argsort(index, stable=True)], sizes[:num_groups]


def _matrix(sums: Tensor, sizes: Tensor, estimator: Estimator) -> Tensor:
    """The matrix (G, G) from the sums of the kernel over the blocks."""
    within, counts = sums.diagonal(), sizes.to(sums.device, torch.float64)
    pairs = torch.stack(torch.broadcast_tensors(counts.unsqueeze(1), counts.unsqueeze(0)), dim=-1)
    matrix = estimator_weights(pairs, estimator).value(
        within.unsqueeze(1), sums, within.unsqueeze(0)
    )
    off_diagonal = ~torch.eye(len(sums), dtype=torch.bool, device=sums.device)
    return torch.where(off_diagonal, matrix, 0.0)


def _sharded_matrix(
    x: Any,
    groups: Any,
    num_groups: int | None,
    bandwidth: Bandwidth,
    scales: Scales,
    estimator: Estimator,
    group: ProcessGroup,
) -> Tensor:
    world = world_of(group, x, groups)

    def check() -> tuple[Tensor, Tensor, int]:
        if num_groups is None:
            raise ValueError("num_groups must be given with group")
        return _check_groups(x, groups, num_groups, True, allow_empty=True)

    own, labels, count = agree(
        world, check, lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), found[2])
    )
    samples = shard(world, *_sorted_by_group(own, labels, count))
    _check_sizes(samples.group_sizes, estimator)
    sums = sharded_rbf_sums(samples, sharded_gamma(samples, bandwidth, scales))
    return _matrix(sums[0], samples.group_sizes, estimator).to(result_dtype(own.dtype))


def _check_sizes(sizes: Tensor, estimator: Estimator) -> None:
    smallest = int(sizes.argmin())
    needed = 2 if estimator == "unbiased" else 1
    if int(sizes[smallest]) < needed:
        raise ValueError(
            f"groups: group {smallest} has {int(sizes[smallest])} rows, "
            f'and estimator="{estimator}" needs at least {needed}'
        )
