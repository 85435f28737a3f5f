"""The samples that a task is trained on: its own, and those of earlier tasks in the buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.errors import DataError
from awpf_ext.finetuning.buffer import Buffer

AHEAD = 2  # batches read in advance for an accelerator; on the CPU the model needs the cores


class TaskSamples:
    """All samples available in a task, new ones first; on the CPU."""

    def __init__(self, task: Task, buffer: Buffer, inputs: str) -> None:
        """inputs: what the method takes, "images" or "features"."""
        if inputs == "images" and task.images is None:
            raise DataError(f"task {task.index} has features, but no images")
        self.ids = torch.cat([task.train_ids, buffer.ids])
        self.labels = torch.cat([task.train_y.cpu(), buffer.labels])
        self._images = task.images if inputs == "images" else None
        self._features = task.features
        self._buffer = buffer
        self._new = len(task.train_ids)
        self._ahead = AHEAD if task.train_x.device.type != "cpu" else 0

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The method's inputs for each part, an index tensor of positions."""
        in_data = [self._in_data(part) for part in parts]
        found = self.by_id([self.ids[part[s]] for part, s in zip(parts, in_data, strict=True)])
        for part, from_data, rows in zip(parts, in_data, found, strict=True):
            if bool(from_data.all()):
                yield rows
                continue
            copies = self._buffer.read(part[~from_data] - self._new)
            joined = rows.new_empty(len(part), *copies.shape[1:])
            joined[from_data], joined[~from_data] = rows, copies
            yield joined

    def by_id(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The method's inputs for each part, a tensor of sample ids, from the data set."""
        if self._images is None:
            return (self._features[part].float() for part in parts)
        return self._images.batches(parts, self._ahead)

    def buffered(self, positions: Tensor) -> Tensor:
        """Which of the samples at `positions` come from the buffer."""
        return positions >= self._new

    def _in_data(self, positions: Tensor) -> Tensor:
        """Which of the samples are read from the data set, not from copies in the buffer."""
        references = self._buffer.format == "references"
        return torch.ones_like(positions, dtype=torch.bool) if references else positions < self._new
