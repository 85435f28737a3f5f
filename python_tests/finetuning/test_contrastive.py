"""The global contrastive loss: its exact form, its moving averages, and extreme similarities."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.finetuning.contrastive import MovingAverages, gamma_at, global_contrastive

EPS = 1e-14


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def loss_of(similarities, labels, averages=None, ids=None, **settings):
    given = {"temperature": 0.01, "gamma": 1.0, "eps": EPS, **settings}
    ids = torch.arange(len(labels)) if ids is None else ids
    return global_contrastive(
        similarities, labels, ids, MovingAverages() if averages is None else averages, **given
    )


def reference(similarities, labels, temperature=0.01, eps=EPS):
    """Sample for sample in float64, straight from the definition."""
    scaled = similarities.double() / temperature
    losses = []
    for i, y in enumerate(labels.tolist()):
        sides = []
        texts = torch.tensor([c for c in range(scaled.shape[1]) if c != y])
        images = (labels != y).nonzero().flatten()
        for negatives in (scaled[i, texts], scaled[images, y]):
            if len(negatives):
                mean = (
                    torch.logsumexp(negatives - scaled[i, y], 0)
                    - torch.tensor(len(negatives)).log()
                )
                sides.append(torch.logaddexp(mean, torch.tensor(eps).double().log()))
        losses.append(0.5 * sum(sides, torch.zeros(()).double()))
    return torch.stack(losses)


def test_the_whole_data_as_one_batch_gives_the_exact_global_loss_and_its_gradient():
    embeddings, texts = unit(12, 8), unit(5, 8, seed=1)
    labels = torch.arange(12) % 4
    ours, exact = (embeddings.clone().requires_grad_() for _ in range(2))
    loss = loss_of(ours @ texts.T, labels, temperature=0.1)
    expected = reference(exact @ texts.T, labels, temperature=0.1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-4, atol=1e-5)


def test_with_eps_of_one_negative_the_image_side_is_cross_entropy():
    """A single class in the batch leaves the image side alone."""
    similarities = torch.rand(6, 4) * 2 - 1
    labels = torch.full((6,), 2)
    expected = cross_entropy(similarities / 0.1, labels, reduction="none")
    loss = loss_of(similarities, labels, temperature=0.1, eps=1 / 3)
    torch.testing.assert_close(2 * loss + torch.tensor(3.0).log(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [1.0, 0.8, 0.2])
@pytest.mark.parametrize(
    "similarities",
    [
        torch.eye(4)[torch.arange(9) % 4] * 2 - 1,  # every image at its text, far from the others
        1 - torch.eye(4)[torch.arange(9) % 4] * 2,  # and the other way round
        torch.ones(9, 4),
        -torch.ones(9, 4),
        torch.rand(9, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1,
    ],
    ids=["right", "wrong", "ones", "minus ones", "random"],
)
def test_no_similarity_overflows_at_a_hundredth(similarities, gamma, dtype):
    labels = torch.arange(9) % 4
    averages = MovingAverages()
    for flip in (1, -1, 1):  # the averages meet the opposite extreme too
        x = (flip * similarities).to(dtype).requires_grad_()
        loss = loss_of(x, labels, averages, gamma=gamma)
        assert loss.isfinite().all()
        loss.mean().backward()
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() <= 1.01 / (0.01 * gamma)
    if gamma == 1:
        expected = reference(x.detach(), labels)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-4)


def test_the_average_follows_its_recurrence_and_carries_the_gradient():
    labels = torch.tensor([0, 1, 2, 0])
    averages = MovingAverages()
    first, second = (torch.rand(4, 3) for _ in range(2))

    def text_side(similarities):
        scaled = similarities.double() / 0.1
        pairs = (scaled[:, labels] - scaled[range(4), labels]).exp()
        other = labels[:, None] != labels
        return (pairs * other).sum(0) / other.sum(0)

    loss_of(first, labels, averages, temperature=0.1)
    x = second.clone().requires_grad_()
    loss = loss_of(x, labels, averages, temperature=0.1, gamma=0.7, eps=0.01)
    u = 0.3 * text_side(first) + 0.7 * text_side(second)
    torch.testing.assert_close(averages[torch.arange(4)].double().exp(), u, rtol=1e-5, atol=0)

    by_autograd = second.double().requires_grad_()
    scaled = by_autograd / 0.1
    others = scaled.masked_fill(labels[:, None] == torch.arange(3), -torch.inf)
    image = (others - scaled[range(4), labels][:, None]).exp().sum(1) / 2
    surrogate = 0.5 * ((0.01 + image).log() + text_side(by_autograd) / (0.01 + u))
    torch.testing.assert_close(
        loss.double(), 0.5 * ((0.01 + image).log() + (0.01 + u).log()), rtol=1e-5, atol=1e-5
    )
    loss.sum().backward()
    surrogate.sum().backward()
    torch.testing.assert_close(x.grad.double(), by_autograd.grad, rtol=1e-4, atol=1e-5)


def test_averages_are_by_id_and_a_sample_not_met_starts_with_its_own_estimate():
    averages = MovingAverages()
    averages.update(torch.tensor([5, 2]), torch.tensor([1.0, 2.0]), 0.5)
    after = averages.update(torch.tensor([2, 9]), torch.tensor([2.0, 150.0]), 0.5)
    torch.testing.assert_close(after, torch.tensor([2.0, 150.0]))
    assert averages[torch.tensor([3])].isnan().all()
    averages.keep(torch.tensor([9, 5]))
    again = MovingAverages()
    again.load_state_dict(averages.state_dict())
    assert again[torch.tensor([2])].isnan().all()
    assert again[torch.tensor([5, 9])].tolist() == [1.0, 150.0]
    assert len(again.state_dict()["ids"]) == 2


def test_same_class_images_are_no_negatives():
    """Moving one image of a class does not change the text side of another."""
    labels = torch.tensor([0, 0, 1])
    averages = MovingAverages()
    similarities = torch.rand(3, 2)
    loss_of(similarities, labels, averages)
    moved = similarities.clone()
    moved[1] = -1
    others = MovingAverages()
    loss_of(moved, labels, others)
    first = torch.tensor([0])
    assert averages[first] == others[first]


def test_a_single_class_and_a_single_image_lose_nothing():
    alone = torch.rand(1, 1, requires_grad=True)
    loss = loss_of(alone, torch.zeros(1, dtype=torch.int64))
    loss.sum().backward()
    assert loss.item() == 0
    assert alone.grad.item() == 0


def test_gamma_goes_from_one_to_its_final_value_along_a_cosine():
    assert [gamma_at(epoch, 0.8, 2) for epoch in range(4)] == pytest.approx([1, 0.9, 0.8, 0.8])
    assert gamma_at(0, 0.8, 0) == 0.8
