"""Class means and scatter matrices, and the separability of classes that follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, get_args

import torch
from torch import Tensor
from typing_extensions import NamedTuple

from awpf_ext.ops._arguments import (
    FLOATING,
    MOST_CLASSES,
    MOST_FOUND_CLASSES,
    accepts_numpy,
    can_inspect,
    check_choice,
    check_count,
    check_finite,
    check_integer,
    check_labels,
    check_means,
    check_points,
    check_range,
    is_number,
    is_traced,
    result_dtype,
    shape_of,
    shown,
)
from awpf_ext.ops._autograd import ReverseMode, apply, run
from awpf_ext.ops._sharded import agree, all_sum, world_of
from awpf_ext.ops._types import Criterion, TensorOrArray
from awpf_ext.ops.low_rank import low_rank_sum

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Scatter(NamedTuple, Generic[TensorOrArray]):
    """Scatter matrices, class means and class sizes.

    Scatter matrices are sums, not averages: within + between is the scatter around the mean of all
    rows. A class without rows has count 0 and mean 0.
    """

    within: TensorOrArray
    """(..., d, d): within-class scatter S_W."""
    between: TensorOrArray
    """(..., d, d): between-class scatter S_B."""
    means: TensorOrArray
    """(..., C, d): class means."""
    counts: TensorOrArray
    """(..., C): number of rows of each class."""


class _Scatter(ReverseMode):
    @staticmethod
    def forward(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = run(torch.ops.awpf.scatter, x, labels, num_classes)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, labels, _ = inputs
        _, _, means, counts = output
        ctx.mark_non_differentiable(counts)
        ctx.save_for_backward(x, labels, means, counts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, labels, means, counts = ctx.saved_tensors
        within, between, of_means, _ = grads
        # Rows with a label that is no class, which kernels may skip, have no gradient.
        valid = (labels >= 0) & (labels < counts.shape[-1])
        index = torch.where(valid, labels, 0).unsqueeze(-1).expand(*labels.shape, x.shape[-1])
        # The means need no terms of their own: deviations from them sum to zero.
        deviation = x.to(means.dtype) - means.gather(-2, index)
        rows = counts.to(means.dtype).unsqueeze(-1)
        grand = (rows * means).sum(-2, keepdim=True) / rows.sum(-2, keepdim=True).clamp(min=1)
        per_class = (means - grand) @ (between + between.mT) + of_means / rows.clamp(min=1)
        gradient = deviation @ (within + within.mT) + per_class.gather(-2, index)
        return torch.where(valid.unsqueeze(-1), gradient, 0.0).to(x.dtype), None, None


def check_labelled_points(
    function: str,
    x: Any,
    labels: Any,
    num_classes: int | None,
    validate: bool = False,
    *,
    allow_empty: bool = False,
) -> tuple[Tensor, Tensor, int]:
    x = check_points(function, "x", x, allow_empty=allow_empty)
    labels = check_labels("labels", labels, x)
    if labels.dim() == 0 or labels.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"labels must have shape (..., {x.shape[-2]}) for x of shape {shape_of(x)}, "
            f"got {shape_of(labels)}"
        )
    try:
        labels = labels.expand(x.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"labels must have the batch dimensions of x, {shape_of(x)[:-2]}, "
            f"got {shape_of(labels)[:-1]}"
        ) from None
    if num_classes is None:
        check_count("num_classes", labels)
        num_classes = max(1, int(labels.max()) + 1) if labels.numel() > 0 else 1
        most = max(MOST_FOUND_CLASSES, x.shape[-2])
        if num_classes > most:
            raise ValueError(
                f"labels must be below {most} unless num_classes is given, got {num_classes - 1}"
            )
    else:
        most = MOST_CLASSES if is_traced() else max(MOST_CLASSES, x.shape[-2])
        num_classes = check_integer("num_classes", num_classes, most)
    if not is_traced():
        check_means(num_classes, x.shape[-1], x.shape[:-2].numel(), x.shape[-2])
    if x.device.type != "cpu" and can_inspect(x, validate):  # the CPU kernel checks it
        check_range("labels", labels, num_classes)
        check_finite(x=x)
    return x, labels, num_classes


def scatter64(x: Tensor, labels: Tensor, num_classes: int) -> Scatter:
    """The scatter with all results in float64."""
    shape = x.shape[:-2]
    flat = x.reshape(shape.numel(), *x.shape[-2:]).contiguous()
    flat_labels = labels.reshape(flat.shape[:2]).contiguous()
    outputs = apply(_Scatter, flat, flat_labels, num_classes)
    return Scatter(*(output.reshape(*shape, *output.shape[1:]) for output in outputs))


def check_overflow(matrix: Tensor, validate: bool = False) -> None:
    """Check that a scatter matrix fits in its dtype."""
    # The squares on the diagonal are the largest elements.
    squares = matrix.detach().diagonal(dim1=-2, dim2=-1)
    if can_inspect(squares, validate) and not bool(squares.isfinite().all()):
        dtype = str(matrix.dtype).removeprefix("torch.")
        hint = "; pass x.double()" if matrix.dtype == torch.float32 else ""
        raise ValueError(f"x is too large: its scatter overflows {dtype}{hint}")


@accepts_numpy
def scatter(
    x: TensorOrArray,
    labels: TensorOrArray,
    num_classes: int | None = None,
    *,
    group: ProcessGroup | None = None,
    validate: bool = False,
) -> Scatter[TensorOrArray]:
    """Within-class and between-class scatter matrices, class means and counts.

    S_W = sum_i (x_i - mu_{y_i}) (x_i - mu_{y_i})' and S_B = sum_c n_c (mu_c - mu) (mu_c - mu)'.
    Differentiable in x (within, between and means).

    Args:
        x: Points (..., n, d).
        labels: The class of each point (..., n), integers from 0 to num_classes - 1.
        num_classes: Defaults to the largest label plus one, for which a GPU must be waited for. It
            must be given under torch.compile and torch.func, in CUDA graphs, with `group`, and if
            labels exceed both 65,535 and the number of rows.
        group: A torch.distributed process group over whose ranks the rows are spread. Every rank
            passes its own x (n, d), possibly without rows, and gets the scatter of all rows.
        validate: Check the values of CUDA tensors too, which waits for the GPU. Without it, rows
            with other labels are ignored there.

    Returns:
        The scatter, float64 for float64 points, otherwise float32.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
        >>> found = awpf_ext.scatter(x, torch.tensor([0, 0, 1, 1]))
        >>> found.within, found.between
        (tensor([[4.]]), tensor([[25.]]))
    """
    if group is not None:
        points, found = _sharded_scatter(x, labels, num_classes, group)
    else:
        points, checked, count = check_labelled_points("scatter", x, labels, num_classes, validate)
        found = scatter64(points, checked, count)
    dtype = result_dtype(points.dtype)
    within, between, means = (part.to(dtype) for part in found[:3])
    found = Scatter(within, between, means, found.counts)
    for matrix in (within, between):
        check_overflow(matrix, validate)
    return found  # type: ignore[return-value]


def _sharded_scatter(
    x: Any, labels: Any, num_classes: int | None, group: ProcessGroup
) -> tuple[Tensor, Scatter]:
    """This rank's points, and the scatter of all ranks' points in float64."""
    world = world_of(group, x, labels)

    def check() -> tuple[Tensor, Scatter]:
        if num_classes is None:
            raise ValueError("num_classes must be given with group")
        points, checked, count = check_labelled_points(
            "scatter", x, labels, num_classes, True, allow_empty=True
        )
        if points.dim() != 2:
            raise ValueError(f"x must have shape (n, d) with group, got {shape_of(points)}")
        return points, scatter64(points, checked, count)  # the kernel checks the values

    points, own = agree(
        world,
        check,
        lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), len(found[1].counts)),
    )
    counts = world.all_reduce(own.counts)
    own_rows, rows = own.counts.double(), counts.double()
    means = all_sum(own_rows.unsqueeze(-1) * own.means, world) / rows.clamp(min=1).unsqueeze(-1)
    shift = (own.means - means).mT.unsqueeze(0)
    within = all_sum(low_rank_sum(shift, own_rows.unsqueeze(0), shift, base=own.within), world)
    return points, Scatter(within, between_scatter(means, rows), means, counts)


def between_scatter(means: Tensor, rows: Tensor) -> Tensor:
    """Between-class scatter of class means (C, d), from as many `rows` of each class."""
    grand = (rows.unsqueeze(-1) * means).sum(0) / rows.sum().clamp(min=1)
    deviations = (means - grand).mT.unsqueeze(0)
    return low_rank_sum(deviations, rows.unsqueeze(0), deviations)


SMALLEST_SCATTER = 1e-280
"""Below this trace, products may have been too small for float64."""


def _check_underflow(x: Tensor, total: Tensor) -> None:
    """Check that points are equal where their scatter is next to nothing."""
    differ = (x != x[..., :1, :]).any(-1).any(-1)
    if bool((differ & (total < SMALLEST_SCATTER)).any()):
        raise ValueError("x is too close together: its scatter underflows float64; scale x")


@accepts_numpy
def separability(
    x: TensorOrArray,
    labels: TensorOrArray,
    criterion: Criterion = "trace",
    *,
    num_classes: int | None = None,
    shrinkage: float = 0.1,
    validate: bool = False,
) -> TensorOrArray:
    """How far apart classes lie, relative to their extent: the J of linear discriminant analysis.

    Differentiable in x.

    Args:
        x: Points (..., n, d).
        labels: The class of each point (..., n), integers from 0 to num_classes - 1.
        criterion: "trace" is tr S_B / (tr S_B + tr S_W), which is in [0, 1], and 0 if all points
            are equal. "fisher" is tr(S_s^-1 S_B) with S_s = (1 - shrinkage) S_W + shrinkage
            tr(S_W) / d I, which exists for n < d too.
        num_classes: As in :func:`awpf_ext.scatter`.
        shrinkage: From 0 to 1; only "fisher" uses it.
        validate: As in :func:`awpf_ext.scatter`. Without it, a singular scatter on CUDA results in
            an infinity or NaN.

    Returns:
        One value per problem, float64 for float64 points, otherwise float32.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [5.0], [7.0]])
        >>> print(f"{awpf_ext.separability(x, torch.tensor([0, 0, 1, 1])):.4f}")
        0.8621
    """
    check_choice("criterion", criterion, get_args(Criterion))
    if not is_number(shrinkage):
        raise TypeError(f"shrinkage must be a number, got {shown(shrinkage)}")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must be between 0 and 1, got {shown(shrinkage)}")
    points, checked, count = check_labelled_points("separability", x, labels, num_classes, validate)
    within, between, _, _ = scatter64(points, checked, count)
    trace_within = within.diagonal(dim1=-2, dim2=-1).sum(-1)
    trace_between = between.diagonal(dim1=-2, dim2=-1).sum(-1)
    total = trace_within + trace_between
    if can_inspect(total, validate) and bool((total < SMALLEST_SCATTER).any()):
        _check_underflow(points, total)
    if criterion == "trace":
        value = trace_between / torch.where(total > 0, total, 1.0)
    else:
        d = points.shape[-1]
        ridge = (shrinkage / d) * trace_within
        eye = torch.eye(d, dtype=within.dtype, device=within.device)
        shrunk = (1 - shrinkage) * within + ridge[..., None, None] * eye
        solved, failed = torch.linalg.solve_ex(shrunk, between)
        if can_inspect(failed, validate) and bool((failed != 0).any()):
            raise ValueError(
                'criterion="fisher": the within-class scatter is singular; '
                "use a shrinkage above 0, or classes with more than one distinct row"
            )
        value = solved.diagonal(dim1=-2, dim2=-1).sum(-1)
    return value.to(result_dtype(points.dtype))  # type: ignore[return-value]
