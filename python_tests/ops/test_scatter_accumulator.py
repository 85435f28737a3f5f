"""ScatterAccumulator: however the rows are cut and merged, the scatter of all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import awpf_ext
from awpf_ext import ScatterAccumulator

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
given, settings = hypothesis.given, hypothesis.settings


def same(found, expected, tolerance=1e-11):
    assert torch.equal(found.counts, expected.counts)
    for part, other in zip(found[:3], expected[:3], strict=True):
        scale = float(other.abs().max()) or 1.0
        assert float((part - other).abs().max()) <= tolerance * scale


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_chunks_and_merges_in_any_order(data):
    n, d = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 12))
    classes = data.draw(st.integers(1, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = torch.from_numpy(rng.standard_normal((n, d)) * 3 + data.draw(st.floats(-1000, 1000)))
    labels = torch.from_numpy(rng.integers(0, classes, n))
    whole = ScatterAccumulator(classes + 1, d).update(x, labels).result()
    same(awpf_ext.scatter(x, labels, classes + 1), whole)

    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    parts = [
        ScatterAccumulator(classes + 1, d).update(x[a:b], labels[a:b])
        for a, b in zip([0, *cuts], [*cuts, n], strict=True)
    ]
    streamed = ScatterAccumulator(classes + 1, d)
    for a, b in zip([0, *cuts], [*cuts, n], strict=True):
        streamed.update(x[a:b], labels[a:b])
    same(streamed.result(), whole)
    while len(parts) > 1:
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(other)
    same(parts[0].result(), whole)


def test_single_rows_one_at_a_time():
    x, labels = torch.randn(25, 4).double() + 100, torch.randint(0, 3, (25,))
    accumulator = ScatterAccumulator(3, 4)
    for row, label in zip(x, labels, strict=True):
        accumulator.update(row.unsqueeze(0), label.unsqueeze(0))
    same(accumulator.result(), awpf_ext.scatter(x, labels, 3))


def test_classes_that_come_one_after_the_other():
    x = torch.randn(30, 4).double()
    labels = torch.arange(30) // 10
    accumulator = ScatterAccumulator(5, 4)
    for c in range(3):
        accumulator.update(x[labels == c], labels[labels == c])
        seen = labels <= c
        same(accumulator.result(), awpf_ext.scatter(x[seen], labels[seen], 5))


def test_nothing_seen_and_nothing_added():
    empty = ScatterAccumulator(3, 2).result()
    assert torch.equal(empty.within, torch.zeros(2, 2).double())
    assert torch.equal(empty.between, torch.zeros(2, 2).double())
    assert torch.equal(empty.counts, torch.zeros(3, dtype=torch.int64))
    x, labels = torch.randn(9, 2), torch.randint(0, 3, (9,))
    accumulator = ScatterAccumulator(3, 2).update(x, labels)
    before = accumulator.result()
    accumulator.update(x[:0], labels[:0]).merge(ScatterAccumulator(3, 2))
    same(accumulator.result(), before, tolerance=0)
    fresh = ScatterAccumulator(3, 2).merge(accumulator)
    same(fresh.result(), before, tolerance=1e-15)


def test_the_result_is_a_copy():
    x, labels = torch.randn(9, 2).double(), torch.randint(0, 3, (9,))
    accumulator = ScatterAccumulator(3, 2).update(x, labels)
    first = accumulator.result()
    kept = [part.clone() for part in first]
    accumulator.update(x + 5, labels)
    for part, before in zip(first, kept, strict=True):
        assert torch.equal(part, before)
    first.within.zero_()
    first.counts.zero_()
    assert float(accumulator.result().within.abs().max()) > 0
    assert int(accumulator.result().counts.sum()) == 18


def test_merging_leaves_the_other_alone():
    x, labels = torch.randn(9, 2).double(), torch.randint(0, 3, (9,))
    one, other = (ScatterAccumulator(3, 2).update(x * k, labels) for k in (1, 2))
    before = [part.clone() for part in other.result()]
    one.merge(other)
    one.update(x, labels)
    for part, was in zip(other.result(), before, strict=True):
        assert torch.equal(part, was)


def test_merging_with_itself_counts_everything_twice():
    x, labels = torch.randn(9, 2).double(), torch.randint(0, 3, (9,))
    accumulator = ScatterAccumulator(3, 2).update(x, labels)
    accumulator.merge(accumulator)
    same(accumulator.result(), awpf_ext.scatter(torch.cat([x, x]), torch.cat([labels, labels]), 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_arrays_and_gradients(dtype):
    x, labels = torch.randn(50, 6).to(dtype), torch.randint(0, 4, (50,))
    expected = awpf_ext.scatter(x.double(), labels, 4)
    found = ScatterAccumulator(4, 6).update(x.clone().requires_grad_(), labels).result()
    assert not found.within.requires_grad
    assert found.within.dtype == torch.float64
    same(found, expected, tolerance=1e-6)
    if dtype != torch.bfloat16:
        arrays = ScatterAccumulator(4, 6).update(x.numpy(), labels.numpy()).result()
        same(arrays, found, tolerance=0)


def test_many_chunks_keep_the_accuracy():
    """Mean 1000, std 0.5, a thousand updates in single precision."""
    x = 1000 + 0.5 * torch.randn(4000, 3)
    labels = torch.randint(0, 2, (4000,))
    accumulator = ScatterAccumulator(2, 3)
    for chunk in range(0, 4000, 4):
        accumulator.update(x[chunk : chunk + 4], labels[chunk : chunk + 4])
    same(accumulator.result(), awpf_ext.scatter(x.double(), labels, 2), tolerance=2e-6)
