"""ICM-Fusion, reconstructed from the abstract of arXiv 2508.04153: the tasks' LoRAs, fused by a VAE
that learns to encode them. See docs/methods/icm_fusion.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.buffer import Buffer
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.lora.icm import (
    FlatLora,
    FusionVae,
    InnerSteps,
    Layout,
    MetaSettings,
    TaskLoss,
    TrainingSet,
    count_sketch,
    fuse_loras,
    meta_train,
    stack_loras,
)
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state
from awpf_ext.methods._base.task_loras import TaskLoras, TaskLorasConfig, seed_of
from awpf_ext.methods.registry import register

SKETCH = 256  # length of a task vector computed from weights


class IcmFusionConfig(TaskLorasConfig):
    checkpoints: int = Field(
        20,
        ge=1,
        description="Number of last training steps of each LoRA that the F-VAE learns from",
    )
    task_vector: Literal["features", "weights"] = Field(
        "features",
        description="features = the task's mean image and mean text feature; weights = a random "
        "projection of the LoRA's change in training",
    )
    latent: int = Field(256, ge=1, description="Latent dimension of the F-VAE")
    meta_steps: int = Field(100, ge=0, description="Training steps of the F-VAE after each task")
    meta_batch: int = Field(8, ge=1, description="LoRAs per meta-step")
    meta_learning_rate: float = Field(2e-4, gt=0, description="Learning rate of Adam in meta-steps")
    kl_weight: float = Field(
        0.005, ge=0, description="Weight of the KL divergence of the latent codes"
    )
    inner_steps: int = Field(
        5, ge=0, description="Gradient steps on a task's loss for a decoded LoRA"
    )
    inner_rate: float = Field(1e-3, gt=0, description="Step size of the inner steps")
    inner_every: int = Field(
        10, ge=1, description="One LoRA takes the inner steps in every N-th meta-step"
    )
    inner_batch: int = Field(16, ge=1, description="Images of the task per inner step")
    buffer: int = Field(
        200,
        ge=0,
        description="Images kept of earlier tasks for inner steps; 0 = latest task only",
    )
    rescale: bool = Field(
        True, description="Rescale the fused tensors to the standard deviations of the LoRAs"
    )


@register("icm_fusion")
class IcmFusion(TaskLoras):
    """After each task, trains the F-VAE on training states of all LoRAs and fuses them."""

    Config: ClassVar[type[MethodConfig]] = IcmFusionConfig
    config: IcmFusionConfig

    def __init__(self, config: IcmFusionConfig, **given: Any) -> None:
        super().__init__(config, **given)
        self.layout = Layout.of(self.start)
        self.buffer = Buffer(config.buffer)
        self.task_of: dict[int, int] = {}  # task of each sample id in the buffer
        self.classes_of: dict[int, range] = {}
        self.vectors: dict[int, Tensor] = {}
        self.states: dict[int, FlatLora] = {}  # latest training states, in float16
        self._recent: list[FlatLora] = []
        size = 2 * self.text.shape[1] if config.task_vector == "features" else SKETCH
        seed = seed_of("f-vae", self.seed)
        self.vae = FusionVae(self.layout.size, size, config.latent, seed).to(self.device)
        self.random = torch.Generator(self.device)

    @property
    def compares_with_start(self) -> bool:
        return self.config.task_vector == "weights"

    def after_step(self, step: int, steps: int) -> None:
        if step > steps - self.config.checkpoints:
            self._recent.append(_in_half(self.layout.flatten(self.trainable.state_dict())))

    def fuse(self, task: Task) -> dict[str, Tensor]:
        index = task.index
        latest = self.layout.flatten(self.loras[index])
        self.states[index] = stack_loras(self._recent or [_in_half(latest)])
        self._recent = []
        self.classes_of[index] = task.classes
        self.vectors[index] = self._task_vector(task)
        self.random.manual_seed(seed_of("fusion", self.seed, index))
        result = self.loras[index]
        if len(self.loras) > 1:
            result = self._fused(task)
        self._fill_buffer(task)
        return result

    def _fused(self, task: Task) -> dict[str, Tensor]:
        config, tasks = self.config, list(self.loras)
        data = self._training_set(tasks)
        inner = InnerSteps(
            self._task_loss(task, tasks), config.inner_steps, config.inner_rate, config.inner_every
        )
        settings = MetaSettings(
            config.meta_steps, config.meta_batch, config.meta_learning_rate, config.kl_weight
        )
        steps = meta_train(self.vae, data, settings, self.random, inner)
        flats = stack_loras([self.layout.flatten(self.loras[one]) for one in tasks])
        if steps:
            variance = data.flats.values.float().var(dim=0, correction=0).mean().item()
            last = steps[-min(len(steps), 10) :]
            error = sum(step.error for step in last) / len(last)
            self.records.append(
                {
                    "kind": "icm_fusion",
                    "task": task.index,
                    "loras": len(data.tasks),
                    "explained": 1 - error / variance if variance else math.nan,
                    "divergence": sum(step.divergence for step in last) / len(last),
                }
            )
        weights = [1 / len(tasks)] * len(tasks)
        return fuse_loras(
            self.vae,
            self.layout,
            flats,
            data.vectors,
            weights,
            inner=inner,
            rescale=config.rescale,
        )

    def _training_set(self, tasks: list[int]) -> TrainingSet:
        states = [self.states[task] for task in tasks]
        counts = torch.tensor([len(state.values) for state in states], device=self.device)
        return TrainingSet(
            self.layout,
            FlatLora(*(torch.cat(parts) for parts in zip(*states, strict=True))),
            torch.arange(len(tasks), device=self.device).repeat_interleave(counts),
            torch.stack([self.vectors[task] for task in tasks]),
        )

    def _task_vector(self, task: Task) -> Tensor:
        if self.config.task_vector == "features":
            images = normalize(task.train_x, dim=-1).mean(dim=0)
            texts = self.text[task.classes.start : task.classes.stop].mean(dim=0)
            return torch.cat([normalize(images, dim=-1), normalize(texts, dim=-1)])
        lora = self.loras[task.index]
        changed = [(lora[name] - self.start[name]).flatten() for name in self.layout.shapes]
        return count_sketch(torch.cat(changed), SKETCH)

    def _task_loss(self, task: Task, tasks: list[int]) -> TaskLoss:
        """Uses samples of the current task, and for earlier tasks those in the buffer."""
        samples = TaskSamples(task, Buffer(0), self.inputs)
        task_of = torch.tensor([self.task_of[one] for one in self.buffer.ids.tolist()])
        held = {task.index: (task.train_ids, task.train_y.cpu())}
        for index in tasks[:-1]:
            rows = (task_of == index).nonzero().flatten()
            held[index] = self.buffer.ids[rows], self.buffer.labels[rows]

        def loss(place: int, tensors: Mapping[str, Tensor]) -> Tensor | None:
            ids, labels = held[tasks[place]]
            if not len(ids):
                return None
            order = torch.randperm(len(ids), generator=self.random, device=self.device).cpu()
            chosen = order[: self.config.inner_batch]
            x = next(iter(samples.by_id([ids[chosen]])))
            classes = self.classes_of[tasks[place]]
            logits = self.trainable.embed(x, tensors) @ self.trainable.texts(classes, tensors).T
            wanted = labels[chosen].to(self.device) - classes.start
            return cross_entropy(logits / self.temperature, wanted)

        return loss

    def _fill_buffer(self, task: Task) -> None:
        self.task_of.update(dict.fromkeys(task.train_ids.tolist(), task.index))
        self.buffer.update(
            task.train_ids, task.train_y, task.classes.stop, self.random, lambda ids: ids
        )
        self.task_of = {one: self.task_of[one] for one in self.buffer.ids.tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        tasks = torch.tensor([self.task_of[one] for one in self.buffer.ids.tolist()])
        spans = [[task, span.start, span.stop] for task, span in self.classes_of.items()]
        facts = {"task_of": tasks.long(), "spans": torch.tensor(spans).long()}
        states = {f"states.{task:04d}": flat._asdict() for task, flat in self.states.items()}
        vectors = {f"{task:04d}": vector for task, vector in self.vectors.items()}
        parts = {
            "icm": facts,
            "buffer": self.buffer.state_dict(),
            "vae": self.vae.state_dict(),
            "vector": vectors,
            **states,
        }
        return {**super().state_dict(), **joined_states(parts)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        facts = part_of_state(state, "icm")
        if not facts:  # an export, which cannot be trained further
            return
        self.buffer.load_state_dict(part_of_state(state, "buffer"))
        ids = self.buffer.ids.tolist()
        self.task_of = dict(zip(ids, facts["task_of"].tolist(), strict=True))
        self.classes_of = {t: range(start, stop) for t, start, stop in facts["spans"].tolist()}
        self.vae.load_state_dict(self._loaded(part_of_state(state, "vae")))
        self.vectors = {
            int(task): vector
            for task, vector in self._loaded(part_of_state(state, "vector")).items()
        }
        self.states = {
            task: FlatLora(**self._loaded(part_of_state(state, f"states.{task:04d}")))
            for task in self.classes_of
        }


def _in_half(flat: FlatLora) -> FlatLora:
    """In float16, which suffices for standardised values."""
    return flat._replace(values=flat.values.half())
