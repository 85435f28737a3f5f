"""Compressing prepared images to bytes in memory, and storing those bytes as tensors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awpf_ext.errors import DataError

Format = Literal["png", "jpeg"]


def compress(pixels: Tensor, kind: Format, quality: int) -> list[bytes]:
    """Each of the (n, height, width, 3) uint8 images as a PNG (lossless) or a JPEG."""
    options = {"quality": quality, "subsampling": 0} if kind == "jpeg" else {}
    files = []
    for image in pixels.cpu().numpy():
        target = io.BytesIO()
        Image.fromarray(image).save(target, format=kind, **options)
        files.append(target.getvalue())
    return files


def decompress(files: Sequence[bytes]) -> Tensor:
    """The (n, height, width, 3) uint8 images."""
    images = [_decoded(content) for content in files]
    return torch.from_numpy(np.stack(images)) if images else torch.empty(0, 0, 0, 3).byte()


def to_tensors(files: Sequence[bytes]) -> dict[str, Tensor]:
    """The concatenated files and the end of each."""
    joined = np.frombuffer(b"".join(files), dtype=np.uint8)
    ends = np.cumsum([len(content) for content in files], dtype=np.int64)
    return {"files": torch.from_numpy(joined.copy()), "ends": torch.from_numpy(ends)}


def from_tensors(state: Mapping[str, Tensor]) -> list[bytes]:
    """The files from `to_tensors`; DataError if the ends do not match the bytes."""
    joined, ends = state["files"].cpu().numpy().tobytes(), state["ends"].tolist()
    starts = [0, *ends][: len(ends)]
    if any(a >= b for a, b in zip(starts, ends, strict=True)) or (ends or [0])[-1] != len(joined):
        raise DataError("the buffer's images are damaged: their ends do not fit their bytes")
    return [joined[start:end] for start, end in zip(starts, ends, strict=True)]


def _decoded(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise DataError(f"an image of the buffer cannot be read: {error}") from error
