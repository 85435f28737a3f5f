"""Metrics of a run, each with its formula.

R is the accuracy matrix, with T rows and columns. R[i][j] is the accuracy (a fraction) on the test
images of task j after task i was learned, with all classes seen so far as candidates. It is 0 for
j > i: a class that was not seen is never predicted, and a domain that was not seen does not count.
The column of a task without test images is NaN; means ignore NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Matrix = Sequence[Sequence[float]]


def average(overall: Sequence[float]) -> float:
    """(1/T) sum_i a_i, where a_i is the accuracy after task i over all test images seen so far."""
    return _mean(overall)


def last(overall: Sequence[float]) -> float:
    """a_T: the accuracy after the last task over all test images."""
    return overall[-1]


def worst_class(class_accuracies: Sequence[float]) -> float:
    """min_c a_c: the lowest accuracy of a class after the last task.

    NaN if no class has test images.
    """
    return min((value for value in class_accuracies if not math.isnan(value)), default=math.nan)


def per_task(matrix: Matrix) -> list[float]:
    """R[T][j] for every task j: the accuracy on each task after the last one."""
    return list(matrix[-1])


def forgetting(matrix: Matrix) -> float:
    """1/(T-1) sum_{j<T} ( max_{j<=i<T} R[i][j] - R[T][j] ): the drop from each task's best.

    The maximum excludes the last step, so forgetting is negative if the last step is the best
    (Chaudhry et al. 2018). 0 for a single task.
    """
    end = len(matrix) - 1
    return _mean(max(matrix[i][j] for i in range(j, end)) - matrix[end][j] for j in range(end))


def backward_transfer(matrix: Matrix) -> float:
    """1/(T-1) sum_{j<T} ( R[T][j] - R[j][j] ): the effect of later tasks on earlier ones.

    Lopez-Paz and Ranzato 2017. 0 for a single task.
    """
    end = len(matrix) - 1
    return _mean(matrix[end][j] - matrix[j][j] for j in range(end))


def forward_transfer(next_task: Sequence[float], baseline: Sequence[float]) -> float:
    """1/(T-1) sum_{j>1} ( n_j - b_j ): the effect of earlier tasks on a task not yet learned.

    n_j is the accuracy on task j just before it is learned, with its classes as candidates beside
    those seen. b_j is that of zero-shot CLIP, in place of Lopez-Paz and Ranzato's random
    initialisation. Both lists start with the second task. 0 for a single task.
    """
    return _mean(after - before for after, before in zip(next_task, baseline, strict=True))


def old_accuracy(matrix: Matrix, images: Sequence[int]) -> list[float]:
    """For every step i: sum_{j<i} n_j R[i][j] / sum_{j<i} n_j, n_j: test images of task j.

    NaN at the first step, which has no old tasks.
    """
    return [_weighted(matrix[i][:i], images[:i]) for i in range(len(matrix))]


def new_accuracy(matrix: Matrix) -> list[float]:
    """For every step i: R[i][i]."""
    return [matrix[i][i] for i in range(len(matrix))]


def harmonic_mean(old: Sequence[float], new: Sequence[float]) -> list[float]:
    """For every step: 2 o n / (o + n); 0 if both are 0, NaN if one is NaN."""
    return [2 * o * n / (o + n) if o + n != 0 else 0.0 for o, n in zip(old, new, strict=True)]


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; 0 if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else 0.0


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if not total:
        return math.nan
    return sum(v * w for v, w in zip(values, weights, strict=True) if w) / total
