"""Bad calls of scatter and the low-rank operations, as in bad_calls_of_mmd.py."""

from __future__ import annotations

import math

import numpy as np
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
    "half a class": (
        lambda: scatter(X, LABELS, 2.5),
        TypeError,
        r"num_classes must be an integer, got 2.5",
    ),
    "classes in words": (
        lambda: scatter(X, LABELS, "3"),
        TypeError,
        r"num_classes must be an integer, got '3'",
    ),
    "true classes": (
        lambda: scatter(X, LABELS, True),
        TypeError,
        r"num_classes must be an integer, got True",
    ),
    "more classes than 64 bits hold": (
        lambda: scatter(X, LABELS, 2**70),
        ValueError,
        r"num_classes must be at most 16777216, got 1180591620717411303424",
    ),
    "more classes than Python prints": (
        lambda: scatter(X, LABELS, 10**5000),
        ValueError,
        r"num_classes must be at most 16777216, got a huge int",
    ),
    "means that fill the memory": (
        lambda: scatter(torch.ones(6, 768), LABELS, 2**23),
        ValueError,
        r"num_classes is too large: the class means would hold 8388608 x 768 numbers",
    ),
    "a wrong label": (
        lambda: scatter(X, LABELS * 10**9),
        ValueError,
        r"labels must be below 65536 unless num_classes is given, got 2000000000",
    ),
    "the largest label": (
        lambda: separability(X, LABELS + (2**63 - 3)),
        ValueError,
        r"labels must be below 65536 unless num_classes is given, got 9223372036854775807",
    ),
    "NaN to scatter": (
        lambda: scatter(NAN, LABELS),
        ValueError,
        r"x: a row of class 1 holds a NaN",
    ),
    "an accumulator of nothing": (
        lambda: ScatterAccumulator(0, 3),
        ValueError,
        r"num_classes must be at least 1, got 0",
    ),
    "an accumulator without features": (
        lambda: ScatterAccumulator(3, 0),
        ValueError,
        r"dim must be at least 1, got 0",
    ),
    "an accumulator of a billion classes": (
        lambda: ScatterAccumulator(10**9, 3),
        ValueError,
        r"num_classes must be at most 16777216, got 1000000000",
    ),
    "an accumulator of too many means": (
        lambda: ScatterAccumulator(2**24, 768),
        ValueError,
        r"num_classes is too large: the class means would hold 16777216 x 768 numbers",
    ),
    "an update without points": (
        lambda: accumulate(None, LABELS),
        TypeError,
        r"x must be .*Tensor.*got NoneType",
    ),
    "an update of another byte order": (
        lambda: accumulate(np.ones((6, 3), ">f8"), LABELS),
        TypeError,
        r"x must be .*>f8",
    ),
    "a merge with a number": (
        lambda: ScatterAccumulator(3, 3).merge(3),
        TypeError,
        r"other must be a ScatterAccumulator, got int",
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
    "shrinkage of nothing": (
        lambda: separability(X, LABELS, "fisher", shrinkage=None),
        TypeError,
        r"shrinkage must be a number, got None",
    ),
    "a criterion that is a tensor": (
        lambda: separability(X, LABELS, torch.ones(2)),
        ValueError,
        r"criterion must be one of 'trace', 'fisher', got tensor",
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
        r"rank must be at least 1, got 0",
    ),
    "a fractional rank": (
        lambda: truncate(U, S, V, 1.0),
        TypeError,
        r"rank must be an integer.*1.0",
    ),
    "NaN to truncate": (lambda: truncate(U * math.nan, S, V, 2), ValueError, r"NaN or an infinity"),
}
