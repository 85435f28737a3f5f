"""What a finished run keeps beside its numbers, so that its report can be made anywhere later.

`evidence.safetensors` in the run's folder, bounded for test sets of any size:

    labels, predictions, zero_shot  class, prediction after the last task, and CLIP's own prediction
                                    of every test image (of evenly spaced ones where they are many)
    zero_shot_accuracy, _matrix     CLIP's accuracy after each task, as the run's own
    before, after, map_labels       embeddings of some classes' test images, without and with what
                                    was learned
    pictures                        test images of the pairs most often confused, as small files

Labels and predictions are positions in the order of learning. The data set, the feature store and
the method's code are not needed again.
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
from awpf_ext.runs.evaluation import inputs_of_seen, parts, predictions

FILE = "evidence.safetensors"
FORMAT = 1
MOST_IMAGES = 100_000  # whose predictions are kept
MAP_CLASSES = 8
MAP_IMAGES = 60  # of a class
PICTURED_PAIRS = 6
PICTURES = 3  # of a pair, in each direction
PICTURE_SIDE = 112  # pixels; larger images are made smaller


class Pair(NamedTuple):
    """Two classes, and how many test images of one were taken for the other."""

    first: int
    second: int
    confused: int


@dataclass(frozen=True)
class Picture:
    """A test image of the class `label` that was taken for `taken_for`."""

    label: int
    taken_for: int
    name: str  # of its file
    content: bytes  # PNG or JPEG


@dataclass(frozen=True, eq=False)
class Evidence:
    """See above; `share` is the part of the test images that predictions are kept of."""

    labels: Tensor
    predictions: Tensor
    zero_shot: Tensor
    zero_shot_accuracy: tuple[float, ...]
    zero_shot_matrix: tuple[tuple[float, ...], ...]
    map_labels: Tensor
    before: Tensor
    after: Tensor
    share: float
    pictures: tuple[Picture, ...]
    pictures_missing: str | None  # why there are none


@torch.no_grad()
def collect_evidence(stream: TaskStream, method: Method) -> Evidence:
    """Gather it from a method that has learned the whole stream."""
    x, y = stream.test_seen(len(stream) - 1)
    inputs = inputs_of_seen(stream, method, len(stream) - 1)
    rows = _evenly(len(y), MOST_IMAGES)
    labels = y[rows].cpu()
    kept = inputs[rows] if isinstance(inputs, Tensor) else inputs.at(rows)
    learned = predictions(method, kept, method.seen).cpu()
    steps = _zero_shot_steps(stream, x)
    accuracy, matrix = _zero_shot_accuracies(stream, y.cpu(), steps)
    pairs = hardest_pairs(labels, learned)
    chosen = _map_rows(y.cpu(), pairs, len(stream.text)).to(x.device)
    mapped = inputs[chosen] if isinstance(inputs, Tensor) else inputs.at(chosen.cpu())
    pictures, missing = _pictures(stream, rows.cpu(), labels, learned, pairs)
    return Evidence(
        labels=labels,
        predictions=learned,
        zero_shot=steps[-1][rows.cpu()],
        zero_shot_accuracy=accuracy,
        zero_shot_matrix=matrix,
        map_labels=y[chosen].cpu(),
        before=normalize(x[chosen], dim=-1).cpu().half(),
        after=torch.cat([method.embed(part) for part in parts(mapped)]).cpu().half(),
        share=len(rows) / len(y),
        pictures=pictures,
        pictures_missing=missing,
    )


def hardest_pairs(labels: Tensor, predictions: Tensor) -> list[Pair]:
    """Pairs of classes by how often one was taken for the other, most often first."""
    wrong = labels != predictions
    both = torch.stack([labels[wrong], predictions[wrong]]).long()
    if not both.numel():
        return []
    pairs, counts = torch.unique(both.sort(dim=0).values, dim=1, return_counts=True)
    listed = zip(*pairs.tolist(), counts.tolist(), strict=True)
    found = [Pair(first, second, confused) for first, second, confused in listed]
    return sorted(found, key=lambda pair: (-pair.confused, pair.first, pair.second))


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Write it into a run's folder."""
    facts = {
        "format": FORMAT,
        "share": evidence.share,
        "pictures": [[p.label, p.taken_for, p.name, len(p.content)] for p in evidence.pictures],
        "pictures_missing": evidence.pictures_missing,
    }
    steps = len(evidence.zero_shot_accuracy)
    matrix = torch.full((steps, steps), math.nan, dtype=torch.float64)
    for step, row in enumerate(evidence.zero_shot_matrix):
        matrix[step, : len(row)] = torch.tensor(row, dtype=torch.float64)
    content = b"".join(picture.content for picture in evidence.pictures)
    tensors = {
        "labels": evidence.labels.to(torch.int32),
        "predictions": evidence.predictions.to(torch.int32),
        "zero_shot": evidence.zero_shot.to(torch.int32),
        "zero_shot_accuracy": torch.tensor(evidence.zero_shot_accuracy, dtype=torch.float64),
        "zero_shot_matrix": matrix,
        "map_labels": evidence.map_labels.to(torch.int32),
        "before": evidence.before,
        "after": evidence.after,
        "pictures": torch.tensor(list(content), dtype=torch.uint8),
    }
    io.save_tensors(folder / FILE, tensors, {"awpf_ext": json.dumps(facts, ensure_ascii=False)})


