"""Limiting a data set before encoding: a maximum number of images per class, or a long tail.

The images kept of a class (and domain) are evenly spaced in the order of the data set: k of n
images are those at floor(i n / k), i = 0..k-1. Nothing is random, so every run keeps the same
images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from awpf_ext.data.features import FeatureSet, ReadTestImage
from awpf_ext.data.images import FileSplit, ImageDataset, ImageSplit


@dataclass(frozen=True)
class Limits:
    """Limits on the images of a data set; None = no limit.

    imbalance: makes the training images long-tailed. Class k of C, in the data set's own order,
    keeps at most floor(n_max imbalance^(k / (C - 1))) images and at least one; n_max is the size of
    the largest class (of each domain) after `train_limit`.
    """

    train: int | None = None
    test: int | None = None
    imbalance: float | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """For provenance."""
        named = {"train_limit": self.train, "test_limit": self.test, "imbalance": self.imbalance}
        return {name: value for name, value in named.items() if value is not None}

    def rows(
        self, labels: Tensor, domain: Tensor | None, classes: int, *, training: bool
    ) -> Tensor | None:
        """The rows to keep, in order; None = all."""
        limit, imbalance = (self.train, self.imbalance) if training else (self.test, None)
        if limit is None and imbalance is None:
            return None
        kept = torch.zeros(len(labels), dtype=torch.bool)
        domains = torch.zeros_like(labels) if domain is None else domain
        for here in domains.unique().tolist():
            rows = (domains == here).nonzero().flatten()
            counts = torch.bincount(labels[rows], minlength=classes)
            most = self._most(counts, limit, imbalance)
            by_class = rows[labels[rows].argsort(stable=True)].split(counts.tolist())
            for own, most_of_class in zip(by_class, most, strict=True):
                kept[_evenly_spaced(own, most_of_class)] = True
        return kept.nonzero().flatten()

    @staticmethod
    def _most(counts: Tensor, limit: int | None, imbalance: float | None) -> list[int]:
        """The maximum number of images of each class."""
        longest = int(counts.max()) if limit is None else min(limit, int(counts.max()))
        if imbalance is None:
            return [longest] * len(counts)
        last = max(len(counts) - 1, 1)
        return [max(int(longest * imbalance ** (k / last) + 1e-9), 1) for k in range(len(counts))]


@dataclass(frozen=True)
class SubsetSplit:
    """A subset of another split."""

    whole: ImageSplit
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        return self.whole.labels[self.rows]

    def read(self, index: int) -> Image.Image:
        return self.whole.read(int(self.rows[index]))

    def name(self, index: int) -> str:
        return self.whole.name(int(self.rows[index]))

    def fingerprint(self, start: int, stop: int) -> str:
        rows = self.rows[start:stop].tolist()
        each = [self.whole.fingerprint(row, row + 1) for row in rows]
        return hashlib.sha256(" ".join(each).encode()).hexdigest()


def limited(data: ImageDataset | FeatureSet, limits: Limits) -> ImageDataset | FeatureSet:
    """`data` reduced to the limits, which its provenance records."""
    if not limits.notes:
        return data
    return _fewer_features(data, limits) if isinstance(data, FeatureSet) else _fewer(data, limits)


def subset(split: ImageSplit, rows: Tensor) -> ImageSplit:
    """A subset of a split; a `FileSplit` stays one, as its fingerprint reads only a few files."""
    if isinstance(split, FileSplit):
        files = [split.files[row] for row in rows.tolist()]
        return FileSplit(split.root, files, split.labels[rows])
    return SubsetSplit(split, rows)


def _fewer(data: ImageDataset, limits: Limits) -> ImageDataset:
    changed: dict[str, Any] = {"notes": {**data.notes, **limits.notes}}
    for name, split, domain in (
        ("train", data.train, data.train_domain),
        ("test", data.test, data.test_domain),
    ):
        rows = limits.rows(split.labels, domain, len(data.class_keys), training=name == "train")
        if rows is not None:
            changed[name] = subset(split, rows)
            changed[f"{name}_domain"] = None if domain is None else domain[rows]
    return replace(data, **changed)


def _fewer_features(data: FeatureSet, limits: Limits) -> FeatureSet:
    facts = {**data.provenance, **limits.notes}
    changed: dict[str, Any] = {"provenance": facts}
    for split in ("train", "test"):
        x, y, domain, images = (
            getattr(data, f"{split}_{part}") for part in ("x", "y", "domain", "images")
        )
        rows = limits.rows(y, domain, data.num_classes, training=split == "train")
        facts[f"{split}_images"] = len(y) if rows is None else len(rows)
        if rows is None:
            continue
        changed |= {f"{split}_x": x[rows], f"{split}_y": y[rows]}
        changed[f"{split}_domain"] = None if domain is None else domain[rows]
        changed[f"{split}_images"] = None if images is None else images.at(rows)
        if split == "test" and data.read_test_image is not None:
            changed["read_test_image"] = _renumbered(data.read_test_image, rows)
    return replace(data, **changed)


def _renumbered(read: ReadTestImage, rows: Tensor) -> ReadTestImage:
    return lambda row: read(int(rows[row]))


def _evenly_spaced(rows: Tensor, count: int) -> Tensor:
    """`count` evenly spaced rows; all if there are fewer."""
    count = min(count, len(rows))
    return rows[torch.arange(count) * len(rows) // max(count, 1)]
