"""The CUDA kernels of the MMD family, run by the emulator, against float64 and the CPU."""

from __future__ import annotations

import pytest
import test_mmd_accuracy as accuracy
import torch
from references import FIVE, block_gradient, block_sums

import awpf_ext

DOUBLE = torch.float64
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.usefixtures("single_precision")


def ranges(*pairs):
    return torch.tensor([[list(pair) for pair in pairs]])


def wide(rows, kernels=3):
    """Gammas for which single precision is accurate, with points from about N(0, 1)^d, d <= 20."""
    return torch.tensor([[2e-5 * rows * 2.0**k for k in range(kernels)]], dtype=DOUBLE) / 20


def error(found, expected):
    expected = expected.double()
    return float((found.double() - expected).abs().max() / expected.abs().max())


# ---- block sums ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (9, 12, 7), (70, 130, 33), (300, 290, 16)])
@pytest.mark.usefixtures("small_or_not")
def test_sums_of_two_samples(emulated, dtype, n, m, d):
    z = (torch.randn(n + m, d) + 1).to(dtype)
    rows, gamma = ranges((0, n), (n, n + m)), wide(n + m)
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    in_double = dtype == DOUBLE or n + m < 512
    assert error(found, block_sums(z, rows, None, gamma)) < (1e-14 if in_double else 1e-8)
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=str)
@pytest.mark.usefixtures("small_or_not")
def test_sums_of_many_groups_some_empty(emulated, dtype):
    z = torch.randn(601, 5).to(dtype)
    ends = torch.tensor([0, 0, 3, 3, 50, 51, 52, 180, 180, 513, 601, 601])
    rows, gamma = torch.stack([ends[:-1], ends[1:]], -1).unsqueeze(0), wide(601)
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    expected = block_sums(z, rows, None, gamma)
    assert torch.equal(found == 0, expected == 0)
    assert torch.allclose(found, expected, rtol=1e-13 if dtype == DOUBLE else 2e-7, atol=0)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=str)
@pytest.mark.usefixtures("small_or_not")
def test_sums_of_ragged_problems(emulated, dtype):
    """One problem in single precision, one in double precision, one without rows."""
    z = torch.randn(800, 6).to(dtype)
    bounds = [[[100, 400], [400, 730]], [[0, 40], [60, 99]], [[5, 5], [9, 9]]]
    rows, gamma = torch.tensor(bounds), wide(600).repeat(3, 1)
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    assert torch.allclose(found, block_sums(z, rows, None, gamma), rtol=1e-8, atol=0)
    for p in range(3):
        alone = emulated.rbf_sums(z, rows[p : p + 1], None, gamma[p : p + 1], None, False)
        assert torch.equal(alone[0], found[p])


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.float16], ids=str)
@pytest.mark.usefixtures("small_or_not")
def test_sums_of_rectangles_with_a_given_centre(emulated, dtype):
    z = (torch.randn(700, 13) + 5).to(dtype)
    rows, columns = ranges((0, 5), (5, 200), (200, 200)), ranges((200, 451), (451, 700))
    gamma, centre = wide(700), torch.full((1, 13), 4.7, dtype=DOUBLE)
    for given in (None, centre):
        found = emulated.rbf_sums(z, rows, columns, gamma, given, False)
        expected = block_sums(z, rows, columns, gamma)
        assert torch.allclose(found, expected, rtol=1e-13 if dtype == DOUBLE else 1e-7, atol=0)


def test_columns_of_several_tiles_a_segment(emulated):
    """More than 32 tiles of 128 columns."""
    z = torch.randn(4400, 2)
    rows, columns = ranges((0, 2), (2, 7)), ranges((7, 700), (700, 4399), (4399, 4400))
    found = emulated.rbf_sums(z, rows, columns, wide(4400), None, False)
    assert torch.allclose(found, block_sums(z, rows, columns, wide(4400)), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=str)
@pytest.mark.usefixtures("small_or_not")
def test_groups_may_share_rows(emulated, dtype):
    z, gamma = torch.randn(40, 3).to(dtype), torch.ones(1, 1, dtype=DOUBLE)
    rows = ranges((0, 30), (10, 40), (0, 30))
    found = emulated.rbf_sums(z, rows, rows.clone(), gamma, None, False)
    assert torch.allclose(found, block_sums(z, rows, None, gamma), rtol=1e-12)
    two = torch.tensor([[[0, 5], [5, 9]], [[8, 20], [20, 22]]])  # row 8 is in both problems
    found = emulated.rbf_sums(z, two, None, gamma.repeat(2, 1), None, False)
    assert torch.allclose(found, block_sums(z, two, None, gamma.repeat(2, 1)), rtol=1e-12)


