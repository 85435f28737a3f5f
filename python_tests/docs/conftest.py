"""Pages are run offline, each in a folder of its own with `clip.npz` and `my_images/`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))

CLASSES, DIM = 62, 16


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """An empty home and working folder, with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    write_features(tmp_path / "clip.npz")
    draw_images(tmp_path / "my_images")
    return tmp_path


def write_features(path: Path) -> None:
    """Clusters around points near their texts, as CLIP's classes lie."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(CLASSES, DIM))
    centres = text + 0.6 * rng.normal(size=text.shape)
    arrays = {"text": text, "classnames": np.array([f"class {label}" for label in range(CLASSES)])}
    for split, images in (("train", 6), ("test", 3)):
        labels = np.repeat(np.arange(CLASSES), images)
        noise = 0.7 * rng.normal(size=(len(labels), DIM))
        arrays[f"{split}_x"] = (centres[labels] + noise).astype(np.float32)
        arrays[f"{split}_y"] = labels
    np.savez(path, **{**arrays, "text": text.astype(np.float32)})


def draw_images(root: Path) -> None:
    """Four classes of plain colours with noise, in train/ and test/."""
    image = pytest.importorskip("PIL.Image", reason='needs the extra "clip"')
    rng = np.random.default_rng(0)
    for split, images in (("train", 4), ("test", 2)):
        for label, name in enumerate(("red_ball", "green_ball", "001.blue_box", "grey_box")):
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 64, (24, 24, 3), dtype=np.uint8)
                pixels[..., label % 3] += 128
                image.fromarray(pixels).save(root / split / name / f"{number}.png")
