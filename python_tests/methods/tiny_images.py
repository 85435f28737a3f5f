"""A few random images per class in two domains, under the tiny CLIP of the clip tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from awpf_ext.clip import class_texts, load_backbone, prompted_clip
from awpf_ext.data.features import FeatureSet
from awpf_ext.data.prepared_images import PreparedImages
from awpf_ext.data.stream import TaskStream, task_stream

TINY = Path(__file__).parents[1] / "clip" / "tiny.json"
CLASSES = ("cat", "dog", "owl", "bee")
TEMPLATES = ("a photo of a {}.", "the {}.")
DOMAINS = ("night", "day")


class Noise:
    """Images of one colour a class, one brightness a domain, and noise; in memory."""

    def __init__(self, per_class: int, seed: int) -> None:
        shape = len(DOMAINS), len(CLASSES), per_class
        self.domains, self.labels = (
            torch.from_numpy(grid.ravel()) for grid in np.indices(shape)[:2]
        )
        rng = np.random.default_rng(seed)
        colours = np.random.default_rng(99).integers(0, 256, (len(CLASSES), 3))
        noise = rng.normal(0, 25, (len(self.labels), 32, 32, 3))
        bright = (0.5 + 0.5 * self.domains.numpy())[:, None, None, None]
        pixels = bright * colours[self.labels.numpy()][:, None, None] + noise
        self._pixels = pixels.clip(0, 255).astype(np.uint8)

    def name(self, row: int) -> str:
        return f"image {row}"

    def read(self, row: int) -> Image.Image:
        return Image.fromarray(self._pixels[row])


def tiny_features() -> FeatureSet:
    """4 classes x 2 domains x (5 training, 3 test) images."""
    import open_clip

    open_clip.add_model_config(TINY)
    backbone = load_backbone("tiny", "random:0")
    train, test = Noise(5, seed=1), Noise(3, seed=2)
    train_images, test_images = (PreparedImages(split, backbone.prepare) for split in (train, test))
    everything = slice(None)
    return FeatureSet(
        train_x=backbone.encode_images(train_images[everything]),
        train_y=train.labels,
        test_x=backbone.encode_images(test_images[everything]),
        test_y=test.labels,
        text=class_texts(backbone, CLASSES, TEMPLATES),
        class_names=CLASSES,
        logit_scale=20.0,
        provenance={"dataset": "noise"},
        train_images=train_images,
        test_images=test_images,
        domain_names=DOMAINS,
        train_domain=train.domains,
        test_domain=test.domains,
        clip=prompted_clip(backbone, CLASSES, TEMPLATES),
    )


def tiny_stream(features: FeatureSet, protocol: str = "class") -> TaskStream:
    """Two tasks: of two classes, or of a domain."""
    return task_stream(features, protocol=protocol, increment=2)
