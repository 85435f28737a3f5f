"""Held-out training rows, to choose settings on, and a second learner that never sees them.

Of each class a fifth of the training rows is held out, evenly spaced, at least one and at most
`MOST_HELD_OUT`. The second learner, the partner, is of the same method and gets all other rows, in
the same tasks. To it the held-out rows of all classes are new images. What is chosen with it, such
as the share of the visual head, is then used by the learner of all rows.

The held-out rows are kept as features, because those of old classes are needed in later tasks. A
class with a single image holds out none. At most `MOST_JUDGES` of all rows are used to choose,
which bounds the time and memory: few numbers are chosen, so more rows would hardly change them, and
at 1,000 classes a float64 for each row and class takes 32 MB instead of 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.method import Method

Partner = TypeVar("Partner", bound=Method)

ONE_IN = 5
MOST_HELD_OUT = 16  # rows of a class in a task
MOST_JUDGES = 4096  # rows of all classes that are used at a time


class Holdout(Generic[Partner]):
    """The held-out rows of all classes so far, and the learner that never sees them."""

    def __init__(self, partner: Partner) -> None:
        self.partner = partner
        self.x = partner.text.new_zeros(0, partner.text.shape[1])
        self.labels = torch.zeros(0, dtype=torch.int64, device=partner.device)
        self.added = 0  # rows of the last task

    def split(self, task: Task) -> Task:
        """Keep the held-out rows of a task, and return the task without them."""
        held_out = held_out_rows(task.train_y)
        self._keep(task.train_x[held_out], task.train_y[held_out])
        rest = ~held_out
        return replace(
            task,
            train_x=task.train_x[rest],
            train_y=task.train_y[rest],
            train_ids=task.train_ids[rest.cpu()],
        )

    def judges(self) -> tuple[Tensor, Tensor]:
        """The rows (n, d) to choose with, and their labels: all, or of many the middles of
        `MOST_JUDGES` equal spans in the order of classes.
        """
        count = len(self.labels)
        if count <= MOST_JUDGES:
            return self.x, self.labels
        spans = torch.arange(MOST_JUDGES, device=self.labels.device)
        rows = self.labels.argsort(stable=True)[(2 * spans + 1) * count // (2 * MOST_JUDGES)]
        return self.x[rows], self.labels[rows]

    def block(self) -> dict[str, Tensor]:
        """What the last task added, for a file of the run."""
        last = slice(len(self.labels) - self.added, None)
        rows = {"x": self.x[last], "labels": self.labels[last]}
        return {**rows, **(self.partner.task_block() or {})}

    def append(self, block: Mapping[str, Tensor]) -> None:
        """Append a block that `block` returned, in this or an earlier process."""
        tensors = dict(block)
        self._keep(tensors.pop("x"), tensors.pop("labels"))
        self.partner.append_task_block(tensors)

    def _keep(self, x: Tensor, labels: Tensor) -> None:
        self.added = len(labels)
        self.x = torch.cat([self.x, x.to(self.x)])
        self.labels = torch.cat([self.labels, labels.to(self.labels)])


def held_out_rows(labels: Tensor) -> Tensor:
    """(n,) which rows to hold out: of n rows of a class, the middles of n / 5 equal spans."""
    held_out = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        spans = min(max(len(rows) // ONE_IN, 1), MOST_HELD_OUT)
        if len(rows) > 1:
            middles = (2 * torch.arange(spans, device=labels.device) + 1) * len(rows) // (2 * spans)
            held_out[rows[middles]] = True
    return held_out
