"""Classification of images with a trained model and its backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from awpf_ext.clip import Backbone
from awpf_ext.errors import UserError, reason
from awpf_ext.runs.export import LearnedModel


class ClassProbability(NamedTuple):
    """The probability that an image shows a class."""

    name: str
    label: int  # of the class in the data set; names may repeat
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, or why the image cannot be read."""

    image: str
    classes: tuple[ClassProbability, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        return {"image": self.image, "classes": [entry._asdict() for entry in self.classes]}


def predict(
    model: LearnedModel,
    backbone: Backbone,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """The `top` most probable classes of each image, in the order of `images`."""
    if top < 1:
        raise UserError(f"top is {top}; expected at least 1")
    predictions: list[Prediction] = []
    for start in range(0, len(images), batch_size):
        names = [str(image) for image in images[start : start + batch_size]]
        predictions += _predict_batch(model, backbone, names, top)
        if progress is not None:
            progress(len(predictions), len(images))
    return predictions


def _predict_batch(
    model: LearnedModel, backbone: Backbone, names: Sequence[str], top: int
) -> list[Prediction]:
    read = [_prepared(backbone, name) for name in names]
    pixels = [image for image in read if not isinstance(image, str)]
    if not pixels:
        return [Prediction(n, error=str(e)) for n, e in zip(names, read, strict=True)]
    stacked = torch.from_numpy(np.stack(pixels))
    as_images = model.method.inputs == "images"
    x = stacked if as_images else backbone.encode_images(stacked)
    best = model.probabilities(x).topk(min(top, len(model.class_names)), dim=1)
    rows = iter(zip(best.values.tolist(), best.indices.tolist(), strict=True))
    predictions = []
    for name, image in zip(names, read, strict=True):
        if isinstance(image, str):
            predictions.append(Prediction(name, error=image))
            continue
        values, classes = next(rows)
        probabilities = (
            ClassProbability(model.class_names[index], model.facts["class_order"][index], value)
            for index, value in zip(classes, values, strict=True)
        )
        predictions.append(Prediction(name, tuple(probabilities)))
    return predictions


def _prepared(backbone: Backbone, name: str) -> np.ndarray[Any, np.dtype[np.uint8]] | str:
    """The image as the backbone takes it, or the reason why it cannot be read."""
    try:
        with Image.open(Path(name).expanduser()) as image:
            return backbone.prepare(image)
    except Exception as error:  # a decoder raises nearly anything on damaged files
        return reason(error)
