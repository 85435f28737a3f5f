"""The trainer's numbers against a slow recount, and its reports."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn.functional import normalize

from awpf_ext.errors import UserError
from awpf_ext.methods import create_method
from awpf_ext.runs.result import TaskResult
from awpf_ext.runs.trainer import stream_hash, train

QUICK = {"epochs": 2, "replay_per_epoch": 40}


def test_accuracies_equal_a_recount(make_stream):
    stream = make_stream(test=[3, 5, 2, 4, 0, 6, 1, 2, 3, 4, 5, 6])
    result = train(stream, create_method("rapf", stream, QUICK))
    method = create_method("rapf", stream, QUICK)
    for i, task in enumerate(stream):
        method.fit(task)
        rows = [stream[j] for j in range(i + 1)]
        hits = [(method.logits(t.test_x).argmax(1) == t.test_y).float() for t in rows]
        assert result.accuracy[i] == pytest.approx(float(torch.cat(hits).mean()))
        expected = [float(hit.mean()) for hit in hits] + [0.0] * (3 - i)
        assert result.accuracy_matrix[i] == pytest.approx(expected)
    assert result.test_images == (10, 10, 6, 15)
    assert result.average == pytest.approx(sum(result.accuracy) / 4)
    assert result.last == result.accuracy[3]


def test_forward_transfer_is_measured_against_zero_shot(make_stream):
    stream = make_stream()
    assert train(stream, create_method("zero_shot", stream)).forward_transfer == 0
    result = train(stream, create_method("finetune", stream, QUICK))
    task = stream[1]
    texts = stream.text[:6]
    zero_shot = (normalize(task.test_x, dim=1) @ texts.T).argmax(1) == task.test_y
    assert result.tasks[0].next_baseline == pytest.approx(float(zero_shot.float().mean()))
    assert math.isnan(result.tasks[3].next_accuracy)


def test_tasks_without_test_images_are_nan_and_null(make_stream):
    stream = make_stream(test=[0, 0, 0, 5, 5, 5, 0, 0, 0, 5, 5, 5])
    result = train(stream, create_method("awpf", stream, QUICK))
    assert math.isnan(result.accuracy[0])
    assert math.isnan(result.accuracy_matrix[3][0])
    assert 0 <= result.average <= 1
    encoded = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert encoded["accuracy"][0] is None
    assert encoded["accuracy_matrix"][3][2] is None


def test_result_is_complete_json(make_stream):
    stream = make_stream()
    method = create_method("awpf", stream, QUICK, seed=7)
    encoded = json.loads(json.dumps(train(stream, method).to_json(), allow_nan=False))
    names = "average last forgetting backward_transfer forward_transfer accuracy accuracy_matrix"
    assert set(names.split()) <= set(encoded)
    assert {"per_task", "old", "new", "harmonic", "seconds", "records"} <= set(encoded)
    assert {"train", "fuse", "statistics", "evaluate"} <= set(encoded["seconds"])
    provenance = encoded["provenance"]
    assert provenance["method"] == "awpf"
    assert provenance["seed"] == 7
    assert provenance["config"]["epochs"] == 2
    assert provenance["order_hash"] == stream.order_hash
    assert provenance["threads"] == torch.get_num_threads()
    assert [record["task"] for record in encoded["records"]] == [0, 1, 2, 3]


def test_progress_tells_every_epoch_and_task(make_stream):
    stream = make_stream()
    events = []
    result = train(stream, create_method("rapf", stream, QUICK), progress=events.append)
    epochs = [(e.task, e.epoch, e.epochs) for e in events if e.stage == "train"]
    assert epochs == [(task, epoch, 2) for task in range(4) for epoch in (1, 2)]
    done = [event for event in events if event.stage == "task"]
    assert [event.tasks for event in done] == [4] * 4
    assert done[-1].accuracy == tuple(result.accuracy)


def test_stream_hash_sees_what_matters(make_stream):
    base = stream_hash(make_stream())
    assert base == stream_hash(make_stream())
    assert base != stream_hash(make_stream(seed=1))
    assert base != stream_hash(make_stream(increment=4))
    assert base != stream_hash(make_stream(train=9))


def test_accuracy_on_each_class_and_the_worst(make_stream):
    stream = make_stream(test=[3, 5, 2, 4, 0, 6, 1, 2, 3, 4, 5, 6])
    result = train(stream, create_method("zero_shot", stream))
    method = create_method("zero_shot", stream)
    for task in stream:
        method.fit(task)
    x, y = stream.test_seen(3)
    right = method.logits(x).argmax(1) == y
    expected = [float(right[y == label].float().mean()) for label in range(12)]
    assert result.tasks[3].class_accuracies == pytest.approx(expected, nan_ok=True)
    assert math.isnan(expected[4])
    assert len(result.tasks[1].class_accuracies) == 6
    assert result.worst_class == pytest.approx(min(e for e in expected if not math.isnan(e)))
    restored = TaskResult.from_json(json.loads(json.dumps(result.tasks[3].to_json())))
    assert restored.class_accuracies == pytest.approx(expected, nan_ok=True)


def test_domains_are_measured_one_by_one_among_all_classes(domain_stream):
    result = train(domain_stream, create_method("zero_shot", domain_stream))
    method = create_method("zero_shot", domain_stream)
    hits = []
    for index, task in enumerate(domain_stream):
        method.fit(task)
        hits.append((method.logits(task.test_x).argmax(1) == task.test_y).float())
        expected = [float(hit.mean()) for hit in hits]
        assert result.accuracy_matrix[index][: index + 1] == pytest.approx(expected)
        assert result.accuracy[index] == pytest.approx(float(torch.cat(hits).mean()))
        assert len(result.tasks[index].class_accuracies) == 6
    assert result.forgetting == 0  # CLIP learns nothing and forgets nothing
    assert result.forward_transfer == 0
    assert result.provenance["domains"] == ["plain", "turned", "far"]


def test_methods_for_classes_refuse_domains(domain_stream):
    with pytest.raises(UserError, match="'awpf' does not support the domain protocol"):
        create_method("awpf", domain_stream)
