"""The patterns: how much of an object's own colour shows at each point, the rest being its tint.

A pattern is a function of coordinates in pixels (turned with the object), of the signed distance to
its outline, and of the random numbers that choose its width and phase.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.shapes import Field

OWN = 0.58  # fraction of a stripe in the object's own colour
SPECK = 2.2  # pixels
_LATTICE = 16

Pattern = Callable[[Field, Field, Field, Numbers], Field]


def _clip(field: Field) -> Field:
    return np.minimum(np.maximum(field, 0.0), 1.0)


def _wave(along: Field, period: float, phase: float) -> Field:
    """A triangle wave between 0 and 0.5, with the period in pixels."""
    turns = along * (1 / period) + phase
    turns -= np.floor(turns)
    turns -= 0.5
    return np.abs(turns)


def _stripes(along: Field, period: float, phase: float, share: float = OWN) -> Field:
    """Stripes with soft edges, one pixel wide."""
    return _clip((_wave(along, period, phase) - (0.5 - 0.5 * share)) * period + 0.5)


def striped(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    return _stripes(p, numbers.uniform(5, 7.5), numbers.uniform())


def dotted(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    period = numbers.uniform(5.5, 7.5)
    x = _wave(p, period, numbers.uniform()) * period
    y = _wave(q, period, numbers.uniform()) * period
    return _clip(np.sqrt(x * x + y * y) - (0.34 * period - 0.5))


def checkered(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    period = numbers.uniform(8, 11)
    x = _stripes(p, period, numbers.uniform(), 0.5)
    y = _stripes(q, period, numbers.uniform(), 0.5)
    return x + y - 2.0 * x * y


def zigzag(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    tooth = numbers.uniform(7, 9.5)
    teeth = _wave(p, tooth, numbers.uniform()) * (1.1 * tooth)
    return _stripes(q + teeth, numbers.uniform(5.5, 7.5), numbers.uniform())


def ringed(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    return _stripes(np.sqrt(p * p + q * q), numbers.uniform(5, 7), numbers.uniform())


def gridded(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    period = numbers.uniform(5.5, 7.5)
    x = _stripes(p, period, numbers.uniform(), 0.74)
    return x * _stripes(q, period, numbers.uniform(), 0.74)


def split(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    return _clip(p + numbers.uniform(0.0, 2.0))


def speckled(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    own = (numbers.bytes(_LATTICE * _LATTICE) > 80).astype(np.float32)
    column = np.floor(p * (1 / SPECK)).astype(np.int32) & (_LATTICE - 1)
    row = np.floor(q * (1 / SPECK)).astype(np.int32) & (_LATTICE - 1)
    return own[row * _LATTICE + column]


def plain(p: Field, q: Field, distance: Field, numbers: Numbers) -> Field:
    return np.ones_like(p)


DRAWN: dict[str, Pattern] = {
    "plain": plain,
    "striped": striped,
    "dotted": dotted,
    "checkered": checkered,
    "zigzag": zigzag,
    "ringed": ringed,
    "gridded": gridded,
    "split": split,
    "hollow": plain,  # painting cuts out its inside
    "speckled": speckled,
}
