"""`awpf run` on the demo: its defaults, and a small run from end to end."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("open_clip", reason="needs open_clip_torch")

import yaml

from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.runs import run as run_module
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.run import run


@pytest.mark.parametrize(
    ("given", "dataset", "model", "pretrained"),
    [
        ({}, "demo", "demo", "embedded"),
        ({"dataset": "demo:negative"}, "demo:negative", "demo", "embedded"),
        ({"model": "ViT-B-16"}, "demo", "ViT-B-16", "openai"),
        ({"dataset": "cifar100"}, "cifar100", "ViT-B-16", "openai"),
        ({"dataset": "cifar100", "model": "demo"}, "cifar100", "demo", "embedded"),
        ({"pretrained": "random:3"}, "demo", "demo", "random:3"),
    ],
)
def test_the_demos_model_goes_with_the_demo(given, dataset, model, pretrained):
    config = resolve_config([ConfigLayer("test", given)]).config
    assert (config.dataset, config.model, config.pretrained) == (dataset, model, pretrained)
    assert config.identity()["dataset"] == dataset  # no path, so the same in every folder


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (80, 20)),
        ({"train_limit": None, "test_limit": None}, (80, 20)),
        ({"dataset": "demo:all", "protocol": "domain"}, (80, 20)),
        ({"model": "ViT-B-16", "train_limit": 200}, (200, 20)),
        ({"test_limit": 999}, (80, 999)),
        ({"dataset": "cifar100"}, (None, None)),
        ({"dataset": "cifar100", "model": "demo"}, (None, None)),
    ],
)
def test_the_demo_is_limited_unless_asked_for_more(given, limits):
    config = resolve_config([ConfigLayer("test", given)]).config
    assert (config.train_limit, config.test_limit) == limits
    assert (config.identity()["train_limit"], config.identity()["test_limit"]) == limits
    written = yaml.safe_load(config.to_yaml())
    assert (written["train_limit"], written["test_limit"]) == limits


def test_limits_keep_evenly_spaced_pictures_and_no_more_than_there_are(tmp_path, monkeypatch):
    seen = {}

    def stop(data, *_, **__):
        seen[data.notes["train_limit"]] = data
        raise InterruptedError

    monkeypatch.setattr(run_module, "extract_features", stop)
    for limit in (None, 300):
        with pytest.raises(InterruptedError):
            run(train_limit=limit, store=str(tmp_path))
    by_default, whole = seen[80], seen[300]
    assert torch.bincount(by_default.train.labels).tolist() == [80] * 100
    assert torch.bincount(by_default.test.labels).tolist() == [20] * 100
    kept = [by_default.train.name(row).split()[-1] for row in (0, 1, 2, 79)]
    assert kept == ["0", "2", "5", "197"]
    assert torch.bincount(whole.train.labels).tolist() == [200] * 100


def test_ten_tasks_of_ten_by_default(tmp_path, monkeypatch):
    """With three pictures a class for training and two for testing, and one epoch."""
    monkeypatch.setattr(demo_data, "TRAIN_EACH", 3)
    monkeypatch.setattr(demo_data, "TEST_EACH", 2)
    options = {"store": str(tmp_path / "store"), "epochs": 1, "threads": 1}
    result = run(out=tmp_path / "run", **options)
    assert len(result.tasks) == 10
    assert result.provenance["dataset"] == "demo"
    assert result.provenance["demo"] == demo_data.FROZEN
    assert result.provenance["train_images"] == 300
    assert (result.provenance["model"], result.provenance["pretrained"]) == ("demo", "embedded")
    assert result.average > 0.2  # guessing: below 0.03
    monkeypatch.setattr(demo_data, "paint", lambda *_: pytest.fail("it was drawn again"))
    assert run(**options).average == result.average  # from the store, and the same bits
