"""The styles in which a scene can be rendered: the demo's domains.

The first three imitate photographs, and the backbone is trained on them. The others, which it
never sees, imitate drawings that are then photographed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.shapes import Field

Style = Callable[[Field, Numbers], Field]


def plain(image: Field, numbers: Numbers) -> Field:
    return image


def faded(image: Field, numbers: Numbers) -> Field:
    """An old print: pale, low in contrast, yellowed."""
    gray = _gray(image)
    strength = numbers.uniform(0.45, 0.6)
    for plane, tint in zip(image, (0.36, 0.33, 0.25), strict=True):
        plane -= (plane - gray) * 0.35
        plane *= strength
        plane += tint
    return image


def night(image: Field, numbers: Numbers) -> Field:
    """Low light, bluish, with the noise of a long exposure."""
    strength = numbers.uniform(0.4, 0.6)
    noise = numbers.bytes(image[0].size).astype(np.float32).reshape(image[0].shape)
    noise = (noise - 127.5) * (0.06 / 127.5)
    for plane, cast, floor in zip(image, (0.8, 0.9, 1.15), (0.01, 0.02, 0.08), strict=True):
        plane *= strength * cast
        plane += noise
        plane += floor
    return image


def pencil(image: Field, numbers: Numbers) -> Field:
    """Coloured pencil on paper: dark contours, hatching, much white."""
    height, width = image.shape[1:]
    contour = _contour(image)
    slant = np.arange(width, dtype=np.float32) + np.arange(height, dtype=np.float32)[:, None]
    hatching = slant * (1 / numbers.uniform(3.2, 4.2)) + numbers.uniform()
    hatching -= np.floor(hatching)
    strength = np.where(hatching < 0.5, 0.75, 0.3).astype(np.float32)
    for plane, paper in zip(image, (0.98, 0.97, 0.93), strict=True):
        plane -= paper
        plane *= strength
        plane += paper
        plane -= contour * (plane * 0.75)
    return image


def mosaic(image: Field, numbers: Numbers) -> Field:
    """Tiles of three by three pixels in their mean colour, with lighter joints."""
    height, width = image.shape[1:]
    tiles = image.reshape(3, height // 3, 3, width // 3, 3)
    rows = tiles[:, :, 0] + tiles[:, :, 1] + tiles[:, :, 2]
    mean = (rows[..., 0] + rows[..., 1] + rows[..., 2]) * (1 / 9)
    joint = numbers.uniform(0.25, 0.4)
    tiles[...] = mean[:, :, None, :, None]
    tiles[:, :, 2] += (0.8 - tiles[:, :, 2]) * joint
    tiles[:, :, :2, :, 2] += (0.8 - tiles[:, :, :2, :, 2]) * joint
    return image


def blueprint(image: Field, numbers: Numbers) -> Field:
    """White contours on blue paper, with only a trace of the colours."""
    contour = _contour(image)
    share = numbers.uniform(0.35, 0.45)
    for plane, paper in zip(image, (0.10, 0.22, 0.48), strict=True):
        plane -= paper
        plane *= share
        plane += paper
        plane += contour * (0.95 - plane)
    image[:, ::8] += 0.05
    image[:, :, ::8] += 0.05
    return image


def _gray(image: Field) -> Field:
    gray: Field = image[0] * 0.3 + image[1] * 0.6 + image[2] * 0.1
    return gray


def _contour(image: Field) -> Field:
    """Edge strength between 0 and 1, large if neighbouring pixels differ."""
    steep = np.zeros_like(image[0])
    for plane in image:
        steep[:, :-1] += np.abs(plane[:, 1:] - plane[:, :-1])
        steep[:-1] += np.abs(plane[1:] - plane[:-1])
    strength: Field = np.minimum(np.maximum(steep * 0.7 - 0.25, 0.0), 1.0)
    return strength


STYLES: dict[str, Style] = {
    "plain": plain,
    "faded": faded,
    "night": night,
    "pencil": pencil,
    "mosaic": mosaic,
    "blueprint": blueprint,
}
TRAINED = ("plain", "faded", "night")
DRAWINGS = tuple(style for style in STYLES if style not in TRAINED)
