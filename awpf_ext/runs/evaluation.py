"""Evaluation of a method: its predictions, and its accuracy on seen tasks and on the next task."""

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

ROWS_AT_ONCE = {"features": 8192, "images": 256}  # rows that a method gets at a time


def evaluate_seen(
    stream: TaskStream, method: Method, index: int
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Accuracy over all test images seen, on each task so far, and on each class."""
    _, y = stream.test_seen(index)
    x = test_inputs(stream, method, index)
    correct = predictions(method, x, stream.seen(index), method.world).to(y.device) == y
    sizes = [len(stream.test(task)[1]) for task in range(index + 1)]
    hits = torch.bincount(y[correct], minlength=stream.seen(index)).double()
    by_class = hits / torch.bincount(y, minlength=stream.seen(index))  # NaN: no test images
    by_task = tuple(mean_accuracy(part) for part in torch.split(correct, sizes))
    return mean_accuracy(correct), by_task, tuple(by_class.tolist())


def evaluate_next(stream: TaskStream, method: Method, index: int) -> tuple[float, float]:
    """Accuracy on the task after `index`, with its classes as candidates; and that of zero-shot."""
    if index + 1 == len(stream):
        return math.nan, math.nan
    features, y = stream.test(index + 1)
    x = features if method.inputs == "features" else stream.test_images(index + 1)
    classes = stream.seen(index + 1)
    learned = predictions(method, x, classes, method.world).to(y.device) == y
    texts = stream.text[:classes]
    cosines = (normalize(rows, dim=-1) @ texts.T for rows in batches(features))
    zero_shot = _concatenated([part.argmax(1) for part in cosines]).to(y.device) == y
    return mean_accuracy(learned), mean_accuracy(zero_shot)


def test_inputs(stream: TaskStream, method: Method, index: int) -> Tensor | PreparedImages:
    """The test features or test images of tasks 0..`index`, whichever `method` takes."""
    if method.inputs == "features":
        return stream.test_seen(index)[0]
    return stream.test_images_seen(index)


def predictions(
    method: Method, x: Tensor | PreparedImages, classes: int, world: World = SINGLE_PROCESS
) -> Tensor:
    """For each row the most likely of the first `classes` classes; the processes share the rows."""
    own = world.share(len(x))
    labels = [method.logits(rows, classes).argmax(1) for rows in batches(x, own)]
    return world.all_gather(_concatenated(labels).to(method.device), len(x))


def batches(x: Tensor | PreparedImages, span: range | None = None) -> Iterator[Tensor]:
    """The rows of `x`, or those in `span`, in batches that fit into memory."""
    span = range(len(x)) if span is None else span
    step = ROWS_AT_ONCE["features" if isinstance(x, Tensor) else "images"]
    for start in range(span.start, span.stop, step):
        yield x[start : min(start + step, span.stop)]


def _concatenated(labels: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *(part.cpu() for part in labels)])


def mean_accuracy(correct: Tensor) -> float:
    return float(correct.double().mean()) if len(correct) else math.nan
