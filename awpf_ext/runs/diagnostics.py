"""Predictions, embeddings and sample images that a finished run keeps for its report.

The file `diagnostics.safetensors` of a run's folder is bounded in size for test sets of any size:

    labels, predictions, zero_shot_predictions
        class, prediction after the last task, and zero-shot prediction of every test image
        (of evenly spaced ones if there are more than MAX_PREDICTIONS)
    zero_shot_accuracy, zero_shot_accuracy_matrix
        accuracy of zero-shot CLIP after each task, comparable with the run's own
    embedding_labels, embeddings_before, embeddings_after
        embeddings of test images of some classes, before and after learning
    images
        test images of the most often confused pairs of classes, as small PNG or JPEG files

Labels and predictions are positions in the order of learning. With this file a report needs neither
the data set nor the feature store nor the code of the method.
"""

from __future__ import annotations

import io as bytes_io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext import io
from awpf_ext.data import TaskStream
from awpf_ext.errors import CheckpointError, DataError
from awpf_ext.methods import Method
from awpf_ext.runs.evaluation import batches, mean_accuracy, predictions, test_inputs

FORMAT = 2
MAX_PREDICTIONS = 100_000  # test images whose predictions are kept
EMBEDDED_CLASSES = 8
IMAGES_PER_CLASS = 60  # embeddings per class
PAIRS_WITH_IMAGES = 6
IMAGES_PER_DIRECTION = 3  # sample images per pair and direction of the confusion
IMAGE_SIDE = 112  # pixels; larger images are scaled down


class ConfusedPair(NamedTuple):
    """Two classes and the number of test images of either that were predicted as the other."""

    first: int
    second: int
    confused: int


@dataclass(frozen=True)
class ConfusedImage:
    """A test image of class `label` that was predicted as class `predicted`."""

    label: int
    predicted: int
    name: str  # of its file
    content: bytes  # PNG or JPEG


@dataclass(frozen=True, eq=False)
class RunDiagnostics:
    """The content of `diagnostics.safetensors`, as described above.

    fraction: of the test images, the fraction whose predictions are kept. images_missing: the
    reason if there are no sample images.
    """

    labels: Tensor
    predictions: Tensor
    zero_shot_predictions: Tensor
    zero_shot_accuracy: tuple[float, ...]
    zero_shot_accuracy_matrix: tuple[tuple[float, ...], ...]
    embedding_labels: Tensor
    embeddings_before: Tensor
    embeddings_after: Tensor
    fraction: float
    images: tuple[ConfusedImage, ...]
    images_missing: str | None


@torch.no_grad()
def collect_diagnostics(stream: TaskStream, method: Method) -> RunDiagnostics:
    """The diagnostics of a method that has learned the whole stream."""
    x, y = stream.test_seen(len(stream) - 1)
    inputs = test_inputs(stream, method, len(stream) - 1)
    rows = _evenly_spaced(len(y), MAX_PREDICTIONS)
    labels = y[rows].cpu()
    kept = inputs[rows] if isinstance(inputs, Tensor) else inputs.at(rows)
    predicted = predictions(method, kept, method.seen).cpu()
    steps = _zero_shot_predictions(stream, x)
    accuracy, matrix = _zero_shot_accuracies(stream, y.cpu(), steps)
    pairs = most_confused_pairs(labels, predicted)
    chosen = _rows_to_embed(y.cpu(), pairs, len(stream.text)).to(x.device)
    embedded = inputs[chosen] if isinstance(inputs, Tensor) else inputs.at(chosen.cpu())
    images, missing = _confused_images(stream, rows.cpu(), labels, predicted, pairs)
    return RunDiagnostics(
        labels=labels,
        predictions=predicted,
        zero_shot_predictions=steps[-1][rows.cpu()],
        zero_shot_accuracy=accuracy,
        zero_shot_accuracy_matrix=matrix,
        embedding_labels=y[chosen].cpu(),
        embeddings_before=normalize(x[chosen], dim=-1).cpu().half(),
        embeddings_after=torch.cat([method.embed(part) for part in batches(embedded)]).cpu().half(),
        fraction=len(rows) / len(y),
        images=images,
        images_missing=missing,
    )


