"""The visual head: its share, what it may do with few images, its state, and held-out rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from awpf_ext.methods import create_method
from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.holdout import MOST_HELD_OUT, held_out_rows
from awpf_ext.methods._base.lda import lda_classifier
from awpf_ext.methods._base.visual_head import VisualScores, fit_scales
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.trainer import train

ADAPTERS = ["finetune", "rapf", "awpf", "calfuse"]
QUICK = {"epochs": 2, "replay_per_epoch": 40, "head": "lda"}


def learned(name, stream, tasks=None, **settings):
    method = create_method(name, stream, {**QUICK, **settings})
    for index in range(tasks or len(stream)):
        method.fit(stream[index])
    return method


def scores_of(means, noise, rows, generator):
    """Features around class means, and the scores of the nearest mean."""
    labels = torch.arange(len(means)).repeat(rows)
    x = means[labels] + noise * torch.randn(len(labels), means.shape[1], generator=generator)
    return labels, x @ means.T - means.square().sum(1) / 2


def test_the_share_is_large_where_texts_know_nothing_and_small_where_lda_does_not():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 16, generator=generator)
    labels, good = scores_of(means, 1.0, 50, generator)
    guess = torch.randn(len(labels), 8, generator=generator)
    by_sight = fit_scales(guess, good, labels)
    by_text = fit_scales(good, guess, labels)
    mixed = by_sight.text * guess + by_sight.visual * good
    by_lda, by_both = ((s.argmax(1) == labels).double().mean() for s in (good, mixed))
    assert by_sight.share > 1
    assert by_text.share < 0.05
    assert by_both > by_lda - 0.01


def test_an_overconfident_score_does_not_spoil_its_share():
    """The scale of a score carries no information, so a hundred times it gets a hundredth."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(6, 12, generator=generator)
    labels, truth = scores_of(means, 2.0, 400, generator)
    text, visual = (truth + 9 * torch.randn(truth.shape, generator=generator) for _ in range(2))
    modest, loud = fit_scales(text, visual, labels), fit_scales(text, 100 * visual, labels)
    assert 100 * loud.share == pytest.approx(modest.share, rel=0.2)


