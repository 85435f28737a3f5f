"""Ridge regression on the one-hot labels; ACIL, RanPAC and RAIL's primal form are settings of it.

    h = [sqrt(2 / D) relu(R'f), 1]  or  [f, 1],   G = sum h h',   Q = sum h y',
    W = (G + lambda I)^-1 (Q + lambda W_0),   logits = a W'h,

with f L2-normalised, R standard normal and W_0 = 0: the solution of joint training, since G and Q
are sums. With `prior=text` (ours) h also holds f, and W_0 is the zero-shot classifier on f: the
texts of the classes seen, minus their mean, times the factor that fits the images best. So a large
lambda gives zero-shot, a small one forgets the texts.

lambda comes from a grid: a fifth of each class's new images is held out while the rest is added to
G and Q; then they are added too. Over the held-out images of all tasks so far the lambda is taken
that gives the least squared error, as in RanPAC, or with a text prior the most right answers: few
images need far more of the texts than the squared error asks for. After the first task only the
neighbours of the last lambda are tried. The scale a makes the held-out images of the latest task
most likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from awpf_ext.data.stream import Task
from awpf_ext.errors import UserError
from awpf_ext.methods._base.closed_form import ClosedForm
from awpf_ext.methods._base.feature_sums import Lift
from awpf_ext.methods._base.lda import LinearClassifier
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.random_features import ReluFeatures
from awpf_ext.methods.registry import register

PENALTIES = {
    "none": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    "text": (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
}
UNTRIED = {"none": 0.3, "text": 10.0}  # lambda before any image could be held out
SCALES = tuple(2.0**power for power in range(9))
HELD_OUT = 5  # one in so many images of a class


class RidgeConfig(MethodConfig):
    width: int | None = Field(
        2000, ge=1, description="Number D of random ReLU features; null = CLIP's features"
    )
    prior: Literal["none", "text"] = Field(
        "none",
        description="What a large lambda gives: none = zero, text = the zero-shot classifier",
    )
    penalty: float | None = Field(
        None,
        gt=0,
        description="lambda; null = chosen on held-out training images",
    )


@register("ridge")
class Ridge(ClosedForm):
    """Ridge regression on random features (ACIL, RanPAC, RAIL), with an optional text prior."""

    Config: ClassVar[type[MethodConfig]] = RidgeConfig
    config: RidgeConfig
    large_state = True

    def __init__(self, config: RidgeConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.penalty = config.penalty or UNTRIED[config.prior]
        self.scale = 20.0
        self.grid = PENALTIES[config.prior]
        # On held-out images of all tasks, for each lambda of the grid:
        self.hits = torch.zeros(len(self.grid), dtype=torch.int64)
        self.errors = torch.zeros(len(self.grid), dtype=torch.float64)

    def make_lift(self, dim: int) -> tuple[Lift, int]:
        width, with_text = self.config.width, self.config.prior == "text"
        relu = None if width is None else ReluFeatures(dim, width, self.seed, self.device)

        def lift(x: Tensor) -> Tensor:
            parts = [] if relu is None else [relu(x)]
            if relu is None or with_text:
                parts.append(normalize(x, dim=-1))
            return torch.cat([*parts, x.new_ones(len(x), 1)], dim=1)

        return lift, (width or 0) + (dim if width is None or with_text else 0) + 1

    def learn(self, task: Task, progress: EpochProgress) -> None:
        x, labels, classes = task.train_x, task.train_y, task.classes.stop
        held = held_out(labels)
        with self.timed("statistics"):
            self.sums.add(self.lift, x[~held], labels[~held], classes)
        if held.any():
            with self.timed("choose"):
                self.choose(x[held], labels[held])
        with self.timed("statistics"):
            self.sums.add(self.lift, x[held], labels[held], classes)
        with self.timed("solve"):
            self.classifier = self.solve(task)
        progress(1, 1)

    def choose(self, x: Tensor, labels: Tensor) -> None:
        """Choose lambda and the scale on images that are not in the sums yet."""
        h, fixed = self.lift(x), self.config.penalty
        moments, start = self.sums.second_moments().float(), self.start()
        right = one_hot(labels, len(start))
        best = self.grid.index(self.penalty) if fixed is None else 0
        tried = range(len(self.grid)) if fixed is None else range(1)
        if self.errors.any():
            tried = range(max(best - 1, 0), min(best + 2, len(self.grid)))
        scored = {}
        for place in tried:
            penalty = self.grid[place] if fixed is None else fixed
            scored[place] = h @ solved(moments, self.sums.totals, start, penalty).mT
        if fixed is None:
            for place in range(len(self.grid)):
                # A lambda further off counts as the nearest one that was tried.
                scores = scored[min(max(place, tried[0]), tried[-1])]
                if scores.isfinite().all():
                    predicted = (scores + self.bias()).argmax(1)
                    self.hits[place] += int((predicted == labels).sum())
                    self.errors[place] += float((scores - right).double().square().sum())
                else:
                    self.errors[place] = torch.inf
            ranked = self.errors if self.config.prior == "none" else -self.hits
            best = min(tried, key=lambda place: float(ranked[place]))
            self.penalty = self.grid[best]
        scores = scored[best] + self.bias()
        losses = [float(cross_entropy(scale * scores, labels)) for scale in SCALES]
        self.scale = SCALES[losses.index(min(losses))]

    def solve(self, task: Task) -> LinearClassifier:
        weight = solved(self.sums.second_moments(), self.sums.totals, self.start(), self.penalty)
        if not weight.isfinite().all():
            raise UserError(
                f"penalty is {self.penalty}; expected a larger one: with it the system is singular"
            )
        self.records.append({"task": task.index, "penalty": self.penalty, "scale": self.scale})
        return LinearClassifier((self.scale * weight).float(), self.bias())

    def start(self) -> Tensor:
        """W_0' (C, width): zero, or the zero-shot classifier on f."""
        start = torch.zeros_like(self.sums.totals)
        if self.config.prior == "text":
            dim = self.text.shape[1]
            text = self.text[: len(start)].double()
            start[:, -dim - 1 : -1] = text - text.mean(0)
            fitted = (start * (start @ self.sums.second_moments())).sum()
            factor = (start * self.sums.totals).sum() / fitted.clamp_min(1e-12)
            start *= factor.clamp_min(1e-3)
        return start

    def bias(self) -> Tensor:
        """(C,) -inf for classes without images; with a text prior the text stands for them."""
        unknown = (self.sums.counts == 0) & (self.config.prior == "none")
        return torch.zeros(len(unknown), device=self.device).masked_fill(unknown, -torch.inf)

    def state_dict(self) -> dict[str, Tensor]:
        chosen = {
            "penalty": torch.tensor(self.penalty, dtype=torch.float64),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
            "sums.hits": self.hits,
            "sums.errors": self.errors,
        }
        return {**super().state_dict(), **chosen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        rest = dict(state)
        self.hits = rest.pop("sums.hits", self.hits).cpu().clone()
        self.errors = rest.pop("sums.errors", self.errors).cpu().clone()
        self.penalty, self.scale = float(rest.pop("penalty")), float(rest.pop("scale"))
        super().load_state_dict(rest)


def held_out(labels: Tensor) -> Tensor:
    """(n,) whether a row is held out: of each class the third of every five rows."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    starts = (counts.cumsum(0) - counts)[labels[order]]
    places = torch.empty_like(labels)
    places[order] = torch.arange(len(labels), device=labels.device) - starts
    return places % HELD_OUT == HELD_OUT // 2


def solved(moments: Tensor, totals: Tensor, start: Tensor, penalty: float) -> Tensor:
    """W' (C, width) = ((G + lambda I)^-1 (Q + lambda W_0))', in the precision of G.

    In float32, where only the choice of lambda depends on it, a small lambda may drown in rounding:
    then the result is not a number, which no comparison prefers.
    """
    penalised = moments.clone()
    penalised.diagonal().add_(penalty)
    factor, failed = torch.linalg.cholesky_ex(penalised)
    if failed:
        return torch.full_like(start, torch.nan, dtype=moments.dtype)
    wanted = (totals + penalty * start).to(moments.dtype)
    return torch.cholesky_solve(wanted.mT, factor).mT
