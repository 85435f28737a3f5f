"""The demo data set: a hundred classes that were not in the training of the demo model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.scene import SIZE, paint, sample_scene
from awpf_ext.data.demo.styles import STYLES
from awpf_ext.data.demo.words import compositions
from awpf_ext.data.images import ImageDataset
from awpf_ext.errors import UserError

DEFAULT_STYLE = "hue45"
ALL_STYLES = "all"
TRAIN_EACH, TEST_EACH = 200, 50
TRAIN_LIMIT, TEST_LIMIT = 80, 20  # that a run takes unless it is given other limits
LIMITS = {"train_limit": TRAIN_LIMIT, "test_limit": TEST_LIMIT}
# Clutter and styles were chosen on other images, by the accuracies of zero-shot, of LDA, of joint
# training and of training without replay, before any method that fuses was run on them; except that
# mosaic replaced another style after a first freeze (docs/demo.md).
CLUTTER = 0.3
SEED = 503
FROZEN = "5be7edb3f5e3347d"  # the value of frozen_hash() at that time

Split = Literal["train", "test"]


@dataclass(frozen=True)
class DemoSplit:
    """Images drawn on access, `each` per class, ordered by style and class."""

    split: Split
    styles: tuple[str, ...]
    each: int

    @property
    def labels(self) -> Tensor:
        classes = torch.arange(len(compositions().demo))
        return classes.repeat_interleave(self.each).repeat(len(self.styles))

    @property
    def domains(self) -> Tensor:
        """The index of each image's style."""
        images = len(compositions().demo) * self.each
        return torch.arange(len(self.styles)).repeat_interleave(images)

    def read(self, index: int) -> Image.Image:
        style, label, nth = self._place(index)
        classes = compositions()
        numbers = Numbers(
            (SEED, ("train", "test").index(self.split)),
            (STYLES.index(style), label, nth),
        )
        scene = sample_scene(numbers, classes.demo[label], classes.training, CLUTTER)
        return Image.fromarray(paint(scene, numbers, CLUTTER, style))

    def name(self, index: int) -> str:
        style, label, nth = self._place(index)
        return f"demo {style} {self.split} {compositions().demo[label].name} {nth}"

    def _place(self, index: int) -> tuple[str, int, int]:
        """The style, the class and the number within both of an image."""
        place, nth = divmod(index, self.each)
        style, label = divmod(place, len(compositions().demo))
        return self.styles[style], label, nth

    def fingerprint(self, start: int, stop: int) -> str:
        """A hash of the frozen specification, so that no image has to be drawn for it."""
        styles = "+".join(self.styles)
        described = f"{FROZEN} {self.split} {styles} {self.each} {start}:{stop}"
        return hashlib.sha256(described.encode()).hexdigest()


def demo_dataset(style: str = DEFAULT_STYLE) -> ImageDataset:
    """The hundred classes in one style, with 200 training and 50 test images per class.

    "all": in every style with that many images, each style a domain.
    """
    if style not in (*STYLES, ALL_STYLES):
        raise UserError(
            f"demo has no style {style!r}; expected one of {', '.join(STYLES)}, or {ALL_STYLES}"
        )
    domains = STYLES if style == ALL_STYLES else ()
    train, test = (DemoSplit(split, domains or (style,), each) for split, each in _images_each())
    return ImageDataset(
        "demo" if style == DEFAULT_STYLE else f"demo:{style}",
        tuple(composition.name for composition in compositions().demo),
        train,
        test,
        {"demo": FROZEN},
        domain_names=domains,
        train_domain=train.domains if domains else None,
        test_domain=test.domains if domains else None,
    )


def _images_each() -> tuple[tuple[Split, int], ...]:
    """The splits, and the number of images per class and style in each."""
    return ("train", TRAIN_EACH), ("test", TEST_EACH)


def frozen_hash() -> str:
    """A hash of everything that determines the images, and of sample images in every style."""
    drawn = {
        "classes": [composition.name for composition in compositions().demo],
        "numbers": [SEED, CLUTTER, SIZE, TRAIN_EACH, TEST_EACH],
    }
    digest = hashlib.sha256(json.dumps(drawn).encode())
    for style in STYLES:
        for split, each in _images_each():
            images = DemoSplit(split, (style,), each)
            for index in range(0, each * len(compositions().demo), 7 * each + 3):
                digest.update(images.read(index).tobytes())
    return digest.hexdigest()[:16]
