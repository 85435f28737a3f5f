"""Class means and scatter matrices, their streaming form, and the separability of classes made of
them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from awpf_ext._library import require
from awpf_ext.ops._arguments import (
    FLOATING,
    accepts_numpy,
    check_choice,
    check_count,
    check_finite,
    check_labels,
    check_points,
    check_range,
    may_look,
    result_dtype,
    shape_of,
)
from awpf_ext.ops._autograd import (
    ReverseMode,
    apply,
    batching_rule,
    fake,
    folded,
    run,
    unfolded,
)
from awpf_ext.ops._sharded import Ranks, all_sum
from awpf_ext.ops.low_rank import low_rank_sum


class Scatter(NamedTuple):
    """Within-class and between-class scatter (..., d, d), class means (..., C, d), counts (..., C).

    Scatter matrices are sums, not averages: within + between is the scatter around the grand
    mean. Classes without rows have count 0 and mean 0.
    """

    within: Tensor
    between: Tensor
    means: Tensor
    counts: Tensor


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
        # Rows of no class, which kernels that do not look at labels leave out, have no gradient.
        valid = (labels >= 0) & (labels < counts.shape[-1])
        index = torch.where(valid, labels, 0).unsqueeze(-1).expand(*labels.shape, x.shape[-1])
        # Moving a mean moves no scatter: its rows and its class sum to zero around it.
        deviation = x.to(means.dtype) - means.gather(-2, index)
        rows = counts.to(means.dtype).unsqueeze(-1)
        grand = (rows * means).sum(-2, keepdim=True) / rows.sum(-2, keepdim=True).clamp(min=1)
        per_class = (means - grand) @ (between + between.mT) + of_means / rows.clamp(min=1)
        gradient = deviation @ (within + within.mT) + per_class.gather(-2, index)
        return torch.where(valid.unsqueeze(-1), gradient, 0.0).to(x.dtype), None, None


@fake("scatter")
def _(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    batch, _, d = x.shape
    square = x.new_empty(batch, d, d, dtype=torch.float64)
    means = x.new_empty(batch, num_classes, d, dtype=torch.float64)
    counts = labels.new_empty(batch, num_classes)
    return square, torch.empty_like(square), means, counts


@batching_rule("scatter")
def _(
    info: Any, dims: tuple[Any, ...], x: Tensor, labels: Tensor, num_classes: int
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = info.batch_size
    outputs = torch.ops.awpf.scatter(
        folded(x, dims[0], size), folded(labels, dims[1], size), num_classes
    )
    return tuple(unfolded(output, size) for output in outputs), (0, 0, 0, 0)


def _check(
    function: str,
    x: Any,
    labels: Any,
    num_classes: int | None,
    check: bool = False,
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
    elif num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if x.device.type != "cpu" and may_look(x, check):  # on the CPU the kernel looks
        check_range("labels", labels, num_classes)
        check_finite(x=x)
    return x, labels, num_classes


def _scatter64(x: Tensor, labels: Tensor, num_classes: int) -> Scatter:
    """All results in float64, batch dimensions as in x."""
    shape = x.shape[:-2]
    flat = x.reshape(shape.numel(), *x.shape[-2:]).contiguous()
    flat_labels = labels.reshape(flat.shape[:2]).contiguous()
    outputs = apply(_Scatter, flat, flat_labels, num_classes)
    return Scatter(*(output.reshape(*shape, *output.shape[1:]) for output in outputs))


@accepts_numpy
def scatter(
    x: Any,
    labels: Any,
    num_classes: int | None = None,
    *,
    group: Any = None,
    check: bool = False,
) -> Scatter:
    """Scatter matrices, means and counts of x (..., n, d) under integer labels (..., n), 0 to
    num_classes - 1.

    S_W = sum_i (x_i - mu_{y_i})(x_i - mu_{y_i})', S_B = sum_c n_c (mu_c - mu)(mu_c - mu)'.
    Differentiable in x (within, between and means). ``num_classes=None`` takes the largest
    label plus one, which waits for a GPU; give it under torch.compile and torch.func and in CUDA
    graphs. ``group``: a torch.distributed process group over whose ranks the rows are spread; every
    rank passes its own x (n, d), possibly without rows, and gets the scatter of all of them.
    ``check``: look at the values of CUDA tensors too, which waits for the GPU; without it rows with
    other labels do not count there. float64 for float64 input, else float32.
    """
    if group is not None:
        x, found = _sharded_scatter(x, labels, num_classes, group)
    else:
        x, labels, num_classes = _check("scatter", x, labels, num_classes, check)
        found = _scatter64(x, labels, num_classes)
    dtype = result_dtype(x.dtype)
    within, between, means = (part.to(dtype) for part in found[:3])
    return Scatter(within, between, means, found.counts)


def _sharded_scatter(
    x: Any, labels: Any, num_classes: int | None, group: Any
) -> tuple[Tensor, Scatter]:
    """This rank's points, and the scatter of all ranks' in float64."""
    ranks = Ranks(group)

    def check() -> tuple[Tensor, Scatter]:
        if num_classes is None:
            raise ValueError("num_classes must be given with group")
        points, checked, count = _check("scatter", x, labels, num_classes, True, allow_empty=True)
        if points.dim() != 2:
            raise ValueError(f"x must have shape (n, d) with group, got {shape_of(points)}")
        return points, _scatter64(points, checked, count)  # looks at the values too

    points, own = ranks.agree(
        check,
        lambda found: (found[0].shape[1], FLOATING.index(found[0].dtype), len(found[1].counts)),
    )
    counts = ranks.total(own.counts)
    own_rows, rows = own.counts.double(), counts.double()
    means = all_sum(own_rows.unsqueeze(-1) * own.means, ranks) / rows.clamp(min=1).unsqueeze(-1)
    shift = (own.means - means).mT.unsqueeze(0)
    within = all_sum(low_rank_sum(shift, own_rows.unsqueeze(0), shift, base=own.within), ranks)
    return points, Scatter(within, _between(means, rows), means, counts)


def _between(means: Tensor, rows: Tensor) -> Tensor:
    """Between-class scatter of class means with so many rows each."""
    grand = (rows.unsqueeze(-1) * means).sum(0) / rows.sum().clamp(min=1)
    spread = (means - grand).mT.unsqueeze(0)
    return low_rank_sum(spread, rows.unsqueeze(0), spread)


class ScatterAccumulator:
    """Scatter of data that comes in pieces: the result does not depend, to rounding, on how it
    was cut or merged.

    Counts, means and within-class scatter are kept in float64 and combined by Chan's update.
    """

    def __init__(
        self, num_classes: int, dim: int, device: torch.device | str | None = None
    ) -> None:
        if num_classes < 1 or dim < 1:
            raise ValueError(f"num_classes and dim must be at least 1, got {num_classes} and {dim}")
        double = {"dtype": torch.float64, "device": device}
        self.num_classes = num_classes
        self.dim = dim
        self.counts = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.means = torch.zeros(num_classes, dim, **double)  # type: ignore[arg-type]
        self.within = torch.zeros(dim, dim, **double)  # type: ignore[arg-type]

    @torch.no_grad()
    def update(self, x: Any, labels: Any, *, check: bool = False) -> ScatterAccumulator:
        """Add the rows of x (n, d) with their labels (n,); ``check`` as in :func:`scatter`."""
        x, labels = (
            torch.as_tensor(value) if not isinstance(value, Tensor) else value
            for value in (x, labels)
        )
        if x.dim() != 2 or x.shape[-1] != self.dim or x.dtype not in FLOATING:
            raise ValueError(
                f"x must be floating-point of shape (n, {self.dim}), "
                f"got {x.dtype} of shape {shape_of(x)}"
            )
        require(x.device, "ScatterAccumulator")
        if x.shape[0] > 0:
            x, labels, classes = _check("ScatterAccumulator", x, labels, self.num_classes, check)
            found = _scatter64(x, labels, classes)
            self._combine(found.counts, found.means, found.within)
        return self

    @torch.no_grad()
    def merge(self, other: ScatterAccumulator) -> ScatterAccumulator:
        """Add everything another accumulator of the same shape has seen."""
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
        self.within = low_rank_sum(
            shift.mT.unsqueeze(0),
            (self.counts.double() * share).unsqueeze(0),
            shift.mT.unsqueeze(0),
            base=self.within + within,
        )
        self.means = self.means + share.unsqueeze(-1) * shift
        self.counts = total

    def result(self) -> Scatter:
        """The scatter of everything seen, in float64."""
        between = _between(self.means, self.counts.double())
        return Scatter(self.within.clone(), between, self.means.clone(), self.counts.clone())


@accepts_numpy
def separability(
    x: Any,
    labels: Any,
    criterion: str = "trace",
    *,
    num_classes: int | None = None,
    shrinkage: float = 0.1,
    check: bool = False,
) -> Tensor:
    """How far apart the classes of x (..., n, d) lie, relative to their spread (LDA's J).

    "trace": tr S_B / (tr S_B + tr S_W), in [0, 1], and 0 where all points are equal. "fisher":
    tr(S_s^-1 S_B) with S_s = (1 - shrinkage) S_W + shrinkage tr(S_W)/d I, which exists for n <
    d too. Differentiable in x. ``check`` as in :func:`scatter`; without it a singular scatter on
    CUDA gives an infinity or NaN.
    """
    check_choice("criterion", criterion, ("trace", "fisher"))
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage must be between 0 and 1, got {shrinkage}")
    x, labels, num_classes = _check("separability", x, labels, num_classes, check)
    within, between, _, _ = _scatter64(x, labels, num_classes)
    trace_within = within.diagonal(dim1=-2, dim2=-1).sum(-1)
    trace_between = between.diagonal(dim1=-2, dim2=-1).sum(-1)
    if criterion == "trace":
        total = trace_within + trace_between
        value = trace_between / torch.where(total > 0, total, 1.0)
    else:
        d = x.shape[-1]
        ridge = (shrinkage / d) * trace_within
        eye = torch.eye(d, dtype=within.dtype, device=within.device)
        shrunk = (1 - shrinkage) * within + ridge[..., None, None] * eye
        solved, failed = torch.linalg.solve_ex(shrunk, between)
        if may_look(failed, check) and bool((failed != 0).any()):
            raise ValueError(
                'criterion="fisher": the within-class scatter is singular; '
                "use a shrinkage above 0, or classes of more than one different row"
            )
        value = solved.diagonal(dim1=-2, dim2=-1).sum(-1)
    return value.to(result_dtype(x.dtype))
