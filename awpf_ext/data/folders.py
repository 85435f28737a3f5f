"""Helpers for data sets in image folders."""

from __future__ import annotations

from pathlib import Path

from awpf_ext.errors import DataError, UserError


def required(name: str, where: Path | None) -> Path:
    """PATH of NAME:PATH; UserError if it is missing."""
    if where is None:
        raise UserError(f"dataset {name!r} needs to know where the data is: {name}:PATH")
    return where


def subfolders(root: Path) -> tuple[str, ...]:
    """The sorted names of all folders in `root` except hidden ones."""
    return tuple(
        sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    )


def train_and_test(root: Path) -> tuple[Path, Path]:
    """train/ and test/ (or else val/) below `root`; DataError if one is missing."""
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None or not train.is_dir():
        raise DataError(
            f"{root}: expected folders train/ and test/ (or val/), with one folder per class"
        )
    return train, test
