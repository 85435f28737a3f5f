"""Tensors that no kernel can read get one clear sentence from every public operation."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import awpf_ext

torch.manual_seed(6)
X, Y = torch.randn(6, 3), torch.randn(5, 3)
LABELS, OFFSETS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 2, 6])
U, S, V = torch.randn(2, 6, 3), torch.rand(2, 3), torch.randn(2, 5, 3)
MATRIX = torch.randn(6, 5)


def balance(x: Tensor = X, labels: Tensor = LABELS) -> object:
    return awpf_ext.BalanceFactor()(x, labels, Y, LABELS[:5])


def accumulate(x: Tensor = X, labels: Tensor = LABELS) -> object:
    return awpf_ext.ScatterAccumulator(3, 3).update(x, labels)


# The call with one argument left open, and a tensor that fits there.
CALLS: dict[str, tuple[Callable[[Tensor], object], Tensor]] = {
    "x of mmd": (lambda x: awpf_ext.mmd(x, Y), X),
    "y of mmd": (lambda y: awpf_ext.mmd(X, y), Y),
    "bandwidth of mmd": (lambda b: awpf_ext.mmd(X, Y, bandwidth=b), torch.ones(2)),
    "scales of mmd": (lambda s: awpf_ext.mmd(X, Y, scales=s), torch.ones(2)),
    "x_offsets of mmd": (
        lambda o: awpf_ext.mmd(X, Y, x_offsets=o, y_offsets=[0, 2, 5]),
        OFFSETS,
    ),
    "y_offsets of mmd": (
        lambda o: awpf_ext.mmd(Y, X, x_offsets=[0, 2, 5], y_offsets=o),
        OFFSETS,
    ),
    "x of mmd_test": (lambda x: awpf_ext.mmd_test(x, Y), X),
    "y of mmd_test": (lambda y: awpf_ext.mmd_test(X, y), Y),
    "x of mmd_matrix": (lambda x: awpf_ext.mmd_matrix(x, LABELS), X),
    "groups of mmd_matrix": (lambda g: awpf_ext.mmd_matrix(X, g), LABELS),
    "x of median_bandwidth": (awpf_ext.median_bandwidth, X),
    "y of median_bandwidth": (lambda y: awpf_ext.median_bandwidth(X, y), Y),
    "x of scatter": (lambda x: awpf_ext.scatter(x, LABELS), X),
    "labels of scatter": (lambda labels: awpf_ext.scatter(X, labels), LABELS),
    "x of separability": (lambda x: awpf_ext.separability(x, LABELS), X),
    "labels of separability": (lambda labels: awpf_ext.separability(X, labels), LABELS),
    "x of ScatterAccumulator": (accumulate, X),
    "labels of ScatterAccumulator": (lambda labels: accumulate(labels=labels), LABELS),
    "u of low_rank_sum": (lambda u: awpf_ext.low_rank_sum(u, S, V), U),
    "s of low_rank_sum": (lambda s: awpf_ext.low_rank_sum(U, s, V), S),
    "v of low_rank_sum": (lambda v: awpf_ext.low_rank_sum(U, S, v), V),
    "weights of low_rank_sum": (lambda w: awpf_ext.low_rank_sum(U, S, V, w), torch.ones(2)),
    "base of low_rank_sum": (lambda b: awpf_ext.low_rank_sum(U, S, V, base=b), MATRIX),
    "u[0] of low_rank_sum": (lambda u: awpf_ext.low_rank_sum([u], None, [V[0]]), U[0]),
    "v[0] of low_rank_sum": (lambda v: awpf_ext.low_rank_sum([U[0]], None, [v]), V[0]),
    "u of truncate": (lambda u: awpf_ext.truncate(u, S, V, 2), U),
    "old of fuse": (lambda old: awpf_ext.fuse(old, MATRIX), MATRIX),
    "new of fuse": (lambda new: awpf_ext.fuse(MATRIX, new), MATRIX),
    "weight of fuse": (lambda w: awpf_ext.fuse(U, U + 1, weight=w), torch.ones(2)),
    "old_x of BalanceFactor": (balance, X),
    "old_labels of BalanceFactor": (lambda labels: balance(labels=labels), LABELS),
}


def jagged(tensor: Tensor) -> Tensor:
    return torch.nested.nested_tensor([tensor, tensor], layout=torch.jagged)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "CSR": lambda tensor: tensor.reshape(tensor.shape[0], -1).to_sparse_csr(),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor, tensor]),
    "jagged": jagged,
    "mkldnn": lambda tensor: tensor.float().to_mkldnn(),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "meta": lambda tensor: tensor.to("meta"),
}


@pytest.mark.filterwarnings("ignore")  # of torch: these kinds are in beta
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_tensors_that_no_kernel_can_read_are_named(name: str, kind: str) -> None:
    call, tensor = CALLS[name]
    call(tensor)
    argument = name.split(" of ")[0]
    if name == "x of median_bandwidth" and kind == "meta":
        assert awpf_ext.median_bandwidth(X.to("meta")).is_meta  # nothing else needs values here
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        call(KINDS[kind](tensor))
    sentence = str(caught.value)
    assert re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", sentence)
    assert "\n" not in sentence
    assert len(sentence) < 250
    assert "Internal" not in sentence


def test_calls_of_meta_tensors_alone_have_meta_results() -> None:
    """As of torch's own operations: shapes without values."""
    x, y, labels = X.to("meta"), Y.to("meta"), LABELS.to("meta")
    assert awpf_ext.mmd(x, y).is_meta
    assert awpf_ext.mmd_test(x, y).null.shape == (1000,)
    assert awpf_ext.mmd_matrix(x, labels, num_groups=3).shape == (3, 3)
    assert awpf_ext.scatter(x, labels, 3).means.shape == (3, 3)
    assert awpf_ext.separability(x, labels, "fisher", num_classes=3).is_meta
    assert awpf_ext.low_rank_sum(U.to("meta"), S.to("meta"), V.to("meta")).shape == (6, 5)
    for call in (lambda: awpf_ext.scatter(x, labels), lambda: awpf_ext.mmd_matrix(x, labels)):
        with pytest.raises(ValueError, match=r"num_\w+ must be given .* for meta tensors"):
            call()
