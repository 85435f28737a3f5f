"""GCL: the global contrastive loss with a small buffer, reconstructed from the abstract of
arXiv 2605.03866.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.contrastive import MovingAverages, gamma_at, global_contrastive
from awpf_ext.methods._base.buffered_finetuning import (
    BufferedFineTuning,
    BufferedFineTuningConfig,
    JointBatch,
)
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state
from awpf_ext.methods.registry import register

SMALLEST_EPS = 1e-14  # as in FastCLIP; keeps the logarithm finite


class GclConfig(BufferedFineTuningConfig):
    gamma: float = Field(
        0.8, gt=0, le=1, description="Weight of the current batch in the moving averages"
    )
    gamma_epochs: int = Field(
        2, ge=0, description="Epochs of each task in which gamma decays from 1 along a cosine"
    )
    eps: float = Field(
        0,
        ge=0,
        le=1,
        description="Weight of a sample's own pair in its partition functions, in units of "
        "1 / (classes - 1): 0 = other classes only; 1 makes the image side cross-entropy",
    )


@register("gcl")
class Gcl(BufferedFineTuning):
    """Contrasts each sample with all samples of other classes; see finetuning/contrastive.py."""

    Config: ClassVar[type[MethodConfig]] = GclConfig
    config: GclConfig

    def __init__(self, config: GclConfig, **given: Any) -> None:
        super().__init__(config, **given)
        self.averages = MovingAverages(self.device)

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        """The loss of each sample in units of cross-entropy: T log(eps + u), divided by T."""
        gamma = gamma_at(batch.epoch, self.config.gamma, self.config.gamma_epochs)
        return self.contrasted(images, texts, batch.labels, batch.ids, self.averages, gamma)

    def contrasted(
        self,
        images: Tensor,
        texts: Tensor,
        labels: Tensor,
        ids: Tensor,
        averages: MovingAverages,
        gamma: float,
    ) -> Tensor:
        return global_contrastive(
            images @ texts.T,
            labels,
            ids,
            averages,
            temperature=self.temperature,
            gamma=gamma,
            eps=max(self.config.eps / max(len(texts) - 1, 1), SMALLEST_EPS),
        )

    def learn(self, task: Task, progress: EpochProgress) -> None:
        super().learn(task, progress)
        self.averages.keep(self.buffer.ids.to(self.device))  # the others are not seen again

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **joined_states({"gcl": self.averages.state_dict()})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        if averages := part_of_state(state, "gcl"):
            self.averages.load_state_dict(averages)
