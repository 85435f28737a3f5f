"""Feature extraction: images are read on threads, encoded once and kept in the feature store."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from awpf_ext.clip.backbone import Backbone
from awpf_ext.clip.prompted import prompted_clip
from awpf_ext.clip.prompts import DEFAULT_PROMPT, class_texts, prompt_templates
from awpf_ext.data.features import FeatureSet, nonfinite_rows
from awpf_ext.data.image_reader import Pixels, default_workers, prepared_batches
from awpf_ext.data.images import ImageDataset, ImageSplit
from awpf_ext.data.prepared_images import MEMORY, PreparedImages
from awpf_ext.data.store import FeatureShard, FeatureStore, SplitEntry, StoredSplit, read_or_none
from awpf_ext.distributed import SINGLE_PROCESS, World, local_world_size
from awpf_ext.errors import DataError, UserError
from awpf_ext.io import lock, remove_leftovers, save_tensors

BATCHES_AHEAD = 3  # read in advance for a model on another device
LISTED = 20  # unreadable images listed in a message; a file lists all


@dataclass(frozen=True)
class ExtractProgress:
    """The progress of an extraction."""

    stage: str  # train, test or text
    done: int  # images or prompts, including those found in the store
    total: int
    per_second: float = 0.0  # encoded per second in this call
    waiting_for: str | None = None  # name of the process that extracts the same features


Progress = Callable[[ExtractProgress], None]


def extract_features(
    dataset: ImageDataset,
    backbone: Backbone,
    store: FeatureStore,
    *,
    prompt: str | Sequence[str] = DEFAULT_PROMPT,
    on_unreadable: Literal["stop", "skip"] = "stop",
    batch_size: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
    world: World = SINGLE_PROCESS,
) -> FeatureSet:
    """Features of a data set under a backbone, read from the store or computed and stored.

    on_unreadable: "stop" raises an error after all unreadable images are known (the features of the
    others are stored); "skip" omits them, with a warning and a count in the provenance. workers:
    reading threads, by default one per core, at most 16. A killed extraction continues after its
    last shard. world: processes that call this together and share the shards.
    """
    if on_unreadable not in ("stop", "skip"):
        raise UserError(f"on_unreadable is {on_unreadable!r}; expected 'stop' or 'skip'")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected at least 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; expected at least 1")
    templates = prompt_templates(prompt)
    tell = progress or (lambda _: None)
    encoder = _Encoder(backbone, batch_size, workers or default_workers(), tell)
    splits = {"train": dataset.train, "test": dataset.test}
    entries = {split: store.split(backbone, images) for split, images in splits.items()}
    stored = {
        split: _fill(
            split, entry, splits[split], encoder, dataset.name, on_unreadable == "stop", world
        )
        for split, entry in entries.items()
    }
    skipped = _check_unreadable(entries, stored, on_unreadable)
    rows = {split: _readable_rows(splits[split], stored[split]) for split in splits}
    memory = MEMORY // local_world_size()
    pixels = {
        split: PreparedImages(
            splits[split], backbone.prepare, rows[split], workers=workers, memory=memory
        )
        for split in splits
    }
    return FeatureSet(
        train_x=stored["train"].x,
        train_y=stored["train"].y,
        test_x=stored["test"].x,
        test_y=stored["test"].y,
        text=_text(dataset, backbone, templates, store, tell, world),
        class_names=dataset.class_names,
        logit_scale=backbone.logit_scale,
        provenance={
            "dataset": dataset.name,
            **dataset.notes,
            "content_hash": "-".join(entry.key for entry in entries.values()),
            "train_images": len(stored["train"].y),
            "test_images": len(stored["test"].y),
            "skipped_images": skipped,
            **backbone.provenance,
            "prompt": list(templates),
        },
        read_test_image=pixels["test"].original,
        train_images=pixels["train"],
        test_images=pixels["test"],
        domain_names=dataset.domain_names,
        train_domain=_of_rows(dataset.train_domain, rows["train"]),
        test_domain=_of_rows(dataset.test_domain, rows["test"]),
        clip=prompted_clip(backbone, dataset.class_names, templates),
    )


def _fill(
    split: str,
    entry: SplitEntry,
    images: ImageSplit,
    encoder: _Encoder,
    dataset: str,
    retry_unreadable: bool,
    world: World,
) -> StoredSplit:
    """The split's features from the store, extracted first if they are missing."""
    total = len(images.labels)

    def waiting(holder: str) -> None:
        encoder.tell(ExtractProgress(split, 0, total, waiting_for=holder))

    stored = entry.read(retry_unreadable)
    if not world.broadcast(stored is not None):
        with _main_process_lock(entry, world, waiting):
            stored = entry.read(
                retry_unreadable
            )  # the process that held the lock may have extracted it
            if not world.broadcast(stored is not None):
                if world.is_main:
                    remove_leftovers(entry.folder)
                world.barrier()
                shards = entry.read_shards(retry_unreadable)
                world.barrier()  # all processes have seen the same missing shards
                encoder.complete(split, images, entry, shards, world)
                world.barrier()
                if world.is_main:
                    whole = entry.completed(shards)
                    entry.merge(whole, {"dataset": dataset, "split": split})
                world.barrier()
                stored = None
    encoder.tell(ExtractProgress(split, total, total))
    return entry.whole() if stored is None else stored


