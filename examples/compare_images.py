"""The distance between sets of images, measured with CLIP features.

It is the CMMD of arXiv 2401.09603: the biased squared MMD between normalised CLIP image features
under one Gaussian kernel exp(-|a - b|^2 / (2 sigma^2)) with sigma = 10, times 1000, which is
1000 * mmd(a, b, bandwidth=10.0). The distance between normalised features is at most 2, so this
kernel is almost a parabola and the value is almost 10 |mean(a) - mean(b)|^2: it compares means. The
p-value is computed with the median bandwidth, which detects other differences too.

Published values are for ViT-L/14 at 336 pixels and 30,000 images; values for another backbone are
on another scale. The value between two random halves of the first folder shows what to expect
by chance, although for half as many images (the biased estimate decreases as 1/n).

    python examples/compare_images.py [FOLDER OTHER ...] [--model NAME --pretrained TAG]

Folders are searched recursively, and the others are compared with the first. Without folders the
script compares the styles of the demo. The default model is the small CLIP of the package, so
nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import awpf_ext
from awpf_ext.clip import Backbone, demo_model, load_backbone
from awpf_ext.data import load_dataset
from awpf_ext.data.demo import DEFAULT_STYLE, STYLES
from awpf_ext.data.images import IMAGE_SUFFIXES

SIGMA, SCALE = 10.0, 1000.0
BATCH = 64
DEMO_STEP = 20  # every 20th of the demo's 5,000 test images is used


class Comparison(NamedTuple):
    """CMMD of two sets, and the p-value of the hypothesis that their distributions are equal."""

    cmmd: float
    p_value: float


def images_of(folder: Path) -> Iterable[Image.Image]:
    """All images below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) < 4:
        raise SystemExit(f"{folder} holds {len(found)} images; expected at least 4")
    return map(Image.open, found)


def demo_images(style: str) -> Iterable[Image.Image]:
    """Every DEMO_STEP-th test image of the demo in a style."""
    images = load_dataset(f"demo:{style}").test
    return (images.read(index) for index in range(0, len(images.labels), DEMO_STEP))


def features(backbone: Backbone, images: Iterable[Image.Image]) -> Tensor:
    """Normalised CLIP features, computed in batches."""
    prepared = [torch.from_numpy(backbone.prepare(image)) for image in images]
    batches = torch.stack(prepared).split(BATCH)
    return normalize(torch.cat([backbone.encode_images(b).float() for b in batches]), dim=1)


def compare(first: Tensor, second: Tensor) -> Comparison:
    """Compare two sets of normalised features."""
    cmmd = SCALE * awpf_ext.mmd(first, second, bandwidth=SIGMA)
    return Comparison(float(cmmd), float(awpf_ext.mmd_test(first, second).p_value))


def compare_all(
    backbone: Backbone, sets: Mapping[str, Iterable[Image.Image]]
) -> dict[str, Comparison]:
    """Compare two random halves of the first set, and the first set with each other set."""
    (first, reference), *others = ((n, features(backbone, images)) for n, images in sets.items())
    torch.manual_seed(0)
    halves = reference[torch.randperm(len(reference))].chunk(2)
    found = {f"half of {first}": compare(*halves)}
    return {**found, **{name: compare(reference, x) for name, x in others}}


def main(arguments: Sequence[str] | None = None) -> dict[str, Comparison]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default=demo_model.MODEL)
    parser.add_argument("--pretrained", help="default: the model's own")
    options = parser.parse_args(arguments)
    if len(options.folders) == 1:
        parser.error("expected two folders of images or more, or none for the demo")
    pretrained = options.pretrained or demo_model.default_weights(options.model)
    backbone = load_backbone(options.model, pretrained)
    styles = [DEFAULT_STYLE, *(style for style in STYLES if style != DEFAULT_STYLE)]
    sets = {str(folder): images_of(folder) for folder in options.folders} or {
        style: demo_images(style) for style in styles
    }
    found = compare_all(backbone, sets)
    print(f"compared with {next(iter(sets))}, {backbone.name} {backbone.pretrained}:")
    width = max(map(len, found))
    for name, (cmmd, p_value) in found.items():
        print(f"  {name:{width}s}  CMMD {cmmd:8.3f}  p = {p_value:.3f}")
    return found


if __name__ == "__main__":
    main()
