"""--precision auto: what suits the processor, kept for as long as a run lasts."""

from __future__ import annotations

import pytest
import torch
import yaml

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from awpf_ext.clip import precision
from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.errors import CheckpointError
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import run
from awpf_ext.runs.sweep import Variant, plan_sweep, run_sweep

AMX = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
NO_AMX = "processor\t: 0\nmodel name\t: no amx_bf16\nflags\t\t: fpu avx2 avx512_bf16 xamx_bf16\n"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Puts this program on another processor."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "_CPU_FLAGS", file)

    def put(text: str | None) -> None:
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)

    return put


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """The demo with two pictures a class for training and one for testing; options of a run."""
    monkeypatch.setattr(demo_data, "TRAIN_EACH", 2)
    monkeypatch.setattr(demo_data, "TEST_EACH", 1)
    return {
        "store": str(tmp_path / "store"),
        "method": "zero_shot",
        "increment": 50,
        "threads": 1,
        "device": "cpu",
    }


def test_bf16_on_cuda_and_on_processors_with_amx(processor):
    for text, suited in ((AMX, "bf16"), (NO_AMX, "fp32"), ("", "fp32"), (None, "fp32")):
        processor(text)
        assert precision.suited_precision(torch.device("cpu")) == suited
        assert precision.suited_precision(torch.device("cuda", 1)) == "bf16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "auto"),
        ({"dataset": "demo:all"}, "auto"),
        ({"precision": "fp32"}, "fp32"),
        ({"model": "ViT-B-16"}, "fp32"),
        ({"dataset": "cifar100"}, "fp32"),
        ({"dataset": "cifar100", "model": "demo"}, "fp32"),
        ({"dataset": "cifar100", "precision": "auto"}, "auto"),
    ],
)
def test_it_is_the_default_of_the_demo_alone(given, expected):
    assert resolve_config([ConfigLayer("test", given)]).config.precision == expected


@pytest.mark.parametrize(("begun_on", "kept"), [(AMX, "bf16"), (NO_AMX, "fp32")])
def test_a_run_keeps_its_precision_on_any_processor(
    processor, small_demo, tmp_path, begun_on, kept
):
    def killed(event):
        if getattr(event, "stage", "") == "task":
            raise KeyboardInterrupt

    processor(begun_on)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=killed, **small_demo)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["precision"] == kept
    processor(NO_AMX if begun_on == AMX else AMX)
    result = run(out=tmp_path / "run", resume=True, **small_demo)
    assert result.provenance["precision"] == kept
    assert RunFolder(tmp_path / "run").config().identity()["precision"] == kept
    assert run(out=tmp_path / "run", **small_demo) == result  # finished: found again
    stores = {folder.name[:9] for folder in (tmp_path / "store").iterdir()}
    assert stores == {f"demo-{kept}"}
    other = {"bf16": "fp32", "fp32": "bf16"}[kept]
    with pytest.raises(CheckpointError, match=f"precision is {kept} there, {other} here"):
        run(out=tmp_path / "run", **small_demo, precision=other)


def test_a_sweep_keeps_the_precision_of_its_first_run(processor, small_demo, tmp_path):
    def sweep(*orders):
        layers = [ConfigLayer("test", small_demo)]
        variants = [Variant("zero_shot", {"method": "zero_shot"})]
        return run_sweep(plan_sweep(variants, layers, orders=orders, seeds=[0], out=tmp_path / "s"))

    processor(AMX)
    sweep("seed:1")
    processor(NO_AMX)
    result = sweep("seed:0", "seed:1")
    assert {each.provenance["precision"] for each in result.results} == {"bf16"}
