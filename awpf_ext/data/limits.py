"""Fewer images of a data set: at most so many of a class, or a long tail, before any is encoded.

Of a class's images (in each domain, where there are domains) those kept are evenly spread over
their order in the data set: of n images the k at floor(i n / k), i = 0..k-1. Nothing is drawn, so
the same images are kept in every run.
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
    """What to keep of a data set; None: all.

    imbalance: the training images become long-tailed. Of class k of the C, in the data set's own
    numbering, at most floor(n_max imbalance^(k / (C - 1))) are kept and at least one; n_max is the
    number of the most frequent class (of each domain), within `train_limit`.
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
        """The rows to keep, in order; None: all of them."""
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
                kept[_spread(own, most_of_class)] = True
        return kept.nonzero().flatten()

    @staticmethod
    def _most(counts: Tensor, limit: int | None, imbalance: float | None) -> list[int]:
        """How many to keep of each class."""
        longest = int(counts.max()) if limit is None else min(limit, int(counts.max()))
        if imbalance is None:
            return [longest] * len(counts)
        last = max(len(counts) - 1, 1)
        return [max(int(longest * imbalance ** (k / last) + 1e-9), 1) for k in range(len(counts))]


@dataclass(frozen=True)
class SubsetSplit:
    """Some images of another split."""

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
    """`data` with only the images that the limits keep, and a note about it."""
    if not limits.notes:
        return data
    return _fewer_features(data, limits) if isinstance(data, FeatureSet) else _fewer(data, limits)


def subset(split: ImageSplit, rows: Tensor) -> ImageSplit:
    """Some images of a split; files stay files, whose fingerprint asks but a few for bytes."""
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
    for title in ("train", "test"):
        x, y, domain, images = (
            getattr(data, f"{title}_{part}") for part in ("x", "y", "domain", "images")
        )
        rows = limits.rows(y, domain, data.num_classes, training=title == "train")
        facts[f"{title}_images"] = len(y) if rows is None else len(rows)
        if rows is None:
            continue
        changed |= {f"{title}_x": x[rows], f"{title}_y": y[rows]}
        changed[f"{title}_domain"] = None if domain is None else domain[rows]
        changed[f"{title}_images"] = None if images is None else images.at(rows)
        if title == "test" and data.read_test_image is not None:
            changed["read_test_image"] = _renumbered(data.read_test_image, rows)
    return replace(data, **changed)


def _renumbered(read: ReadTestImage, rows: Tensor) -> ReadTestImage:
    return lambda row: read(int(rows[row]))


def _spread(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows at equal distances; all where there are no more."""
    count = min(count, len(rows))
    return rows[torch.arange(count) * len(rows) // max(count, 1)]
