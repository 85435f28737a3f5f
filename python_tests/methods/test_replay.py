"""Schedules of replay and of hard pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from awpf_ext.methods._base import replay
from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.hinge import hard_pairs, hinge_loss, pair_schedule
from awpf_ext.methods._base.replay import draw_batches, replay_schedule


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_an_epoch_replays_about_as_many_rows_as_asked_for():
    old = torch.arange(30)
    labels = replay_schedule(old, 50, rows=2000, draws=20, generator=generator())
    assert labels.shape == (50, 40)  # two classes of twenty draws per batch


def test_classes_take_turns():
    old = torch.tensor([3, 5, 8, 9])
    labels = replay_schedule(old, 6, rows=60, draws=5, generator=generator())
    assert labels.shape == (6, 10)
    counts = torch.bincount(labels.flatten(), minlength=10)
    assert sorted(counts[old].tolist()) == [15, 15, 15, 15]
    assert (labels.view(6, 2, 5) == labels.view(6, 2, 5)[:, :, :1]).all()


def test_nothing_to_replay():
    none = torch.empty(0, dtype=torch.int64)
    assert replay_schedule(none, 4, rows=100, draws=5, generator=generator()).shape == (4, 0)
    assert replay_schedule(torch.arange(3), 4, rows=0, draws=5, generator=generator()).shape == (
        4,
        0,
    )


def test_draws_follow_their_labels(monkeypatch):
    monkeypatch.setattr(replay, "ROWS_AT_ONCE", 25)  # two batches a call
    statistics = ClassStatistics(2, added_variance=1e-6)
    x = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    statistics.add(x, torch.arange(3), range(3))
    labels = torch.randint(3, (5, 10), generator=generator())
    batches = list(draw_batches(statistics, labels, generator()))
    assert len(batches) == 5
    drawn = torch.stack(batches)
    torch.testing.assert_close(drawn[..., 0], 10.0 * labels, atol=0.05, rtol=0)


def test_hard_pairs_are_those_with_near_texts():
    text = normalize(torch.randn(8, 4, generator=generator()), dim=1)
    old, new = torch.arange(5), torch.arange(5, 8)
    distances = torch.cdist(text[old], text[new])
    threshold = float(distances.median())
    pairs = {tuple(pair) for pair in hard_pairs(text, old, new, threshold).tolist()}
    assert pairs == {(o, n + 5) for o, n in (distances < threshold).nonzero().tolist()}


def test_pair_schedule_is_even_under_its_limit():
    pairs = torch.tensor([[0, 5], [1, 5], [1, 6]])
    schedule = pair_schedule(pairs, 4, draws=2, limit=100, generator=generator())
    assert schedule.shape == (4, 6, 2)
    for batch in schedule:
        assert torch.unique(batch, dim=0, return_counts=True)[1].tolist() == [2, 2, 2]
    limited = pair_schedule(pairs, 4, draws=20, limit=4, generator=generator())
    assert limited.shape == (4, 4, 2)
    counts = torch.unique(limited.reshape(-1, 2), dim=0, return_counts=True)[1]
    assert sorted(counts.tolist()) == [5, 5, 6]


def test_hinge():
    text = torch.eye(3)
    embedded = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    pairs = torch.tensor([[0, 1], [0, 1]])
    # first: 0.1 - 1 + 0 < 0; second: 0.1 - 0.6 + 0.8 = 0.3
    assert float(hinge_loss(embedded, text, pairs, 0.1)) == pytest.approx(0.15)