def most_confused_pairs(labels: Tensor, predictions: Tensor) -> list[ConfusedPair]:
    """Pairs of classes that were confused with each other, the most often confused first."""
    wrong = labels != predictions
    both = torch.stack([labels[wrong], predictions[wrong]]).long()
    if not both.numel():
        return []
    pairs, counts = torch.unique(both.sort(dim=0).values, dim=1, return_counts=True)
    listed = zip(*pairs.tolist(), counts.tolist(), strict=True)
    found = [ConfusedPair(first, second, confused) for first, second, confused in listed]
    return sorted(found, key=lambda pair: (-pair.confused, pair.first, pair.second))


def write_diagnostics(file: Path, diagnostics: RunDiagnostics) -> None:
    """Write the diagnostics as one safetensors file; `read_diagnostics` reads it."""
    facts = {
        "format": FORMAT,
        "fraction": diagnostics.fraction,
        "images": [[i.label, i.predicted, i.name, len(i.content)] for i in diagnostics.images],
        "images_missing": diagnostics.images_missing,
    }
    steps = len(diagnostics.zero_shot_accuracy)
    matrix = torch.full((steps, steps), math.nan, dtype=torch.float64)
    for step, row in enumerate(diagnostics.zero_shot_accuracy_matrix):
        matrix[step, : len(row)] = torch.tensor(row, dtype=torch.float64)
    content = b"".join(image.content for image in diagnostics.images)
    tensors = {
        "labels": diagnostics.labels.to(torch.int32),
        "predictions": diagnostics.predictions.to(torch.int32),
        "zero_shot_predictions": diagnostics.zero_shot_predictions.to(torch.int32),
        "zero_shot_accuracy": torch.tensor(diagnostics.zero_shot_accuracy, dtype=torch.float64),
        "zero_shot_accuracy_matrix": matrix,
        "embedding_labels": diagnostics.embedding_labels.to(torch.int32),
        "embeddings_before": diagnostics.embeddings_before,
        "embeddings_after": diagnostics.embeddings_after,
        "images": torch.tensor(list(content), dtype=torch.uint8),
    }
    io.save_tensors(file, tensors, {"awpf_ext": json.dumps(facts, ensure_ascii=False)})


