"""The images behind the features, as bytes that a network's towers take: read once, kept in memory.

What training a tower needs and frozen features do not. Prepared images are kept as long as they
fit a budget, so that over small data only the first epoch reads files.
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

MEMORY = 2 << 30  # bytes of prepared images that a machine keeps of a split: 14,000 of 224 x 224
Rows = Tensor | Sequence[int] | slice


class PreparedImages:
    """Prepared images by row: `rows[index]` is a uint8 tensor (n, height, width, 3).

    An index is an int64 tensor, a list, a range or a slice; rows may repeat. Images are read on
    `workers` threads (by default one a core, at most 16) and kept, first come, up to `memory`
    bytes: an epoch passes over all of them, so that to replace one by another would gain nothing.
    Only what is not `expected` any more makes room. What `at` selects shares the memory. Nothing
    here draws random numbers.
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
        """rows: of `images`, those that this holds; by default all."""
        count = len(images.labels)
        self._rows = torch.arange(count) if rows is None else _positions(rows, count)
        self._images = images
        self._prepare = prepare
        self._workers = workers or default_workers()
        self._kept = _Kept(count, memory)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Rows) -> Tensor:
        """DataError naming the images that cannot be read, IndexError for rows not there."""
        return next(self.batches([index]))

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError("PreparedImages gives many images at a time; use batches(...)")

    def at(self, index: Rows) -> PreparedImages:
        """Only these rows, numbered anew; nothing is read."""
        view = object.__new__(PreparedImages)
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[_positions(index, len(self))]
        return view

    def expect(self, index: Rows) -> None:
        """These rows are what is needed from now on; nothing is read. Before the first call: all.

        Once the memory is full, images of other rows (earlier tasks') make room for new ones.
        """
        self._kept.expect(self._rows[_positions(index, len(self))])

    def original(self, row: int) -> tuple[str, Image.Image]:
        """What to call the image of a row, and the image as it was before it was prepared."""
        place = int(self._rows[row])
        return self._images.name(place), self._images.read(place)

    def batches(self, parts: Iterable[Rows], ahead: int = 0) -> Generator[Tensor, None, None]:
        """`self[part]` for each of the parts; `ahead` more are read while the caller works.

        A network on the CPU needs the cores itself: keep `ahead` at 0 there.
        """
        plans: deque[tuple[Tensor, Tensor]] = deque()

        def absent() -> Iterator[list[int]]:
            for part in parts:
                wanted = self._rows[_positions(part, len(self))]
                missing = wanted[~self._kept.has(wanted)].unique()  # sorted
                if not len(wanted) and self._kept.shape is None and len(self):
                    missing = self._rows[:1]  # only an image tells their height and width
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
        """The images `wanted`: those `missing` as found, the others as kept."""
        old = self._kept.has(wanted)
        forgotten = wanted[~old & ~torch.isin(wanted, missing)]
        if len(forgotten):  # they made room since it was planned what to read
            missing = wanted[~old].unique()
            found = next(self._read([missing.tolist()], 0))
        fresh = self._stacked(missing, found)
        if fresh is None:
            return self._kept.get(wanted)
        if not bool(old.any()):
            joined = fresh[torch.searchsorted(missing, wanted)]
        else:
            joined = fresh.new_empty(len(wanted), *fresh.shape[1:])
            joined[old] = self._kept.get(wanted[old])
            joined[~old] = fresh[torch.searchsorted(missing, wanted[~old])]
        self._kept.keep(missing, fresh)
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


class _Kept:
    """Prepared images in memory, by their row in the split."""

    def __init__(self, count: int, memory: int) -> None:
        self.shape: tuple[int, ...] | None = None  # of one image, once one has been seen
        self._memory = memory
        self._pixels = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
        self._slot = torch.full((count,), -1)  # of each row in `pixels`; -1: not kept
        self._free = torch.empty(0, dtype=torch.int64)  # slots that hold nothing
        self._spare = torch.zeros(count, dtype=torch.bool)  # rows that may make room

    def has(self, rows: Tensor) -> Tensor:
        return self._slot[rows] >= 0

    def get(self, rows: Tensor) -> Tensor:
        return self._pixels[self._slot[rows]]

    def expect(self, rows: Tensor) -> None:
        self._spare.fill_(True)
        self._spare[rows] = False

    def keep(self, rows: Tensor, pixels: Tensor) -> None:
        """As many as there is room for; rows kept already (two batches were read ahead) stay."""
        if self.shape is None:
            self.shape = tuple(pixels.shape[1:])
            room = min(len(self._slot), self._memory // pixels[0].numel())
            self._pixels = pixels.new_empty(room, *self.shape)  # memory is taken when written to
            self._free = torch.arange(room)
        new = (self._slot[rows] < 0).nonzero().flatten()
        if len(new) > len(self._free):
            self._make_room(len(new) - len(self._free))
        new, slots = new[: len(self._free)], self._free[: len(new)]
        self._free = self._free[len(slots) :]
        self._pixels[slots] = pixels[new]
        self._slot[rows[new]] = slots
        self._spare[rows[new]] = False  # somebody needs it, expected or not

    def _make_room(self, count: int) -> None:
        """Forget up to `count` rows that nobody expects."""
        forgotten = (self._spare & (self._slot >= 0)).nonzero().flatten()[:count]
        self._free = torch.cat([self._free, self._slot[forgotten]])
        self._slot[forgotten] = -1


def _positions(index: Rows, count: int) -> Tensor:
    """The rows that an index names, checked against their number."""
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
