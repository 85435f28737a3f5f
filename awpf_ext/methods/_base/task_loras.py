"""One LoRA per task, all trained from the same initial factors, and a fusion of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.buffer import Buffer
from awpf_ext.finetuning.lora_clip import LoraClip
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.lora.adapter_writer import AdapterFiles
from awpf_ext.lora.trained_adapters import TrainedAdapters, task_name
from awpf_ext.methods._base.finetuning import FineTuningConfig, FineTuningMethod, JointBatch
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state


class TaskLorasConfig(FineTuningConfig):
    """Settings of the shared loop and of the LoRAs' origin."""

    train: Literal["lora"] = "lora"
    adapters: str | None = Field(
        None,
        description="Folder of a run whose adapters/ are used instead of training; null = train",
    )


class TaskLoras(FineTuningMethod):
    """Trains each task's LoRA on that task alone; a subclass fuses the LoRAs.

    Every LoRA starts from the same factors, and the randomness of its training depends only on the
    seed and the task's index. So methods that differ only in the fusion have the same LoRAs.
    """

    Config: ClassVar[type[MethodConfig]] = TaskLorasConfig
    config: TaskLorasConfig
    trainable: LoraClip
    distributed = False

    def __init__(self, config: TaskLorasConfig, **given: Any) -> None:
        super().__init__(config, **given)
        self.start = self.trainable.state_dict()
        self.loras: dict[int, dict[str, Tensor]] = {}  # by task; a task without images has none
        self.fused = self.start
        self._first = 0  # class of the task
        self._training: dict[str, Any] = {}  # identifies what the latest LoRA was trained on
        self._kept: TrainedAdapters | None = None  # opened for learning only

    @property
    def compares_with_start(self) -> bool:
        """Whether LoRAs from another run must have started from the same factors as this run."""
        return False

    def fuse(self, task: Task) -> dict[str, Tensor]:
        """The fused tensors used for classification, from all `loras`; `task` is the latest."""
        raise NotImplementedError

    def candidates(self, task: Task) -> range:
        """A LoRA is trained on its own classes only."""
        return task.classes

    def loss(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        return cross_entropy(images @ texts.T / self.temperature, batch.labels - self._first)

    def learn(self, task: Task, progress: EpochProgress) -> None:
        if not len(task):
            return
        self._training = _training(task, self.text)
        with self.timed("train"):
            if self.config.adapters is None:
                self.loras[task.index] = self._trained(task, progress)
            else:
                self.loras[task.index] = self._taken(self.config.adapters, task)
        with self.timed("fuse"):
            self.fused = self.fuse(task)
        self._class_texts = None

    def adapters(self) -> Mapping[str, AdapterFiles]:
        """The latest task's LoRA, unless it comes from another run."""
        latest = max(self.loras, default=None)
        if latest is None or self.config.adapters is not None or not self._training:
            return {}
        tensors = {name: value.cpu() for name, value in self.loras[latest].items()}
        config = self.trainable.to_adapter().config
        training = {**self._training, "start": _digest(self.start)}
        return {task_name(latest): AdapterFiles(tensors, config, training)}

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        return self.trainable.embed(x.to(self.device), self.fused)

    @torch.no_grad()
    def texts(self, classes: int) -> Tensor:
        if self._class_texts is None or len(self._class_texts) < classes:
            self._class_texts = self.trainable.texts(range(classes), self.fused)
        return self._class_texts[:classes]

    def learned_state(self) -> dict[str, Tensor]:
        parts = {"fused": self.fused}
        return {"seen": torch.tensor(self.seen), **joined_states(parts)}

    def state_dict(self) -> dict[str, Tensor]:
        loras = {f"lora.{task:04d}": tensors for task, tensors in self.loras.items()}
        return {**super().state_dict(), **joined_states({"fused": self.fused, **loras})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.fused = self._loaded(part_of_state(state, "fused"))
        self.loras = {}
        tasks = {name.split(".")[1] for name in state if name.startswith("lora.")}
        for task in sorted(tasks):
            self.loras[int(task)] = self._loaded(part_of_state(state, f"lora.{task}"))
        self._class_texts = None

    def _loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device, copy=True) for name, value in tensors.items()}

    def _taken(self, run: str, task: Task) -> dict[str, Tensor]:
        if self._kept is None:
            self._kept = TrainedAdapters(run, self.trainable.to_adapter())
        expected = dict(self._training)
        if self.compares_with_start:
            expected["start"] = _digest(self.start)
        return self._loaded(self._kept.read(task.index, expected))

    def _trained(self, task: Task, progress: EpochProgress) -> dict[str, Tensor]:
        self._first = task.classes.start
        self.trainable.load_state_dict(self.start)
        self.generator.manual_seed(seed_of("lora", self.seed, task.index))
        self.train(task, TaskSamples(task, Buffer(0), self.inputs), progress)
        return self.trainable.state_dict()


def seed_of(*names: object) -> int:
    """A separate seed for each purpose."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _training(task: Task, text: Tensor) -> dict[str, Any]:
    """A few numbers that identify a task's data."""
    rows = torch.stack([task.train_ids, task.train_y.cpu()])
    means = torch.cat([task.train_x.mean(dim=0), text[list(task.classes)].mean(dim=0)])
    return {
        "task": task.index,
        "classes": [task.classes.start, task.classes.stop],
        "images": len(task),
        "rows": hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16],
        "mean_features": [round(value, 5) for value in means.tolist()],
    }
