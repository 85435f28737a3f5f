"""The metrics on a worked example."""

from __future__ import annotations

import math

import pytest

from awpf_ext.runs import metrics

NAN = math.nan
MATRIX = [
    [0.9, 0.0, 0.0],
    [0.6, 0.8, 0.0],
    [0.7, 0.5, 0.4],
]


def test_average_and_last():
    assert metrics.average([0.9, 0.7, 0.5]) == pytest.approx(0.7)
    assert metrics.last([0.9, 0.7, 0.5]) == 0.5


def test_per_task():
    assert metrics.per_task(MATRIX) == [0.7, 0.5, 0.4]


def test_forgetting():
    # task 0: max(0.9, 0.6) - 0.7 = 0.2; task 1: 0.8 - 0.5 = 0.3
    assert metrics.forgetting(MATRIX) == pytest.approx(0.25)


def test_forgetting_is_negative_where_the_last_step_is_the_best():
    assert metrics.forgetting([[0.5, 0.0], [0.8, 0.9]]) == pytest.approx(-0.3)


def test_backward_transfer():
    # (0.7 - 0.9) + (0.5 - 0.8) over 2
    assert metrics.backward_transfer(MATRIX) == pytest.approx(-0.25)


def test_forward_transfer():
    # (0.6 - 0.5) + (0.7 - 0.8) over 2
    assert metrics.forward_transfer([0.6, 0.75], [0.5, 0.8]) == pytest.approx(0.025)


def test_old_new_and_harmonic():
    # step 1: old 0.6; step 2: (10 * 0.7 + 30 * 0.5) / 40 = 0.55
    old = metrics.old_accuracy(MATRIX, [10, 30, 20])
    new = metrics.new_accuracy(MATRIX)
    assert math.isnan(old[0])
    assert old[1:] == pytest.approx([0.6, 0.55])
    assert new == [0.9, 0.8, 0.4]
    harmonic = metrics.harmonic_mean(old, new)
    assert math.isnan(harmonic[0])
    assert harmonic[1:] == pytest.approx([2 * 0.6 * 0.8 / 1.4, 2 * 0.55 * 0.4 / 0.95])
    assert metrics.harmonic_mean([0.0], [0.0]) == [0.0]


def test_a_single_task():
    assert metrics.forgetting([[0.8]]) == 0
    assert metrics.backward_transfer([[0.8]]) == 0
    assert metrics.forward_transfer([], []) == 0


def test_a_task_without_test_images_is_left_out():
    matrix = [[0.9, NAN, 0.0], [0.6, NAN, 0.0], [0.7, NAN, 0.4]]
    assert metrics.forgetting(matrix) == pytest.approx(0.2)
    assert metrics.backward_transfer(matrix) == pytest.approx(-0.2)
    assert metrics.forward_transfer([NAN, 0.6], [NAN, 0.5]) == pytest.approx(0.1)
    assert metrics.old_accuracy(matrix, [10, 0, 5])[2] == pytest.approx(0.7)


def test_the_first_task_may_have_no_test_images():
    assert metrics.average([NAN, 0.8, 0.6]) == pytest.approx(0.7)


def test_worst_class_is_the_least_that_is_known():
    assert metrics.worst_class([0.5, math.nan, 0.25, 1.0]) == 0.25
    assert math.isnan(metrics.worst_class([math.nan]))
    assert math.isnan(metrics.worst_class([]))
