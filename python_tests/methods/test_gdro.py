"""GDRO: its estimator, its class losses, its weights, and class balance."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from finetuning_runs import QUICK, run
from tiny_images import tiny_features, tiny_stream

from awpf_ext.finetuning.buffer import Buffer
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.methods import create_method
from awpf_ext.methods._base.buffered_finetuning import JointBatch, balanced_weights


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors as small as these are done before a second thread has woken up."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def features():
    return tiny_features()


def test_gdro_with_a_large_lambda_is_cross_entropy_on_balanced_batches(features):
    """lambda -> infinity is the mean over classes, here that over samples."""
    stream = tiny_stream(features, "domain")
    settings = {"batch_size": 1000, "buffer": 20}
    plain = run("replay_ce", stream, settings)
    weighed = run("gdro", stream, {**settings, "objective": "ce", "dro_lambda": 1e9})
    for key, tensor in plain[1].trainable.state_dict().items():
        torch.testing.assert_close(
            weighed[1].trainable.state_dict()[key], tensor, rtol=1e-3, atol=1e-4
        )


def test_class_balance_is_the_mean_over_classes_whatever_the_batch():
    """Each batch is an unbiased estimate, also where a class appears in few of them."""
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    losses = torch.tensor([1.0, 2.0, 3.0, 6.0, 10.0, 4.0, 6.0])  # means 3, 10, 5
    counts = torch.tensor([4, 1, 2])
    for size in (1, 2, 3):
        found = []
        for rows in map(list, combinations(range(7), size)):
            batch = JointBatch(labels[rows], torch.tensor(rows), 0, counts)
            found.append((balanced_weights(batch) * losses[rows]).mean())
        assert torch.stack(found).mean().item() == pytest.approx((3 + 10 + 5) / 3)


def weighed(make_stream, **settings):
    """GDRO on seven samples of three classes with known losses, which no batch changes."""
    settings = {"train": "adapter", "objective": "ce", "class_losses": "running", **settings}
    method = create_method("gdro", make_stream(classes=3, increment=3, dim=8), settings)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 8, generator=generator)
    return method, normalize(x, dim=-1), method.text[:3]


SEVEN = torch.tensor([0, 0, 0, 0, 1, 2, 2])
OF_EACH = torch.tensor([4, 1, 2])


def batch_of(rows):
    return JointBatch(SEVEN[rows], torch.tensor(rows), 0, OF_EACH)


@pytest.mark.parametrize("size", [1, 3])
def test_the_mean_of_gdros_loss_over_all_batches_is_its_objective(size, make_stream):
    method, x, texts = weighed(make_stream, dro_lambda=0.7, group_adjustment=0.5)
    losses = cross_entropy(x @ texts.T / method.temperature, SEVEN, reduction="none")
    known = torch.tensor([0.2, 1.0, 0.5])
    p = torch.softmax((known + 0.5 / OF_EACH.sqrt()) / 0.7, 0)
    means = torch.stack([losses[label == SEVEN].mean() for label in range(3)])
    found = []
    for rows in map(list, combinations(range(7), size)):
        method.class_weights.replace(known, torch.arange(3))  # each batch starts from the same p
        found.append(method.loss(x[rows], texts, batch_of(rows)))
    torch.testing.assert_close(torch.stack(found).mean(), p @ means)


def test_a_batch_moves_the_class_losses_of_later_steps_alone(make_stream):
    method, x, texts = weighed(make_stream, dro_lambda=0.7, weight_momentum=0.25)
    known = torch.tensor([0.2, 1.0, 0.5])
    method.class_weights.replace(known, torch.arange(3))
    rows = [0, 1, 4]
    first = method.loss(x[rows], texts, batch_of(rows))
    losses = cross_entropy(x[rows] @ texts.T / method.temperature, SEVEN[rows], reduction="none")
    p = torch.softmax(known / 0.7, 0)
    torch.testing.assert_close(first, (7 * p / OF_EACH)[SEVEN[rows]] @ losses / 3)
    moved = 0.75 * known[:2] + 0.25 * torch.stack([losses[:2].mean(), losses[2]])
    torch.testing.assert_close(method.class_weights.values[:2], moved)
    assert method.class_weights.values[2] == known[2]


def test_a_batch_of_one_class_does_not_move_gcls_class_losses(make_stream):
    """It has no text side, so that its losses cannot be compared with those of other batches."""
    method, x, texts = weighed(make_stream, objective="gcl")
    method.class_weights.replace(torch.tensor([0.2, 1.0, 0.5]), torch.arange(3))
    method.loss(x[5:], texts, batch_of([5, 6]))
    assert method.class_weights.values[2] == 0.5
    method.loss(x[4:], texts, batch_of([4, 5, 6]))
    assert method.class_weights.values[2] != 0.5


def test_recorded_weights_are_those_after_the_task(features):
    stream = tiny_stream(features)
    result, method = run("gdro", stream, {"class_losses": "exact"})
    counts = torch.bincount(torch.cat([stream[1].train_y, torch.tensor([0, 0, 0, 1, 1, 1])]))
    records = [record for record in result.records if record["kind"] == "class_weights"]
    method.before_epoch(stream[1], TaskSamples(stream[1], Buffer(0), "images"))
    exact = method.class_weights.values[2:4]  # of the classes without buffered samples
    weights = torch.tensor(records[-1]["weights"])
    order = weights[2:4].argsort()
    assert len(counts) == len(weights) == 4
    assert torch.equal(order, exact.argsort())


def test_a_process_without_rows_takes_part_in_the_exact_pass(features):
    stream = tiny_stream(features)
    method = create_method("gdro", stream, {**QUICK, "class_losses": "exact"})
    samples = TaskSamples(stream[0], Buffer(0), "images")
    expected = method.embed_all(samples)
    method.world = EmptyShare(expected)
    torch.testing.assert_close(method.embed_all(samples), expected)


class EmptyShare:
    """A world in which another process has all the rows."""

    def __init__(self, rows):
        self.rows = list(rows.split(QUICK["batch_size"]))

    def share(self, count):
        return range(0)

    def all_gather(self, own, count):
        assert own.shape == (0, self.rows[0].shape[1])
        return self.rows.pop(0)


def test_gdro_with_equal_weights_is_balanced_gcl(features):
    stream = tiny_stream(features)
    balanced = run("gcl", stream, {"class_balance": True})
    equal = run("gdro", stream, {"effective_classes": 1.0})
    x = stream.test_images(1)[:]
    torch.testing.assert_close(equal[1].embed(x), balanced[1].embed(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize("objective", ["gcl", "ce"])
def test_exact_class_losses_are_those_of_all_samples(objective, features):
    """Before each epoch and after the task, at the parameters as they are then."""
    stream = tiny_stream(features)
    settings = {"class_losses": "exact", "objective": objective, "epochs": 1, "eps": 1.0}
    method = create_method("gdro", stream, {**QUICK, **settings})
    method.fit(stream[0])
    buffered = method.buffer.ids, method.buffer.labels
    method.fit(stream[1])
    after = method.trainable.state_dict()
    task = stream[1]
    ids = torch.cat([task.train_ids, buffered[0]])
    labels = torch.cat([task.train_y, buffered[1]])
    x = next(iter(task.images.batches([ids], 0)))
    with torch.no_grad():
        images = method.trainable.embed(x, after)
        logits = images @ method.trainable.texts(range(4), after).T / method.temperature
    losses = cross_entropy(logits, labels, reduction="none")
    if objective == "gcl":  # eps = 1: the image side is cross-entropy over all but a constant
        sides = []
        for row, label in enumerate(labels.tolist()):
            others = logits[labels != label, label] - logits[row, label]
            sides.append((others.exp().mean() + 1 / 3).log())
        losses = 0.5 * (losses - torch.tensor(3.0).log()) + 0.5 * torch.stack(sides)
    expected = torch.stack([losses[labels == label].mean() for label in range(4)])
    torch.testing.assert_close(method.class_weights.values[:4], expected, rtol=1e-3, atol=1e-3)


def test_gdro_records_its_class_weights(features):
    result, _ = run("gdro", tiny_stream(features))
    records = [record for record in result.records if record["kind"] == "class_weights"]
    assert [record["task"] for record in records] == [0, 1]
    assert [len(record["weights"]) for record in records] == [2, 4]
    for record in records:
        assert sum(record["weights"]) == pytest.approx(1)
        assert min(record["weights"]) > 0
        classes = len(record["weights"])
        assert record["effective_classes"] == pytest.approx(1 + 0.5 * (classes - 1), rel=1e-3)
        assert record["dro_lambda"] > 0
