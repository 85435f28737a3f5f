"""The data sets: one function each, registered by name.

A data set is written NAME or NAME:WHERE, such as demo, demo:night, cifar100, imagenet-r:PATH,
folder:PATH, csv:FILE or features:FILE.npz. A new one is a function with the `dataset` decorator.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from awpf_ext.data.class_names import names_from_file, names_from_keys
from awpf_ext.data.demo import DEFAULT_STYLE, demo_dataset
from awpf_ext.data.features import FeatureSet, read_features
from awpf_ext.data.folders import required, subfolders, train_and_test
from awpf_ext.data.images import (
    HELD_OUT_NOTE,
    ArraySplit,
    FileSplit,
    ImageDataset,
    file_split,
    folder_files,
    held_out,
)
from awpf_ext.errors import DataError, OfflineError, UserError, suggestion

Loader = Callable[[Path | None], ImageDataset | FeatureSet]
Where = Literal["path", "new path", "word"]
DATASETS: dict[str, Loader] = {}
_WHERE: dict[str, Where] = {}

DOWNLOADS = Path("~/.cache/awpf_ext")


def dataset(name: str, *, where: Where = "path") -> Callable[[Loader], Loader]:
    """Register a loader under a name; it is a function of WHERE, which is None if not given.

    where: what WHERE is: an existing path, a path that need not exist, or a word.
    """

    def register(loader: Loader) -> Loader:
        DATASETS[name] = loader
        _WHERE[name] = where
        return loader

    return register


def absolute(spec: str) -> str:
    """NAME:WHERE with an absolute path, independent of the working directory."""
    name, _, where = spec.partition(":")
    if not where or _WHERE.get(name) == "word":
        return spec
    return f"{name}:{Path(where).expanduser().absolute()}"


def load_dataset(spec: str, *, class_names: str | Path | None = None) -> ImageDataset | FeatureSet:
    """The data set NAME or NAME:WHERE.

    class_names: a JSON or TXT file with class names to use instead of the data set's own.
    """
    name, _, where = spec.partition(":")
    if name not in DATASETS:
        raise UserError(f"there is no data set {name!r}; {suggestion(name, DATASETS)}")
    path = Path(where).expanduser() if where else None
    if path is not None and _WHERE[name] == "path" and not path.exists():
        raise UserError(f"dataset {spec!r}: there is no {path}")
    loaded = DATASETS[name](path)
    if isinstance(loaded, FeatureSet):
        if class_names is not None:
            raise UserError(
                f"class_names is {str(class_names)!r}, but {spec!r} brings its own class names "
                "with their text features"
            )
        return loaded
    if class_names is not None:
        names = names_from_file(Path(class_names).expanduser(), loaded.class_keys)
    else:
        names = names_from_keys(loaded.class_keys)
    return replace(loaded, class_names=names)


@dataset("demo", where="word")
def demo(where: Path | None) -> ImageDataset:
    """A hundred drawn classes, no download; demo:STYLE = another style, demo:all = all styles."""
    return demo_dataset(DEFAULT_STYLE if where is None else str(where))


@dataset("cifar100", where="new path")
def cifar100(where: Path | None) -> ImageDataset:
    """torchvision's CIFAR-100, downloaded on first use to WHERE (default ~/.cache/awpf_ext)."""
    from torchvision.datasets import CIFAR100

    root = where or DOWNLOADS.expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
        splits = [CIFAR100(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise OfflineError(
            f"CIFAR-100 is not in {root} and cannot be downloaded ({error}). Three ways out: copy "
            f"cifar-100-python.tar.gz into {root}; features:FILE.npz with precomputed features; or "
            "the data set demo, which needs no download"
        ) from error
    keys = tuple(splits[0].classes)
    train, test = (
        ArraySplit(f"CIFAR-100 {split}", images.data, torch.tensor(images.targets))
        for split, images in zip(("train", "test"), splits, strict=True)
    )
    return ImageDataset("cifar100", keys, train, test)


@dataset("imagenet1k")
def imagenet1k(where: Path | None) -> ImageDataset:
    """ImageNet-1k: train/ and val/ with one folder per class, or the original archive's tree."""
    return _imagenet("imagenet1k", where, 1000)


@dataset("imagenet100")
def imagenet100(where: Path | None) -> ImageDataset:
    """A 100-class selection of ImageNet: train/ and val/ (or test/), one folder per class."""
    return _imagenet("imagenet100", where, 100)


@dataset("imagenet-r")
def imagenet_r(where: Path | None) -> ImageDataset:
    """ImageNet-R: train/ and test/ as split by continual-learning code, or the original archive.

    The original has one folder per class and no split; then one image in five is held out.
    """
    root = required("imagenet-r", where)
    if (root / "train").is_dir():
        return _expect_classes(_train_test_folders("imagenet-r", root), root, 200)
    keys = subfolders(root)
    by_class = folder_files(root, keys)
    train = file_split(root, [[f for f in files if not held_out(f)] for files in by_class])
    test = file_split(root, [[f for f in files if held_out(f)] for files in by_class])
    loaded = ImageDataset("imagenet-r", keys, train, test, {"split": HELD_OUT_NOTE})
    return _expect_classes(loaded, root, 200)


@dataset("cub200")
def cub200(where: Path | None) -> ImageDataset:
    """CUB-200-2011: the original archive with its own split, or train/ and test/ folders."""
    root = required("cub200", where)
    if (root / "CUB_200_2011").is_dir():
        root = root / "CUB_200_2011"
    if not (root / "images.txt").is_file():
        return _expect_classes(_train_test_folders("cub200", root), root, 200)
    keys_by_id = dict(_pairs(root / "classes.txt"))
    position = {class_id: row for row, class_id in enumerate(keys_by_id)}
    label_by_image = dict(_pairs(root / "image_class_labels.txt"))
    in_train = dict(_pairs(root / "train_test_split.txt"))
    train: list[list[str]] = [[] for _ in keys_by_id]
    test: list[list[str]] = [[] for _ in keys_by_id]
    try:
        for image, file in _pairs(root / "images.txt"):
            split = train if in_train[image] == "1" else test
            split[position[label_by_image[image]]].append(file)
    except KeyError as error:
        raise DataError(f"{root}: the lists contradict each other at id {error}") from error
    splits = [file_split(root / "images", by_class) for by_class in (train, test)]
    loaded = ImageDataset("cub200", tuple(keys_by_id.values()), splits[0], splits[1])
    return _expect_classes(loaded, root, 200)


@dataset("folder")
def folder(where: Path | None) -> ImageDataset:
    """Any image folder: PATH/train/CLASS/... and PATH/test/CLASS/... (or val/)."""
    root = required("folder", where)
    return _train_test_folders(f"folder:{root.name}", root)


@dataset("csv")
def csv_file(where: Path | None) -> ImageDataset:
    """A CSV file with a header: path,label and optionally split (train, test or val).

    Paths are relative to the file. The classes are the labels, sorted (numerically if
    all are numbers).
    """
    file = required("csv", where)
    rows, has_split = _csv_rows(file)
    labels = {label for _, label, _ in rows}
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    keys = tuple(sorted(labels, key=lambda key: (int(key), key)) if numeric else sorted(labels))
    position = {key: row for row, key in enumerate(keys)}

    def split(test: bool) -> FileSplit:
        chosen = [(path, label) for path, label, is_test in rows if is_test == test]
        ids = torch.tensor([position[label] for _, label in chosen], dtype=torch.int64)
        return FileSplit(file.parent, [path for path, _ in chosen], ids)

    notes = {} if has_split else {"split": HELD_OUT_NOTE}
    return ImageDataset(f"csv:{file.name}", keys, split(False), split(True), notes)


@dataset("features")
def features(where: Path | None) -> FeatureSet:
    """Precomputed features in an npz file; see `read_features`."""
    return read_features(required("features", where))


def _imagenet(name: str, where: Path | None, classes: int) -> ImageDataset:
    root = required(name, where)
    original = root / "ILSVRC" / "Data" / "CLS-LOC"
    root = original if original.is_dir() else root
    return _expect_classes(_train_test_folders(name, root), root, classes)


def _train_test_folders(name: str, root: Path) -> ImageDataset:
    """train/ and test/ (or else val/) below `root`; a class may lack either."""
    train, test = train_and_test(root)
    keys = tuple(sorted({*subfolders(train), *subfolders(test)}))
    splits = [file_split(part, folder_files(part, keys)) for part in (train, test)]
    return ImageDataset(name, keys, splits[0], splits[1])


def _expect_classes(loaded: ImageDataset, root: Path, classes: int) -> ImageDataset:
    if len(loaded.class_keys) != classes:
        raise DataError(
            f"{root} has {len(loaded.class_keys)} classes; {loaded.name} has {classes} "
            "(folder:PATH takes any number)"
        )
    return loaded


def _pairs(path: Path) -> Iterable[tuple[str, str]]:
    """The "id value" lines of CUB's lists."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _csv_rows(file: Path) -> tuple[list[tuple[str, str, bool]], bool]:
    """(path, label, is test) of each row, and whether the file has a column `split`."""
    rows = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            columns = list(reader.fieldnames or [])
            if "path" not in columns or "label" not in columns:
                raise DataError(
                    f"{file}: the header is {','.join(columns)!r}; expected path,label[,split]"
                )
            for row in reader:
                path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
                split = (row.get("split") or "").strip()
                if not path or not label:
                    raise DataError(f"{file}, line {reader.line_num}: path or label is empty")
                if "split" in columns and split not in ("train", "test", "val"):
                    raise DataError(
                        f"{file}, line {reader.line_num}: split is {split!r}; expected train, "
                        "test or val"
                    )
                rows.append((path, label, held_out(path) if not split else split != "train"))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    return rows, "split" in columns