def read_evidence(folder: Path) -> Evidence | None:
    """The evidence in a run's folder; None where the run was made before there was any."""
    if not (folder / FILE).exists():
        return None
    try:
        tensors, metadata = io.load_tensors(folder / FILE)
        facts = json.loads(metadata["awpf_ext"])
        if facts["format"] != FORMAT:
            raise DataError(f"{FILE} has format {facts['format']}; this version reads {FORMAT}")
        content = bytes(tensors["pictures"].tolist())
        pictures = []
        start = 0
        for label, taken_for, name, size in facts["pictures"]:
            pictures.append(Picture(label, taken_for, name, content[start : start + size]))
            start += size
        matrix = tensors["zero_shot_matrix"].tolist()
        return Evidence(
            labels=tensors["labels"].long(),
            predictions=tensors["predictions"].long(),
            zero_shot=tensors["zero_shot"].long(),
            zero_shot_accuracy=tuple(tensors["zero_shot_accuracy"].tolist()),
            zero_shot_matrix=tuple(tuple(row[: step + 1]) for step, row in enumerate(matrix)),
            map_labels=tensors["map_labels"].long(),
            before=tensors["before"].float(),
            after=tensors["after"].float(),
            share=facts["share"],
            pictures=tuple(pictures),
            pictures_missing=facts["pictures_missing"],
        )
    except (DataError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _zero_shot_steps(stream: TaskStream, x: Tensor) -> list[Tensor]:
    """CLIP's predictions for all test images after each task, among the classes seen by then.

    One pass over the texts: a step compares the best of its own classes with the best before.
    """
    found: list[list[Tensor]] = [[] for _ in range(len(stream))]
    for rows in parts(x):
        cosines = normalize(rows, dim=-1) @ stream.text.T
        best = torch.full((len(rows),), -math.inf, device=x.device)
        likeliest = torch.zeros(len(rows), dtype=torch.int64, device=x.device)
        start = 0
        for step in range(len(stream)):
            if stream.seen(step) > start:
                own, position = cosines[:, start : stream.seen(step)].max(dim=1)
                better = own > best
                best = torch.where(better, own, best)
                likeliest = torch.where(better, position + start, likeliest)
                start = stream.seen(step)
            found[step].append(likeliest.cpu())
    return [torch.cat(part) for part in found]


def _zero_shot_accuracies(
    stream: TaskStream, y: Tensor, steps: Sequence[Tensor]
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    sizes = [len(stream.test(task)[1]) for task in range(len(stream))]
    overall, matrix = [], []
    for step, predicted in enumerate(steps):
        seen = sum(sizes[: step + 1])
        right = (predicted[:seen] == y[:seen]).double()
        overall.append(_mean(right))
        matrix.append(tuple(_mean(part) for part in torch.split(right, sizes[: step + 1])))
    return tuple(overall), tuple(matrix)


def _mean(right: Tensor) -> float:
    return float(right.mean()) if len(right) else math.nan


def _map_rows(y: Tensor, pairs: Sequence[Pair], classes: int) -> Tensor:
    """Test rows for a map: the classes of the hardest pairs, then others evenly spaced."""
    wanted = [label for pair in pairs for label in (pair.first, pair.second)]
    wanted += _evenly(classes, MAP_CLASSES).tolist() + list(range(classes))
    kept: list[Tensor] = []
    for label in dict.fromkeys(wanted):
        of_class = (y == label).nonzero().flatten()
        if len(of_class) and len(kept) < MAP_CLASSES:
            kept.append(of_class[_evenly(len(of_class), MAP_IMAGES)])
    return torch.cat(kept)


def _pictures(
    stream: TaskStream, rows: Tensor, labels: Tensor, predictions: Tensor, pairs: Sequence[Pair]
) -> tuple[tuple[Picture, ...], str | None]:
    """Some test images of the hardest pairs that were taken for one another."""
    if stream.read_test_image is None:
        return (), "the run was made from features, without images"
    found: list[Picture] = []
    unreadable = None
    for pair in pairs[:PICTURED_PAIRS]:
        for label, other in ((pair.first, pair.second), (pair.second, pair.first)):
            confused = ((labels == label) & (predictions == other)).nonzero().flatten()
            for position in confused[:PICTURES].tolist():
                try:
                    name, image = stream.read_test_image(int(rows[position]))
                    found.append(Picture(label, other, Path(name).name, _small_file(image)))
                except Exception as error:  # features came from the store, the images are gone
                    why = getattr(error, "strerror", None) or type(error).__name__
                    unreadable = f"the images could not be read any more ({why})"
    return tuple(found), None if found else unreadable


def _small_file(image: Image.Image) -> bytes:
    """The pixels alone, at most PICTURE_SIDE wide and high; PNG where that is small anyway."""
    image = image.convert("RGB")
    tiny = max(image.size) <= PICTURE_SIDE // 2
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    plain = Image.new("RGB", image.size)
    plain.paste(image)  # without what the file said about place and camera
    buffer = bytes_io.BytesIO()
    if tiny:
        plain.save(buffer, "PNG", optimize=True)
    else:
        plain.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _evenly(count: int, most: int) -> Tensor:
    """At most `most` of range(count), evenly spaced."""
    return torch.arange(0, count, max(1, -(-count // most)))
