"""What holds for every input, found by looking for inputs where it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import awpf_ext

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
given, settings = hypothesis.given, hypothesis.settings

QUICK = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def problem(draw, least=1):
    """x, y with a bandwidth of the size of their distances, in either precision."""
    n, m = draw(st.integers(least, 40)), draw(st.integers(least, 40))
    if draw(st.booleans()):  # large enough for single precision
        n, m = n + 200, m + 150
    d = draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    centre, spread = draw(st.floats(-50, 50)), draw(st.floats(0.01, 10))
    x = centre + spread * rng.standard_normal((n, d))
    y = centre + spread * (rng.standard_normal((m, d)) + draw(st.floats(-2, 2)))
    sigma = spread * d**0.5 * draw(st.floats(0.5, 4))
    return torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype), sigma


estimators = st.sampled_from(["biased", "unbiased"])


def tolerance(x: torch.Tensor) -> float:
    """Of order rounding of x itself, where a property moves the points."""
    return 2e-6 if x.dtype == torch.float32 else 1e-11


@QUICK
@given(problem())
def test_a_sample_against_itself_is_zero(case):
    x, _, sigma = case
    assert abs(float(awpf_ext.mmd(x, x, bandwidth=sigma))) < 1e-9


@QUICK
@given(problem())
def test_the_biased_estimate_is_never_negative(case):
    x, y, sigma = case
    assert float(awpf_ext.mmd(x, y, bandwidth=sigma)) > -1e-9


@QUICK
@given(problem())
def test_it_is_bounded_by_two(case):
    x, y, sigma = case
    assert float(awpf_ext.mmd(x, y, bandwidth=[sigma, sigma / 2])) <= 2


@QUICK
@given(problem(least=2), estimators)
def test_symmetry(case, estimator):
    x, y, sigma = case
    there = awpf_ext.mmd(x, y, bandwidth=sigma, estimator=estimator)
    back = awpf_ext.mmd(y, x, bandwidth=sigma, estimator=estimator)
    assert abs(float(there - back)) < 1e-8


@QUICK
@given(problem(least=2), estimators, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(case, estimator, random):
    x, y, sigma = case
    order = list(range(len(x)))
    random.shuffle(order)
    plain = awpf_ext.mmd(x, y, bandwidth=sigma, estimator=estimator)
    shuffled = awpf_ext.mmd(x[order], y, bandwidth=sigma, estimator=estimator)
    assert abs(float(plain - shuffled)) < 1e-8


@QUICK
@given(problem(least=2), estimators, st.floats(-100, 100))
def test_translation(case, estimator, shift):
    x, y, sigma = case
    x, y = x.double(), y.double()
    plain = awpf_ext.mmd(x, y, bandwidth=sigma, estimator=estimator)
    moved = awpf_ext.mmd(x + shift, y + shift, bandwidth=sigma, estimator=estimator)
    assert abs(float(plain - moved)) < 1e-10


@QUICK
@given(problem(least=2), st.integers(-8, 8))
def test_scaling_points_and_bandwidth_together(case, power):
    """By a power of two, which rounds nothing."""
    x, y, sigma = case
    plain = awpf_ext.mmd(x, y, bandwidth=sigma)
    scaled = awpf_ext.mmd(x * 2.0**power, y * 2.0**power, bandwidth=sigma * 2.0**power)
    assert abs(float(plain - scaled)) < 1e-8


@QUICK
@given(problem(least=2), estimators, st.integers(0, 2**32 - 1))
def test_rotation(case, estimator, seed):
    x, y, sigma = case
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((x.shape[1], x.shape[1])))[0]
    turn = torch.from_numpy(rotation).to(x.dtype)
    plain = awpf_ext.mmd(x, y, bandwidth=sigma, estimator=estimator)
    turned = awpf_ext.mmd(x @ turn, y @ turn, bandwidth=sigma, estimator=estimator)
    assert abs(float(plain - turned)) < 50 * tolerance(x)


@QUICK
@given(problem(), st.integers(1, 5))
def test_every_point_several_times_is_the_same_distribution(case, times):
    x, y, sigma = case
    plain = awpf_ext.mmd(x, y, bandwidth=sigma)
    repeated = awpf_ext.mmd(x.repeat(times, 1), y, bandwidth=sigma)
    assert abs(float(plain - repeated)) < 1e-8


@QUICK
@given(problem())
def test_a_feature_that_never_changes_adds_nothing(case):
    x, y, sigma = case
    plain = awpf_ext.mmd(x, y, bandwidth=sigma)
    one, other = (torch.nn.functional.pad(value, (0, 3), value=7.0) for value in (x, y))
    assert abs(float(plain - awpf_ext.mmd(one, other, bandwidth=sigma))) < 1e-8


@QUICK
@given(problem())
def test_block_sums_of_parts_add_up_to_the_whole(case):
    """The primitive merges: what tiles and distributed forms stand on."""
    x, y, sigma = case
    z = torch.cat([x, y])
    gamma = torch.tensor([[0.5 / sigma**2]], dtype=torch.float64)
    cut = len(z) // 3
    whole = torch.tensor([[[0, len(z)]]])
    parts = torch.tensor([[[0, cut], [cut, len(z)]]])
    total = torch.ops.awpf.rbf_sums(z, whole, None, gamma, None, False)
    blocks = torch.ops.awpf.rbf_sums(z, parts, None, gamma, None, False)
    assert abs(float(blocks.sum() / total.sum()) - 1) < 1e-8
    against = torch.ops.awpf.rbf_sums(z, parts, whole, gamma, None, False)
    assert abs(float(against.sum() / total.sum()) - 1) < 1e-8


@QUICK
@given(problem(least=2), estimators)
def test_the_matrix_holds_the_single_values(case, estimator):
    x, y, sigma = case
    labels = torch.cat([torch.ones(len(x)), torch.zeros(len(y))]).long()
    matrix = awpf_ext.mmd_matrix(torch.cat([x, y]), labels, bandwidth=sigma, estimator=estimator)
    single = awpf_ext.mmd(x, y, bandwidth=sigma, estimator=estimator)
    assert matrix.shape == (2, 2)
    assert abs(float(matrix[0, 1] - single)) < 1e-8
    assert float(matrix[0, 0]) == 0
