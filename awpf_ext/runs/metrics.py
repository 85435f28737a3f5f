"""Metrics of a run, each with its formula.

R is the accuracy matrix, T x T fractions: R[i][j] is the accuracy on the test images of task j
after task i was learned, among all classes seen by then. Above the diagonal it is 0: a class not
yet seen is never predicted, and a domain not yet seen does not count. A task without test images
has NaN in its column; means leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Matrix = Sequence[Sequence[float]]


def average(overall: Sequence[float]) -> float:
    """(1/T) sum_i a_i; a_i is the accuracy over all test images seen, after task i."""
    return _mean(overall)


def last(overall: Sequence[float]) -> float:
    """a_T: the accuracy over all test images, after the last task."""
    return overall[-1]


def worst_class(class_accuracies: Sequence[float]) -> float:
    """min_c a_c: the accuracy, after the last task, on the class that comes off worst.

    NaN where no class has test images.
    """
    return min((value for value in class_accuracies if not math.isnan(value)), default=math.nan)


def per_task(matrix: Matrix) -> list[float]:
    """R[T][j] for every task j: where the accuracy stands after the last task."""
    return list(matrix[-1])


def forgetting(matrix: Matrix) -> float:
    """1/(T-1) sum_{j<T} ( max_{j<=i<T} R[i][j] - R[T][j] ): the fall from each task's best.

    The best is over the steps before the last, so forgetting is negative where the last step is the
    best (Chaudhry et al. 2018). 0 for a single task.
    """
    end = len(matrix) - 1
    return _mean(max(matrix[i][j] for i in range(j, end)) - matrix[end][j] for j in range(end))


def backward_transfer(matrix: Matrix) -> float:
    """1/(T-1) sum_{j<T} ( R[T][j] - R[j][j] ): what later tasks did to earlier ones.

    Lopez-Paz and Ranzato 2017. 0 for a single task.
    """
    end = len(matrix) - 1
    return _mean(matrix[end][j] - matrix[j][j] for j in range(end))


def forward_transfer(next_task: Sequence[float], baseline: Sequence[float]) -> float:
    """1/(T-1) sum_{j>1} ( n_j - b_j ): what earlier tasks did to a task not yet learned.

    n_j: accuracy on task j just before it is learned, its classes being candidates beside those
    seen; b_j: the same of zero-shot CLIP, in place of Lopez-Paz and Ranzato's random
    initialisation. Both lists start with the second task. 0 for a single task.
    """
    return _mean(after - before for after, before in zip(next_task, baseline, strict=True))


def old_accuracy(matrix: Matrix, images: Sequence[int]) -> list[float]:
    """For every step i: sum_{j<i} n_j R[i][j] / sum_{j<i} n_j, n_j being task j's test images.

    NaN at the first step, which has no old task.
    """
    return [_weighted(matrix[i][:i], images[:i]) for i in range(len(matrix))]


def new_accuracy(matrix: Matrix) -> list[float]:
    """For every step i: R[i][i]."""
    return [matrix[i][i] for i in range(len(matrix))]


def harmonic_mean(old: Sequence[float], new: Sequence[float]) -> list[float]:
    """For every step: 2 o n / (o + n), 0 where both are 0; NaN where either is."""
    return [2 * o * n / (o + n) if o + n != 0 else 0.0 for o, n in zip(old, new, strict=True)]


def _mean(values: Iterable[float]) -> float:
    """Mean of the values that are not NaN; 0 where there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else 0.0


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if not total:
        return math.nan
    return sum(v * w for v, w in zip(values, weights, strict=True) if w) / total
