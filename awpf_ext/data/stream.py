"""A data set cut into a sequence of tasks with disjoint classes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from awpf_ext.data.features import FeatureSet, ReadTestImage
from awpf_ext.errors import DataError, UserError


@dataclass(frozen=True, eq=False)
class Task:
    """The data of one task; the rows keep the data set's order.

    A class without training or test images has no rows; where a whole task has none, the tensors
    have zero rows.
    """

    index: int
    classes: range  # stream class ids of this task: consecutive integers
    train_x: Tensor  # float32, contiguous
    train_y: Tensor  # stream class ids
    test_x: Tensor  # only this task's classes
    test_y: Tensor


class TaskStream(Sequence[Task]):
    """Tasks over one `FeatureSet`, in a class order; made by `task_stream`.

    All test features are on the device from the start. Training features are gathered when a task
    is taken, and the latest task is kept, so that a run holds one task's worth of them.
    """

    def __init__(
        self,
        features: FeatureSet,
        order: tuple[int, ...],
        boundaries: tuple[int, ...],
        device: torch.device,
        provenance: Mapping[str, Any],
    ) -> None:
        self.class_order = order
        self.order_hash = order_hash(order)
        self.class_names = tuple(features.class_names[label] for label in order)
        self.text = features.text[list(order)].to(device)
        self.logit_scale = features.logit_scale
        self.dim = features.dim
        self.device = device
        self.provenance = {
            **features.provenance,
            **provenance,
            "order_hash": self.order_hash,
            "classes_without_train_images": _absent(features.train_y, features.num_classes),
            "classes_without_test_images": _absent(features.test_y, features.num_classes),
        }
        self._boundaries = boundaries
        self._features = features
        self._latest: Task | None = None

        stream_id = torch.empty(len(order), dtype=torch.int64)
        stream_id[list(order)] = torch.arange(len(order))
        self._train_y = stream_id[features.train_y]
        self._train_rows = self._rows_by_task(self._train_y)
        test_y = stream_id[features.test_y]
        test_rows = self._rows_by_task(test_y)
        all_rows = torch.cat(test_rows)
        self._test_x = features.test_x[all_rows].to(device, torch.float32)
        self._test_y = test_y[all_rows].to(device)
        self._test_rows = all_rows
        self._test_ends = np.cumsum([0, *(len(rows) for rows in test_rows)]).tolist()

    def __len__(self) -> int:
        return len(self._boundaries) - 1

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = self._checked(index)
        if self._latest is None or self._latest.index != index:
            rows = self._train_rows[index]
            test_x, test_y = self.test(index)
            self._latest = None  # free the old task before gathering the new one
            self._latest = Task(
                index=index,
                classes=range(self._boundaries[index], self._boundaries[index + 1]),
                train_x=self._features.train_x[rows].to(self.device, torch.float32),
                train_y=self._train_y[rows].to(self.device),
                test_x=test_x,
                test_y=test_y,
            )
        return self._latest

    def seen(self, index: int) -> int:
        """Number of classes seen after task `index`."""
        return self._boundaries[self._checked(index) + 1]

    def test(self, index: int) -> tuple[Tensor, Tensor]:
        """Test features and stream class ids of task `index`; no training data is gathered."""
        index = self._checked(index)
        span = slice(self._test_ends[index], self._test_ends[index + 1])
        return self._test_x[span], self._test_y[span]

    def test_seen(self, index: int) -> tuple[Tensor, Tensor]:
        """Test features and stream class ids of tasks 0..`index`, task after task."""
        end = self._test_ends[self._checked(index) + 1]
        return self._test_x[:end], self._test_y[:end]

    @property
    def read_test_image(self) -> ReadTestImage | None:
        """Of a row of `test_seen` its image's name and the image; None where there are none."""
        read = self._features.read_test_image
        return None if read is None else lambda row: read(int(self._test_rows[row]))

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of a stream of {len(self)} tasks")
        return index % len(self)

    def _rows_by_task(self, stream_y: Tensor) -> list[Tensor]:
        inner = torch.tensor(self._boundaries[1:-1], dtype=torch.int64)
        task_of_row = torch.bucketize(stream_y, inner, right=True)
        counts = torch.bincount(task_of_row, minlength=len(self))
        return list(torch.split(task_of_row.argsort(stable=True), counts.tolist()))


def class_order(spec: str, num_classes: int) -> tuple[int, ...]:
    """The data set's labels in the order in which they are learned.

    natural: as numbered; seed:N: numpy.random.RandomState(N).permutation, the convention of
    published class-incremental code (seed:1993); file:PATH: integers, as a JSON list or separated
    by white space.
    """
    kind, _, argument = spec.partition(":")
    if spec == "natural":
        return tuple(range(num_classes))
    if kind == "seed" and argument.isascii() and argument.isdigit() and int(argument) < 2**32:
        return tuple(np.random.RandomState(int(argument)).permutation(num_classes).tolist())
    if kind == "file" and argument:
        return _order_from_file(Path(argument).expanduser(), num_classes)
    raise UserError(
        f"order is {spec!r}; expected natural, seed:N with N in 0..{2**32 - 1}, or file:PATH"
    )


def order_hash(order: Sequence[int]) -> str:
    """A short name for a class order, to tell results on different orders apart."""
    return hashlib.sha256(json.dumps(list(order)).encode()).hexdigest()[:16]


def task_stream(
    features: FeatureSet,
    *,
    base: int,
    increment: int,
    order: str = "natural",
    device: torch.device | str = "cpu",
) -> TaskStream:
    """Cut `features` into tasks: `base` classes first (0: none), then `increment` at a time.

    The last task takes what is left, so it may be smaller. DataError where features are not finite
    or there are no training images at all.
    """
    count = features.num_classes
    if not 0 <= base <= count:
        raise UserError(f"base is {base}; expected 0..{count}, the number of classes")
    if increment < 1:
        raise UserError(f"increment is {increment}; expected at least 1")
    if not len(features.train_y):
        raise DataError("the data set has no training images")
    features.check_finite()
    return TaskStream(
        features,
        class_order(order, count),
        task_boundaries(count, base, increment),
        torch.device(device),
        {"base": base, "increment": increment, "class_order": order},
    )


def task_boundaries(classes: int, base: int, increment: int) -> tuple[int, ...]:
    """Where tasks begin among the classes in their order, and the number of classes at the end."""
    starts = range(base, classes, increment)
    return (0, *starts, classes) if base else (*starts, classes)


def _absent(labels: Tensor, num_classes: int) -> list[int]:
    """Data-set labels without a single row."""
    return (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()


def _order_from_file(path: Path, num_classes: int) -> tuple[int, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        numbers = json.loads(text) if text.lstrip().startswith("[") else text.split()
        order = tuple(int(str(number)) for number in numbers)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read a class order from {path}: {error}") from error
    repeated = sorted(label for label, count in Counter(order).items() if count > 1)
    if repeated:
        raise DataError(f"{path}: class {repeated[0]} appears more than once in the order")
    if sorted(order) != list(range(num_classes)):
        wrong = sorted(set(order) ^ set(range(num_classes)))
        raise DataError(
            f"{path}: the order has {len(order)} classes, expected each of 0..{num_classes - 1} "
            f"once; {wrong[0]} is {'foreign' if wrong[0] in order else 'missing'}"
        )
    return order
