"""Images read and prepared ahead of the model, on threads.

Decoding and resizing release the interpreter's lock, so threads do what worker processes would,
without copies between processes and with nothing left behind by a kill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from awpf_ext.data.images import ImageSplit

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
BATCHES_AHEAD = 3


def prepared_batches(
    images: ImageSplit,
    batches: Iterable[range],
    prepare: Callable[[Image.Image], Pixels],
    workers: int,
) -> Iterator[list[Pixels | str]]:
    """For each batch its prepared images in order; in an unreadable one's place, the reason."""

    def read(index: int) -> Pixels | str:
        try:
            return prepare(images.read(index))
        except Exception as error:  # a decoder fed with rubbish raises nearly anything
            return (str(error) or type(error).__name__).replace("\n", " ")

    ahead: deque[list[Future[Pixels | str]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="awpf-read")
    try:
        for batch in batches:
            ahead.append([pool.submit(read, index) for index in batch])
            if len(ahead) > BATCHES_AHEAD:
                yield [image.result() for image in ahead.popleft()]
        while ahead:
            yield [image.result() for image in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
