"""Images prepared as uint8 input of a CLIP tower, read once and cached in memory.

Training a tower needs them; frozen features do not. Prepared images are cached up to a memory
limit, so that for small data only the first epoch reads files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awpf_ext.data.image_reader import Pixels, Prepare, default_workers, prepared_batches
from awpf_ext.data.images import ImageSplit
from awpf_ext.errors import DataError

MEMORY = 2 << 30  # bytes cached per machine and split: 14,000 images of 224 x 224
Rows = Tensor | Sequence[int] | slice


class PreparedImages:
    """Prepared images by row: `rows[index]` is a uint8 tensor (n, height, width, 3).

    An index is an int64 tensor, a list, a range or a slice; rows may repeat. Images are read on
    `workers` threads (by default one per core, at most 16) and cached in the order of their first
    use, up to `memory` bytes. As every epoch reads all images, replacing cached ones would not
    help; only rows that are no longer `expected` are evicted. Selections by `at` share the cache.
    No random numbers are drawn here.
    """

    def __init__(
        self,
        images: ImageSplit,
        prepare: Prepare,
        rows: Rows | None = None,
        *,
        workers: int | None = None,
        memory: int = MEMORY,
    ) -> None:
        """rows: the rows of `images` to hold; by default all."""
        count = len(images.labels)
        self._rows = torch.arange(count) if rows is None else _positions(rows, count)
        self._images = images
        self._prepare = prepare
        self._workers = workers or default_workers()
        self._cache = _Cache(count, memory)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Rows) -> Tensor:
        """DataError naming images that cannot be read; IndexError for rows that do not exist."""
        return next(self.batches([index]))

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError("PreparedImages gives many images at a time; use batches(...)")

    def at(self, index: Rows) -> PreparedImages:
        """A view of these rows, renumbered from 0; nothing is read."""
        view = object.__new__(PreparedImages)
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[_positions(index, len(self))]
        return view

    def expect(self, index: Rows) -> None:
        """Declare the rows needed from now on; before the first call all rows are. Reads nothing.

        When the cache is full, other rows (those of earlier tasks) are evicted for new ones.
        """
        self._cache.expect(self._rows[_positions(index, len(self))])

    def original(self, row: int) -> tuple[str, Image.Image]:
        """The name and the original, unprepared image of a row."""
        place = int(self._rows[row])
        return self._images.name(place), self._images.read(place)

    def batches(self, parts: Iterable[Rows], ahead: int = 0) -> Generator[Tensor, None, None]:
        """`self[part]` for each part; `ahead` more parts are read in advance.

        Keep `ahead` at 0 for a network on the CPU, which needs the cores itself.
        """
        plans: deque[tuple[Tensor, Tensor]] = deque()

        def absent() -> Iterator[list[int]]:
            for part in parts:
                wanted = self._rows[_positions(part, len(self))]
                missing = wanted[~self._cache.has(wanted)].unique()  # sorted
                if not len(wanted) and self._cache.shape is None and len(self):
                    missing = self._rows[:1]  # to learn the height and width
                plans.append((wanted, missing))
                yield missing.tolist()

        with closing(self._read(absent(), ahead)) as reader:
            for found in reader:
                wanted, missing = plans.popleft()
                yield self._joined(wanted, missing, found)

    def _read(
        self, batches: Iterable[list[int]], ahead: int
    ) -> Generator[list[Pixels | str], None, None]:
        return prepared_batches(self._images, batches, self._prepare, self._workers, ahead)

    def _joined(self, wanted: Tensor, missing: Tensor, found: list[Pixels | str]) -> Tensor:
        """The images `wanted`: `found` for those `missing`, the cached ones otherwise."""
        old = self._cache.has(wanted)
        evicted = wanted[~old & ~torch.isin(wanted, missing)]
        if len(evicted):  # they were evicted after this read was planned
            missing = wanted[~old].unique()
            found = next(self._read([missing.tolist()], 0))
        fresh = self._stacked(missing, found)
        if fresh is None:
            return self._cache.get(wanted)
        if not bool(old.any()):
            joined = fresh[torch.searchsorted(missing, wanted)]
        else:
            joined = fresh.new_empty(len(wanted), *fresh.shape[1:])
            joined[old] = self._cache.get(wanted[old])
            joined[~old] = fresh[torch.searchsorted(missing, wanted[~old])]
        self._cache.keep(missing, fresh)
        return joined

    def _stacked(self, rows: Tensor, found: list[Pixels | str]) -> Tensor | None:
        unreadable = [
            f"{self._images.name(row)}: {image}"
            for row, image in zip(rows.tolist(), found, strict=True)
            if isinstance(image, str)
        ]
        if unreadable:
            more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
            raise DataError(f"cannot read {unreadable[0]}{more}")
        return torch.from_numpy(np.stack(found)) if found else None


class _Cache:
    """Cached images by their row in the split."""

    def __init__(self, count: int, memory: int) -> None:
        self.shape: tuple[int, ...] | None = None  # of one image; None until the first is cached
        self._memory = memory
        self._pixels = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
        self._slot = torch.full((count,), -1)  # position of each row in `_pixels`; -1: not cached
        self._free = torch.empty(0, dtype=torch.int64)  # unused positions
        self._evictable = torch.zeros(count, dtype=torch.bool)

    def has(self, rows: Tensor) -> Tensor:
        return self._slot[rows] >= 0

    def get(self, rows: Tensor) -> Tensor:
        return self._pixels[self._slot[rows]]

    def expect(self, rows: Tensor) -> None:
        self._evictable.fill_(True)
        self._evictable[rows] = False

    def keep(self, rows: Tensor, pixels: Tensor) -> None:
        """Cache as many as fit; rows cached meanwhile by a batch read in advance stay."""
        if self.shape is None:
            self.shape = tuple(pixels.shape[1:])
            room = min(len(self._slot), self._memory // pixels[0].numel())
            self._pixels = pixels.new_empty(
                room, *self.shape
            )  # the OS allocates it on the first write
            self._free = torch.arange(room)
        new = (self._slot[rows] < 0).nonzero().flatten()
        if len(new) > len(self._free):
            self._evict(len(new) - len(self._free))
        new, slots = new[: len(self._free)], self._free[: len(new)]
        self._free = self._free[len(slots) :]
        self._pixels[slots] = pixels[new]
        self._slot[rows[new]] = slots
        self._evictable[rows[new]] = False  # in use, even if not expected

    def _evict(self, count: int) -> None:
        """Evict up to `count` rows that are not expected."""
        evicted = (self._evictable & (self._slot >= 0)).nonzero().flatten()[:count]
        self._free = torch.cat([self._free, self._slot[evicted]])
        self._slot[evicted] = -1


def _positions(index: Rows, count: int) -> Tensor:
    """The row numbers of an index, after a bounds check."""
    if isinstance(index, slice):
        index = range(*index.indices(count))
    if isinstance(index, range):
        index = torch.from_numpy(np.arange(index.start, index.stop, index.step))
    rows = torch.as_tensor(index).cpu()
    if rows.dim() != 1 or (rows.is_floating_point() and len(rows)) or rows.dtype == torch.bool:
        raise TypeError(
            f"rows are {rows.dtype} of shape {tuple(rows.shape)}; expected integers of shape (n,)"
        )
    rows = rows.long()
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise IndexError(f"rows {int(rows.min())}..{int(rows.max())} of {count} images")
    return rows
