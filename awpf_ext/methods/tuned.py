"""The loop that the fine-tuning methods share: new and buffered samples drawn alike, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.methods.base import EpochProgress, Inputs, Method, MethodConfig
from awpf_ext.tuning.buffer import Buffer, Form
from awpf_ext.tuning.config import TuningConfig
from awpf_ext.tuning.samples import Samples
from awpf_ext.tuning.step import joint_backward
from awpf_ext.tuning.trainable import Tuned, make_tuned

LEARNING_RATES = {"all": 1e-5, "lora": 1e-4, "adapter": 1e-3}


class TunedConfig(TuningConfig, MethodConfig):
    """Settings of the shared loop; the defaults are the paper's where it is known."""

    epochs: int = Field(5, ge=0)
    batch_size: int = Field(256, ge=1, description="samples of a step, of all processes together")
    learning_rate: float | None = Field(
        None, gt=0, description="of AdamW; null: 1e-5 for all of CLIP, 1e-4 for LoRA, 1e-3 else"
    )
    weight_decay: float = Field(0.1, ge=0, description="not of biases, norms and positions")
    temperature: float | None = Field(
        None, gt=0, description="cosines are divided by it in the loss; null: as CLIP was trained"
    )
    buffer: int = Field(1000, ge=0, description="most samples kept of all earlier tasks together")
    buffer_as: Form = Field(
        "references", description="references into the data set, or copies: png (lossless), jpeg"
    )
    jpeg_quality: int = Field(90, ge=1, le=100)


class TunedBatch(NamedTuple):
    """What a loss is told about the joint batch, beside its embeddings."""

    labels: Tensor
    ids: Tensor  # of the samples, the same in every task and run
    epoch: int
    drawn_from: Tensor  # the classes that this task's samples have


class TunedMethod(Method):
    """Trains CLIP, a LoRA on it, or an adapter; a subclass says with which loss."""

    Config: ClassVar[type[MethodConfig]] = TunedConfig
    config: TunedConfig
    protocols = ("class", "domain")
    distributed = True
    large_state = True

    def __init__(self, config: TunedConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.tuned = self.fresh()
        self.buffer = Buffer(config.buffer, config.buffer_as, config.jpeg_quality)
        self._bank: Tensor | None = None  # texts as they are now

    @classmethod
    def trains_clip(cls, config: MethodConfig) -> bool:
        assert isinstance(config, TunedConfig)
        return config.train != "adapter"

    @property
    def inputs(self) -> Inputs:
        return self.tuned.inputs

    @property
    def temperature(self) -> float:
        return self.config.temperature or 1 / self.logit_scale

    def fresh(self) -> Tuned:
        """What is trained, before any training."""
        return make_tuned(self.config, self.text, self.clip, self.team, self.generator)

    def loss(self, images: Tensor, texts: Tensor, batch: TunedBatch) -> Tensor:
        """What a step minimises, from the joint batch's embeddings and the texts seen; called
        once a step, and by every process alike.
        """
        raise NotImplementedError

    def before_task(self, task: Task) -> None:
        """Before a task's samples are gathered."""

    def after_step(self, step: int, steps: int) -> None:
        """`step` of the task's `steps` are done."""

    def after_task(self, task: Task, samples: Samples) -> None:
        """After the training, before the buffer takes from the task."""

    def learn(self, task: Task, progress: EpochProgress) -> None:
        self.before_task(task)
        samples = Samples(task, self.buffer, self.inputs)
        if len(samples):
            with self.timed("train"):
                self._bank = None
                self.train(task, samples, progress)
        self.after_task(task, samples)
        if self.config.buffer:
            with self.timed("buffer"):
                self._fill_buffer(task, samples)

    def train(self, task: Task, samples: Samples, progress: EpochProgress) -> None:
        """AdamW from a fresh start, for all epochs of one task."""
        config, tuned = self.config, self.tuned
        rate = config.learning_rate or LEARNING_RATES[config.train]
        groups = tuned.parameter_groups(config.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        drawn_from = samples.labels.unique().to(self.device)
        steps, step = config.epochs * -(-len(samples) // config.batch_size), 0
        for epoch in range(config.epochs):
            order = torch.randperm(len(samples), generator=self.generator, device=self.device)
            parts = torch.split(order.cpu(), config.batch_size)
            shares = [part[slice_of(self.team.share(len(part)))] for part in parts]
            for part, x in zip(parts, samples.batches(shares), strict=True):
                labels, ids = (y[part].to(self.device) for y in (samples.labels, samples.ids))
                batch = TunedBatch(labels, ids, epoch, drawn_from)

                def loss(images: Tensor, texts: Tensor, batch: TunedBatch = batch) -> Tensor:
                    return self.loss(images, texts, batch)

                optimizer.zero_grad()
                joint_backward(
                    tuned,
                    x.to(self.device),
                    range(task.classes.stop),
                    loss,
                    micro_batch=config.micro_batch,
                    team=self.team,
                )
                optimizer.step()
                step += 1
                self.after_step(step, steps)
            progress(epoch + 1, config.epochs)
        optimizer.zero_grad()

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        return self.tuned.embed(x.to(self.device))

    @torch.no_grad()
    def texts(self, classes: int) -> Tensor:
        if self._bank is None or len(self._bank) < classes:
            self._bank = self.tuned.texts(range(classes))
        return self._bank[:classes]

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"tuned": self.tuned.state_dict(), "buffer": self.buffer.state_dict()}
        return {**super().state_dict(), **joined_states(parts)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.tuned.load_state_dict(part_of_state(state, "tuned"))
        self.buffer.load_state_dict(part_of_state(state, "buffer"))
        self._bank = None

    def _fill_buffer(self, task: Task, samples: Samples) -> None:
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
                "most_of_a_class": int(kept.max()),
                "fewest_of_a_class": int(kept.min()),
                "copied_bytes": self.buffer.bytes,
            }
        )


def slice_of(span: range) -> slice:
    return slice(span.start, span.stop)


def joined_states(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of several parts in one."""
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def part_of_state(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Of `joined_states` one part's."""
    prefix = f"{part}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
