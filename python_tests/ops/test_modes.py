"""The modes of torch around a call: autocast, inference, export, lazily negated views."""

from __future__ import annotations

import pytest
import torch

import awpf_ext

torch.manual_seed(6)
X, Y = torch.randn(20, 4), torch.randn(15, 4)
LABELS = torch.arange(20) % 3
U, S, V = torch.randn(2, 30, 3), torch.rand(2, 3), torch.randn(2, 25, 3)

CALLS = {
    "mmd": lambda: (awpf_ext.mmd(X, Y),),
    "mmd_matrix": lambda: (awpf_ext.mmd_matrix(X, LABELS),),
    "mmd_test": lambda: awpf_ext.mmd_test(X, Y, permutations=5),
    "median_bandwidth": lambda: (awpf_ext.median_bandwidth(X, Y),),
    "scatter": lambda: awpf_ext.scatter(X, LABELS),
    "accumulator": lambda: awpf_ext.ScatterAccumulator(3, 4).update(X, LABELS).result(),
    "fisher": lambda: (awpf_ext.separability(X, LABELS, "fisher"),),
    "low_rank_sum": lambda: (awpf_ext.low_rank_sum(U, S, V),),
    "truncate by QR": lambda: awpf_ext.truncate(U, S, V, 2),
    "truncate by SVD": lambda: awpf_ext.truncate(U[:, :8], S, V, 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_nothing(name):
    expected = CALLS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        found = CALLS[name]()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode(name):
    expected = CALLS[name]()
    with torch.inference_mode():
        found = CALLS[name]()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_the_default_dtype_changes_nothing():
    expected = {name: call() for name, call in CALLS.items()}
    torch.set_default_dtype(torch.float64)
    try:
        for name, call in CALLS.items():
            for one, other in zip(call(), expected[name], strict=True):
                assert one.dtype == other.dtype, name
                assert torch.equal(one, other), name
    finally:
        torch.set_default_dtype(torch.float32)


def test_export():
    class Model(torch.nn.Module):
        def forward(self, x, y, labels):
            return awpf_ext.mmd(x, y), awpf_ext.scatter(x, labels, 3).within

    exported = torch.export.export(Model(), (X, Y, LABELS)).module()
    for one, other in zip(exported(X, Y, LABELS), Model()(X, Y, LABELS), strict=True):
        assert torch.equal(one, other)


def test_views_that_are_negated_or_conjugated_lazily():
    lazy, eager = torch.complex(X, X).conj().imag, -X
    assert lazy.is_neg()
    assert torch.equal(awpf_ext.mmd(lazy, Y), awpf_ext.mmd(eager, Y))
    assert torch.equal(awpf_ext.median_bandwidth(lazy), awpf_ext.median_bandwidth(eager))
    for one, other in zip(
        awpf_ext.scatter(lazy, LABELS), awpf_ext.scatter(eager, LABELS), strict=True
    ):
        assert torch.equal(one, other)
    negated = torch._neg_view(U)
    assert torch.equal(awpf_ext.low_rank_sum(negated, S, V), awpf_ext.low_rank_sum(-U, S, V))


def test_parameters_and_frozen_points():
    parameter = torch.nn.Parameter(X.clone())
    value = awpf_ext.mmd(parameter, Y)
    value.backward()
    assert parameter.grad is not None
    with torch.no_grad():
        assert not awpf_ext.mmd(parameter, Y).requires_grad
    assert not awpf_ext.mmd(parameter.detach(), Y).requires_grad