@pytest.mark.usefixtures("small_or_not")
def test_bad_values_become_nan_where_they_are_and_nowhere_else(emulated):
    z, gamma = torch.randn(300, 4), torch.full((3, 2), 0.1, dtype=DOUBLE)
    first = 100 * torch.arange(3)
    rows = torch.stack([first, first + 40, first + 40, first + 100], -1).view(3, 2, 2)
    z[150, 2] = float("inf")
    gamma[2, 1] = float("nan")
    found = emulated.rbf_sums(z, rows, None, gamma, None, False)
    assert torch.isnan(found[1:]).all()
    assert not torch.isnan(found[0]).any()
    _, gradient = emulated.rbf_sums_and_gradient(
        z, rows, gamma, torch.ones(3, 2, 2).double(), False
    )
    assert torch.isnan(gradient[100:]).all()
    assert not torch.isnan(gradient[:100]).any()
    assert torch.isnan(emulated.rbf_permutation_sums(z, rows, gamma, 3, 0, False)[1:]).all()


@pytest.mark.usefixtures("small_or_not")
def test_ranges_outside_of_z_are_cut_off(emulated):
    """The host cannot check values without waiting for the device; they must not reach memory."""
    z, gamma = torch.randn(30, 3), torch.full((1, 1), 0.1, dtype=DOUBLE)
    found = emulated.rbf_sums(
        z, ranges((-(2**62), 10), (10, 2**62), (9, 5)), None, gamma, None, False
    )
    cut = ranges((0, 10), (10, 30), (5, 5))
    assert torch.equal(found, emulated.rbf_sums(z, cut, None, gamma, None, False))


@pytest.mark.parametrize("make", accuracy.DATA, ids=lambda make: make.__name__)
@pytest.mark.usefixtures("small_or_not")
def test_the_contract_of_single_precision(emulated, make, single_precision):
    single_precision(0)

    def sums(z, rows, gamma):
        return emulated.rbf_sums(z, rows, None, gamma, None, False)[0]

    dtypes = (torch.float32, torch.float16) if make in HALF_DATA else (torch.float32,)
    for dtype in dtypes:
        worst = max(accuracy.ratios(make(640, 16).to(dtype), 330, sums))
        assert worst[0] <= 1, worst


HALF_DATA = (accuracy.mean_20, accuracy.ten_far_clusters, accuracy.mixed_scales_of_features)

# ---- gradients ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(9, 12, 7), (330, 280, 20)])
@pytest.mark.usefixtures("small_or_not")
def test_gradients_of_two_samples(emulated, dtype, n, m, d):
    z = (torch.randn(n + m, d) + torch.where(torch.arange(n + m) < n, 1.0, 1.3)[:, None]).to(dtype)
    rows, gamma = ranges((0, n), (n, n + m)), wide(n + m)
    weights = torch.tensor([[1 / n**2, -1 / (n * m)], [-1 / (n * m), 1 / m**2]], dtype=DOUBLE)
    expected = block_gradient(z, [n, m], gamma[0].tolist(), weights)
    sums, found = emulated.rbf_sums_and_gradient(z, rows, gamma, weights[None], False)
    assert torch.equal(sums, emulated.rbf_sums(z, rows, None, gamma, None, False))
    assert found.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert error(found, expected) < (1e-12 if dtype == DOUBLE else 2e-6)
    alone = emulated.rbf_sums_backward(weights[None], z, rows, None, gamma, None, False)
    assert torch.equal(alone, found.to(dtype))


def test_gradients_of_more_features_than_a_chunk(emulated):
    """Of both sides of a rectangle, which takes less time to emulate than a square."""
    z, gamma = torch.randn(515, 270), wide(515) / 14
    rows, columns = ranges((0, 4), (4, 15)), ranges((15, 200), (200, 515))
    weights = torch.randn(1, 2, 2, dtype=DOUBLE)
    found = emulated.rbf_sums_backward(weights, z, rows, columns, gamma, None, False)
    z = z.double()
    expected = torch.ops.awpf.rbf_sums_backward(weights, z, rows, columns, gamma, None, False)
    for part in (slice(0, 15), slice(15, 515)):
        assert error(found[part], expected[part]) < 2e-6


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32], ids=str)
def test_gradients_of_uneven_groups_and_rectangles(emulated, dtype):
    """Weights from 1e-6 to 1 in one problem; rows outside every group get zero."""
    z = torch.randn(600, 9).to(dtype)
    rows, gamma = ranges((3, 4), (4, 250), (250, 590)), wide(600)
    weights = torch.tensor([[1.0, -3e-3, 0], [-3e-3, 1e-5, 2e-6], [0, 2e-6, -1e-6]], dtype=DOUBLE)
    found = emulated.rbf_sums_backward(weights[None], z, rows, None, gamma, None, False)
    expected = torch.ops.awpf.rbf_sums_backward(
        weights[None], z.double(), rows, None, gamma, None, False
    )
    for begin, end in rows[0].tolist():
        assert error(found[begin:end], expected[begin:end]) < (1e-12 if dtype == DOUBLE else 3e-6)
    outside = torch.cat([found[:3], found[590:]])
    assert torch.equal(outside, torch.zeros_like(outside))
    left, right = rows[:, :1].clone(), rows[:, 1:].clone()
    found = emulated.rbf_sums_backward(weights[None, :1, 1:], z, left, right, gamma, None, False)
    expected = torch.ops.awpf.rbf_sums_backward(
        weights[None, :1, 1:].contiguous(), z.double(), left, right, gamma, None, False
    )
    assert error(found, expected) < (1e-12 if dtype == DOUBLE else 3e-6)


