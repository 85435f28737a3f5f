"""Images to classes, with the backbone that a model was learned on."""

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


class Likely(NamedTuple):
    """One class that an image may be of."""

    name: str
    label: int  # in the data set's numbering; names may repeat
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first; or why it could not be read."""

    image: str
    classes: tuple[Likely, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        told = {"image": self.image}
        if self.error is not None:
            return {**told, "error": self.error}
        return {**told, "classes": [likely._asdict() for likely in self.classes]}


def predict(
    model: LearnedModel,
    backbone: Backbone,
    images: Sequence[str | Path],
    *,
    top: int = 5,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Prediction]:
    """The `top` likeliest classes of each image, in the order given."""
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
        likeliest = (
            Likely(model.class_names[index], model.facts["class_order"][index], value)
            for index, value in zip(classes, values, strict=True)
        )
        predictions.append(Prediction(name, tuple(likeliest)))
    return predictions


def _prepared(backbone: Backbone, name: str) -> np.ndarray[Any, np.dtype[np.uint8]] | str:
    """The image ready for the backbone, or why it cannot be read."""
    try:
        with Image.open(Path(name).expanduser()) as image:
            return backbone.prepare(image)
    except Exception as error:  # a decoder raises nearly anything on damaged files
        return reason(error)
