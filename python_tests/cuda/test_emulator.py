"""The emulator that runs the CUDA kernels in tests: its arithmetic, and the mistakes it must find.

Also the host side of the MMD kernels, exhaustively for small cases.
"""

from __future__ import annotations

import ctypes
from itertools import product

import numpy as np
import pytest
import torch
from emulation import pointer


def mistake(probe, name):
    out = np.zeros(64, dtype=np.float32)
    return probe.mistake(name.encode(), pointer(out)).decode(), out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some_never_arrive", "left before a barrier"),
        ("lanes_disagree", "different instructions"),
        ("writes_beyond", "outside of shared memory"),
        ("copies_to_nowhere", "not an aligned address in shared memory"),
        ("waits_for_another_block", "not cooperative"),
        ("more_than_run_at_once", "more blocks than run at once"),
        ("a_block_never_arrives", "deadlock"),
        ("counts_too_few", "deadlock"),
    ],
)
def test_mistakes_are_errors(probe, name, message):
    assert message in mistake(probe, name)[0]


def test_blocks_of_a_cooperative_launch_wait_for_each_other(probe):
    for kind in (0, 1, 2):
        probe.awpf_emulator_order(kind, ctypes.c_uint64(3))
        error, out = mistake(probe, "meets")
        assert error == ""
        assert out[1:5].tolist() == [11, 12, 13, 10]
        assert out[8:12].tolist() == [12, 13, 10, 11]
    probe.awpf_emulator_order(0, ctypes.c_uint64(0))


def test_what_nobody_wrote_or_waited_for_is_nan(probe):
    error, out = mistake(probe, "reads_what_nobody_wrote")
    assert error == ""
    assert np.isnan(out).all()
    error, out = mistake(probe, "reads_too_early")
    assert error == ""
    assert np.isnan(out[63])


def test_a_race_shows_when_threads_take_turns_in_another_order(probe):
    seen = set()
    for kind in (0, 1, 2):
        probe.awpf_emulator_order(kind, ctypes.c_uint64(5))
        seen.add(mistake(probe, "races")[1].tobytes())
    probe.awpf_emulator_order(0, ctypes.c_uint64(0))
    assert len(seen) > 1


