"""`torchrun awpf run`: two processes learn what one learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("typer", reason='needs the extra "clip"')

import open_clip

from awpf_ext import io
from awpf_ext.runs.run import run

SCRIPT = Path(__file__).with_name("finetuning_run.py")
TINY = Path(__file__).parents[1] / "clip" / "tiny.json"
SETTINGS = {
    "epochs": 2,
    "batch_size": 7,  # odd, and the last batch is smaller still: shares differ
    "buffer": 5,
    "learning_rate": 1e-3,
    "micro_batch": 3,
    "gamma_epochs": 0,
    "augmentation": "buffer",
    "class_losses": "exact",
}


@pytest.fixture
def options(tmp_path):
    """A run over two domains of three classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        for domain in ("night", "day"):
            for name in ("cat", "dog", "owl"):
                place = tmp_path / "images" / domain / split / name
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}.png")
    return {
        "dataset": f"domains:{tmp_path / 'images'}",
        "protocol": "domain",
        "model": "tiny",
        "pretrained": "random:0",
        "device": "cpu",
        "method": "gdro",
    }


def together(options, settings, out: Path) -> None:
    """The same run in two processes."""
    given = [f"--{key}={value}" for key, value in options.items()]
    given += [f"--set={key}={value}" for key, value in settings.items()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [sys.executable, *torchrun, SCRIPT, "run", "--no-report", f"--out={out}", *given],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def without_noise(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Attention does not depend on the bias of its keys: that gradient is rounding alone, which
    AdamW makes a step of.
    """
    if not key.endswith("in_proj_bias"):
        return tensor
    queries, _, values = tensor.chunk(3)
    return torch.cat([queries, values])


def test_two_processes_learn_what_one_learns(options, tmp_path):
    torch.set_num_threads(1)
    open_clip.add_model_config(TINY)
    settings = {**SETTINGS, "store": tmp_path / "store"}
    one, two = tmp_path / "one", tmp_path / "two"
    run(**options, **settings, out=one)
    together(options, settings, two)
    ours, others = (io.load_tensors(path / "task_0001.safetensors")[0] for path in (one, two))
    assert ours.keys() == others.keys()
    for key, tensor in ours.items():
        if tensor.is_floating_point():
            expected, found = without_noise(key, tensor), without_noise(key, others[key])
            assert (found - expected).norm() < 2e-3 * expected.norm(), key
        else:  # who is in the buffer, what the generator gives next
            assert torch.equal(others[key], tensor), key
    results = [io.read_json(path / "task_0001.json")["results"] for path in (one, two)]
    assert results[0]["accuracies"] == pytest.approx(results[1]["accuracies"], abs=0.17)
