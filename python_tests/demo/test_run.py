"""`awpf run` on the demo: its defaults, and a small run from end to end."""

from __future__ import annotations

import pytest

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.run import run


@pytest.mark.parametrize(
    ("given", "dataset", "model", "pretrained"),
    [
        ({}, "demo", "demo", "embedded"),
        ({"dataset": "demo:night"}, "demo:night", "demo", "embedded"),
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
