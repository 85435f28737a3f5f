"""Joint: after each task the adapter is trained anew, on the images of all tasks so far.

It keeps the rows of all images, which a continual method may not: the upper bound for the methods
that train the adapter. Its state holds row numbers and labels; the features stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.method import EpochProgress
from awpf_ext.methods._base.without_replay import WithoutReplay, WithoutReplayConfig
from awpf_ext.methods.registry import register


@register("joint")
class Joint(WithoutReplay):
    """Trains the adapter anew on the images of all tasks so far."""

    bound = "upper"

    def __init__(self, config: WithoutReplayConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.start = self.adapter.clone()
        self.rows = torch.zeros(0, dtype=torch.int64)  # row ids of all images so far
        self.labels = torch.zeros(0, dtype=torch.int64)

    def learn(self, task: Task, progress: EpochProgress) -> None:
        self.rows = torch.cat([self.rows, task.train_ids])
        self.labels = torch.cat([self.labels, task.train_y.cpu()])
        self.adapter = self.start.clone()
        everything = replace(
            task,
            classes=range(task.classes.stop),
            train_x=task.features[self.rows].to(self.device, torch.float32),
            train_y=self.labels.to(self.device),
            train_ids=self.rows,
        )
        super().learn(everything, progress)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "rows": self.rows, "labels": self.labels}

    def learned_state(self) -> dict[str, Tensor]:
        state = super().learned_state()
        return {name: state[name] for name in state if name not in ("rows", "labels")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        if "rows" in state:  # an export, which cannot be trained further, has none
            self.rows, self.labels = state["rows"].cpu(), state["labels"].cpu()
