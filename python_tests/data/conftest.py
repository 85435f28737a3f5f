"""Small image folders, the tiny CLIP of the clip tests, and the shared data beside the checkout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
TINY = Path(__file__).parents[1] / "clip" / "tiny.json"
open_clip.add_model_config(TINY)

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def tiny():
    from awpf_ext.clip import load_backbone

    return load_backbone("tiny", "random:0")


class Counter:
    """A backbone that counts the images it encodes."""

    def __init__(self, backbone):
        self._backbone = backbone
        self.images = 0

    def __getattr__(self, name):
        return getattr(self._backbone, name)

    def encode_images(self, prepared):
        self.images += len(prepared)
        return self._backbone.encode_images(prepared)


@pytest.fixture
def counted(tiny):
    return Counter(tiny)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("awpf_ext.data.store.SHARD", 4)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors as small as these are done before a second thread has woken up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def same_features():
    """Whether two feature sets are bitwise equal."""

    def same(first, second) -> bool:
        names = ("train_x", "train_y", "test_x", "test_y", "text")
        return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)

    return same


@pytest.fixture
def shared_file():
    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{name} beside the checkout")
        return path

    return find


@pytest.fixture(scope="session")
def save_png():
    """Write a small random image, making its folders."""

    def save(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    return save


@pytest.fixture
def image_folder(tmp_path, save_png):
    """train/ and test/ with the classes given: name -> (training images, test images)."""

    def make(classes: dict[str, tuple[int, int]], test_name: str = "test") -> Path:
        root = tmp_path / "images"
        seed = 0
        for split, column in (("train", 0), (test_name, 1)):
            for name, counts in classes.items():
                for number in range(counts[column]):
                    seed += 1
                    save_png(root / split / name / f"{number:03d}.png", seed)
        return root

    return make
