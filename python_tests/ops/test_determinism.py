"""The same bits in every run and for any number of threads; several Python threads at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import awpf_ext

THREADS = (1, 2, 3, 7)


def points(n, d, dtype=torch.float32):
    return torch.randn(n, d).to(dtype).requires_grad_()


def with_gradient(function, *inputs):
    """The results and the gradients of everything that has one."""
    results = function(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    tracked = [r for r in results if r.requires_grad]
    leaves = [value for value in inputs if value.requires_grad]
    if not tracked:
        return results
    seeds = [torch.linspace(-1, 1, r.numel(), dtype=r.dtype).reshape(r.shape) for r in tracked]
    seeds = [torch.ones_like(s) if s.numel() == 1 else s for s in seeds]
    return (*results, *torch.autograd.grad(tracked, leaves, seeds))


torch.manual_seed(1)
X, Y = points(1300, 70), points(1150, 70)
SMALL_X, SMALL_Y = points(150, 33, torch.float64), points(170, 33, torch.float64)
GROUPS = torch.randint(0, 9, (1300,))

# Sums in float64: what rounding to float32 would hide.
AWPF = torch.ops.awpf
ROWS = torch.tensor([[[0, 700], [700, 1300]]])
GAMMA = torch.tensor([[0.002, 0.004]], dtype=torch.float64)
WEIGHTS = torch.tensor([[[1.0, -1.0], [-1.0, 2.0]]], dtype=torch.float64)

CALLS = {
    "mmd": (lambda x, y: awpf_ext.mmd(x, y, scales=(0.5, 1.0, 2.0)), (X, Y)),
    "mmd in double": (lambda x, y: awpf_ext.mmd(x, y, estimator="unbiased"), (SMALL_X, SMALL_Y)),
    "mmd without gradient": (
        lambda x, y: awpf_ext.mmd(x, y, bandwidth=9.0),
        (X.detach(), Y.detach()),
    ),
    "mmd in half precision": (
        lambda x, y: awpf_ext.mmd(x, y),
        (points(700, 40, torch.bfloat16), points(640, 40, torch.bfloat16)),
    ),
    "mmd of a batch": (
        lambda x, y: awpf_ext.mmd(x.view(10, 130, 70), y.view(10, 115, 70)),
        (X, Y),
    ),
    "mmd of ragged": (
        lambda x, y: awpf_ext.mmd(x, y, x_offsets=[0, 1, 600, 1300], y_offsets=[0, 900, 901, 1150]),
        (X, Y),
    ),
    "mmd_matrix": (lambda x: awpf_ext.mmd_matrix(x, GROUPS), (X,)),
    "mmd_test": (lambda x, y: tuple(awpf_ext.mmd_test(x, y, permutations=40)), (X, Y)),
    "block sums": (lambda z: AWPF.rbf_sums(z, ROWS, None, GAMMA, None, False), (X.detach(),)),
    "block sums in double": (
        lambda z: AWPF.rbf_sums(z, ROWS, None, GAMMA, None, False),
        (X.detach().double(),),
    ),
    "block sums of rectangles": (
        lambda z: AWPF.rbf_sums(z, ROWS[:, :1].clone(), ROWS[:, 1:].clone(), GAMMA, None, False),
        (X.detach(),),
    ),
    "sums of permutations": (
        lambda z: AWPF.rbf_permutation_sums(z, ROWS, GAMMA, 30, 0, False),
        (X.detach(),),
    ),
    "sums and gradient": (
        lambda z: AWPF.rbf_sums_and_gradient(z, ROWS, GAMMA, WEIGHTS, False),
        (X.detach(),),
    ),
    "raw scatter": (lambda z: AWPF.scatter(z[None], GROUPS[None], 9), (X.detach(),)),
    "median_bandwidth": (lambda x, y: awpf_ext.median_bandwidth(x, y), (X, Y)),
    "scatter": (lambda x: tuple(awpf_ext.scatter(x, GROUPS)), (X,)),
    "scatter in double": (lambda x: tuple(awpf_ext.scatter(x, GROUPS[:150])), (SMALL_X,)),
    "low_rank_sum": (
        lambda u, v: awpf_ext.low_rank_sum(u.view(2, 5, 130, 70), None, v.view(2, 5, 115, 70)),
        (X, Y),
    ),
}

# Their backward is made of torch's own products, whose order of additions BLAS chooses.
VALUES_ONLY = {"scatter", "scatter in double", "low_rank_sum"}


def run(name):
    function, inputs = CALLS[name]
    if name in VALUES_ONLY:
        results = function(*inputs)
        return results if isinstance(results, tuple) else (results,)
    return with_gradient(function, *inputs)


@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_the_run_or_the_threads(name):
    torch.set_num_threads(2)
    expected = run(name)
    for threads in THREADS:
        torch.set_num_threads(threads)
        for found, first in zip(run(name), expected, strict=True):
            assert torch.equal(found, first), threads


def test_the_accumulator_is_among_them():
    def build():
        accumulator = awpf_ext.ScatterAccumulator(9, 70)
        for start in range(0, 1300, 500):
            accumulator.update(X[start : start + 500], GROUPS[start : start + 500])
        return accumulator.result()

    torch.set_num_threads(2)
    expected = build()
    for threads in THREADS:
        torch.set_num_threads(threads)
        for found, first in zip(build(), expected, strict=True):
            assert torch.equal(found, first), threads


def test_a_problem_does_not_depend_on_its_place_in_the_batch():
    x, y = torch.randn(5, 140, 20), torch.randn(5, 130, 20)
    together = awpf_ext.mmd(x, y)
    for k in range(5):
        assert torch.equal(together[k], awpf_ext.mmd(x[k], y[k]))


def test_several_python_threads_at_once():
    """Each with its own inputs, results as when alone; no deadlock, no shared scratch."""
    names = list(CALLS) * 2
    alone = {name: run(name) for name in CALLS}
    with ThreadPoolExecutor(4) as pool:
        for name, found in zip(names, pool.map(run, names), strict=True):
            for one, other in zip(found, alone[name], strict=True):
                assert torch.equal(one, other), name


def test_errors_in_a_thread_leave_the_others_alone():
    bad = torch.full((600, 5), float("nan"))

    def attempt(k):
        if k % 2:
            with pytest.raises((ValueError, RuntimeError), match="NaN"):
                awpf_ext.mmd(bad, bad, bandwidth=1.0)
            return None
        return awpf_ext.mmd(X, Y, bandwidth=9.0).detach()

    expected = awpf_ext.mmd(X, Y, bandwidth=9.0).detach()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(attempt, range(12)):
            assert found is None or torch.equal(found, expected)
