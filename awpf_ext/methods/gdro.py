"""GDRO: classes with larger losses get larger weights, reconstructed from the abstract of
arXiv 2605.03866.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.contrastive import MovingAverages
from awpf_ext.finetuning.group_dro import ClassWeights, effective_number
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.methods._base.buffered_finetuning import JointBatch
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state
from awpf_ext.methods.gcl import Gcl, GclConfig
from awpf_ext.methods.registry import register


class GdroConfig(GclConfig):
    class_balance: bool = Field(True, description="Always true: GDRO weights classes, not samples")
    objective: Literal["gcl", "ce"] = Field(
        "gcl", description="Losses that are weighted: those of GCL, or cross-entropies"
    )
    effective_classes: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the classes that count: lambda follows from the effective number "
        "1 + share * (classes - 1), which is 1 / sum of the squared weights; 1 = all weights equal",
    )
    dro_lambda: float | None = Field(
        None,
        gt=0,
        description="KL weight lambda of the class weights; null = from effective_classes",
    )
    group_adjustment: float = Field(
        0,
        ge=0,
        description="C: C / sqrt(n) is added to the loss of a class with n samples, since few "
        "samples that are seen often look easier than they are",
    )
    class_losses: Literal["running", "exact"] | None = Field(
        None,
        description="running = a moving average over batches; exact = the loss of all samples, "
        "computed before each epoch; null = exact for train=adapter, else running",
    )
    weight_momentum: float = Field(
        0.3, gt=0, le=1, description="Weight of the current batch in a class's running loss"
    )

    @field_validator("class_balance")
    @classmethod
    def _balanced(cls, value: bool) -> bool:
        if not value:
            raise ValueError("class_balance is false; expected true, since gdro weights classes")
        return value


@register("gdro")
class Gdro(Gcl):
    """The losses of GCL with a weight for each class; see finetuning/group_dro.py."""

    Config: ClassVar[type[MethodConfig]] = GdroConfig
    config: GdroConfig

    def __init__(self, config: GdroConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.class_weights = ClassWeights(
            len(text),
            dro_lambda=config.dro_lambda,
            effective_classes=config.effective_classes,
            adjustment=config.group_adjustment,
            new_weight=config.weight_momentum,
            device=self.device,
        )

    @property
    def exact(self) -> bool:
        """Whether class losses are those of all samples, not running averages."""
        default = "exact" if self.config.train == "adapter" else "running"
        return (self.config.class_losses or default) == "exact"

    def loss(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        losses = self.sample_losses(images, texts, batch)
        weights = self.class_weights.sample_weights(batch.labels, batch.counts)
        if not self.exact and self._comparable(batch):
            # After the weights, which must not depend on the batch.
            self.class_weights.update(losses, batch.labels)
        return (weights * losses).mean()

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        if self.config.objective == "gcl":
            return super().sample_losses(images, texts, batch)
        return self._cross_entropies(images, texts, batch.labels)

    @torch.no_grad()
    def before_epoch(self, task: Task, samples: TaskSamples) -> None:
        if not self.exact:
            return
        images = self.embed_all(samples)
        texts = self.trainable.texts(self.candidates(task))
        labels = samples.labels.to(self.device)
        if self.config.objective == "gcl":
            ids = torch.arange(len(labels), device=self.device)
            # All samples in one batch: their own estimate is the partition function itself.
            losses = self.contrasted(images, texts, labels, ids, MovingAverages(self.device), 1.0)
        else:
            losses = self._cross_entropies(images, texts, labels)
        self.class_weights.replace(losses, labels)

    def _comparable(self, batch: JointBatch) -> bool:
        """Whether the losses have all their parts: GCL has no text side for a single class."""
        single = bool((batch.labels == batch.labels[0]).all())
        return not single or self.config.objective == "ce" or int((batch.counts > 0).sum()) == 1

    def after_task(self, task: Task, samples: TaskSamples) -> None:
        if len(samples):
            self.before_epoch(task, samples)  # exact losses as they are now
        counts = torch.bincount(samples.labels, minlength=task.classes.stop).to(self.device)
        weights, dro_lambda = self.class_weights.weights_and_lambda(counts)
        self.records.append(
            {
                "kind": "class_weights",
                "task": task.index,
                "weights": weights.tolist(),
                "dro_lambda": dro_lambda,
                "effective_classes": effective_number(weights) if len(samples) else 0.0,
            }
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **joined_states({"gdro": self.class_weights.state_dict()})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        if weights := part_of_state(state, "gdro"):
            self.class_weights.load_state_dict(weights)

    def _cross_entropies(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(images @ texts.T / self.temperature, labels, reduction="none")
