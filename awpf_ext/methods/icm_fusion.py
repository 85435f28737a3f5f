"""ICM-Fusion, reconstructed from the abstract of arXiv 2508.04153: the tasks' LoRAs, fused by a
search over the codes of a VAE that learns to encode them. See docs/methods/icm_fusion.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext import io
from awpf_ext.data.stream import Task
from awpf_ext.errors import UserError
from awpf_ext.finetuning.buffer import Buffer
from awpf_ext.lora.adapter_writer import AdapterFiles
from awpf_ext.lora.icm.layout import Layout
from awpf_ext.lora.trained_adapters import TrainedAdapters
from awpf_ext.methods._base.lora_fusion import Fusing, FusionSettings
from awpf_ext.methods._base.lora_population import APART, Population, checked, resampled
from awpf_ext.methods._base.method import EpochProgress, MethodConfig
from awpf_ext.methods._base.states import joined_states, part_of_state
from awpf_ext.methods._base.task_loras import TaskLoras, TaskLorasConfig, seed_of
from awpf_ext.methods.registry import register


class IcmFusionConfig(FusionSettings, TaskLorasConfig):
    population: int = Field(
        8,
        ge=1,
        description="LoRAs trained per task, all but the first on images drawn with replacement; "
        "of three or more the last is held out, to measure",
    )
    checkpoints: int = Field(
        3, ge=1, description="Late training states of each LoRA that the F-VAE learns from"
    )
    buffer: int = Field(
        200, ge=1, description="Images kept of all tasks, on which the fusion is searched"
    )

    @field_validator("freeze_a")
    @classmethod
    def _one_space(cls, value: bool) -> bool:
        if not value:
            raise ValueError("icm_fusion needs true, so that its LoRAs are linear in B")
        return value


@register("icm_fusion")
class IcmFusion(TaskLoras):
    """After each task, trains the F-VAE on the LoRAs of all tasks and searches their fusion."""

    Config: ClassVar[type[MethodConfig]] = IcmFusionConfig
    config: IcmFusionConfig

    def __init__(self, config: IcmFusionConfig, **given: Any) -> None:
        super().__init__(config, **given)
        self.buffer = Buffer(config.buffer)
        self.task_of: dict[int, int] = {}  # task of each sample id in the buffer
        self.vectors: dict[int, Tensor] = {}  # task vectors
        self.population = Population()
        self.random = torch.Generator(self.device)
        self._latest = 0  # the task that was learned last
        self._states: list[Tensor] = []  # late training states of the LoRA in training

    @property
    def layout(self) -> Layout:
        """Of all LoRAs, whose A are the same."""
        return Layout.of(next(iter(self.loras.values()), self.start))

    def after_step(self, step: int, steps: int) -> None:
        before_end = steps - step
        if before_end % APART == 0 and before_end // APART < self.config.checkpoints:
            self._states.append(Layout.of(self.start).flatten(self.trainable.state_dict()))

    def trained(self, task: Task, progress: EpochProgress) -> dict[str, Tensor]:
        """The task's LoRA, and its population."""
        config, members = self.config, []
        whole = config.epochs * config.population
        first: dict[str, Tensor] = {}
        for member in range(config.population):

            def of_all(done: int, epochs: int, before: int = member * config.epochs) -> None:
                progress(before + done, whole)

            self._states = []
            if member == 0:
                found = first = super().trained(task, of_all)
            else:
                seed = seed_of("lora", self.seed, task.index, member)
                drawn = resampled(task, torch.Generator(self.device).manual_seed(seed))
                found = self.train_one(drawn, of_all, seed)
            states = self._states or [Layout.of(self.start).flatten(found)]
            # Each LoRA has the same number of states, if it had fewer steps.
            members.append(
                torch.stack((states[:1] * config.checkpoints + states)[-config.checkpoints :])
            )
        self.population.add(task.index, torch.stack(members))
        return first

    def taken(self, task: Task, run: TrainedAdapters) -> dict[str, Tensor]:
        """The LoRA and the population of another run; of a run without one, the LoRA alone."""
        lora = super().taken(task, run)
        layout = self.layout if self.loras else Layout.of(lora)
        for name, tensor in layout.fixed.items():
            if not torch.equal(tensor, lora[name]):
                raise UserError(
                    f"adapters is {self.config.adapters}, whose LoRAs differ in {name}; expected "
                    "a run with freeze_a, so that all have the same A"
                )
        vector, file = layout.flatten(lora), run.population_file(task.index)
        if file.exists():
            kept = checked(io.load_tensors(file)[0].get("population"), vector, file)
            self.population.add(task.index, kept.to(self.device, copy=True))
        else:
            self.population.add(task.index, vector[None, None])
        return lora

    def learn(self, task: Task, progress: EpochProgress) -> None:
        self._latest = task.index
        super().learn(task, progress)

    def collect(self, task: Task, progress: EpochProgress) -> None:
        super().collect(task, progress)
        self.vectors[task.index] = self._task_vector(task)
        self.random.manual_seed(seed_of("fusion", self.seed, task.index))
        self._fill_buffer(task)

    def fuse(self, task: Task) -> dict[str, Tensor]:
        if len(self.loras) == 1:
            return self.loras[task.index]
        tasks = list(self.loras)
        owners = torch.tensor([self.task_of[one] for one in self.buffer.ids.tolist()])
        fusing = Fusing(
            self.config,
            self.trainable,
            self.layout,
            task,
            buffer=self.buffer,
            owners=torch.tensor([tasks.index(int(owner)) for owner in owners]),
            temperature=self.temperature,
            random=self.random,
        )
        vector, record = fusing.fused(
            self.population,
            torch.stack([self.layout.flatten(self.loras[one]) for one in tasks]),
            torch.stack([self.vectors[one] for one in tasks]),
            seed_of("f-vae", self.seed, task.index),
        )
        self.records.append({"kind": "icm_fusion", "task": task.index, "tasks": tasks, **record})
        return {name: value.clone() for name, value in self.layout.restore(vector).items()}

    def adapters(self) -> Mapping[str, AdapterFiles]:
        """The latest task's LoRA with its population, unless they come from another run."""
        loras = self.population.by_task.get(self._latest)
        if loras is None:
            return {}
        return {
            name: files._replace(population={"population": loras.cpu()})
            for name, files in super().adapters().items()
        }

    def task_block(self) -> dict[str, Tensor]:
        return self.population.block(self._latest)

    def append_task_block(self, block: Mapping[str, Tensor]) -> None:
        self.population.append(block, self.device)

    def _task_vector(self, task: Task) -> Tensor:
        """The mean image feature and the mean text feature of the task, each normalised."""
        images = normalize(task.train_x, dim=-1).mean(dim=0)
        texts = self.text[task.classes.start : task.classes.stop].mean(dim=0)
        return torch.cat([normalize(images, dim=-1), normalize(texts, dim=-1)])

    def _fill_buffer(self, task: Task) -> None:
        self.task_of.update(dict.fromkeys(task.train_ids.tolist(), task.index))
        self.buffer.update(
            task.train_ids, task.train_y, task.classes.stop, self.random, lambda ids: ids
        )
        self.task_of = {one: self.task_of[one] for one in self.buffer.ids.tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        owners = torch.tensor([self.task_of[one] for one in self.buffer.ids.tolist()])
        parts = {
            "icm": {"task_of": owners.long()},
            "buffer": self.buffer.state_dict(),
            "vector": {f"{task:04d}": vector for task, vector in self.vectors.items()},
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
        vectors = self._loaded(part_of_state(state, "vector"))
        self.vectors = {int(task): vector for task, vector in vectors.items()}
