"""The model card of the demo's CLIP is the text that tools/publish_demo.py writes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from awpf_ext.clip import demo_model, load_backbone

SCRIPT = Path(__file__).parents[2] / "tools" / "publish_demo.py"
CARD = demo_model.FOLDER / "MODEL_CARD.md"


@pytest.fixture
def publish_demo():
    if not SCRIPT.exists():
        pytest.skip("the tools are not beside the tests")
    spec = importlib.util.spec_from_file_location("publish_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def training_run(tmp_path):
    """The records of the training run that the card describes."""
    session = {"seed": 0, "batch": 128, "peak": 0.001}
    sessions = [{"from": 0, "steps": 6500}, {"from": 1250, "steps": 4500}]
    lines = [json.dumps({**session, **own}) + "\n" for own in sessions]
    (tmp_path / "sessions.jsonl").write_text("".join(lines))
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 4500, "loss": 0.509}) + "\n")
    return tmp_path


def test_the_card_is_what_the_tool_writes(publish_demo, training_run, monkeypatch):
    """Only the accuracies and the time of drawing take long, so they are read from the card."""
    text = CARD.read_text()
    rows = iter(re.findall(r"\| ([\d.]+)% \|$", text, re.MULTILINE))
    drawing = float(re.search(r"took ([\d.]+) ms", text)[1])
    monkeypatch.setattr(publish_demo, "probe", lambda *_: float(next(rows)) / 100)
    monkeypatch.setattr(publish_demo, "on_demo", lambda *_: float(next(rows)) / 100)
    monkeypatch.setattr(publish_demo, "milliseconds", lambda _: drawing)
    assert publish_demo.card(training_run, load_backbone("demo", "embedded")) == text
    assert next(rows, None) is None
