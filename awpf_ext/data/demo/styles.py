"""The renderings of a scene: those the backbone is trained on, and the styles of the demo.

The backbone is trained on plain, faded and night, which imitate photographs. Of these the demo has
plain alone. Its other styles, which the backbone never sees, move the pictures away from their
names but leave the classes as easy to tell apart: a lens before the camera (hue45, negative,
sideways), or a rendering that is photographed (mosaic, blueprint).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.shapes import Field

Style = Callable[[Field, Numbers], Field]
# The rotation of colour space by 45 degrees around (1, 1, 1), to six places: each channel's shares
# of red, green and blue.
HUE45 = (
    (0.804738, -0.310617, 0.505879),
    (0.505879, 0.804738, -0.310617),
    (-0.310617, 0.505879, 0.804738),
)


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


def hue45(image: Field, numbers: Numbers) -> Field:
    """Hues turned by 45 degrees around the grey axis: a red object is orange, a blue one purple."""
    red, green, blue = image
    return np.stack([red * r + green * g + blue * b for r, g, b in HUE45])


def negative(image: Field, numbers: Numbers) -> Field:
    """Black for white, and for every colour its opposite."""
    return 1.0 - image


def sideways(image: Field, numbers: Numbers) -> Field:
    """A quarter turn to the left."""
    return np.ascontiguousarray(image.transpose(0, 2, 1)[:, ::-1])


def mosaic(image: Field, numbers: Numbers) -> Field:
    """The negative in tiles of three by three pixels in their mean colour, with lighter joints."""
    image = 1.0 - image
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
    """White contours on blue paper, with half of the colours."""
    contour = _contour(image)
    share = numbers.uniform(0.5, 0.6)
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


RENDERINGS: dict[str, Style] = {
    "plain": plain,
    "faded": faded,
    "night": night,
    "hue45": hue45,
    "negative": negative,
    "sideways": sideways,
    "mosaic": mosaic,
    "blueprint": blueprint,
}
TRAINED = ("plain", "faded", "night")
STYLES = ("plain", "hue45", "negative", "sideways", "mosaic", "blueprint")  # of the demo
DRAWINGS = ("mosaic", "blueprint")  # rendered first and then photographed