def test_sixteen_bit_numbers_round_to_nearest_even(probe):
    bits = np.arange(2**16, dtype=np.uint16)
    half, bfloat = np.empty(2**16, np.float32), np.empty(2**16, np.float32)
    probe.from_half(pointer(bits), pointer(half), pointer(bfloat), ctypes.c_int64(2**16))
    np.testing.assert_array_equal(half, bits.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(bfloat, (bits.astype(np.uint32) << 16).view(np.float32))
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    near = half[np.isfinite(half)]
    edges = np.array([65519.99, 65520.0, -65520.0], np.float32)
    values = np.concatenate([values, near, (near[:-1] + near[1:]) / 2, edges])
    values = values[~np.isnan(values)]
    found, other = np.empty(len(values), np.uint16), np.empty(len(values), np.uint16)
    probe.to_half(pointer(values), pointer(found), pointer(other), ctypes.c_int64(len(values)))
    expected = torch.from_numpy(values)
    assert torch.equal(torch.from_numpy(found).view(torch.float16), expected.half())
    assert torch.equal(torch.from_numpy(other).view(torch.bfloat16), expected.bfloat16())


@pytest.mark.parametrize(("bfloat", "transposed"), list(product((0, 1), (0, 1))))
def test_tensor_cores_multiply_matrices(probe, bfloat, transposed):
    """Sums of small integers are exact."""
    generator = np.random.default_rng(bfloat)
    a, b = generator.integers(-8, 9, (2, 16, 16)).astype(np.float32)
    as_bits = [
        np.ascontiguousarray(
            (m.view(np.uint32) >> 16).astype(np.uint16)
            if bfloat
            else m.astype(np.float16).view(np.uint16)
        )
        for m in (a, b)
    ]
    c = np.zeros((16, 16), dtype=np.float32)
    probe.product_16(*map(pointer, as_bits), pointer(c), bfloat, transposed)
    np.testing.assert_array_equal(c, a @ (b if transposed else b.T))


def test_tensor_cores_cut_off_what_they_add(probe):
    """0.75 units in the last place are lost three times, where rounding would keep them."""
    a, b = np.zeros((2, 16, 16), np.float16)
    a[0, :4], b[0, :4] = (1, 2**-12, 2**-12, 2**-12), (1, 0.75 * 2**-12, 2**-13, 2**-13)
    c = np.zeros((16, 16), dtype=np.float32)
    probe.product_16(pointer(a.view(np.uint16)), pointer(b.view(np.uint16)), pointer(c), 0, 0)
    assert c[0, 0] == 1


def test_tensor_cores_multiply_doubles(probe):
    generator = np.random.default_rng(0)
    a, b, c = generator.standard_normal((8, 4)), generator.standard_normal((4, 8)), np.zeros((8, 8))
    probe.product_64(pointer(a), pointer(b), pointer(c))
    np.testing.assert_allclose(c, a @ b, rtol=1e-14)


# ---- schedules, partial sums, scaling: the code that kernels run ----

SIZES = [*range(0, 131), 191, 192, 193, 255, 256, 257, 300, 4095, 4096, 4097, 4160, 8300, 20_000]


def test_every_pair_is_in_one_tile_of_one_range(probe):
    for rows in SIZES:
        assert probe.schedule_errors(ctypes.c_int64(rows), ctypes.c_int64(rows), 1) == 0, rows
    for rows, columns in product((0, 1, 63, 64, 65, 200), SIZES):
        assert probe.schedule_errors(ctypes.c_int64(rows), ctypes.c_int64(columns), 0) == 0


def test_every_partial_sum_has_memory_of_its_own(probe):
    generator = np.random.default_rng(0)
    for groups in (1, 2, 3, 9):
        for largest in (1, 5, 70, 200):
            sizes = generator.integers(0, largest + 1, (4, groups)).astype(np.int64)
            errors = probe.partial_sum_errors(
                pointer(sizes), ctypes.c_int64(4), ctypes.c_int64(groups)
            )
            assert errors == 0, sizes


def test_no_scaled_row_overflows_a_half(probe):
    for exponent, rows in product(range(-200, 200, 7), (1, 3, 1000, 10**6)):
        mean_square = 1.37 * 2.0**exponent
        scale = probe.scale_for(ctypes.c_double(mean_square), ctypes.c_int64(rows))
        longest = scale * (mean_square * rows) ** 0.5
        assert 2**14 <= longest < 2**15
        assert np.frexp(scale)[0] == 0.5  # a power of two
    assert probe.scale_for(ctypes.c_double(0.0), ctypes.c_int64(5)) == 1


def steps(probe, gammas):
    gamma = np.array(gammas, dtype=np.float64)
    rate, weight = np.empty_like(gamma), np.empty_like(gamma)
    squarings = np.empty(len(gamma), dtype=np.int32)
    arrays = [pointer(array) for array in (rate, weight, squarings)]
    return probe.steps_for(pointer(gamma), len(gamma), *arrays), rate, weight, squarings


def test_kernels_in_ratio_two_are_squares_of_each_other(probe):
    valid, rate, weight, squarings = steps(probe, [0.1 * 2**k for k in range(5)])
    assert valid
    np.testing.assert_allclose(rate, [1, 2, 4, 8, 16])
    np.testing.assert_allclose(weight, np.array([1, 2, 4, 8, 16]) / 31)
    assert squarings.tolist() == [0, 1, 1, 0, 1]  # two in a row at most: each doubles the error
    assert steps(probe, [1.0, 3.0, 6.0])[3].tolist() == [0, 0, 1]
    for wrong in (0.0, -1.0, np.nan, np.inf):
        assert not steps(probe, sorted([1.0, wrong]))[0]
