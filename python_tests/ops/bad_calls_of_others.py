"""Bad calls of scatter and the low-rank operations, as in bad_calls_of_mmd.py."""

from __future__ import annotations

import math

import torch

from awpf_ext import ScatterAccumulator, low_rank_sum, scatter, separability, truncate

torch.manual_seed(5)
X = torch.randn(6, 3)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
NAN = X.clone()
NAN[2, 1] = math.nan
U, S, V = torch.randn(2, 6, 3), torch.rand(2, 3), torch.randn(2, 5, 3)


def accumulate(x, labels):
    return ScatterAccumulator(3, 3).update(x, labels)


CASES = {
    # scatter
    "labels missing": (
        lambda: scatter(X, LABELS[:4]),
        ValueError,
        r"labels must have shape \(\.\.\., 6\).*got \(4,\)",
    ),
    "one label": (
        lambda: scatter(X, torch.tensor(1)),
        ValueError,
        r"labels must have shape.*got \(\)",
    ),
    "labels of another batch": (
        lambda: scatter(X.expand(2, 6, 3), LABELS.expand(3, 6)),
        ValueError,
        r"labels must have the batch dimensions of x, \(2,\), got \(3,\)",
    ),
    "fractional labels": (
        lambda: scatter(X, LABELS.double()),
        TypeError,
        r"labels must have an integer dtype.*float64",
    ),
    "negative labels": (lambda: scatter(X, LABELS - 1), ValueError, r"label -1 of row 0"),
    "labels above their number": (
        lambda: scatter(X, LABELS, 2),
        ValueError,
        r"label 2 of row 4 is outside 0 to 1",
    ),
    "no classes": (
        lambda: scatter(X, LABELS, 0),
        ValueError,
        r"num_classes must be at least 1, got 0",
    ),
    "NaN to scatter": (
        lambda: scatter(NAN, LABELS),
        ValueError,
        r"x: a row of class 1 holds a NaN",
    ),
    "an accumulator of nothing": (
        lambda: ScatterAccumulator(0, 3),
        ValueError,
        r"num_classes and dim must be at least 1, got 0 and 3",
    ),
    "an update of another width": (
        lambda: accumulate(X[:, :2], LABELS),
        ValueError,
        r"x must be .*\(n, 3\), got .*\(6, 2\)",
    ),
    "an update of integers": (
        lambda: accumulate(X.long(), LABELS),
        (TypeError, ValueError),
        r"x must be floating-point",
    ),
    "an update out of range": (lambda: accumulate(X, LABELS + 1), ValueError, r"label 3 of row 4"),
    "a merge of another shape": (
        lambda: ScatterAccumulator(3, 3).merge(ScatterAccumulator(3, 4)),
        ValueError,
        r"other must have 3 classes of 3 features, got 3 of 4",
    ),
    "an unknown criterion": (
        lambda: separability(X, LABELS, "auto"),
        ValueError,
        r"criterion must be one of 'trace', 'fisher', got 'auto'",
    ),
    "shrinkage above one": (
        lambda: separability(X, LABELS, "fisher", shrinkage=2),
        ValueError,
        r"shrinkage must be between 0 and 1, got 2",
    ),
    "a singular Fisher criterion": (
        lambda: separability(X, torch.arange(6), "fisher"),
        ValueError,
        r"within-class scatter is singular",
    ),
    # low rank
    "a list of numbers for u": (
        lambda: low_rank_sum(1.0, S, V),
        TypeError,
        r"u must be .*Tensor.*got float",
    ),
    "integer factors": (lambda: low_rank_sum(U.long(), S, V), TypeError, r"u must be float.*int64"),
    "factors without terms": (
        lambda: low_rank_sum(U[0], S[0], V[0]),
        ValueError,
        r"u and v must have shapes .*terms.*\(6, 3\) and \(5, 3\)",
    ),
    "factors of other ranks": (
        lambda: low_rank_sum(U, S, V[..., :2]),
        ValueError,
        r"u and v must have shapes.*\(2, 5, 2\)",
    ),
    "factors of other types": (
        lambda: low_rank_sum(U, S, V.double()),
        TypeError,
        r"u and v .*dtype",
    ),
    "singular values of another shape": (
        lambda: low_rank_sum(U, S[:, :2], V),
        ValueError,
        r"s must have shape \(\.\.\., 2, 3\), got \(2, 2\)",
    ),
    "weights for other terms": (
        lambda: low_rank_sum(U, S, V, [1.0, 2.0, 3.0]),
        ValueError,
        r"weights must have shape \(2,\).*got \(3,\)",
    ),
    "weights in words": (lambda: low_rank_sum(U, S, V, "half"), TypeError, r"weights must be"),
    "boolean weights": (
        lambda: low_rank_sum(U, S, V, [True, False]),
        TypeError,
        r"weights must be real numbers.*bool",
    ),
    "a base of another shape": (
        lambda: low_rank_sum(U, S, V, base=torch.zeros(5, 6)),
        ValueError,
        r"base must have shape \(6, 5\), got \(5, 6\)",
    ),
    "a base of another type": (
        lambda: low_rank_sum(U, S, V, base=torch.zeros(6, 5).double()),
        TypeError,
        r"u and base .*dtype",
    ),
    "factors whose batches do not broadcast": (
        lambda: low_rank_sum(U.expand(2, 2, 6, 3), S, V.expand(3, 2, 5, 3)),
        ValueError,
        r"batch dimensions of u, s and v must broadcast",
    ),
    "a sequence beside a tensor": (
        lambda: low_rank_sum(list(U), list(S), V),
        TypeError,
        r"u, s and v must all be",
    ),
    "terms missing": (
        lambda: low_rank_sum(list(U), list(S), list(V)[:1]),
        ValueError,
        r"same number of terms.*2, 2 and 1",
    ),
    "no terms": (lambda: low_rank_sum([], [], []), ValueError, r"at least one"),
    "a term of another height": (
        lambda: low_rank_sum([U[0], U[1][:4]], list(S), list(V)),
        ValueError,
        r"term 1: u, s and v must have shapes.*\(4, 3\)",
    ),
    "rank zero": (
        lambda: truncate(U, S, V, 0),
        ValueError,
        r"rank must be an integer of at least 1, got 0",
    ),
    "a fractional rank": (
        lambda: truncate(U, S, V, 1.0),
        ValueError,
        r"rank must be an integer.*1.0",
    ),
    "NaN to truncate": (lambda: truncate(U * math.nan, S, V, 2), ValueError, r"NaN or an infinity"),
}
