"""The images that a merge is chosen by: none that the sources were trained or are tested on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from awpf_ext.data import load_dataset
from awpf_ext.data.class_names import names_from_file, names_from_keys
from awpf_ext.data.datasets import DATASETS
from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.data.folders import subfolders
from awpf_ext.data.images import ImageDataset, ImageSplit, file_split, folder_files
from awpf_ext.data.limits import Limits, subset
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora.adapter_writer import ADAPTERS
from awpf_ext.runs.config import RunConfig
from awpf_ext.runs.folder import RunFolder

LIMIT = 20  # validation images per class


class ValidationImages(NamedTuple):
    """Images with the names of all classes."""

    images: ImageSplit
    class_names: tuple[str, ...]


def is_dataset(spec: str) -> bool:
    """Whether a validation is a data set, as opposed to a program."""
    return spec.partition(":")[0] in DATASETS


def validation_images(
    spec: str,
    class_names: str | Path | None = None,
    train_limit: int | None = None,
    limit: int | None = LIMIT,
    *,
    imbalance: float | None = None,
    sources: Sequence[str | Path] = (),
) -> ValidationImages:
    """The images of a data set to choose by, at most `limit` per class, and never test images.

    All images of folder:DIR if the classes' folders are in DIR itself; otherwise the training
    images that the sources were not trained on. Sources that lie in the folder of a run on this
    data set say with which `--train-limit` N and `--imbalance` that was; of others N has to be
    given. For the demo, N is by default as in `awpf run`.
    """
    for key, value in (("train_limit", train_limit), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{key} is {value}; expected at least 1")
    if imbalance is not None and not 0 < imbalance <= 1:
        raise UserError(f"imbalance is {imbalance}; expected a number above 0, at most 1")
    name, _, where = spec.partition(":")
    root = Path(where).expanduser()
    if name == "folder" and root.is_dir() and not (root / "train").is_dir():
        keys = subfolders(root)
        images: ImageSplit = file_split(root, folder_files(root, keys))
        own_names = class_names and names_from_file(Path(class_names).expanduser(), keys)
        names = own_names or names_from_keys(keys)
    else:
        loaded = load_dataset(spec, class_names=class_names)
        if not isinstance(loaded, ImageDataset):
            raise UserError(f"{spec} has features; expected images, which a merge encodes anew")
        names = loaded.class_names
        images = _left_over(spec, loaded, _trained_with(spec, train_limit, imbalance, sources))
    rows = Limits(train=limit).rows(images.labels, None, len(names), training=True)
    images = images if rows is None else subset(images, rows)
    if not len(images.labels):
        raise DataError(f"{spec} has no images to validate on")
    return ValidationImages(images, names)


def _trained_with(
    spec: str, train_limit: int | None, imbalance: float | None, sources: Sequence[str | Path]
) -> set[Limits]:
    """The limits under which the sources were trained on this data set."""
    found = set()
    for folder, config in _runs_of(sources):
        if _place(config.dataset) != _place(spec):
            continue
        for key, given in (("train_limit", train_limit), ("imbalance", imbalance)):
            known = getattr(config, key)
            if given is not None and given != known:
                raise UserError(
                    f"{key} is {given}, but the run {folder} was trained with {known}; leave it out"
                )
        found.add(Limits(train=config.train_limit, imbalance=config.imbalance))
    if found:
        return found
    usual = demo_data.TRAIN_LIMIT if spec.partition(":")[0] == "demo" else None
    if train_limit is None and imbalance is None and usual is None:
        raise UserError(
            f"{spec} has training and test images; expected a folder whose subfolders are classes "
            "with validation images (folder:DIR), or the train_limit (--train-limit) with which "
            "the sources were trained, so that the other training images can be taken"
        )
    return {Limits(train=train_limit or usual, imbalance=imbalance)}


def _runs_of(sources: Sequence[str | Path]) -> Iterator[tuple[Path, RunConfig]]:
    """The runs that trained adapters, by RUN/adapters/task_0000."""
    for source in sources:
        folder = Path(source).expanduser().absolute().parent
        if folder.name == ADAPTERS and RunFolder(folder.parent).is_run:
            yield folder.parent, RunFolder(folder.parent).config()


def _place(spec: str) -> tuple[str, Path]:
    """A data set's name and where it is, however its path is written."""
    name, _, where = spec.partition(":")
    return name, Path(where).expanduser().resolve()


def _left_over(spec: str, data: ImageDataset, trained: set[Limits]) -> ImageSplit:
    """The training images that no run with these limits saw."""
    labels = data.train.labels
    left = torch.ones(len(labels), dtype=torch.bool)
    for limits in trained:
        seen = limits.rows(labels, data.train_domain, len(data.class_keys), training=True)
        left[slice(None) if seen is None else seen] = False
    if not bool(left.any()):
        known = " and ".join(
            f"{key}={value}" for one in trained for key, value in one.notes.items()
        )
        raise UserError(
            f"{spec} has no training images besides those that {known or 'a run without a limit'} "
            "takes; expected a folder of validation images"
        )
    return subset(data.train, left.nonzero().flatten())
