"""Small finished runs, made once and not to be changed, and a page in a real browser."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason='needs the extra "clip"')
pytest.importorskip("jinja2", reason='needs the extra "clip"')
pytest.importorskip("typer", reason='needs the extra "clip"')

sys.path.append(str(Path(__file__).parent))

from report_samples import DOMAINS, NASTY, QUICK, features_file

TINY = Path(__file__).parents[1] / "clip" / "tiny.json"


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors as small as these are done before a second thread has woken up."""
    torch.set_num_threads(1)


@pytest.fixture
def strict():
    """Nothing that matplotlib warns of passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a finished run of three tasks, its names as bad as they come."""
    from awpf_ext.runs.run import run

    folder = tmp_path_factory.mktemp("finished")
    data = features_file(folder / "b_<i>$a_1$.npz", names=NASTY)
    run(dataset=f"features:{data}", increment=2, out=folder / "run", **QUICK)
    return folder / "run"


@pytest.fixture
def own(finished, tmp_path):
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "own"))


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory):
    """The folder of a sweep of two values on two orders."""
    from awpf_ext.runs.config import ConfigLayer
    from awpf_ext.runs.sweep import Axis, Variant, plan_sweep, run_sweep
    from awpf_ext.runs.sweep_file import write_sweep

    folder = tmp_path_factory.mktemp("sweep")
    data = features_file(folder / "small.npz")
    keys = {"dataset": f"features:{data}", "increment": 2, **QUICK}
    variants = [Variant(value, {"balance_scale": float(value)}) for value in ("0.5", "2")]
    runs = plan_sweep(
        variants,
        [ConfigLayer("test", keys)],
        orders=["seed:0", "natural"],
        seeds=[0],
        out=folder / "sweep",
    )
    write_sweep(folder / "sweep", [Axis("balance_scale", ("0.5", "2"))], run_sweep(runs))
    return folder / "sweep"


@pytest.fixture(scope="session")
def domain_run(tmp_path_factory):
    """Six classes in three domains, one task each, in the order of `seed:0`: 2, 1, 0."""
    from awpf_ext.runs.run import run

    folder = tmp_path_factory.mktemp("domains")
    domains = {
        "train_domain": np.arange(24) % 3,
        "test_domain": np.arange(30) % 3,
        "domainnames": np.array(DOMAINS),
    }
    data = features_file(folder / "a.npz", **domains)
    keys = {"protocol": "domain", "method": "zero_shot", "order": "seed:0"}
    run(dataset=f"features:{data}", out=folder / "run", **keys)
    return folder / "run"


@pytest.fixture(scope="session")
def combinations(tmp_path_factory):
    """A sweep over method and increment on two orders, as `awpf sweep` leaves it."""
    from awpf_ext.runs.config import ConfigLayer
    from awpf_ext.runs.sweep import Axis, plan_sweep, run_sweep, variants_of
    from awpf_ext.runs.sweep_file import write_sweep

    folder = tmp_path_factory.mktemp("combinations")
    data = features_file(folder / "small.npz")
    axes = [Axis("method", ("zero_shot", "finetune")), Axis("increment", ("3", "2"))]
    layer = ConfigLayer("test", {"dataset": f"features:{data}", "finetune": {"epochs": 1}})
    runs = plan_sweep(
        variants_of(axes), [layer], orders=["seed:0", "natural"], seeds=[0], out=folder / "sweep"
    )
    write_sweep(folder / "sweep", axes, run_sweep(runs))
    return folder / "sweep"


@pytest.fixture(scope="session")
def finished_with_images(tmp_path_factory):
    """A run on small images under a CLIP of a few thousand weights, and its image folder."""
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
    from PIL import Image

    from awpf_ext.runs.run import run

    open_clip.add_model_config(TINY)
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 6)):
        for name in ("äpfel", "Birnen", "犬", "a_cat"):
            for number in range(count):
                path = folder / "data" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    (folder / "data" / "test" / "犬" / "broken.png").write_bytes(b"no image")
    run(
        dataset=f"folder:{folder / 'data'}",
        increment=2,
        model="tiny",
        pretrained="random:0",
        store=folder / "store",
        on_unreadable="skip",
        out=folder / "run",
        **QUICK,
    )
    return folder


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, driven through a pipe."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    found = found or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium or google-chrome on PATH")
    if os.name != "posix":
        pytest.skip("drives the browser through inherited pipes, which needs POSIX")
    from devtools import Browser

    with Browser(found) as opened:
        yield opened
