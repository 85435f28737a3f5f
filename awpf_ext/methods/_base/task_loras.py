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
from awpf_ext.lora.icm.layout import is_a
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
    freeze_a: bool = Field(
        True,
        description="Train B alone: all LoRAs then have one A and their changes of CLIP are linear "
        "in B",
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
        for name, parameter in self.trainable.named_parameters().items():
            parameter.requires_grad_(not (config.freeze_a and is_a(name)))
        self.loras: dict[int, dict[str, Tensor]] = {}  # by task; a task without images has none
        self.fused = self.start
        self._first = 0  # class of the task
        self._training: dict[str, Any] = {}  # identifies what the latest LoRA was trained on
        self._kept: TrainedAdapters | None = None  # opened for learning only

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
        self.collect(task, progress)
        with self.timed("fuse"):
            self.fused = self.fuse(task)
        self._class_texts = None

    def collect(self, task: Task, progress: EpochProgress) -> None:
        """Train or take the LoRA of a task, and keep what its fusion with others needs."""
        self._training = _training(task, self.text)
        with self.timed("train"):
            run = self.config.adapters
            taken = None if run is None else self._kept_by(run)
            self.loras[task.index] = (
                self.trained(task, progress) if taken is None else self.taken(task, taken)
            )

    def adapters(self) -> Mapping[str, AdapterFiles]:
        """The latest task's LoRA, unless it comes from another run."""
        latest = max(self.loras, default=None)
        if latest is None or self.config.adapters is not None or not self._training:
            return {}
        tensors = {name: value.cpu() for name, value in self.loras[latest].items()}
        config = self.trainable.to_adapter().config
        return {task_name(latest): AdapterFiles(tensors, config, self._training)}

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

    def trained(self, task: Task, progress: EpochProgress) -> dict[str, Tensor]:
        """The LoRA of a task, trained on its images."""
        return self.train_one(task, progress, seed_of("lora", self.seed, task.index))

    def taken(self, task: Task, run: TrainedAdapters) -> dict[str, Tensor]:
        """The LoRA of a task that another run has trained on the same data."""
        return self._loaded(run.read(task.index, self._training))

    def train_one(self, task: Task, progress: EpochProgress, seed: int) -> dict[str, Tensor]:
        """A LoRA trained on `task` from the shared start."""
        self._first = task.classes.start
        self.trainable.load_state_dict(self.start)
        self.generator.manual_seed(seed)
        self.train(task, TaskSamples(task, Buffer(0), self.inputs), progress)
        return self.trainable.state_dict()

    def _kept_by(self, run: str) -> TrainedAdapters:
        if self._kept is None:
            self._kept = TrainedAdapters(run, self.trainable.to_adapter())
        return self._kept


def seed_of(*names: object) -> int:
    """A separate seed for each purpose."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


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
