"""Reading and preparing images on threads.

Decoding and resizing release the GIL, so threads are as fast as worker processes, without copies
between processes and without processes that outlive a kill.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from awpf_ext.data.images import ImageSplit

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Prepare = Callable[[Image.Image], Pixels]


def prepared_batches(
    images: ImageSplit,
    batches: Iterable[Sequence[int]],
    prepare: Prepare,
    workers: int,
    ahead: int,
) -> Generator[list[Pixels | str], None, None]:
    """The prepared images of each batch in order; for an unreadable image, the reason as text.

    `ahead` batches are read in advance while the caller processes one.
    """

    def read(index: int) -> Pixels | str:
        try:
            return prepare(images.read(index))
        except Exception as error:  # decoders raise many types for damaged files
            return (str(error) or type(error).__name__).replace("\n", " ")

    waiting: deque[list[Future[Pixels | str]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="awpf-read")
    try:
        for batch in batches:
            waiting.append([pool.submit(read, index) for index in batch])
            if len(waiting) > ahead:
                yield [image.result() for image in waiting.popleft()]
        while waiting:
            yield [image.result() for image in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def default_workers() -> int:
    """Number of reading threads: one per core, at most 16."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux: the cores this process may use
    return min(len(allowed(0)) if allowed else os.cpu_count() or 1, 16)
