"""Several LoRAs per task, from which a network can learn how the LoRAs of a task vary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.errors import DataError

HELD_OUT_FROM = 3  # with as many LoRAs the last one is held out
APART = 2  # training steps between two states that are kept


class Members(NamedTuple):
    """Rows of a population: LoRAs as vectors, and the place of each one's task."""

    vectors: Tensor  # (N, P)
    places: Tensor  # (N,) int64


def checked(loras: Tensor | None, vector: Tensor, file: Path) -> Tensor:
    """A population from a file beside the LoRA `vector` (P,), which is its first one's last state.

    DataError if it is another task's, or not one of LoRAs like this.
    """
    shape = None if loras is None else tuple(loras.shape)
    if loras is None or shape is None or len(shape) != 3 or 0 in shape or shape[2] != len(vector):
        raise DataError(
            f"{file} has a population of shape {shape}; expected (LoRAs, states, {len(vector)})"
        )
    if not bool(loras.isfinite().all()):
        raise DataError(f"{file} has numbers that are not finite")
    first = loras[0, -1].to(vector.device).float()
    if not torch.allclose(first, vector, rtol=1e-3, atol=1e-6):  # as near as half precision is
        raise DataError(
            f"{file} has a population whose first LoRA is not the one in its folder; expected that "
            "of the same run and task"
        )
    return loras


class Population:
    """The LoRAs of all tasks so far, each with its late training states, in float16."""

    def __init__(self) -> None:
        self.by_task: dict[int, Tensor] = {}  # (LoRAs, states, P), the last state last

    def add(self, task: int, loras: Tensor) -> None:
        self.by_task[task] = loras.half()

    @property
    def learned(self) -> int:
        """The number of rows that a network may learn from."""
        return sum(_split(loras)[0][..., 0].numel() for loras in self.by_task.values())

    def learned_from(self, device: torch.device) -> Members:
        """The rows that a network may learn from, in half precision."""
        chosen = [_split(loras)[0].flatten(0, 1) for loras in self.by_task.values()]
        counts = torch.tensor([len(rows) for rows in chosen])
        places = torch.arange(len(chosen)).repeat_interleave(counts)
        return Members(torch.cat(chosen).to(device), places.to(device))

    def held_out(self, device: torch.device) -> Members:
        """The last state of each held-out LoRA, in single precision.

        No row is a state of a LoRA that is learned from.
        """
        rows = [_split(loras)[1] for loras in self.by_task.values()]
        places = torch.tensor([place for place, row in enumerate(rows) if len(row)]).long()
        return Members(torch.cat(rows).to(device).float(), places.to(device))

    def block(self, task: int) -> dict[str, Tensor]:
        """A task's part, for a file of its own; a task without images has no LoRAs in it."""
        found = {"task": torch.tensor(task)}
        loras = self.by_task.get(task)
        return found if loras is None else {**found, "population": loras}

    def append(self, block: Mapping[str, Tensor], device: torch.device) -> None:
        if "population" in block:
            self.by_task[int(block["task"])] = block["population"].to(device, copy=True)


def _split(loras: Tensor) -> tuple[Tensor, Tensor]:
    """Those learned from with all states, and the last states of those held out."""
    count = len(loras)
    learned = count - 1 if count >= HELD_OUT_FROM else count
    return loras[:learned], loras[learned:, -1]


def resampled(task: Task, generator: torch.Generator) -> Task:
    """The task with as many training images, drawn from its own with replacement."""
    count = len(task)
    rows = torch.randint(count, (count,), generator=generator, device=generator.device)
    return replace(
        task,
        train_x=task.train_x[rows.to(task.train_x.device)],
        train_y=task.train_y[rows.to(task.train_y.device)],
        train_ids=task.train_ids[rows.cpu()],
    )
