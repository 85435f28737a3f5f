"""A buffer of fixed size for samples of earlier tasks, balanced over the classes seen.

With m samples in all, each of K classes gets floor(m / K), and the remainder is unused, so that no
class has more than another. If m < K, m random classes have one sample each. The samples of a class
are spread evenly over the tasks that have samples of it (the domains, in the domain protocol); if
a task has too few, the other tasks get more.

Samples are chosen at random once and then only removed: when its task ends, each sample gets a
priority, which is its position in a random order of its class in that task plus a fraction drawn
once per class and task, and the samples with the smallest priorities are kept. So the samples kept
of a class and task are a uniform subset of those kept before. If a class has fewer samples than
tasks, each task is represented with the same probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from awpf_ext.finetuning import image_codec

BufferFormat = Literal["references", "png", "jpeg"]
READ_AT_ONCE = 256  # samples read at a time before they are compressed


class Buffer:
    """Sample ids with their classes, sorted by class, optionally with copies of the samples.

    With format "references" it keeps only ids, 24 bytes per sample, and the data set must not
    change. With "png" or "jpeg" it keeps copies of the method's inputs: images are compressed,
    features are kept as they are.
    """

    def __init__(self, size: int, format: BufferFormat = "references", quality: int = 90) -> None:
        """size: m, the maximum number of samples. quality: JPEG quality."""
        self.size = size
        self.format = format
        self.quality = quality
        self.ids = torch.empty(0, dtype=torch.int64)
        self.labels = torch.empty(0, dtype=torch.int64)
        self._priority = torch.empty(0, dtype=torch.float64)
        self._files: list[bytes] = []  # of copied images
        self._rows: Tensor | None = None  # of copied features

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        """Memory of the copies, in bytes."""
        features = 0 if self._rows is None else self._rows.nbytes
        return features + sum(map(len, self._files))

    def update(
        self,
        ids: Tensor,
        labels: Tensor,
        classes: int,
        generator: torch.Generator,
        read: Callable[[Tensor], Tensor],
    ) -> None:
        """After a task: add its samples and trim to equal numbers for the `classes` seen.

        read: returns the method's inputs for sample ids; called only to make copies.
        """
        kept = len(self)
        all_ids = torch.cat([self.ids, ids.cpu()])
        all_labels = torch.cat([self.labels, labels.cpu()])
        priority = torch.cat([self._priority, _priorities(labels.cpu(), classes, generator)])
        chosen = _smallest(priority, all_labels, self.size, classes)
        if self.format != "references":
            self._copy(chosen, kept, all_ids, read)
        self.ids, self.labels = all_ids[chosen], all_labels[chosen]
        self._priority = priority[chosen]

    def read(self, positions: Tensor) -> Tensor:
        """The copies at `positions`: images (n, height, width, 3), or features."""
        if self._rows is not None:
            return self._rows[positions]
        return image_codec.decompress([self._files[position] for position in positions.tolist()])

    def state_dict(self) -> dict[str, Tensor]:
        state = {"ids": self.ids, "labels": self.labels, "priority": self._priority}
        if self._rows is not None:
            return {**state, "rows": self._rows}
        return {**state, **(image_codec.to_tensors(self._files) if self._files else {})}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.ids, self.labels = state["ids"].cpu(), state["labels"].cpu()
        self._priority = state["priority"].cpu()
        self._rows = state["rows"].cpu() if "rows" in state else None
        self._files = image_codec.from_tensors(state) if "files" in state else []

    def _copy(
        self, chosen: Tensor, kept: int, ids: Tensor, read: Callable[[Tensor], Tensor]
    ) -> None:
        """Keep the copies of the `chosen` rows; rows from `kept` on are new."""
        new = chosen >= kept
        files: list[bytes] = []
        features: list[Tensor] = []
        for part in ids[chosen[new]].split(READ_AT_ONCE):
            fresh = read(part)
            if fresh.dtype == torch.uint8:
                assert self.format != "references"
                files += image_codec.compress(fresh, self.format, self.quality)
            else:
                features.append(fresh)
        if not features:
            added = iter(files)
            self._files = [
                next(added) if row >= kept else self._files[row] for row in chosen.tolist()
            ]
            return
        rows = features[0].new_empty(len(chosen), *features[0].shape[1:])
        rows[new] = torch.cat(features)
        if self._rows is not None:
            rows[~new] = self._rows[chosen[~new]]
        self._rows = rows


def _priorities(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Each sample's position in a random order of its class, plus a fraction per class."""

    def drawn(count: int) -> Tensor:
        return torch.rand(
            count, generator=generator, device=generator.device, dtype=torch.float64
        ).cpu()

    fraction = drawn(classes)
    shuffled = drawn(len(labels)).argsort()
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return _positions(labels[by_class])[by_class.argsort()] + fraction[labels]


def _smallest(priority: Tensor, labels: Tensor, size: int, classes: int) -> Tensor:
    """The rows to keep, sorted by class and priority: the smallest priorities of each class."""
    by_priority = priority.argsort(stable=True)
    ordered = by_priority[labels[by_priority].argsort(stable=True)]
    per_class = size // classes
    if per_class:
        return ordered[_positions(labels[ordered]) < per_class]
    first = ordered[_positions(labels[ordered]) == 0]
    chosen = first[priority[first].argsort(stable=True)[:size]]
    return chosen[labels[chosen].argsort(stable=True)]


def _positions(sorted_labels: Tensor) -> Tensor:
    """0, 1, 2, ... within each run of equal labels."""
    _, sizes = torch.unique_consecutive(sorted_labels, return_counts=True)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.arange(len(sorted_labels)) - starts
