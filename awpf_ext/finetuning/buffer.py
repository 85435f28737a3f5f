"""A memory of fixed size for samples of earlier tasks: the same number of every class seen.

Of m samples each of K classes has floor(m / K); what is left over stays unused, so that no class is
better off. Where m < K, m classes drawn at random have one sample and the others none. A class's
share is spread evenly over the tasks that brought samples of it (the domains, in the domain
protocol); where a task has too few, the others have more.

What is kept is drawn at random once, and then only trimmed: each sample gets a priority when its
task ends, its place in a random order of its class in that task plus a fraction drawn once for the
class and task, and the smallest stay. So the kept samples of a class and task are a uniform subset
of those before, and where the share is smaller than the number of tasks, each task is in it with
the same probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from awpf_ext.finetuning import image_codec

BufferFormat = Literal["references", "png", "jpeg"]
READ_AT_ONCE = 256  # samples that are copied, before they are compressed


class Buffer:
    """Ids of samples with their classes, in the order of the classes; perhaps with copies.

    As "references" it keeps ids alone, 24 bytes a sample, and the data set must stay as it is. As
    "png" or "jpeg" it keeps what the method is given of each: images so compressed, features as
    they are.
    """

    def __init__(self, size: int, format: BufferFormat = "references", quality: int = 90) -> None:
        """size: m, the most samples in all. quality: of JPEGs."""
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
        """What the copies take."""
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
        """After a task: take from its samples and trim to the `classes` seen.

        read: gives what the method is given of samples, by their ids; used for copies.
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
        """Keep the copies of the `chosen`, of which those from `kept` on are new."""
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
    """Of each sample its place in a random order of its class, plus its class's fraction."""

    def drawn(count: int) -> Tensor:
        return torch.rand(
            count, generator=generator, device=generator.device, dtype=torch.float64
        ).cpu()

    fraction = drawn(classes)
    shuffled = drawn(len(labels)).argsort()
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    return _places(labels[by_class])[by_class.argsort()] + fraction[labels]


def _smallest(priority: Tensor, labels: Tensor, size: int, classes: int) -> Tensor:
    """Rows to keep: the smallest priorities of each class, by class and priority."""
    by_priority = priority.argsort(stable=True)
    ordered = by_priority[labels[by_priority].argsort(stable=True)]
    share = size // classes
    if share:
        return ordered[_places(labels[ordered]) < share]
    first = ordered[_places(labels[ordered]) == 0]
    chosen = first[priority[first].argsort(stable=True)[:size]]
    return chosen[labels[chosen].argsort(stable=True)]


def _places(sorted_labels: Tensor) -> Tensor:
    """0, 1, 2, ... within each run of equal labels."""
    _, sizes = torch.unique_consecutive(sorted_labels, return_counts=True)
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return torch.arange(len(sorted_labels)) - starts
