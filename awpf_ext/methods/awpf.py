"""AWPF: adaptive weighted parameter fusion (arXiv 2503.19503), reconstructed from its abstract.

Trained as RAPF (the hinge is a switch, off by default). Then the adapters before and after the task
are fused by low-rank stacking, weighed by a balance factor made of MMD, how far the two sides'
distributions are apart, and LDA's J, how well their classes are separated:

    tau = M / (M + 1 - J),   w = clip(lambda tau, 0, 1),   A = A_old + w svd_r(A_new - A_old).

There are no old images: the old side is drawn from the class statistics. Both sides go through the
new adapter and are L2-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.fusion import BalanceFactor, delta_stack, stack
from awpf_ext.fusion.balance import Normalisation
from awpf_ext.methods._base.adapter import AdapterConfig, AdapterMethod
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.replay import shuffled_cycle
from awpf_ext.methods.registry import register


class AwpfConfig(AdapterConfig):
    balance_scale: float = Field(1.0, ge=0, description="lambda: the weight is lambda tau, up to 1")
    balance_rows: int = Field(2048, ge=2, description="most rows a side that MMD and J are made of")
    normalisation: Normalisation = Field(
        "running_max", description="how MMD and J are brought to [0, 1]; see BalanceFactor"
    )
    stacking: Literal["delta", "literal"] = Field(
        "delta", description="stack the task's change on the old adapter, or both adapters"
    )
    rank: int = Field(64, ge=1, description="r of the stacked factors")


@register("awpf")
class Awpf(AdapterMethod):
    """Replay, balance factor, low-rank stacking."""

    Config: ClassVar[type[MethodConfig]] = AwpfConfig
    config: AwpfConfig

    def __init__(self, config: AwpfConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.balance = BalanceFactor(config.balance_scale, config.normalisation)

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """Low-rank stacking, the new side weighed by the balance factor."""
        old_x, old_labels = self.old_side(task)
        new_x, new_labels = self.new_side(task)
        balance = self.balance(self.embed(old_x), old_labels, self.embed(new_x), new_labels)
        self.records.append({"task": task.index, **balance._asdict()})
        fused = delta_stack if self.config.stacking == "delta" else stack
        return fused(old, new, weight=balance.weight, rank=self.config.rank)

    def new_side(self, task: Task) -> tuple[Tensor, Tensor]:
        """The task's images, or a random `balance_rows` of them."""
        count = len(task.train_y)
        rows = torch.randperm(count, generator=self.generator, device=self.device)
        rows = rows[: self.config.balance_rows]
        return task.train_x[rows], task.train_y[rows]

    def old_side(self, task: Task) -> tuple[Tensor, Tensor]:
        """Draws from old classes: as many a class as the task has images a class, at least two.

        Where all classes would be more than `balance_rows`, as many random classes as fit.
        """
        classes = self.statistics.drawable
        images = len(task.train_y) // len(task.classes)
        draws = min(max(2, images), self.config.balance_rows)
        count = min(len(classes), self.config.balance_rows // draws)
        labels = shuffled_cycle(classes, count, self.generator).repeat_interleave(draws)
        return self.statistics.draw(labels, self.generator), labels

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "balance": self.balance.state_dict()["maxima"]}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.balance.load_state_dict({"maxima": state["balance"]})
