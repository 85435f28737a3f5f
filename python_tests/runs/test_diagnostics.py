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
from awpf_ext.runs import diagnostics as evidence_module
from awpf_ext.runs.diagnostics import FILE, hardest_pairs, read_evidence
from awpf_ext.runs.folder import read_result
from awpf_ext.runs.run import run
from awpf_ext.runs.trainer import train


def test_it_agrees_with_what_the_run_measured(finished, tmp_path):
    evidence, result = read_evidence(finished), read_result(finished)
    right = (evidence.labels == evidence.predictions).double()
    assert float(right.mean()) == pytest.approx(result.last)
    per_task = [float(part.mean()) for part in torch.split(right, list(result.test_images))]
    assert per_task == pytest.approx(result.per_task)
    data = next(finished.parent.glob("*.npz"))
    zero_shot = run(dataset=f"features:{data}", increment=2, method="zero_shot")
    assert list(evidence.zero_shot_accuracy) == pytest.approx(zero_shot.accuracy)
    expected = [list(task.accuracies) for task in zero_shot.tasks]
    assert [list(row) for row in evidence.zero_shot_matrix] == [
        pytest.approx(row) for row in expected
    ]


def test_without_learning_nothing_moves(tmp_path):
    data = features_file(tmp_path / "a.npz")
    run(dataset=f"features:{data}", increment=2, method="zero_shot", out=tmp_path / "run")
    evidence = read_evidence(tmp_path / "run")
    assert torch.equal(evidence.predictions, evidence.zero_shot)
    assert torch.equal(evidence.before, evidence.after)


def test_pairs_are_counted_both_ways():
    labels = torch.tensor([0, 0, 1, 2, 2, 3])
    predictions = torch.tensor([1, 0, 0, 3, 2, 3])
    assert hardest_pairs(labels, predictions) == [(0, 1, 2), (2, 3, 1)]
    assert hardest_pairs(labels, labels) == []


def test_pictures_are_those_that_were_confused(finished_with_images):
    evidence = read_evidence(finished_with_images / "run")
    assert evidence.pictures
    wrong = evidence.labels != evidence.predictions
    confused = set(
        zip(evidence.labels[wrong].tolist(), evidence.predictions[wrong].tolist(), strict=True)
    )
    assert {(p.label, p.taken_for) for p in evidence.pictures} <= confused
    saved = read_run(finished_with_images / "run")
    keys = sorted(("äpfel", "Birnen", "犬", "a_cat"))
    for picture in evidence.pictures:  # rows are mapped past the image that could not be read
        key = keys[saved.class_order[picture.label]]
        file = finished_with_images / "data" / "test" / key / picture.name
        with Image.open(file) as original, Image.open(BytesIO(picture.content)) as kept:
            assert kept.tobytes() == original.convert("RGB").tobytes()


def test_large_test_sets_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_module, "MOST_IMAGES", 10)
    monkeypatch.setattr(evidence_module, "MAP_IMAGES", 2)
    data = features_file(tmp_path / "a.npz")
    run(dataset=f"features:{data}", increment=2, out=tmp_path / "run", **QUICK)
    evidence = read_evidence(tmp_path / "run")
    assert len(evidence.labels) == 10
    assert evidence.share == pytest.approx(1 / 3)
    assert torch.bincount(evidence.map_labels).max() <= 2


def test_a_task_without_test_images_is_nan(tmp_path):
    data = without_tests_of(features_file(tmp_path / "a.npz"), {0, 1})
    run(dataset=f"features:{data}", increment=2, order="natural", out=tmp_path / "run", **QUICK)
    evidence = read_evidence(tmp_path / "run")
    assert math.isnan(evidence.zero_shot_accuracy[0])
    assert not math.isnan(evidence.zero_shot_accuracy[1])


def test_damage_is_told(own):
    (own / FILE).write_bytes((own / FILE).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cannot read .*evidence"):
        read_evidence(own)
    shutil.copy(own / "bank.safetensors", own / FILE)
    with pytest.raises(CheckpointError):
        read_evidence(own)


def test_domains_have_zero_shot_accuracies_too(domain_stream):
    method = create_method("zero_shot", domain_stream)
    result = train(domain_stream, method)
    evidence = evidence_module.collect_evidence(domain_stream, method)
    assert list(evidence.zero_shot_accuracy) == pytest.approx(result.accuracy)
    assert [list(row) for row in evidence.zero_shot_matrix] == [
        pytest.approx(list(task.accuracies)) for task in result.tasks
    ]
    assert torch.equal(evidence.predictions, evidence.zero_shot)