def test_without_held_out_rows_the_texts_decide():
    scales = fit_scales(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert scales == (1.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_scales_are_numbers_also_where_rows_are_few_and_all_right(seed):
    """Nothing bounds the likelihood there; the share is held by its prior."""
    generator = torch.Generator().manual_seed(seed)
    classes, rows = 1 + seed % 6, 1 + seed
    labels = torch.arange(rows) % classes
    right = torch.eye(classes)[labels]
    noise = torch.randn(2, rows, classes, generator=generator)
    text, visual = (10.0 ** (seed % 4) * (right + 0.2 * part) for part in noise)
    scales = fit_scales(text, visual, labels)
    assert 0 < scales.text < float("inf")
    assert 0.001 < scales.share < 10
    combined = scales.text * text + scales.visual * visual
    assert torch.equal(combined.argmax(1), labels)


def test_scores_are_ldas_at_the_mean_length_of_the_images():
    generator = torch.Generator().manual_seed(2)
    x = 3 * normalize(torch.randn(60, 8, generator=generator), dim=1)
    labels = torch.arange(6).repeat(10)
    statistics = ClassStatistics(8)
    statistics.add(x, labels, range(6))
    scores = VisualScores.of(statistics)
    expected = lda_classifier(statistics).scores(x)
    torch.testing.assert_close(scores(x), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores(7 * x), scores(x), rtol=1e-4, atol=1e-3)


def test_a_class_without_images_gets_the_mean_score_of_the_others():
    statistics = ClassStatistics(4)
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    statistics.add(x, torch.tensor([0, 2]).repeat(6), range(3))
    scores = VisualScores.of(statistics)(x)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores[:, 1], scores[:, [0, 2]].mean(1))


@pytest.mark.parametrize(
    ("images", "held"), [(1, 0), (2, 1), (4, 1), (9, 1), (10, 2), (25, 5), (500, MOST_HELD_OUT)]
)
def test_a_fifth_of_a_class_is_held_out(images, held):
    labels = torch.arange(3).repeat(images)
    rows = held_out_rows(labels)
    assert torch.bincount(labels[rows], minlength=3).tolist() == [held] * 3


def test_of_many_held_out_rows_some_of_every_class_choose(make_stream, monkeypatch):
    """Whether the rows come class by class or in turns."""
    holdout = create_method("finetune", make_stream(), QUICK).holdout
    holdout.x = torch.arange(128.0)[:, None]
    labels = torch.arange(8)
    for rows in (labels.repeat(16), labels.repeat_interleave(16)):
        holdout.labels = rows
        assert torch.equal(holdout.judges()[1], rows)
        with monkeypatch.context() as patch:
            patch.setattr("awpf_ext.methods._base.holdout.MOST_JUDGES", 32)
            x, chosen = holdout.judges()
        assert torch.bincount(chosen).tolist() == [4] * 8
        assert torch.equal(rows[x[:, 0].long()], chosen)
        assert len(x.unique()) == 32


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_partner_never_sees_a_held_out_row(name, make_stream):
    """Other held-out rows change the share, but neither the partner nor what it draws."""
    stream = make_stream(train=10)
    one, other = (create_method(name, stream, QUICK) for _ in range(2))
    for index in range(2):
        task = stream[index]
        one.fit(task)
        held = held_out_rows(task.train_y)
        task.train_x[held] = task.train_x[held].flip(0)
        other.fit(task)
    a, b = one.holdout.partner, other.holdout.partner
    if name != "awpf":  # whose weights are chosen on these rows
        assert torch.equal(a.adapter, b.adapter)
    assert torch.equal(a.statistics.means, b.statistics.means)
    assert not torch.equal(one.holdout.x, other.holdout.x)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_head_does_not_change_what_is_learned(name, make_stream):
    stream = make_stream()
    with_head, without = learned(name, stream), learned(name, stream, head="none")
    assert torch.equal(with_head.adapter, without.adapter)
    x, _ = stream.test_seen(3)
    torch.testing.assert_close(with_head.text_logits(x, 12), without.logits(x))
    assert not torch.equal(with_head.logits(x), without.logits(x))
    shares = [record["head_share"] for record in with_head.records]
    assert len(shares) == len(stream)
    assert all(share > 0 for share in shares)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_model_to_predict_needs_no_held_out_rows(name, make_stream):
    """It takes features of any length, because LDA sees them at that of the training images."""
    stream = make_stream(train=10, scale=9.0)
    method = learned(name, stream)
    state = method.learned_state()
    assert not any(key.startswith(("partner.", "held_out.", "generator")) for key in state)
    loaded = create_method(name, stream, {**QUICK})
    loaded.load_state_dict(state)
    x, _ = stream.test_seen(3)
    assert torch.equal(loaded.logits(x), method.logits(x))
    torch.testing.assert_close(loaded.logits(normalize(x, dim=1)), loaded.logits(x))
    assert not torch.allclose(loaded.logits(x), loaded.text_logits(x, 12))


def test_progress_counts_the_epochs_of_both_learners(make_stream):
    stream = make_stream(train=10)
    method = create_method("finetune", stream, QUICK)
    seen = []
    method.fit(stream[0], lambda done, epochs: seen.append((done, epochs)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(method.seconds) == {"train", "train the partner", "statistics", "head"}


def test_classes_that_are_still_to_come_are_judged_by_their_texts(make_stream):
    stream = make_stream()
    method = learned("finetune", stream, tasks=2)
    x, _ = stream.test(2)
    torch.testing.assert_close(method.logits(x, 9), method.text_logits(x, 9))


def test_one_image_a_class_is_learned_by_the_texts_alone(make_stream):
    stream = make_stream(train=1)
    method = learned("awpf", stream)
    x, _ = stream.test_seen(3)
    torch.testing.assert_close(method.logits(x), method.text_logits(x, 12))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, make_stream, tmp_path):
    stream = make_stream(train=10)
    whole = create_method(name, stream, QUICK)
    train(stream, whole, folder=RunFolder(tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    def stop(event):
        if event.stage == "task" and event.task == 1:
            raise StoppedError

    part, folder = create_method(name, stream, QUICK), RunFolder(tmp_path / "part")
    with pytest.raises(StoppedError):
        train(stream, part, folder=folder, progress=stop)
    resumed = create_method(name, stream, QUICK)
    train(stream, resumed, folder=folder, resume=True)
    x, _ = stream.test_seen(3)
    assert torch.equal(resumed.logits(x), whole.logits(x))
    assert resumed.records == whole.records
    assert torch.equal(resumed.holdout.x, whole.holdout.x)
