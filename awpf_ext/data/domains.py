"""Data sets with several domains: photographs, sketches, other cameras."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from awpf_ext.data.datasets import dataset
from awpf_ext.data.folders import required, subfolders, train_and_test
from awpf_ext.data.images import FileSplit, ImageDataset, folder_files
from awpf_ext.errors import DataError

DOMAINNET = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")


class LabelledDomains(NamedTuple):
    """Labelled images and the domain of each."""

    images: FileSplit
    domain: Tensor


class ListLine(NamedTuple):
    """One line of a DomainNet list."""

    file: str
    key: str  # the class's folder
    number: int  # the class's label
    path: Path  # the list
    line: int


@dataset("domainnet")
def domainnet(where: Path | None) -> ImageDataset:
    """DomainNet: its lists NAME_train.txt and NAME_test.txt beside the folders NAME.

    Uses those of the six domains that exist. The classes are ordered by the labels in the lists.
    """
    root = required("domainnet", where)
    names = tuple(name for name in DOMAINNET if any(p.exists() for p in _parts(root, name)))
    if not names:
        raise DataError(
            f"{root}: expected lists NAME_train.txt and NAME_test.txt beside folders NAME, for "
            f"one or more of {', '.join(DOMAINNET)}"
        )
    lists: list[list[list[ListLine]]] = []
    for name in names:
        folder, *files = _parts(root, name)
        absent = [path.name for path in (folder, *files) if not path.exists()]
        if absent:
            raise DataError(
                f"{root} has only a part of domain {name}: there is no {' and no '.join(absent)}"
            )
        lists.append([_read_list(file, name) for file in files])
    keys = _class_keys([line for pair in lists for listed in pair for line in listed])
    train, test = (_listed_split(root, [pair[side] for pair in lists], keys) for side in (0, 1))
    return _with_domains("domainnet", root, keys, names, train, test)


@dataset("domains")
def domains(where: Path | None) -> ImageDataset:
    """Images of several domains: PATH/DOMAIN/train/CLASS/... and PATH/DOMAIN/test/CLASS/...

    (or val/). The classes are those of all domains; a domain may lack some.
    """
    root = required("domains", where)
    names = subfolders(root)
    if not names:
        raise DataError(f"{root}: expected one folder per domain, with train/ and test/ in each")
    if set(names) <= {"train", "test", "val"}:
        raise DataError(
            f"{root} holds one domain, which is folder:{root}; domains:PATH expects "
            "PATH/DOMAIN/train/CLASS/..."
        )
    folders = [train_and_test(root / name) for name in names]
    keys = tuple(sorted({key for pair in folders for folder in pair for key in subfolders(folder)}))
    train, test = (_folder_split(root, [pair[side] for pair in folders], keys) for side in (0, 1))
    return _with_domains(f"domains:{root.name}", root, keys, names, train, test)


def _with_domains(
    name: str,
    root: Path,
    keys: tuple[str, ...],
    names: tuple[str, ...],
    train: LabelledDomains,
    test: LabelledDomains,
) -> ImageDataset:
    for split, (_, domain) in (("training", train), ("test", test)):
        counts = torch.bincount(domain, minlength=len(names)).tolist()
        if 0 in counts:
            raise DataError(f"{root}: domain {names[counts.index(0)]} has no {split} images")
    return ImageDataset(
        name,
        keys,
        train.images,
        test.images,
        domain_names=names,
        train_domain=train.domain,
        test_domain=test.domain,
    )


def _labelled(
    root: Path, files: Sequence[str], labels: Sequence[int], counts: Sequence[int]
) -> LabelledDomains:
    """counts: images per domain; the files are ordered by domain."""
    domain = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return LabelledDomains(FileSplit(root, files, torch.tensor(labels, dtype=torch.int64)), domain)


def _folder_split(root: Path, folders: Sequence[Path], keys: Sequence[str]) -> LabelledDomains:
    """One split of all domains, in the order of their folders."""
    files: list[str] = []
    labels: list[int] = []
    counts = []
    for folder in folders:
        inside = folder.relative_to(root)
        by_class = folder_files(folder, keys)
        for label, own in enumerate(by_class):
            files += [os.fspath(inside / file) for file in own]
            labels += [label] * len(own)
        counts.append(sum(map(len, by_class)))
    return _labelled(root, files, labels, counts)


def _parts(root: Path, name: str) -> tuple[Path, Path, Path]:
    """A domain's folder, training list and test list in DomainNet."""
    return root / name, root / f"{name}_train.txt", root / f"{name}_test.txt"


def _read_list(path: Path, domain: str) -> list[ListLine]:
    """The lines "clipart/aircraft_carrier/clipart_001_000001.jpg 0" of a list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file, _, label = line.strip().rpartition(" ")
        parts = file.split("/")  # a list cannot name files outside the data's folder
        inside = len(parts) >= 3 and parts[0] == domain and not {"", ".", ".."} & {*parts}
        if not inside or not _is_label(label):
            raise DataError(
                f"{path}, line {number}: {line[:200]!r}; expected {domain}/CLASS/IMAGE LABEL"
            )
        found.append(ListLine(file, parts[1], int(label), path, number))
    return found


def _is_label(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _class_keys(lines: Sequence[ListLine]) -> tuple[str, ...]:
    """The classes' folders by label; DataError if lists contradict each other."""
    key_of: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for line in lines:
        key = key_of.setdefault(line.number, line.key)
        number = number_of.setdefault(line.key, line.number)
        if key != line.key or number != line.number:
            other = f"{number} elsewhere" if key == line.key else f"class {key}'s elsewhere"
            raise DataError(
                f"{line.path}, line {line.line}: label {line.number} of class {line.key} is {other}"
            )
    return tuple(key_of[number] for number in sorted(key_of))


def _listed_split(
    root: Path, lists: Sequence[Sequence[ListLine]], keys: Sequence[str]
) -> LabelledDomains:
    position = {key: row for row, key in enumerate(keys)}
    lines = [line for listed in lists for line in listed]
    files, labels = [line.file for line in lines], [position[line.key] for line in lines]
    return _labelled(root, files, labels, [len(listed) for listed in lists])
