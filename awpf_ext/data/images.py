"""Labelled images: the input of feature extraction."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awpf_ext.errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
)
SAMPLED_FILES = 4  # files read per fingerprinted range
SAMPLED_BYTES = 1 << 16


class ImageSplit(Protocol):
    """A sequence of labelled images."""

    @property
    def labels(self) -> Tensor:
        """int64, one per image."""

    def read(self, index: int) -> Image.Image:
        """The decoded image; raises the errors of its decoder."""

    def name(self, index: int) -> str:
        """The image's name for messages."""

    def fingerprint(self, start: int, stop: int) -> str:
        """A hash that changes when an image in the range changes; labels do not count."""


@dataclass(frozen=True)
class FileSplit:
    """Image files, named relative to `root` (or absolute)."""

    root: Path
    files: Sequence[str]
    labels: Tensor

    def read(self, index: int) -> Image.Image:
        image: Image.Image = Image.open(self.root / self.files[index])
        with image:  # closes the file but keeps the pixels
            image.load()
        return image

    def name(self, index: int) -> str:
        return str(self.root / self.files[index])

    def fingerprint(self, start: int, stop: int) -> str:
        """A hash of names, sizes, modification times and the beginnings of a few files.

        Reading all bytes would take as long as using the images. The beginnings distinguish data
        sets whose files have equal names, times and sizes.
        """
        files = self.files[start:stop]
        digest = hashlib.sha256()
        for file in files:
            try:
                status = (self.root / file).stat()
                stamp = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                stamp = "missing"
            digest.update(f"{file}\0{stamp}\0".encode(errors="surrogateescape"))
        for file in files[:: -(-len(files) // SAMPLED_FILES) or 1]:
            with suppress(OSError), (self.root / file).open("rb") as opened:
                digest.update(opened.read(SAMPLED_BYTES))
        return digest.hexdigest()


@dataclass(frozen=True)
class ArraySplit:
    """Images in memory, uint8 of shape (n, height, width, 3)."""

    split: str  # with the data set's name
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    labels: Tensor

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return f"{self.split} image {index}"

    def fingerprint(self, start: int, stop: int) -> str:
        chunk = np.ascontiguousarray(self.pixels[start:stop])
        return hashlib.sha256(f"{chunk.shape}".encode() + chunk.tobytes()).hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """Training and test images with one numbering of classes.

    `class_keys` are the data set's own names of its classes (folders, labels); `class_names` are
    the names used in prompts and may repeat. `load_dataset` sets them.
    """

    name: str
    class_keys: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit
    notes: Mapping[str, Any] = field(default_factory=dict)  # for provenance
    class_names: tuple[str, ...] = ()
    domain_names: tuple[str, ...] = ()  # empty if there are no domains
    train_domain: Tensor | None = None  # int64, one per image, if there are domains
    test_domain: Tensor | None = None

    def __post_init__(self) -> None:
        for split, images, domain in (
            ("training", self.train, self.train_domain),
            ("test", self.test, self.test_domain),
        ):
            if not len(images.labels):
                raise DataError(f"{self.name} has no {split} images")
            if (domain is not None) != bool(self.domain_names) or (
                domain is not None and domain.shape != images.labels.shape
            ):
                found = "none" if domain is None else str(len(domain))
                raise DataError(
                    f"{self.name} has {len(self.domain_names)} domains; expected one for each of "
                    f"the {len(images.labels)} {split} images, got {found}"
                )


def folder_files(root: Path, class_keys: Sequence[str]) -> list[list[str]]:
    """The sorted images of each class below root/class, relative to `root`; may be empty."""
    by_class = []
    for key in class_keys:
        files = []
        for folder, subfolders, names in os.walk(root / key, followlinks=True):
            subfolders.sort()
            files += [
                os.path.relpath(Path(folder) / name, root)
                for name in names
                if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
            ]
        by_class.append(sorted(files))
    return by_class


def file_split(root: Path, by_class: Sequence[Sequence[str]]) -> FileSplit:
    """A split from the files of each class; labels are positions in `by_class`."""
    counts = torch.tensor([len(files) for files in by_class], dtype=torch.int64)
    labels = torch.arange(len(by_class)).repeat_interleave(counts)
    return FileSplit(root, [file for files in by_class for file in files], labels)


HELD_OUT_NOTE = "no split given: one image in five held out for testing, by a hash of its path"


def held_out(file: str) -> bool:
    """Whether a file of a data set without a split is a test image; equal on every machine."""
    name = file.replace(os.sep, "/").encode(errors="surrogateescape")
    return hashlib.sha256(name).digest()[0] % 5 == 0
