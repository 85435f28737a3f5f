"""Bad calls of mmd: the call, the exception, a pattern its sentence has to match."""

from __future__ import annotations

import math

import numpy as np
import torch

from awpf_ext import median_bandwidth, mmd

torch.manual_seed(4)
X, Y = torch.randn(6, 3), torch.randn(5, 3)
NAN, INF = X.clone(), Y.clone()
NAN[2, 1], INF[4, 0] = math.nan, math.inf


def ragged(x_offsets, y_offsets, x=X, y=Y):
    return mmd(x, y, x_offsets=x_offsets, y_offsets=y_offsets)


CASES = {
    # points
    "a list for x": (lambda: mmd(X.tolist(), Y), TypeError, r"x must be .*Tensor.*got list"),
    "None for y": (lambda: mmd(X, None), TypeError, r"y must be .*Tensor.*got NoneType"),
    "integer points": (lambda: mmd(X.long(), Y), TypeError, r"x must be float.*got torch.int64"),
    "complex points": (lambda: mmd(X, Y.cfloat()), TypeError, r"y must be float.*complex64"),
    "a vector": (
        lambda: mmd(X[0], Y),
        ValueError,
        r"x must have shape \(\.\.\., n, d\), got \(3,\)",
    ),
    "a number for points": (
        lambda: mmd(X, torch.tensor(1.0)),
        ValueError,
        r"y must have shape.*got \(\)",
    ),
    "no features": (
        lambda: mmd(X[:, :0], Y[:, :0]),
        ValueError,
        r"x must have at least one feature.*\(6, 0\)",
    ),
    "no rows": (lambda: mmd(X, Y[:0]), ValueError, r"y must have at least one row.*\(0, 3\)"),
    "other widths": (
        lambda: mmd(X, Y[:, :2]),
        ValueError,
        r"x and y .*features.*\(6, 3\) and \(5, 2\)",
    ),
    "other types": (
        lambda: mmd(X, Y.double()),
        TypeError,
        r"x and y .*dtype.*float32 and torch.float64",
    ),
    "batches that do not broadcast": (
        lambda: mmd(X.expand(2, 6, 3), Y.expand(3, 5, 3)),
        ValueError,
        r"batch dimensions of x and y must broadcast.*\(2, 6, 3\) and \(3, 5, 3\)",
    ),
    "NaN in x": (lambda: mmd(NAN, Y), ValueError, r"row 2 .*NaN or an infinity"),
    "infinity in y": (
        lambda: mmd(X, INF, bandwidth=1.0),
        ValueError,
        r"row 10 .*NaN or an infinity",
    ),
    "squares that overflow": (
        lambda: mmd(X.double() * 1e200, Y.double() * 1e200, bandwidth=1.0),
        ValueError,
        r"too large.*overflow",
    ),
    "a NumPy array of objects": (
        lambda: mmd(np.array([[None, 1]]), np.ones((2, 2))),
        TypeError,
        r"x must be an array of a native .*'O'",
    ),
    "a NumPy array of other byte order": (
        lambda: mmd(np.ones((2, 2)), np.ones((2, 2), ">f8")),
        TypeError,
        r"y must be .*>f8",
    ),
    # estimator, bandwidth, scales
    "an unknown estimator": (
        lambda: mmd(X, Y, estimator="fair"),
        ValueError,
        r"estimator must be one of 'biased', 'unbiased', got 'fair'",
    ),
    "one row, unbiased": (
        lambda: mmd(X, Y[:1], bandwidth=1.0, estimator="unbiased"),
        ValueError,
        r"unbiased.*two rows.*sample of 1",
    ),
    "bandwidth zero": (
        lambda: mmd(X, Y, bandwidth=0.0),
        ValueError,
        r"bandwidth must be positive and finite, got 0.0",
    ),
    "bandwidth negative": (
        lambda: mmd(X, Y, bandwidth=[1.0, -2.0]),
        ValueError,
        r"bandwidth must be positive.*-2.0",
    ),
    "bandwidth NaN": (
        lambda: mmd(X, Y, bandwidth=math.nan),
        ValueError,
        r"bandwidth must be positive.*nan",
    ),
    "bandwidth infinite": (
        lambda: mmd(X, Y, bandwidth=math.inf),
        ValueError,
        r"bandwidth must be positive.*inf",
    ),
    "no bandwidth": (
        lambda: mmd(X, Y, bandwidth=[]),
        ValueError,
        r"bandwidth must hold at least one",
    ),
    "a bandwidth in words": (
        lambda: mmd(X, Y, bandwidth="mean"),
        ValueError,
        r'bandwidth must be .*"median", got \'mean\'',
    ),
    "a bandwidth of nothing": (
        lambda: mmd(X, Y, bandwidth=None),
        TypeError,
        r"bandwidth must be a number",
    ),
    "a bandwidth of words": (
        lambda: mmd(X, Y, bandwidth=["a"]),
        TypeError,
        r"bandwidth must be a number",
    ),
    "a bandwidth of digits": (
        lambda: mmd(X, Y, bandwidth=["1", "2"]),
        TypeError,
        r"bandwidth must be a number.*got \['1', '2'\]",
    ),
    "a bandwidth of bytes": (
        lambda: mmd(X, Y, bandwidth=b"median"),
        TypeError,
        r"bandwidth must be a number.*got b'median'",
    ),
    "a bandwidth that is true": (
        lambda: mmd(X, Y, bandwidth=True),
        TypeError,
        r"bandwidth must be a number.*got True",
    ),
    "a set of bandwidths": (
        lambda: mmd(X, Y, bandwidth={1.0}),
        TypeError,
        r"bandwidth must be a number.*got \{1.0\}",
    ),
    "a bandwidth that no float can hold": (
        lambda: mmd(X, Y, bandwidth=10**400),
        ValueError,
        r"bandwidth must be positive and finite, got 1000000.*\.\.\.",
    ),
    "a negative bandwidth tensor": (
        lambda: mmd(X, Y, bandwidth=torch.tensor(-1.0)),
        ValueError,
        r"bandwidth.*positive",
    ),
    "an integer bandwidth tensor": (
        lambda: mmd(X, Y, bandwidth=torch.tensor([1, 2])),
        TypeError,
        r"bandwidth must be a floating-point tensor, got torch.int64",
    ),
    "a bandwidth tensor with a gradient": (
        lambda: mmd(X, Y, bandwidth=torch.ones(2, requires_grad=True)),
        ValueError,
        r"bandwidth must not require a gradient",
    ),
    "a bandwidth tensor of another shape": (
        lambda: mmd(X.expand(2, 6, 3), Y, bandwidth=torch.ones(3, 2)),
        ValueError,
        r"bandwidth must have shape \(2,\).*got \(3, 2\)",
    ),
    "a bandwidth tensor with a zero": (
        lambda: mmd(X, Y, bandwidth=torch.zeros(2)),
        ValueError,
        r"bandwidth.*positive",
    ),
    "a bandwidth tensor with NaN": (
        lambda: mmd(X, Y, bandwidth=torch.tensor([1.0, math.nan])),
        ValueError,
        r"bandwidth.*positive",
    ),
    "scales of zero": (
        lambda: mmd(X, Y, scales=(1.0, 0.0)),
        ValueError,
        r"scales must be positive.*0.0",
    ),
    "no scales": (lambda: mmd(X, Y, scales=()), ValueError, r"scales must hold at least one"),
    "scales in words": (
        lambda: mmd(X, Y, scales="2"),
        TypeError,
        r"scales must be a number or a sequence of numbers, got '2'",
    ),
    "a median of equal points": (
        lambda: mmd(X[:1].expand(6, 3), X[:1]),
        ValueError,
        r"median distance is zero.*give a bandwidth",
    ),
    "a median of one point": (lambda: median_bandwidth(X[:1]), ValueError, r"at least two points"),
    # ragged batches
    "offsets of one side": (
        lambda: ragged([0, 6], None),
        ValueError,
        r"x_offsets and y_offsets must be given together",
    ),
    "offsets with a batch": (
        lambda: ragged([0, 6], [0, 5], X[None]),
        ValueError,
        r"x must have shape \(rows, d\) with x_offsets.*\(1, 6, 3\)",
    ),
    "offsets that are fractions": (
        lambda: ragged([0.0, 6.0], [0, 5]),
        ValueError,
        r"x_offsets must be a vector of at least two integers.*float",
    ),
    "offsets in a matrix": (
        lambda: ragged([[0, 6]], [0, 5]),
        ValueError,
        r"x_offsets must be a vector.*\(1, 2\)",
    ),
    "a single offset": (
        lambda: ragged([0, 6], [0]),
        ValueError,
        r"y_offsets must be a vector of at least two",
    ),
    "offsets that end early": (
        lambda: ragged([0, 5], [0, 5]),
        ValueError,
        r"x_offsets must begin with 0 and end with the 6 rows of x, got 0 and 5",
    ),
    "offsets that start late": (
        lambda: ragged([0, 6], [1, 5]),
        ValueError,
        r"y_offsets must begin with 0.*got 1 and 5",
    ),
    "offsets with an empty sample": (
        lambda: ragged([0, 3, 3, 6], [0, 1, 2, 5]),
        ValueError,
        r"x_offsets must increase",
    ),
    "offsets of other lengths": (
        lambda: ragged([0, 3, 6], [0, 5]),
        ValueError,
        r"same number of samples, got 2 and 1",
    ),
    "an offset beyond the rows": (
        lambda: ragged([0, 2**63 - 1], [0, 5]),
        ValueError,
        r"x_offsets must begin with 0 and end with the 6 rows of x, got 0 and 92233720368547758",
    ),
    "an offset beyond 64 bits": (
        lambda: ragged([0, 2**64], [0, 5]),
        TypeError,
        r"x_offsets must be numbers, got \[0, 18446744073709551616\]",
    ),
    "offsets that are words": (
        lambda: ragged("0, 6", [0, 5]),
        (TypeError, ValueError),
        r"x_offsets must be",
    ),
}
