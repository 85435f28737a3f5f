"""The feature store: features kept between runs, in files named by what they depend on.

    ROOT/BACKBONE/SPLIT/features.safetensors    x and y of one split, memory-mapped when read
    ROOT/BACKBONE/SPLIT/shard-*.safetensors     finished parts of an unfinished extraction
    ROOT/BACKBONE/SPLIT/lock                    held by the process that extracts
    ROOT/BACKBONE/text-*.safetensors            text embeddings of classes

BACKBONE is a hash of model, weights, preprocessing and precision; SPLIT is a hash of the images and
their labels. A file with a wrong checksum is computed again. If images could not be read,
unreadable.txt lists them and the shards are kept: once the images are repaired, only their shards
are encoded again.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awpf_ext.clip.backbone import Backbone
from awpf_ext.data.images import ImageSplit
from awpf_ext.errors import DataError
from awpf_ext.io import load_tensors, save_tensors, write_atomic

FORMAT = 1  # part of every name: increase it when layout or arithmetic change
SHARD = 1024  # images per shard, the most that are lost by a kill
IDENTITY = ("model", "weights_hash", "quick_gelu", "precision", "preprocessing_hash")

Unreadable = list[tuple[str, str]]  # image name and reason


@dataclass(frozen=True)
class FeatureShard:
    """Features of some images of a split, their rows, and the images that could not be read."""

    x: Tensor
    rows: Tensor
    unreadable: Unreadable


@dataclass(frozen=True)
class StoredSplit:
    """Features and labels of a whole split, without unreadable images."""

    x: Tensor
    y: Tensor
    unreadable: Unreadable


class FeatureStore:
    """A folder of features, which several processes may use at the same time."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def backbone_folder(self, backbone: Backbone) -> Path:
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{backbone.name}-{backbone.precision}")
        identity = {name: backbone.provenance[name] for name in IDENTITY}
        return self.root / f"{readable}-{_hash(FORMAT, identity)}"

    def class_texts(
        self, backbone: Backbone, templates: Sequence[str], names: Sequence[str]
    ) -> Path:
        """The file of the text embeddings of these classes."""
        key = _hash(list(templates), list(names))
        return self.backbone_folder(backbone) / f"text-{key}.safetensors"

    def split(self, backbone: Backbone, images: ImageSplit) -> SplitEntry:
        """The entry of one split's features; reads size and time of every image file."""
        starts = range(0, len(images.labels), SHARD)
        slices = [_hash(images.fingerprint(start, start + SHARD)) for start in starts]
        labels = hashlib.sha256(images.labels.numpy().tobytes()).hexdigest()
        return SplitEntry(
            self.backbone_folder(backbone) / _hash(slices, labels), images.labels, slices
        )


@dataclass(frozen=True)
class SplitEntry:
    """The folder of one split's features: complete, or in finished shards."""

    folder: Path
    labels: Tensor
    shard_keys: list[
        str
    ]  # hashes of the shard's images only, so that it stays valid if others change

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def unreadable_list(self) -> Path:
        return self.folder / "unreadable.txt"

    def shard_of(self, row: int) -> int:
        return row // SHARD

    def bounds(self, index: int) -> range:
        """The rows of a shard."""
        return range(index * SHARD, min((index + 1) * SHARD, len(self.labels)))

    def read(self, retry_unreadable: bool) -> StoredSplit | None:
        """The whole split; None if it is incomplete or has unreadable images to retry."""
        found = read_or_none(self.folder / "features.safetensors")
        if found is None:
            return None
        tensors, metadata = found
        stored = StoredSplit(tensors["x"], tensors["y"], _parsed(metadata["unreadable"]))
        return None if retry_unreadable and stored.unreadable else stored

    def read_shards(self, retry_unreadable: bool) -> list[FeatureShard | None]:
        """Every shard, None if missing; shards of the same images in other entries are reused.

        With `retry_unreadable` a shard with unreadable images counts as missing: the cause
        (permissions, a network folder) may not be visible in a file's size and time.
        """
        finished = {path.name: path for path in self.folder.parent.glob("*/shard-*.safetensors")}
        return [
            self._read_shard(index, finished.get(self._shard_file(index).name), retry_unreadable)
            for index in range(len(self.shard_keys))
        ]

    def completed(self, shards: Sequence[FeatureShard | None]) -> list[FeatureShard]:
        """Every shard; those missing from `shards` are read again. DataError if one is missing."""
        written = self.read_shards(retry_unreadable=False)
        found = [old or new for old, new in zip(shards, written, strict=True)]
        there = [shard for shard in found if shard is not None]
        if len(there) < len(found):
            missing = len(found) - len(there)
            raise DataError(f"{self.folder} lacks {missing} of {len(found)} shards just written")
        return there

    def write_shard(self, index: int, parts: Sequence[FeatureShard]) -> None:
        """Concatenate the parts of a shard and write it."""
        filled = [part for part in parts if len(part.rows)] or list(parts[:1])
        shard = FeatureShard(
            torch.cat([part.x for part in filled]),
            torch.cat([part.rows for part in filled]),
            [image for part in parts for image in part.unreadable],
        )
        save_tensors(
            self._shard_file(index),
            {"x": shard.x, "rows": shard.rows - self.bounds(index).start},
            {"unreadable": json.dumps(shard.unreadable)},
        )

    def merge(self, shards: Sequence[FeatureShard], metadata: dict[str, str]) -> None:
        """Write the whole split from its shards, which are deleted if all images were readable."""
        filled = [shard for shard in shards if len(shard.rows)] or list(shards[:1])
        unreadable = [image for shard in shards for image in shard.unreadable]
        if unreadable:
            lines = "".join(f"{name}\t{reason}\n" for name, reason in unreadable)
            write_atomic(self.unreadable_list, lines.encode(errors="replace"))
        save_tensors(
            self.folder / "features.safetensors",
            {
                "x": [shard.x for shard in filled],
                "y": self.labels[torch.cat([shard.rows for shard in filled])],
            },
            {**metadata, "unreadable": json.dumps(unreadable)},
        )
        if not unreadable:
            self.unreadable_list.unlink(missing_ok=True)
            for index in range(len(self.shard_keys)):
                self._shard_file(index).unlink(missing_ok=True)

    def whole(self) -> StoredSplit:
        """The split that was just merged, in this or another process."""
        stored = self.read(retry_unreadable=False)
        if stored is None:
            raise DataError(f"{self.folder} does not hold what was just written there")
        return stored

    def _shard_file(self, index: int) -> Path:
        return self.folder / f"shard-{self.shard_keys[index]}.safetensors"

    def _read_shard(
        self, index: int, path: Path | None, retry_unreadable: bool
    ) -> FeatureShard | None:
        found = None if path is None else read_or_none(path)
        if found is None:
            return None
        tensors, metadata = found
        unreadable = _parsed(metadata["unreadable"])
        if unreadable and retry_unreadable:
            return None
        return FeatureShard(tensors["x"], tensors["rows"] + self.bounds(index).start, unreadable)


def read_or_none(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of a file; None if it is missing, or damaged (with a warning)."""
    if not path.exists():
        return None
    try:
        return load_tensors(path)
    except DataError as error:
        warnings.warn(f"{error}; making it anew", stacklevel=3)
        return None


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _parsed(unreadable: str) -> Unreadable:
    return [(name, reason) for name, reason in json.loads(unreadable)]
