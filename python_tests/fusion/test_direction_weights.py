"""Weights of the directions of a change, chosen on held-out rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.fusion import DirectionWeights, HeldOutChange, direction_weights
from awpf_ext.fusion.direction_weights import logits_by_weights

DIM, CLASSES = 12, 5


def problem(rows, seed=0):
    """Features near the texts, seen through a fixed distortion, and a change that undoes it and
    does harm in another direction.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = normalize(torch.randn(CLASSES, DIM, generator=generator), dim=1)
    labels = torch.arange(rows) % CLASSES
    towards, away = (normalize(torch.randn(DIM, generator=generator), dim=0) for _ in range(2))
    distortion = torch.eye(DIM) + 4 * torch.outer(towards, away)
    x = (texts[labels] + 0.3 * torch.randn(rows, DIM, generator=generator)) @ distortion.T
    harm = 2 * torch.outer(texts[2], texts[3])
    return HeldOutChange(torch.eye(DIM), distortion.inverse() + harm, x, labels, texts, 10.0)


def loss(held_out, adapter):
    logits = held_out.logit_scale * normalize(held_out.x @ adapter.T, dim=1) @ held_out.texts.T
    return float(cross_entropy(logits, held_out.labels))


def test_the_weights_are_better_than_any_single_weight():
    held_out = problem(500)
    change = held_out.new - held_out.old
    chosen = direction_weights(change, 2, 0.5, 0.0, held_out)
    best = min(loss(held_out, held_out.old + w / 20 * change) for w in range(21))
    assert loss(held_out, chosen.fused(held_out.old, held_out.new)) < best
    assert (chosen.weights >= 0).all()
    assert (chosen.weights <= 1).all()


def test_a_strong_prior_gives_one_weight():
    held_out = problem(50)
    chosen = direction_weights(held_out.new - held_out.old, 2, 0.3, 1e7, held_out)
    torch.testing.assert_close(chosen.weights, torch.full((2,), 0.3), rtol=0, atol=1e-3)
    fused = chosen.fused(held_out.old, held_out.new)
    torch.testing.assert_close(fused, 0.7 * held_out.old + 0.3 * held_out.new, rtol=0, atol=1e-2)


def test_more_rows_outweigh_the_prior():
    few, many = problem(10), problem(2000)
    by_few, by_many = (
        direction_weights(j.new - j.old, 2, 0.5, 10.0, j).weights for j in (few, many)
    )
    assert (by_many - 0.5).abs().max() > (by_few - 0.5).abs().max()


@pytest.mark.parametrize("rank", [1, 3, DIM])
def test_fused_weighs_the_directions_and_the_rest(rank):
    generator = torch.Generator().manual_seed(4)
    old, new = (torch.randn(DIM, DIM, generator=generator) for _ in range(2))
    u, s, vh = torch.linalg.svd(new - old)
    weights = torch.rand(rank, generator=generator)
    w = torch.full((DIM,), 0.25)
    w[:rank] = weights
    expected = old + u @ torch.diag(w * s) @ vh
    found = DirectionWeights(u[:, :rank], weights, 0.25).fused(old, new)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_are_judged_by_the_logits_of_the_fused_adapter():
    held_out = problem(40)
    weights = torch.tensor([0.2, 0.9, 0.4])
    directions = torch.linalg.svd(held_out.new - held_out.old).U[:, :2]
    fused = DirectionWeights(directions, weights[:2], 0.4).fused(held_out.old, held_out.new)
    expected = held_out.logit_scale * normalize(held_out.x @ fused.T, dim=1) @ held_out.texts.T
    torch.testing.assert_close(
        logits_by_weights(directions, held_out)(weights), expected, rtol=1e-4, atol=1e-4
    )
