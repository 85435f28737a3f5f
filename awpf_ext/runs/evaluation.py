"""Evaluation of a method: its predictions, and its accuracy on the tasks seen and on the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext.data.stream import TaskStream
from awpf_ext.distributed import SINGLE_PROCESS, World
from awpf_ext.methods import Method

if TYPE_CHECKING:
    from awpf_ext.data.prepared_images import PreparedImages

ROWS_AT_ONCE = {"features": 8192, "images": 256}  # test rows that are in a method at a time


def evaluate_seen(
    stream: TaskStream, method: Method, index: int
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Accuracy over all test images seen, on each task so far, and on each class."""
    _, y = stream.test_seen(index)
    x = inputs_of_seen(stream, method, index)
    right = predictions(method, x, stream.seen(index), method.world).to(y.device) == y
    sizes = [len(stream.test(task)[1]) for task in range(index + 1)]
    hits = torch.bincount(y[right], minlength=stream.seen(index)).double()
    by_class = hits / torch.bincount(y, minlength=stream.seen(index))  # 0 / 0: no test images
    by_task = tuple(fraction(part) for part in torch.split(right, sizes))
    return fraction(right), by_task, tuple(by_class.tolist())


def evaluate_next(stream: TaskStream, method: Method, index: int) -> tuple[float, float]:
    """Accuracy on the task after `index`, its classes being candidates; and zero-shot's."""
    if index + 1 == len(stream):
        return math.nan, math.nan
    features, y = stream.test(index + 1)
    x = features if method.inputs == "features" else stream.test_images(index + 1)
    classes = stream.seen(index + 1)
    learned = predictions(method, x, classes, method.world).to(y.device) == y
    texts = stream.text[:classes]
    cosines = (normalize(rows, dim=-1) @ texts.T for rows in parts(features))
    zero_shot = _joined([part.argmax(1) for part in cosines]).to(y.device) == y
    return fraction(learned), fraction(zero_shot)


def inputs_of_seen(stream: TaskStream, method: Method, index: int) -> Tensor | PreparedImages:
    """What `method` takes, of the test images of tasks 0..`index`."""
    if method.inputs == "features":
        return stream.test_seen(index)[0]
    return stream.test_images_seen(index)


def predictions(
    method: Method, x: Tensor | PreparedImages, classes: int, world: World = SINGLE_PROCESS
) -> Tensor:
    """The likeliest of the first `classes` classes, row by row; the processes share the rows."""
    own = world.share(len(x))
    labels = [method.logits(rows, classes).argmax(1) for rows in parts(x, own)]
    return world.all_gather(_joined(labels).to(method.device), len(x))


def parts(x: Tensor | PreparedImages, span: range | None = None) -> Iterator[Tensor]:
    """The rows of `x`, or those in `span`, in pieces that fit into memory."""
    span = range(len(x)) if span is None else span
    step = ROWS_AT_ONCE["features" if isinstance(x, Tensor) else "images"]
    for start in range(span.start, span.stop, step):
        yield x[start : min(start + step, span.stop)]


def _joined(labels: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *(part.cpu() for part in labels)])


def fraction(right: Tensor) -> float:
    return float(right.double().mean()) if len(right) else math.nan
