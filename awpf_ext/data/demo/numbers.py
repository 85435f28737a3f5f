"""Random numbers that are the same on every machine and for every version of NumPy.

NumPy promises that for the raw words of a bit generator, not for what its Generator makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice")
_AT_ONCE = 64


class Numbers:
    """An independent stream for every key and position, usable in any order."""

    def __init__(self, key: tuple[int, int], place: tuple[int, int, int]) -> None:
        self._source = np.random.Philox(
            key=np.array(key, np.uint64), counter=np.array((0, *place), np.uint64)
        )
        self._words: list[int] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self._word() >> 11) * 2.0**-53)

    def below(self, bound: int) -> int:
        return ((self._word() >> 32) * bound) >> 32

    def choice(self, among: Sequence[Choice]) -> Choice:
        return among[self.below(len(among))]

    def shuffle(self, items: list[Any]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def bytes(self, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        words = self._source.random_raw(-(-count // 8)).astype("<u8")
        return words.view(np.uint8)[:count]

    def _word(self) -> int:
        if not self._words:
            self._words = self._source.random_raw(_AT_ONCE).tolist()
        return self._words.pop()
