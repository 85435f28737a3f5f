"""AWPF: adaptive weighted parameter fusion (arXiv 2503.19503), reconstructed from its abstract.

Training is that of RAPF, with the hinge loss off by default. Then the adapters before and after the
task are fused by low-rank stacking. The weight of the new one is a balance factor from the MMD
between the old and the new embeddings (M) and from how well their classes are separated (LDA's J):

    tau = M / (M + 1 - J),   w = clip(lambda tau, 0, 1),   A = A_old + w svd_r(A_new - A_old).

Old images are not kept, so the old embeddings are drawn from the class statistics. Both sides pass
through the new adapter and are L2-normalised.
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
    balance_scale: float = Field(
        1.0, ge=0, description="lambda of the fusion weight clip(lambda tau, 0, 1)"
    )
    balance_rows: int = Field(
        2048, ge=2, description="Maximum number of rows per side for MMD and J"
    )
    normalisation: Normalisation = Field(
        "running_max", description="How MMD and J are normalised to [0, 1]; see BalanceFactor"
    )
    stacking: Literal["delta", "literal"] = Field(
        "delta",
        description="delta = stack the task's change on the old adapter; literal = stack both "
        "adapters",
    )
    rank: int = Field(64, ge=1, description="Rank r of the stacked factors")


@register("awpf")
class Awpf(AdapterMethod):
    """Replay, balance factor, low-rank stacking."""

    Config: ClassVar[type[MethodConfig]] = AwpfConfig
    config: AwpfConfig

    def __init__(self, config: AwpfConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.balance = BalanceFactor(config.balance_scale, config.normalisation)

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """Low-rank stacking, with the balance factor as the weight of the new adapter."""
        old_x, old_labels = self.old_side(task)
        new_x, new_labels = self.new_side(task)
        balance = self.balance(self.embed(old_x), old_labels, self.embed(new_x), new_labels)
        self.records.append({"task": task.index, **balance._asdict()})
        fused = delta_stack if self.config.stacking == "delta" else stack
        return fused(old, new, weight=balance.weight, rank=self.config.rank)

    def new_side(self, task: Task) -> tuple[Tensor, Tensor]:
        """The task's images, or `balance_rows` of them at random."""
        count = len(task.train_y)
        rows = torch.randperm(count, generator=self.generator, device=self.device)
        rows = rows[: self.config.balance_rows]
        return task.train_x[rows], task.train_y[rows]

    def old_side(self, task: Task) -> tuple[Tensor, Tensor]:
        """Draws from old classes: per class as many as the task has images per class, at least two.

        If all old classes would exceed `balance_rows`, a random subset of them is used.
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