# ---- permutations, medians ----


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(("n", "m", "count"), [(3, 5, 5), (70, 90, 140), (330, 270, 6)])
def test_permutations_are_those_of_the_cpu(emulated, dtype, n, m, count):
    z = torch.randn(2 * (n + m), 6).to(dtype)
    first = torch.tensor([0, n + m])
    rows = torch.stack([first, first + n, first + n, first + n + m], -1).view(2, 2, 2)
    gamma = wide(n + m).repeat(2, 1)
    found = emulated.rbf_permutation_sums(z, rows, gamma, count, 5, False)
    expected = torch.ops.awpf.rbf_permutation_sums(z.double(), rows, gamma, count, 5, False)
    assert found.shape == (2, count + 1, 3)
    tolerance = 1e-13 if dtype == DOUBLE else 1e-9 if n + m < 512 else 1e-8
    assert torch.allclose(found, expected, rtol=tolerance, atol=0)


def test_more_splits_than_fit_at_once(emulated):
    z, rows, gamma = torch.randn(7, 2), ranges((0, 3), (3, 7)), torch.ones(1, 1, dtype=DOUBLE)
    found = emulated.rbf_permutation_sums(z, rows, gamma, 2200, 9, False)
    expected = torch.ops.awpf.rbf_permutation_sums(z, rows, gamma, 2200, 9, False)
    assert torch.allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_medians_are_those_of_the_cpu(emulated, dtype):
    for rows_each, d, most in (
        (2, 3, 9),
        (9, 5, 1024),
        (46, 3, 99),
        (150, 17, 1024),
        (300, 40, 90),
    ):
        z, first = torch.randn(3 * rows_each, d).to(dtype), torch.arange(3) * rows_each
        middle = first + rows_each // 2
        rows = torch.stack([first, middle, middle, first + rows_each], -1).view(3, 2, 2)
        found = emulated.median_square_distance(z, rows, most, 7)
        expected = torch.ops.awpf.median_square_distance(z, rows, most, 7)
        assert torch.allclose(found, expected, rtol=1e-12)


def test_medians_that_are_none(emulated):
    """The CPU raises an error, which would need a wait here: zero instead, NaN for a single row."""
    rows = torch.tensor([[[0, 10]], [[10, 11]], [[11, 11]]])
    found = emulated.median_square_distance(torch.ones(11, 3), rows, 1024, 0)
    assert found[0] == 0
    assert torch.isnan(found[1:]).all()


# ---- determinism, and the public functions ----

torch.manual_seed(4)
Z = torch.randn(520, 34)
ROWS, GAMMA = ranges((0, 250), (250, 251), (251, 520)), wide(520)
WEIGHTS = torch.randn(1, 3, 3, dtype=DOUBLE)
CALLS = {
    "sums": lambda op, z: op.rbf_sums(z, ROWS, None, GAMMA, None, False),
    "rectangles": lambda op, z: op.rbf_sums(
        z, ROWS[:, :1].clone(), ROWS[:, 1:].clone(), GAMMA, None, False
    ),
    "sums and gradient": lambda op, z: op.rbf_sums_and_gradient(z, ROWS, GAMMA, WEIGHTS, False),
    "permutations": lambda op, z: op.rbf_permutation_sums(
        z, ROWS[:, ::2].contiguous(), GAMMA, 20, 1, False
    ),
    "median": lambda op, z: op.median_square_distance(z, ROWS, 100, 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_bits_do_not_depend_on_the_order_of_threads_and_blocks(emulated, emulator_order, name):
    for z in (Z, Z.double()):
        seen = []
        for kind, seed in ((0, 0), (1, 0), (2, 11)):
            emulator_order(kind, seed)
            results = CALLS[name](emulated, z)
            seen.append(results if isinstance(results, tuple) else (results,))
        for results in seen[1:]:
            for one, other in zip(seen[0], results, strict=True):
                assert torch.equal(one, other)


def test_public_functions_give_what_they_give_on_the_cpu(request):
    x, y = torch.randn(2, 60, 5), torch.randn(2, 45, 5) + 0.3

    def results():
        weights = torch.eye(5, requires_grad=True)
        value = awpf_ext.mmd(x @ weights, y, scales=FIVE)
        value.sum().backward()
        one = torch.func.grad(lambda a, b: awpf_ext.mmd(a, b, bandwidth=2.0))
        groups = torch.arange(60) % 4
        return {
            "mmd": value.detach(),
            "gradient": weights.grad,
            "vmap of grad": torch.func.vmap(one)(x, y),
            "matrix": awpf_ext.mmd_matrix(x[0], groups, num_groups=4, bandwidth=2.0),
            "null": awpf_ext.mmd_test(x[0], y[0], permutations=49, bandwidth=2.0).null,
            "median": awpf_ext.median_bandwidth(x, y),
        }

    on_the_cpu = results()
    request.getfixturevalue("use_emulated")
    emulated = results()
    for name, expected in on_the_cpu.items():
        assert torch.allclose(emulated[name], expected, rtol=1e-5, atol=1e-8), name
