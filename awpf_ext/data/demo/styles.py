"""The styles in which a scene can be rendered: the demo's domains.

Three are photographs, which the backbone is trained on. The others are drawings, made first and
then photographed, which it never sees.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.shapes import Field

Style = Callable[[Field, Numbers], Field]


def plain(picture: Field, numbers: Numbers) -> Field:
    return picture


def faded(picture: Field, numbers: Numbers) -> Field:
    """An old print: pale, low in contrast, yellowed."""
    gray = _gray(picture)
    strength = numbers.uniform(0.45, 0.6)
    for plane, tint in zip(picture, (0.36, 0.33, 0.25), strict=True):
        plane -= (plane - gray) * 0.35
        plane *= strength
        plane += tint
    return picture


def night(picture: Field, numbers: Numbers) -> Field:
    """Low light, bluish, with the noise of a long exposure."""
    strength = numbers.uniform(0.4, 0.6)
    noise = numbers.bytes(picture[0].size).astype(np.float32).reshape(picture[0].shape)
    noise = (noise - 127.5) * (0.06 / 127.5)
    for plane, cast, floor in zip(picture, (0.8, 0.9, 1.15), (0.01, 0.02, 0.08), strict=True):
        plane *= strength * cast
        plane += noise
        plane += floor
    return picture


def pencil(picture: Field, numbers: Numbers) -> Field:
    """Coloured pencil on paper: dark contours, hatching, much white."""
    height, width = picture.shape[1:]
    contour = _contour(picture)
    slant = np.arange(width, dtype=np.float32) + np.arange(height, dtype=np.float32)[:, None]
    hatching = slant * (1 / numbers.uniform(3.2, 4.2)) + numbers.uniform()
    hatching -= np.floor(hatching)
    strength = np.where(hatching < 0.5, 0.75, 0.3).astype(np.float32)
    for plane, paper in zip(picture, (0.98, 0.97, 0.93), strict=True):
        plane -= paper
        plane *= strength
        plane += paper
        plane -= contour * (plane * 0.75)
    return picture


def mosaic(picture: Field, numbers: Numbers) -> Field:
    """Tiles of three by three pixels in their mean colour, with lighter joints."""
    height, width = picture.shape[1:]
    tiles = picture.reshape(3, height // 3, 3, width // 3, 3)
    rows = tiles[:, :, 0] + tiles[:, :, 1] + tiles[:, :, 2]
    mean = (rows[..., 0] + rows[..., 1] + rows[..., 2]) * (1 / 9)
    joint = numbers.uniform(0.25, 0.4)
    tiles[...] = mean[:, :, None, :, None]
    tiles[:, :, 2] += (0.8 - tiles[:, :, 2]) * joint
    tiles[:, :, :2, :, 2] += (0.8 - tiles[:, :, :2, :, 2]) * joint
    return picture


def blueprint(picture: Field, numbers: Numbers) -> Field:
    """White contours on blue paper, with only a trace of the colours."""
    contour = _contour(picture)
    share = numbers.uniform(0.35, 0.45)
    for plane, paper in zip(picture, (0.10, 0.22, 0.48), strict=True):
        plane -= paper
        plane *= share
        plane += paper
        plane += contour * (0.95 - plane)
    picture[:, ::8] += 0.05
    picture[:, :, ::8] += 0.05
    return picture


def _gray(picture: Field) -> Field:
    gray: Field = picture[0] * 0.3 + picture[1] * 0.6 + picture[2] * 0.1
    return gray


def _contour(picture: Field) -> Field:
    """Edge strength between 0 and 1, large if neighbouring pixels differ."""
    steep = np.zeros_like(picture[0])
    for plane in picture:
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
