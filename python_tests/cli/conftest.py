"""A small features file, small images under the tiny CLIP, and the command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("typer", reason='needs the extra "clip"')

TINY = Path(__file__).parents[1] / "clip" / "tiny.json"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tensors as small as these are done before a second thread has woken up."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def write_features(tmp_path):
    """Write an npz of `classes` clusters around their texts; keywords replace its arrays."""

    def write(name: str = "clip.npz", classes: int = 6, dim: int = 8, **changes) -> Path:
        rng = np.random.default_rng(0)
        text = rng.normal(size=(classes, dim)).astype(np.float32)
        train_y, test_y = np.repeat(np.arange(classes), 6), np.repeat(np.arange(classes), 5)
        arrays = {
            "train_x": (text[train_y] + rng.normal(size=(len(train_y), dim))).astype(np.float32),
            "train_y": train_y,
            "test_x": (text[test_y] + rng.normal(size=(len(test_y), dim))).astype(np.float32),
            "test_y": test_y,
            "text": text,
            "classnames": np.array([f"class {number}" for number in range(classes)]),
        }
        np.savez(tmp_path / name, **{**arrays, **changes})
        return tmp_path / name

    return write


@pytest.fixture
def features_file(write_features):
    return write_features()


@pytest.fixture
def quick(features_file):
    """The options of a run of three tasks that takes a moment."""
    return {
        "dataset": f"features:{features_file}",
        "increment": 2,
        "order": "seed:0",
        "epochs": 2,
        "replay_per_epoch": 40,
    }


@pytest.fixture
def quick_arguments(quick):
    """The same for the command line."""
    plain = [f"--{key}={quick[key]}" for key in ("dataset", "increment", "order")]
    return [*plain, "--no-report", "--set", "epochs=2", "--set", "replay_per_epoch=40"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def awpf(tmp_path, monkeypatch):
    """Run the command line here, in an empty folder."""
    from typer.testing import CliRunner

    from awpf_ext.cli.commands import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Ended:
        ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def image_arguments(tmp_path):
    """The options of a run on 24 small images, encoded by a CLIP of a few thousand weights."""
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
    from PIL import Image

    open_clip.add_model_config(TINY)
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("äpfel", "Birnen", "犬", "a_cat"):
            for number in range(count):
                path = tmp_path / "images" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
    backbone = ["--model=tiny", "--pretrained=random:0", "--set", f"store={tmp_path / 'store'}"]
    return [f"--dataset=folder:{tmp_path / 'images'}", "--increment=2", "--no-report", *backbone]
