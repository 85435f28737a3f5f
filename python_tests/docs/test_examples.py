"""The examples run, and what they are meant to show is so."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch
from page_blocks import ROOT


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors as small as these are done before a second thread has woken up."""
    torch.set_num_threads(1)


@pytest.fixture
def example():
    """An example as a module."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_drift_monitor_sees_the_drift_and_little_else(example, capsys):
    monitor = example("drift_monitor")
    monitor.QUIET = 200
    found = monitor.main()
    assert found.false_alarm_rate <= 0.04  # 8 of 200 at 1 %: less than once in 10,000 by chance
    assert all(alarm in found.alarms for alarm in range(35, 40))
    assert len([alarm for alarm in found.alarms if alarm < monitor.DRIFT_STARTS]) <= 2
    assert "first alarm after it in window" in capsys.readouterr().out


def test_mmd_as_a_loss_helps_in_the_target_domain(example):
    found = example("domain_adaptation").main(seeds=2)
    for alone, with_mmd in zip(found.source_only, found.with_mmd, strict=True):
        assert with_mmd > alone
    assert sum(found.with_mmd) - sum(found.source_only) > 0.1 * 2


def test_fused_adapters_forget_less_and_learn_enough(example, capsys):
    found = example("fuse_adapters").main(seeds=2)
    last = found["after task 2"]
    for name in ("svd_mask", "qr_mask", "stack", "delta_stack"):
        assert found[name].first > last.first
        assert found[name].second > 0.9
    printed = capsys.readouterr().out
    assert all(name in printed for name in found)


@pytest.fixture
def two_folders(tmp_path):
    """Dark and bright noise."""
    image = pytest.importorskip("PIL.Image", reason='needs the extra "clip"')
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (tmp_path / name / "deeper").mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(low, low + 128, (16, 16, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / name / "deeper" / f"{number}.png")
    return tmp_path / "dark", tmp_path / "bright"


def test_two_image_folders_are_told_apart(example, two_folders, tmp_path, capsys):
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
    tower = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}
    (tmp_path / "thumb.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "thumb.json")
    backbone = ["--model", "thumb", "--pretrained", "random:0"]
    compare = example("compare_images").main
    dark, bright = map(str, two_folders)
    chance, apart = compare([dark, bright, *backbone]).values()
    assert apart.cmmd > 5 * chance.cmmd
    assert apart.p_value < 0.01 < chance.p_value
    assert "thumb random:0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds 0 images"):
        compare([dark, str(tmp_path / "nothing"), *backbone])


def test_the_demos_styles_are_told_apart_offline(example, monkeypatch):
    pytest.importorskip("open_clip", reason="needs open_clip_torch")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    compare = example("compare_images")
    chance, *styles = compare.main([]).values()
    assert chance.p_value > 0.01
    assert len(styles) == len(compare.STYLES) - 1
    assert max(style.cmmd for style in styles) > 3 * chance.cmmd
    assert min(style.p_value for style in styles) < 0.01