@contextmanager
def _main_process_lock(
    entry: SplitEntry, world: World, waiting: Callable[[str], None]
) -> Iterator[None]:
    """The lock of a split, which the main process holds for all processes."""
    if not world.is_main:
        world.barrier()
        yield
        return
    with lock(entry.folder / "lock", on_wait=waiting):
        world.barrier()
        yield


@dataclass(frozen=True)
class _Encoder:
    """The loop that encodes images."""

    backbone: Backbone
    batch_size: int
    workers: int
    tell: Progress

    def complete(
        self,
        split: str,
        images: ImageSplit,
        entry: SplitEntry,
        shards: list[FeatureShard | None],
        world: World,
    ) -> None:
        """Encode this process's share of the missing shards, and write each when it is complete."""
        missing = [index for index, shard in enumerate(shards) if shard is None]
        own = missing[world.rank :: world.size]
        elsewhere = set(missing) - set(own)
        batches = [
            range(start, min(start + self.batch_size, bounds.stop))
            for bounds in map(entry.bounds, own)
            for start in range(bounds.start, bounds.stop, self.batch_size)
        ]
        total = len(images.labels) - sum(len(entry.bounds(index)) for index in elsewhere)
        resumed = done = total - sum(len(batch) for batch in batches)
        started = time.monotonic()
        # A model on the CPU needs the cores itself; reading in parallel would slow it down.
        ahead = 0 if self.backbone.device.type == "cpu" else BATCHES_AHEAD
        reader = prepared_batches(images, batches, self.backbone.prepare, self.workers, ahead)
        parts: list[FeatureShard] = []
        with closing(reader) as prepared:
            for batch, pixels in zip(batches, prepared, strict=True):
                parts.append(self._encode(images, batch, pixels))
                done += len(batch)
                index = entry.shard_of(batch.start)
                if batch.stop == entry.bounds(index).stop:
                    entry.write_shard(index, parts)
                    parts = []
                rate = (done - resumed) / max(time.monotonic() - started, 1e-9)
                self.tell(ExtractProgress(split, done, total, rate))

    def _encode(self, images: ImageSplit, batch: range, pixels: list[Pixels | str]) -> FeatureShard:
        pairs = list(zip(batch, pixels, strict=True))
        readable = [(row, image) for row, image in pairs if not isinstance(image, str)]
        unreadable = [(images.name(row), image) for row, image in pairs if isinstance(image, str)]
        if not readable:
            return FeatureShard(torch.empty(0, 0), torch.empty(0, dtype=torch.int64), unreadable)
        stacked = torch.from_numpy(np.stack([image for _, image in readable]))
        x = self.backbone.encode_images(stacked)
        bad = nonfinite_rows(x)
        if bad:
            names = [images.name(readable[row][0]) for row in bad]
            raise DataError(
                f"{len(bad)} of {len(x)} images have features with NaN or infinity, the first "
                f"{names[0]}: precision {self.backbone.precision} may be too low for "
                f"{self.backbone.name}, or its weights are damaged"
            )
        return FeatureShard(x, torch.tensor([row for row, _ in readable]), unreadable)


def _readable_rows(images: ImageSplit, stored: StoredSplit) -> Tensor:
    """The image index of each feature row: all images except the unreadable ones."""
    count = len(images.labels)
    skipped = {name for name, _ in stored.unreadable}
    if not skipped:
        return torch.arange(count)
    return torch.tensor([row for row in range(count) if images.name(row) not in skipped])


def _of_rows(domain: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if domain is None else domain[rows]


def _text(
    dataset: ImageDataset,
    backbone: Backbone,
    templates: Sequence[str],
    store: FeatureStore,
    tell: Progress,
    world: World,
) -> Tensor:
    """The class texts from the store, encoded first if they are missing."""
    path = store.class_texts(backbone, templates, dataset.class_names)
    found = read_or_none(path)
    if found is not None:
        return found[0]["text"]

    def progress(done: int, total: int) -> None:
        tell(ExtractProgress("text", done, total))

    text = class_texts(backbone, dataset.class_names, templates, progress=progress)
    if world.is_main:
        save_tensors(path, {"text": text})
    return text


def _check_unreadable(
    entries: dict[str, SplitEntry], stored: dict[str, StoredSplit], on_unreadable: str
) -> int:
    """The number of skipped images; DataError if there are any and on_unreadable is "stop"."""
    unreadable = [image for split in stored.values() for image in split.unreadable]
    if not unreadable:
        return 0
    files = [str(entries[split].unreadable_list) for split in stored if stored[split].unreadable]
    lines = [f"{name}: {reason}" for name, reason in unreadable[:LISTED]]
    if len(unreadable) > LISTED:
        lines.append(f"and {len(unreadable) - LISTED} more, listed in {' and '.join(files)}")
    listing = "\n  ".join(lines)
    count = f"{len(unreadable)} image{'s' if len(unreadable) > 1 else ''}"
    if on_unreadable == "stop":
        raise DataError(
            f"{count} cannot be read; repair or remove them, or skip them with "
            f"on_unreadable=skip (the features of the other images are kept):\n  {listing}"
        )
    for split, features in stored.items():
        if not len(features.y):
            raise DataError(f"no {split} image can be read:\n  {listing}")
    warnings.warn(f"{count} cannot be read and will be skipped:\n  {listing}", stacklevel=3)
    return len(unreadable)
