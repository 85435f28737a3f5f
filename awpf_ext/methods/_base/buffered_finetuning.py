"""Fine-tuning with a buffer: train on new and buffered samples together, then fill the buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from awpf_ext.data.stream import Task
from awpf_ext.finetuning import augmentation
from awpf_ext.finetuning.buffer import Buffer, BufferFormat
from awpf_ext.finetuning.lora_clip import LoraClip
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.lora.adapter_writer import AdapterFiles
from awpf_ext.lora.trained_adapters import task_name
from awpf_ext.methods._base.finetuning import (
    FineTuningConfig,
    FineTuningMethod,
    JointBatch,
    slice_of,
)
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state

__all__ = [
    "BufferedFineTuning",
    "BufferedFineTuningConfig",
    "JointBatch",
]


class BufferedFineTuningConfig(FineTuningConfig):
    """Settings of the loop and of the buffer; the defaults are the paper's where it gives them."""

    buffer: int = Field(1000, ge=0, description="Maximum number of samples kept from earlier tasks")
    buffer_format: BufferFormat = Field(
        "references",
        description="references = row numbers in the data set; png (lossless), jpeg = copies",
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="Quality of JPEG copies")
    class_balance: bool = Field(
        False,
        description="Give all classes the same weight in the loss, although a buffer has fewer "
        "samples of old ones; false = every sample counts the same",
    )
    augmentation: Literal["none", "buffer", "all"] = Field(
        "none",
        description="Images that are moved a little and flipped at random in every epoch: those of "
        "the buffer, all, or none",
    )

    @model_validator(mode="after")
    def _images_to_augment(self) -> Self:
        if self.augmentation != "none" and self.train == "adapter":
            raise ValueError(
                f"augmentation is {self.augmentation}; expected none with train=adapter, which "
                "learns from features instead of images"
            )
        return self


class BufferedFineTuning(FineTuningMethod):
    """Trains on each task together with the buffer; a subclass defines the loss of a sample."""

    Config: ClassVar[type[MethodConfig]] = BufferedFineTuningConfig
    config: BufferedFineTuningConfig

    def __init__(self, config: BufferedFineTuningConfig, **given: Any) -> None:
        super().__init__(config, **given)
        self.buffer = Buffer(config.buffer, config.buffer_format, config.jpeg_quality)
        self._latest: int | None = None  # the latest task learned in this process

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        """The loss of each sample of the joint batch."""
        raise NotImplementedError

    def loss(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        losses = self.sample_losses(images, texts, batch)
        if not self.config.class_balance:
            return losses.mean()
        return (balanced_weights(batch) * losses).mean()

    def inputs_of(self, parts: Sequence[Tensor], samples: TaskSamples) -> Iterator[Tensor]:
        found = super().inputs_of(parts, samples)
        if self.config.augmentation == "none":
            return found
        return self._augmented(parts, found, samples)

    def after_task(self, task: Task, samples: TaskSamples) -> None:
        """Called after training, before the buffer takes samples of the task."""

    def learn(self, task: Task, progress: EpochProgress) -> None:
        samples = TaskSamples(task, self.buffer, self.inputs)
        if len(samples):
            with self.timed("train"):
                self._class_texts = None
                self.train(task, samples, progress)
        self._latest = task.index
        self.after_task(task, samples)
        if self.config.buffer:
            with self.timed("buffer"):
                self._fill_buffer(task, samples)

    def adapters(self) -> Mapping[str, AdapterFiles]:
        """The LoRA after the latest task, if one is trained."""
        if self._latest is None or not isinstance(self.trainable, LoraClip):
            return {}
        return {f"after_{task_name(self._latest)}": self.trainable.to_adapter()}

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"trainable": self.trainable.state_dict(), "buffer": self.buffer.state_dict()}
        return {**super().state_dict(), **joined_states(parts)}

    def learned_state(self) -> dict[str, Tensor]:
        """The state without the buffer and without what the loss keeps about samples."""
        state = super().learned_state()
        return {key: state[key] for key in state if key == "seen" or key.startswith("trainable.")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.trainable.load_state_dict(part_of_state(state, "trainable"))
        if buffer := part_of_state(state, "buffer"):
            self.buffer.load_state_dict(buffer)
        self._class_texts = None

    def _augmented(
        self, parts: Sequence[Tensor], found: Iterator[Tensor], samples: TaskSamples
    ) -> Iterator[Tensor]:
        for part, rows in zip(parts, found, strict=True):
            share = slice_of(self.world.share(len(part)))
            # Drawn for all rows, so that the processes' generators stay equal.
            drawn = augmentation.draw(len(part), self.generator)[share]
            chosen = samples.buffered(part[share]) | (self.config.augmentation == "all")
            changed = rows.clone()
            changed[chosen] = augmentation.augmented(rows[chosen], drawn[chosen])
            yield changed

    def _fill_buffer(self, task: Task, samples: TaskSamples) -> None:
        self.buffer.update(
            task.train_ids,
            task.train_y,
            task.classes.stop,
            self.generator,
            lambda ids: next(iter(samples.by_id([ids]))),
        )
        kept = torch.bincount(self.buffer.labels, minlength=task.classes.stop)
        self.records.append(
            {
                "kind": "buffer",
                "task": task.index,
                "samples": len(self.buffer),
                "max_per_class": int(kept.max()),
                "min_per_class": int(kept.min()),
                "copied_bytes": self.buffer.bytes,
            }
        )


def balanced_weights(batch: JointBatch) -> Tensor:
    """N / (K n_y) of each sample, with which the mean over batches is the mean over K classes.

    N: the number of the task's samples; n_y: the number of those of the sample's class.
    """
    counts = batch.counts
    by_class = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
    return by_class[batch.labels]
