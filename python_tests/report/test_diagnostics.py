"""What a run keeps for its report, held against what the run itself measured."""

from __future__ import annotations

import math
import shutil
from io import BytesIO

import pytest
import torch
from PIL import Image
from report_samples import QUICK, features_file, without_tests_of

from awpf_ext.errors import CheckpointError
from awpf_ext.methods import create_method
from awpf_ext.report.load import read_run
from awpf_ext.runs import diagnostics as diagnostics_module
from awpf_ext.runs.diagnostics import most_confused_pairs
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import run
from awpf_ext.runs.trainer import train


def test_it_agrees_with_what_the_run_measured(finished, tmp_path):
    diagnostics, result = RunFolder(finished).diagnostics(), RunFolder(finished).result()
    right = (diagnostics.labels == diagnostics.predictions).double()
    assert float(right.mean()) == pytest.approx(result.last)
    per_task = [float(part.mean()) for part in torch.split(right, list(result.test_images))]
    assert per_task == pytest.approx(result.per_task)
    data = next(finished.parent.glob("*.npz"))
    zero_shot = run(dataset=f"features:{data}", increment=2, method="zero_shot")
    assert list(diagnostics.zero_shot_accuracy) == pytest.approx(zero_shot.accuracy)
    expected = [list(task.accuracies) for task in zero_shot.tasks]
    assert [list(row) for row in diagnostics.zero_shot_accuracy_matrix] == [
        pytest.approx(row) for row in expected
    ]


def test_without_learning_nothing_moves(tmp_path):
    data = features_file(tmp_path / "a.npz")
    run(dataset=f"features:{data}", increment=2, method="zero_shot", out=tmp_path / "run")
    diagnostics = RunFolder(tmp_path / "run").diagnostics()
    assert torch.equal(diagnostics.predictions, diagnostics.zero_shot_predictions)
    assert torch.equal(diagnostics.embeddings_before, diagnostics.embeddings_after)


def test_pairs_are_counted_both_ways():
    labels = torch.tensor([0, 0, 1, 2, 2, 3])
    predictions = torch.tensor([1, 0, 0, 3, 2, 3])
    assert most_confused_pairs(labels, predictions) == [(0, 1, 2), (2, 3, 1)]
    assert most_confused_pairs(labels, labels) == []


def test_pictures_are_those_that_were_confused(finished_with_images):
    diagnostics = RunFolder(finished_with_images / "run").diagnostics()
    assert diagnostics.images
    wrong = diagnostics.labels != diagnostics.predictions
    confused = set(
        zip(
            diagnostics.labels[wrong].tolist(), diagnostics.predictions[wrong].tolist(), strict=True
        )
    )
    assert {(p.label, p.predicted) for p in diagnostics.images} <= confused
    saved = read_run(finished_with_images / "run")
    keys = sorted(("äpfel", "Birnen", "犬", "a_cat"))
    for picture in diagnostics.images:  # rows are mapped past the image that could not be read
        key = keys[saved.class_texts.class_order[picture.label]]
        file = finished_with_images / "data" / "test" / key / picture.name
        with Image.open(file) as original, Image.open(BytesIO(picture.content)) as kept:
            assert kept.tobytes() == original.convert("RGB").tobytes()


def test_large_test_sets_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics_module, "MAX_PREDICTIONS", 10)
    monkeypatch.setattr(diagnostics_module, "IMAGES_PER_CLASS", 2)
    data = features_file(tmp_path / "a.npz")
    run(dataset=f"features:{data}", increment=2, out=tmp_path / "run", **QUICK)
    diagnostics = RunFolder(tmp_path / "run").diagnostics()
    assert len(diagnostics.labels) == 10
    assert diagnostics.fraction == pytest.approx(1 / 3)
    assert torch.bincount(diagnostics.embedding_labels).max() <= 2


def test_a_task_without_test_images_is_nan(tmp_path):
    data = without_tests_of(features_file(tmp_path / "a.npz"), {0, 1})
    run(dataset=f"features:{data}", increment=2, order="natural", out=tmp_path / "run", **QUICK)
    diagnostics = RunFolder(tmp_path / "run").diagnostics()
    assert math.isnan(diagnostics.zero_shot_accuracy[0])
    assert not math.isnan(diagnostics.zero_shot_accuracy[1])


def test_damage_is_told(own):
    file = RunFolder(own).diagnostics_file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cannot read .*diagnostics"):
        RunFolder(own).diagnostics()
    shutil.copy(own / "class_texts.safetensors", file)
    with pytest.raises(CheckpointError):
        RunFolder(own).diagnostics()


def test_domains_have_zero_shot_accuracies_too(domain_stream):
    method = create_method("zero_shot", domain_stream)
    result = train(domain_stream, method)
    diagnostics = diagnostics_module.collect_diagnostics(domain_stream, method)
    assert list(diagnostics.zero_shot_accuracy) == pytest.approx(result.accuracy)
    assert [list(row) for row in diagnostics.zero_shot_accuracy_matrix] == [
        pytest.approx(list(task.accuracies)) for task in result.tasks
    ]
    assert torch.equal(diagnostics.predictions, diagnostics.zero_shot_predictions)
