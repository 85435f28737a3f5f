"""The emulator's model of Hopper: wgmma, bulk copies and mbarriers, and the mistakes that it must
find. Also the schedule of pairs of strips and the panels, exhaustively for small cases."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulation import pointer


@pytest.fixture
def run(probe):
    """run(name) returns the emulator's message, the kernel's product, and the right product."""
    generator = np.random.default_rng(0)
    a, b = generator.integers(-8, 9, (2, 128, 64)).astype(np.float16)

    def call(name):
        out = np.zeros((64, 128), np.float32)
        operands = (np.ascontiguousarray(m).view(np.uint16) for m in (a, b))
        message = probe.on_hopper(name.encode(), *map(pointer, operands), pointer(out)).decode()
        return message, out, a[:64].astype(np.float32) @ b.astype(np.float32).T

    return call


def test_a_warpgroup_multiplies_swizzled_operands(run):
    """Sums of small integers are exact."""
    message, found, expected = run("product")
    assert message == ""
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "reads_before_the_bytes_are_here",
        "waits_for_the_wrong_phase",
        "reads_before_the_product_has_ended",
    ],
)
def test_what_is_not_waited_for_is_nan(run, name):
    message, found, _ = run(name)
    assert message == ""
    assert np.isnan(found).all()


def test_operands_that_are_overwritten_too_early_are_nan(run):
    """Other warps still need the operands."""
    message, found, _ = run("overwrites_operands_in_use")
    assert message == ""
    assert np.isnan(found).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("expects_too_few_bytes", "mbarrier_wait"),
        ("waits_twice_for_one_phase", "mbarrier_wait"),
        ("takes_registers_that_nobody_gives", "setmaxnreg_inc"),
        ("forgets_that_barriers_must_be_ready", "not ready"),
        ("copies_from_an_odd_place", "source is not aligned"),
        ("forgets_to_begin", "without wgmma_fence"),
        ("warps_disagree", "warps of a group start different products"),
        ("reaches_beyond_shared_memory", "outside of shared memory"),
    ],
)
def test_mistakes_are_errors(run, name, message):
    assert message in run(name)[0]


SIZES = [*range(0, 66), *range(120, 135), 191, 192, 193, 255, 256, 257, 300, 4095, 4096, 4097]
SIZES += [4160, 8300, 20_000]


def test_runs_of_pairs_are_those_of_their_strips(probe):
    for rows in SIZES:
        assert probe.pair_schedule_errors(ctypes.c_int64(rows), ctypes.c_int64(rows), 1) == 0, rows
    for rows in (0, 1, 64, 65, 128, 129, 300):
        for columns in SIZES:
            assert probe.pair_schedule_errors(ctypes.c_int64(rows), ctypes.c_int64(columns), 0) == 0


def test_every_problem_has_panels_of_its_own(probe):
    generator = np.random.default_rng(0)
    for largest in (1, 65, 130, 700):
        for _ in range(50):
            sizes = generator.integers(0, largest + 1, 9).astype(np.int64)
            assert probe.panel_errors(pointer(sizes), ctypes.c_int64(len(sizes))) == 0, sizes
