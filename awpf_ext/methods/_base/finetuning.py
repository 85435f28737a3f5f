"""The training loop of all methods that fine-tune CLIP, in full, by LoRA or by an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.build import TrainableClip, build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward, never_empty
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.finetuning.trainable_config import TrainableConfig
from awpf_ext.methods._base.method import EpochProgress, Inputs, Method, MethodConfig

LEARNING_RATES = {"full": 1e-5, "lora": 3e-4, "adapter": 3e-4}


class FineTuningConfig(TrainableConfig, MethodConfig):
    """Settings of the shared loop; the defaults are the paper's where it gives them."""

    epochs: int = Field(5, ge=0, description="Epochs per task")
    batch_size: int = Field(256, ge=1, description="Samples per step, summed over all processes")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Learning rate of AdamW; null = 1e-5 for full, 3e-4 for lora and adapter",
    )
    weight_decay: float = Field(
        0.1, ge=0, description="Weight decay, except of biases, norms and position embeddings"
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Temperature that divides the cosines in the loss; null = that of CLIP",
    )


class JointBatch(NamedTuple):
    """What a loss knows about the joint batch besides its embeddings."""

    labels: Tensor
    ids: Tensor  # sample ids, the same in every task and run
    epoch: int
    counts: Tensor  # the number of this task's samples of each class seen


class FineTuningMethod(Method):
    """Trains CLIP with AdamW on joint batches; a subclass chooses the samples and the loss."""

    Config: ClassVar[type[MethodConfig]] = FineTuningConfig
    config: FineTuningConfig
    protocols = ("class", "domain")
    distributed = True
    large_state = True

    def __init__(self, config: FineTuningConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.trainable = self.fresh()
        self._class_texts: Tensor | None = None  # of the current parameters

    @classmethod
    def trains_clip(cls, config: MethodConfig) -> bool:
        assert isinstance(config, FineTuningConfig)
        return config.train != "adapter"

    @property
    def inputs(self) -> Inputs:
        return self.trainable.inputs

    @property
    def temperature(self) -> float:
        return self.config.temperature or 1 / self.logit_scale

    def fresh(self) -> TrainableClip:
        """The trainable CLIP as it is before any training."""
        return build_trainable(self.config, self.text, self.clip, self.world, self.generator)

    def loss(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        """What a step minimises, given the embeddings of the joint batch and the texts seen.

        It is called once per step, with the same arguments in every process.
        """
        raise NotImplementedError

    def candidates(self, task: Task) -> range:
        """The classes whose texts the loss receives."""
        return range(task.classes.stop)

    def before_epoch(self, task: Task, samples: TaskSamples) -> None:
        """Called before each epoch of a task."""

    def inputs_of(self, parts: Sequence[Tensor], samples: TaskSamples) -> Iterator[Tensor]:
        """This process's share of the inputs for each part, an index tensor into the samples."""
        return samples.batches(self._shares(parts))

    def after_step(self, step: int, steps: int) -> None:
        """Called when `step` of the task's `steps` are done."""

    def train(self, task: Task, samples: TaskSamples, progress: EpochProgress) -> None:
        """All epochs of one task, with a new AdamW optimizer."""
        config, trainable = self.config, self.trainable
        rate = config.learning_rate or LEARNING_RATES[config.train]
        groups = trainable.parameter_groups(config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        counts = torch.bincount(samples.labels, minlength=task.classes.stop).to(self.device)
        steps, step = config.epochs * -(-len(samples) // config.batch_size), 0
        for epoch in range(config.epochs):
            self.before_epoch(task, samples)
            order = torch.randperm(len(samples), generator=self.generator, device=self.device)
            # Equal parts: a small last batch would be a step of full length on few samples.
            parts = order.cpu().tensor_split(steps // config.epochs)
            for part, x in zip(parts, self.inputs_of(parts, samples), strict=True):
                labels, ids = (y[part].to(self.device) for y in (samples.labels, samples.ids))
                batch = JointBatch(labels, ids, epoch, counts)

                def loss(images: Tensor, texts: Tensor, batch: JointBatch = batch) -> Tensor:
                    return self.loss(images, texts, batch)

                optimizer.zero_grad()
                joint_backward(
                    trainable,
                    x.to(self.device),
                    self.candidates(task),
                    loss,
                    world=self.world,
                )
                optimizer.step()
                step += 1
                self.after_step(step, steps)
            progress(epoch + 1, config.epochs)
        optimizer.zero_grad()

    @torch.no_grad()
    def embed_all(self, samples: TaskSamples) -> Tensor:
        """The image embeddings (N, d) of all samples as they are, the same in every process."""
        parts = torch.arange(len(samples)).split(self.config.batch_size)
        rows = [
            self.world.all_gather(self.embed(never_empty(x))[: len(x)], len(part))
            for part, x in zip(parts, samples.batches(self._shares(parts)), strict=True)
        ]
        return torch.cat(rows)

    def _shares(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """This process's share of each part."""
        return [part[slice_of(self.world.share(len(part)))] for part in parts]

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        return self.trainable.embed(x.to(self.device))

    @torch.no_grad()
    def texts(self, classes: int) -> Tensor:
        if self._class_texts is None or len(self._class_texts) < classes:
            self._class_texts = self.trainable.texts(range(classes))
        return self._class_texts[:classes]


def slice_of(span: range) -> slice:
    return slice(span.start, span.stop)
