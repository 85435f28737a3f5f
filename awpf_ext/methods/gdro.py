"""GDRO: classes with larger losses get larger weights, reconstructed from the abstract of
arXiv 2605.03866.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.group_dro import ClassWeights
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.methods._base.buffered_finetuning import JointBatch
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state
from awpf_ext.methods.gcl import Gcl, GclConfig
from awpf_ext.methods.registry import register


class GdroConfig(GclConfig):
    objective: Literal["gcl", "ce"] = Field(
        "gcl", description="Losses that are weighted: those of GCL, or cross-entropies"
    )
    dro_lambda: float = Field(
        1.0,
        gt=0,
        description="KL weight lambda of the class weights: a large one gives the mean over "
        "classes, a small one the worst class",
    )
    weight_momentum: float = Field(
        0.9, gt=0, le=1, description="Weight of the current batch in a class's running loss"
    )


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
            momentum=config.weight_momentum,
            device=self.device,
        )

    def loss(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        return self.class_weights.loss(
            self.sample_losses(images, texts, batch), batch.labels, batch.drawn_from
        )

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        if self.config.objective == "gcl":
            return super().sample_losses(images, texts, batch)
        logits = images @ texts.T / self.temperature
        return cross_entropy(logits, batch.labels, reduction="none")

    def after_task(self, task: Task, samples: TaskSamples) -> None:
        weights = self.class_weights.weights(samples.labels.unique().to(self.device))
        self.records.append(
            {
                "kind": "class_weights",
                "task": task.index,
                "weights": weights[: task.classes.stop].tolist(),
            }
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **joined_states({"gdro": self.class_weights.state_dict()})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        if weights := part_of_state(state, "gdro"):
            self.class_weights.load_state_dict(weights)
