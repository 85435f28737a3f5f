"""What the runs are made of that the tests report on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

QUICK = {"epochs": 1, "replay_per_epoch": 20, "threads": 1}
# What a careless page or figure would trip over.
NASTY = ("<script>alert(1)</script>", "cost $x_1$ & more", "犬の写真", "Äpfel", "a|b", "x" * 300)
DOMAINS = ("night <b>", "日中", "x" * 40)


def features_file(path: Path, classes: int = 6, tests: int = 5, names=None, **changes) -> Path:
    """An npz of clusters that overlap, so that there are confusions; keywords replace arrays."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(classes, 8)).astype(np.float32)
    train_y, test_y = np.repeat(np.arange(classes), 4), np.repeat(np.arange(classes), tests)
    arrays = {
        "train_x": (text[train_y] + 1.5 * rng.normal(size=(len(train_y), 8))).astype(np.float32),
        "train_y": train_y,
        "test_x": (text[test_y] + 1.5 * rng.normal(size=(len(test_y), 8))).astype(np.float32),
        "test_y": test_y,
        "text": text,
        "classnames": np.array(names or [f"class {number}" for number in range(classes)]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def without_tests_of(path: Path, labels: set[int]) -> Path:
    """The same file without the test images of some classes."""
    with np.load(path) as arrays:
        kept = ~np.isin(arrays["test_y"], list(labels))
        changed = {"test_x": arrays["test_x"][kept], "test_y": arrays["test_y"][kept]}
        np.savez(path, **{**arrays, **changed})
    return path
