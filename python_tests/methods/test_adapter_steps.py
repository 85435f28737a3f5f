"""The hand-written parts of a step of the adapter's training, against torch's own."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from awpf_ext.methods._base.adam import Adam
from awpf_ext.methods._base.cosine import row_products, scaled_cosines
from awpf_ext.methods._base.hinge import hinge_loss
from awpf_ext.methods.calfuse import calibrated


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(4)
    return normalize(torch.randn(3, 7, generator=generator, dtype=torch.float64), dim=1)


def test_scaled_cosines_and_their_gradient(rows, texts):
    expected = 30 * normalize(rows, dim=1) @ texts.T
    torch.testing.assert_close(scaled_cosines(rows, texts, 30.0), expected)
    assert gradcheck(lambda x: scaled_cosines(x, texts, 30.0), rows)


def test_products_with_directions_and_their_gradient(rows, texts):
    targets = texts[[0, 1, 2, 0, 1]]
    expected = (normalize(rows, dim=1) * targets).sum(1, keepdim=True)
    torch.testing.assert_close(row_products(rows, targets), expected)
    assert gradcheck(lambda x: row_products(x, targets), rows)


def test_hinge_is_the_mean_gap_between_the_cosines(rows, texts):
    pairs = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0]])
    cosines = normalize(rows, dim=1) @ texts.T
    old, new = (cosines.gather(1, pairs[:, [k]]) for k in (0, 1))
    expected = (0.1 + new - old).clamp_min(0).mean()
    torch.testing.assert_close(hinge_loss(rows, texts, pairs, 0.1), expected)


def test_calibrated_features_and_their_gradients(rows):
    generator = torch.Generator().manual_seed(5)
    adapter = torch.randn(7, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    features = rows.detach()
    weight = theta.sigmoid()
    expected = weight * normalize(features, dim=1) + (1 - weight) * normalize(
        features @ adapter.T, dim=1
    )
    torch.testing.assert_close(calibrated(features, adapter, theta), expected)
    assert gradcheck(lambda a, t: calibrated(features, a, t), (adapter, theta))


def test_rows_of_zeros_have_cosines_of_zero(texts):
    x = torch.zeros(2, 7, dtype=torch.float64, requires_grad=True)
    cosines = scaled_cosines(x, texts, 30.0)
    assert torch.equal(cosines, torch.zeros(2, 3, dtype=torch.float64))


def test_adam_makes_the_steps_of_torch():
    generator = torch.Generator().manual_seed(6)
    start = [torch.randn(4, 3, generator=generator), torch.randn((), generator=generator)]
    ours = [tensor.clone() for tensor in start]
    theirs = [tensor.clone().requires_grad_() for tensor in start]
    adam, torchs = Adam(ours), torch.optim.Adam(theirs, lr=1e-2)
    for rate in (1e-2, 1e-2, 1e-3):
        gradients = [torch.randn(t.shape, generator=generator) for t in start]
        adam.step(gradients, rate)
        torchs.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        torchs.step()
    for tensor, parameter in zip(ours, theirs, strict=True):
        torch.testing.assert_close(tensor, parameter.detach())
