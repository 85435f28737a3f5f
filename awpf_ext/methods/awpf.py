"""AWPF: adaptive weighted parameter fusion (arXiv 2503.19503), reconstructed from its abstract.

Training is that of RAPF, with the hinge loss off by default. Then the adapters before and after the
task are fused by low-rank stacking. The weight of the new one is a balance factor from the MMD
between the old and the new embeddings (M) and from how well their classes are separated (LDA's J):

    tau = M / (M + 1 - J),   w = clip(lambda tau, 0, 1),   A = A_old + w svd_r(A_new - A_old).

This is the preset `paper`. By default w is only the prior of a weight for each direction of the
change, which held-out rows choose (fusion/direction_weights.py), and a visual head stands beside
the texts (_base/visual_head.py): both are ours. In another reading of the abstract tau balances two
losses of training: `balance` is weight, loss or both, and the loss is

    CE + mu (tau M + (1 - tau) (1 - J)),   M and J of the embeddings of the batch.

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
from awpf_ext.fusion import (
    Balance,
    BalanceFactor,
    DirectionWeights,
    HeldOutChange,
    delta_stack,
    direction_weights,
    stack,
)
from awpf_ext.fusion.balance import Normalisation
from awpf_ext.methods._base.adapter import AdapterMethod, Batch
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.replay import shuffled_cycle
from awpf_ext.methods.registry import register
from awpf_ext.ops.mmd import mmd
from awpf_ext.ops.scatter import separability

LOSS_ROWS = 256  # rows of either side that enter the MMD and J of a batch


class AwpfConfig(AdapterConfig):
    head: Literal["none", "lda"] = Field(
        "lda", description="Visual head beside the texts, with a share chosen on held-out rows"
    )
    weights: Literal["direction", "tau", "constant"] = Field(
        "direction",
        description="Weight of the task's change: direction = one for each direction, chosen on "
        "held-out rows; tau = the balance factor alone; constant = constant_weight, a control",
    )
    weight_prior: float = Field(
        10.0, ge=0, description="Pull of the directions' weights to their mean, and of that to tau"
    )
    constant_weight: float = Field(
        0.6, ge=0, le=1, description="Weight of every change with weights=constant"
    )
    balance: Literal["weight", "loss", "both"] = Field(
        "weight", description="What the balance factor weighs: the fusion, two losses, or both"
    )
    balance_loss: float = Field(
        1.0, ge=0, description="mu, the weight of the two losses with balance=loss and both"
    )
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
        "adapters; for weights=tau and constant",
    )
    rank: int = Field(
        64,
        ge=1,
        description="Rank r of the stacked factors; for weights=direction the number of directions "
        "with a weight of their own",
    )


@register("awpf")
class Awpf(AdapterMethod):
    """Replay, balance factor, low-rank stacking, visual head."""

    Config: ClassVar[type[MethodConfig]] = AwpfConfig
    config: AwpfConfig

    def __init__(self, config: AwpfConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.balance = BalanceFactor(config.balance_scale, config.normalisation)
        self.loss_balance = BalanceFactor(config.balance_scale, config.normalisation)
        self.loss_tau = 0.0
        self.directions: DirectionWeights | None = None  # of the task that is being learned

    @classmethod
    def holds_out(cls, config: AdapterConfig) -> bool:
        assert isinstance(config, AwpfConfig)
        return super().holds_out(config) or fuses_by_direction(config)

    def train(self, task: Task, progress: EpochProgress) -> None:
        if self.config.balance != "weight" and len(self.statistics.drawable):
            self.loss_tau = self.measured(self.loss_balance, task).tau
            self.record(task, loss_tau=self.loss_tau)
        super().train(task, progress)

    def loss(self, batch: Batch, task: Task) -> Tensor:
        loss = super().loss(batch, task)
        if self.config.balance == "weight" or len(batch.x) == batch.images:
            return loss
        return loss + self.config.balance_loss * self.balanced_losses(batch)

    def balanced_losses(self, batch: Batch) -> Tensor:
        """tau M + (1 - tau) (1 - J) of a batch: its images against its pseudo-features."""
        new = slice(min(batch.images, LOSS_ROWS))
        old = slice(batch.images, batch.images + LOSS_ROWS)
        new_x, old_x = self.embed(batch.x[new]), self.embed(batch.x[old])
        labels = torch.cat([batch.labels[new], batch.labels[old]])
        classes, consecutive = torch.unique(labels, return_inverse=True)
        j = separability(torch.cat([new_x, old_x]), consecutive, num_classes=len(classes))
        losses: Tensor = self.loss_tau * mmd(new_x, old_x) + (1 - self.loss_tau) * (1 - j)
        return losses

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """Low-rank stacking, with weights that start from the balance factor."""
        config = self.config
        balance = self.measured(self.balance, task)
        weight = config.constant_weight if config.weights == "constant" else balance.weight
        weight = 1.0 if config.balance == "loss" else weight
        self.record(task, **{**balance._asdict(), "weight": weight})
        self.directions = None
        if fuses_by_direction(config) and self.holdout is not None and len(self.holdout.labels):
            self.directions = self.chosen_weights(old, new, task, weight)
            weights = self.directions.weights
            self.record(task, mean_weight=float(weights.mean()), weights=weights.tolist())
            return self.directions.fused(old, new)
        if config.balance == "loss":
            return new
        fused = delta_stack if config.stacking == "delta" else stack
        return fused(old, new, weight=weight, rank=config.rank)

    def chosen_weights(
        self, old: Tensor, new: Tensor, task: Task, prior: float
    ) -> DirectionWeights:
        """The weights of the directions of this change that the held-out rows choose."""
        assert self.holdout is not None
        partner, (x, labels) = self.holdout.partner, self.holdout.judges()
        held_out = HeldOutChange(
            old=partner.before,
            new=partner.adapter,
            x=x,
            labels=labels,
            texts=self.texts(task.classes.stop),
            logit_scale=self.logit_scale,
        )
        return direction_weights(
            new - old, self.config.rank, prior, self.config.weight_prior, held_out
        )

    def fuse_partner(self, partner: AdapterMethod, new: Tensor, task: Task) -> Tensor:
        """The partner's change with the weights of the same directions."""
        if self.directions is None:
            return super().fuse_partner(partner, new, task)
        return self.directions.fused(partner.before, new)

    def measured(self, factor: BalanceFactor, task: Task) -> Balance:
        """The balance factor of the task and the classes before it, under the present adapter."""
        old_x, old_labels = self.old_side(task)
        new_x, new_labels = self.new_side(task)
        return factor(self.embed(old_x), old_labels, self.embed(new_x), new_labels)

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
        maxima = [factor.state_dict()["maxima"] for factor in (self.balance, self.loss_balance)]
        return {**super().state_dict(), "balance": torch.stack(maxima)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        for factor, maxima in zip((self.balance, self.loss_balance), state["balance"], strict=True):
            factor.load_state_dict({"maxima": maxima})


def fuses_by_direction(config: AwpfConfig) -> bool:
    return config.weights == "direction" and config.balance != "loss"
