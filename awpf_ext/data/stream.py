"""A data set split into tasks: each has new classes, or all classes in a new domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from awpf_ext.data.features import FeatureSet, ReadTestImage
from awpf_ext.data.order import class_order, order_hash
from awpf_ext.errors import DataError, UserError

if TYPE_CHECKING:
    from awpf_ext.data.prepared_images import PreparedImages

Protocol = Literal["class", "domain"]


@dataclass(frozen=True, eq=False)
class Task:
    """The data of one task, with rows in the order of the data set.

    A class without training or test images has no rows; if a task has none at all, its tensors have
    zero rows.
    """

    index: int
    classes: range  # stream class ids: the new classes, or all classes in a new domain
    train_x: Tensor  # float32, contiguous
    train_y: Tensor  # stream class ids
    test_x: Tensor  # of this task only
    test_y: Tensor
    train_ids: Tensor  # int64 on the CPU: row ids, the same for every order of tasks
    features: Tensor  # training features of all tasks by row id, as stored
    images: PreparedImages | None  # training images by row id; None if there are only features

    def __len__(self) -> int:
        return len(self.train_y)


class _Plan(NamedTuple):
    """Which classes and rows belong to which task."""

    protocol: Protocol
    class_order: tuple[int, ...]
    order_hash: str  # of the order of classes or domains
    classes: tuple[range, ...]  # of each task
    train_task: Tensor  # task of each row of the data set
    test_task: Tensor
    domain_names: tuple[str, ...]  # of each task, in the domain protocol
    facts: dict[str, Any]


class TaskStream(Sequence[Task]):
    """Tasks over one `FeatureSet`, in an order of its classes or domains; made by `task_stream`.

    All test features are on the device from the start. Training features are gathered when a task
    is accessed, and only the latest task is kept, so that memory holds those of one task.
    """

    def __init__(self, features: FeatureSet, plan: _Plan, device: torch.device) -> None:
        order = plan.class_order
        self.protocol = plan.protocol
        self.class_order = order
        self.order_hash = plan.order_hash
        self.class_names = tuple(features.class_names[label] for label in order)
        self.domain_names = plan.domain_names
        self.text = features.text[list(order)].to(device)
        self.logit_scale = features.logit_scale
        self.clip = None if features.clip is None else features.clip.reordered(order)
        self.dim = features.dim
        self.device = device
        self.provenance = {
            **features.provenance,
            **plan.facts,
            "order_hash": self.order_hash,
            "classes_without_train_images": _absent(features.train_y, features.num_classes),
            "classes_without_test_images": _absent(features.test_y, features.num_classes),
        }
        self._classes = plan.classes
        self._features = features
        self._latest: Task | None = None

        stream_id = torch.empty(len(order), dtype=torch.int64)
        stream_id[list(order)] = torch.arange(len(order))
        self._train_y = stream_id[features.train_y]
        self._train_rows = _rows_by_task(plan.train_task, len(self))
        test_y = stream_id[features.test_y]
        test_rows = _rows_by_task(plan.test_task, len(self))
        all_rows = torch.cat(test_rows)
        self._test_x = features.test_x[all_rows].to(device, torch.float32)
        self._test_y = test_y[all_rows].to(device)
        self._test_rows = all_rows
        self._test_ends = np.cumsum([0, *(len(rows) for rows in test_rows)]).tolist()

    def __len__(self) -> int:
        return len(self._classes)

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
            if self._features.train_images is not None:
                self._features.train_images.expect(rows)
            self._latest = Task(
                index=index,
                classes=self._classes[index],
                train_x=self._features.train_x[rows].to(self.device, torch.float32),
                train_y=self._train_y[rows].to(self.device),
                test_x=test_x,
                test_y=test_y,
                train_ids=rows,
                features=self._features.train_x,
                images=self._features.train_images,
            )
        return self._latest

    def seen(self, index: int) -> int:
        """Number of classes seen after task `index`."""
        return self._classes[self._checked(index)].stop

    def test(self, index: int) -> tuple[Tensor, Tensor]:
        """Test features and stream class ids of task `index`; no training data is gathered."""
        index = self._checked(index)
        span = slice(self._test_ends[index], self._test_ends[index + 1])
        return self._test_x[span], self._test_y[span]

    def test_seen(self, index: int) -> tuple[Tensor, Tensor]:
        """Test features and stream class ids of tasks 0..`index`, task after task."""
        end = self._test_ends[self._checked(index) + 1]
        return self._test_x[:end], self._test_y[:end]

    def test_images(self, index: int) -> PreparedImages:
        """The images of the rows of `test(index)`; DataError if there are only features."""
        index = self._checked(index)
        return self._pixels(slice(self._test_ends[index], self._test_ends[index + 1]))

    def test_images_seen(self, index: int) -> PreparedImages:
        """The images of the rows of `test_seen(index)`."""
        return self._pixels(slice(0, self._test_ends[self._checked(index) + 1]))

    def _pixels(self, span: slice) -> PreparedImages:
        if self._features.test_images is None:
            raise DataError(f"{self.provenance.get('dataset')} has features, but no images")
        return self._features.test_images.at(self._test_rows[span])

    @property
    def read_test_image(self) -> ReadTestImage | None:
        """From a row of `test_seen` to the name of its image and the image; None without images."""
        read = self._features.read_test_image
        return None if read is None else lambda row: read(int(self._test_rows[row]))

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"task {index} of a stream of {len(self)} tasks")
        return index % len(self)


def task_stream(
    features: FeatureSet,
    *,
    protocol: Protocol = "class",
    base: int = 0,
    increment: int = 10,
    order: str = "natural",
    device: torch.device | str = "cpu",
) -> TaskStream:
    """Split `features` into tasks.

    protocol "class": first `base` classes (0 = none), then `increment` classes per task, in the
    `order` of the classes; the last task has the remaining classes, so it may be smaller. "domain":
    one domain per task, with all classes, in the `order` of the domains. DataError if features are
    not finite or there are no training images.
    """
    if not len(features.train_y):
        raise DataError("the data set has no training images")
    if protocol == "class":
        plan = _by_class(features, base, increment, order)
    elif protocol == "domain":
        plan = _by_domain(features, order)
    else:
        raise UserError(f"protocol is {protocol!r}; expected class or domain")
    features.check_finite()
    return TaskStream(features, plan, torch.device(device))


def _by_class(features: FeatureSet, base: int, increment: int, spec: str) -> _Plan:
    count = features.num_classes
    if not 0 <= base <= count:
        raise UserError(f"base is {base}; expected 0..{count}, the number of classes")
    if increment < 1:
        raise UserError(f"increment is {increment}; expected at least 1")
    order = class_order(spec, count)
    boundaries = task_boundaries(count, base, increment)
    task_of_class = torch.empty(count, dtype=torch.int64)
    inner = torch.tensor(boundaries[1:-1], dtype=torch.int64)
    task_of_class[list(order)] = torch.bucketize(torch.arange(count), inner, right=True)
    return _Plan(
        protocol="class",
        class_order=order,
        order_hash=order_hash(order),
        classes=tuple(map(range, boundaries[:-1], boundaries[1:])),
        train_task=task_of_class[features.train_y],
        test_task=task_of_class[features.test_y],
        domain_names=(),
        facts={"base": base, "increment": increment, "class_order": spec},
    )


def _by_domain(features: FeatureSet, spec: str) -> _Plan:
    names = check_domains(features.provenance.get("dataset"), features.domain_names)
    assert features.train_domain is not None
    assert features.test_domain is not None
    order = class_order(spec, len(names), "domain")
    task_of_domain = torch.empty(len(names), dtype=torch.int64)
    task_of_domain[list(order)] = torch.arange(len(names))
    in_order = tuple(names[domain] for domain in order)
    return _Plan(
        protocol="domain",
        class_order=tuple(range(features.num_classes)),
        order_hash=order_hash(order),
        classes=(range(features.num_classes),) * len(names),
        train_task=task_of_domain[features.train_domain],
        test_task=task_of_domain[features.test_domain],
        domain_names=in_order,
        facts={"protocol": "domain", "domain_order": spec, "domains": list(in_order)},
    )


def check_domains(dataset: str | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """The domains of a data set; UserError if it has none."""
    if not names:
        raise UserError(
            f"protocol is domain, but {dataset} has no domains; demo:all, domainnet:PATH and "
            "domains:PATH have"
        )
    return names


def task_boundaries(classes: int, base: int, increment: int) -> tuple[int, ...]:
    """The position of each task's first class in the order, and finally the number of classes."""
    starts = range(base, classes, increment)
    return (0, *starts, classes) if base else (*starts, classes)


def _rows_by_task(task_of_row: Tensor, tasks: int) -> list[Tensor]:
    counts = torch.bincount(task_of_row, minlength=tasks)
    return list(torch.split(task_of_row.argsort(stable=True), counts.tolist()))


def _absent(labels: Tensor, num_classes: int) -> list[int]:
    """Data-set labels without any row."""
    return (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