def read_diagnostics(file: Path) -> RunDiagnostics:
    """The diagnostics in a file; CheckpointError if it is damaged or has another format."""
    try:
        tensors, metadata = io.load_tensors(file)
        facts = json.loads(metadata["awpf_ext"])
        if facts["format"] != FORMAT:
            raise DataError(f"it has format {facts['format']}; this version reads format {FORMAT}")
        content = bytes(tensors["images"].tolist())
        images = []
        start = 0
        for label, predicted, name, size in facts["images"]:
            images.append(ConfusedImage(label, predicted, name, content[start : start + size]))
            start += size
        matrix = tensors["zero_shot_accuracy_matrix"].tolist()
        return RunDiagnostics(
            labels=tensors["labels"].long(),
            predictions=tensors["predictions"].long(),
            zero_shot_predictions=tensors["zero_shot_predictions"].long(),
            zero_shot_accuracy=tuple(tensors["zero_shot_accuracy"].tolist()),
            zero_shot_accuracy_matrix=tuple(
                tuple(row[: step + 1]) for step, row in enumerate(matrix)
            ),
            embedding_labels=tensors["embedding_labels"].long(),
            embeddings_before=tensors["embeddings_before"].float(),
            embeddings_after=tensors["embeddings_after"].float(),
            fraction=facts["fraction"],
            images=tuple(images),
            images_missing=facts["images_missing"],
        )
    except (DataError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: {error}") from None


def _zero_shot_predictions(stream: TaskStream, x: Tensor) -> list[Tensor]:
    """For each task, zero-shot predictions of all test images among the classes seen by then.

    One pass over the texts is enough: each step compares the best of its own classes with the best
    class of the steps before.
    """
    found: list[list[Tensor]] = [[] for _ in range(len(stream))]
    for rows in batches(x):
        cosines = normalize(rows, dim=-1) @ stream.text.T
        best = torch.full((len(rows),), -math.inf, device=x.device)
        predicted = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
        start = 0
        for step in range(len(stream)):
            if stream.seen(step) > start:
                own, position = cosines[:, start : stream.seen(step)].max(dim=1)
                better = own > best
                best = torch.where(better, own, best)
                predicted = torch.where(better, position + start, predicted)
                start = stream.seen(step)
            found[step].append(predicted.cpu())
    return [torch.cat(part) for part in found]


def _zero_shot_accuracies(
    stream: TaskStream, y: Tensor, steps: Sequence[Tensor]
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """After each task: the accuracy over all test images seen, and on each task so far."""
    sizes = [len(stream.test(task)[1]) for task in range(len(stream))]
    overall, matrix = [], []
    for step, predicted in enumerate(steps):
        seen = sum(sizes[: step + 1])
        correct = predicted[:seen] == y[:seen]
        overall.append(mean_accuracy(correct))
        by_task = torch.split(correct, sizes[: step + 1])
        matrix.append(tuple(mean_accuracy(part) for part in by_task))
    return tuple(overall), tuple(matrix)


def _rows_to_embed(y: Tensor, pairs: Sequence[ConfusedPair], classes: int) -> Tensor:
    """Test rows of the most often confused classes, then of evenly spaced other classes."""
    wanted = [label for pair in pairs for label in (pair.first, pair.second)]
    wanted += _evenly_spaced(classes, EMBEDDED_CLASSES).tolist() + list(range(classes))
    kept: list[Tensor] = []
    for label in dict.fromkeys(wanted):
        of_class = (y == label).nonzero().flatten()
        if len(of_class) and len(kept) < EMBEDDED_CLASSES:
            kept.append(of_class[_evenly_spaced(len(of_class), IMAGES_PER_CLASS)])
    return torch.cat(kept)


def _confused_images(
    stream: TaskStream,
    rows: Tensor,
    labels: Tensor,
    predictions: Tensor,
    pairs: Sequence[ConfusedPair],
) -> tuple[tuple[ConfusedImage, ...], str | None]:
    """Sample test images of the most often confused pairs, or the reason why there are none."""
    if stream.read_test_image is None:
        return (), "the run was made from features, without images"
    found: list[ConfusedImage] = []
    unreadable = None
    for pair in pairs[:PAIRS_WITH_IMAGES]:
        for label, other in ((pair.first, pair.second), (pair.second, pair.first)):
            confused = ((labels == label) & (predictions == other)).nonzero().flatten()
            for position in confused[:IMAGES_PER_DIRECTION].tolist():
                try:
                    name, image = stream.read_test_image(int(rows[position]))
                    file = _small_file(image)
                    found.append(ConfusedImage(label, other, Path(name).name, file))
                except Exception as error:  # the features were stored, the images may be gone
                    why = getattr(error, "strerror", None) or type(error).__name__
                    unreadable = f"the images could not be read any more ({why})"
    return tuple(found), None if found else unreadable


def _small_file(image: Image.Image) -> bytes:
    """The image scaled down to at most IMAGE_SIDE pixels per side; tiny images become PNG."""
    image = image.convert("RGB")
    tiny = max(image.size) <= IMAGE_SIDE // 2
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    plain = Image.new("RGB", image.size)
    plain.paste(image)  # without EXIF data such as the location
    buffer = bytes_io.BytesIO()
    if tiny:
        plain.save(buffer, "PNG", optimize=True)
    else:
        plain.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _evenly_spaced(count: int, maximum: int) -> Tensor:
    """At most `maximum` evenly spaced numbers of range(count)."""
    return torch.arange(0, count, max(1, -(-count // maximum)))
