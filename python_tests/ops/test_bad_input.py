"""Bad input gets one clear sentence: the argument, what came, what was expected."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import awpf_ext
from awpf_ext import ScatterAccumulator, mmd, mmd_matrix, mmd_test, scatter, separability

X, Y = torch.randn(6, 3), torch.randn(5, 3)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
U, S, V = torch.randn(2, 6, 3), torch.rand(2, 3), torch.randn(2, 5, 3)
NAN, INF = X.clone(), Y.clone()
NAN[2, 1], INF[4, 0] = math.nan, math.inf


def low_rank_sum(*args, **kwargs):
    return awpf_ext.low_rank_sum(*args, **kwargs)


def truncate(*args, **kwargs):
    return awpf_ext.truncate(*args, **kwargs)


def median(*args):
    return awpf_ext.median_bandwidth(*args)


def ragged(x_offsets, y_offsets, x=X, y=Y):
    return mmd(x, y, x_offsets=x_offsets, y_offsets=y_offsets)


def accumulate(x, labels):
    return ScatterAccumulator(3, 3).update(x, labels)


CASES = {
    # points
    "a list for x": (lambda: mmd(X.tolist(), Y), TypeError, r"x must be .*Tensor.*got list"),
    "None for y": (lambda: mmd(X, None), TypeError, r"y must be .*Tensor.*got NoneType"),
    "integer points": (lambda: mmd(X.long(), Y), TypeError, r"x must be float.*got torch.int64"),
    "complex points": (lambda: mmd(X, Y.cfloat()), TypeError, r"y must be float.*complex64"),
    "a vector": (lambda: mmd(X[0], Y), ValueError, r"x must have shape \(\.\.\., n, d\), got \(3,\)"),
    "a number for points": (lambda: mmd(X, torch.tensor(1.0)), ValueError, r"y must have shape.*got \(\)"),
    "no features": (lambda: mmd(X[:, :0], Y[:, :0]), ValueError, r"x must have at least one feature.*\(6, 0\)"),
    "no rows": (lambda: mmd(X, Y[:0]), ValueError, r"y must have at least one row.*\(0, 3\)"),
    "other widths": (lambda: mmd(X, Y[:, :2]), ValueError, r"x and y .*features.*\(6, 3\) and \(5, 2\)"),
    "other types": (lambda: mmd(X, Y.double()), TypeError, r"x and y .*dtype.*float32 and torch.float64"),
    "batches that do not broadcast": (
        lambda: mmd(X.expand(2, 6, 3), Y.expand(3, 5, 3)), ValueError,
        r"batch dimensions of x and y must broadcast.*\(2, 6, 3\) and \(3, 5, 3\)",
    ),
    "NaN in x": (lambda: mmd(NAN, Y), ValueError, r"row 2 .*NaN or an infinity"),
    "infinity in y": (lambda: mmd(X, INF, bandwidth=1.0), ValueError, r"row 10 .*NaN or an infinity"),
    "squares that overflow": (
        lambda: mmd(X.double() * 1e200, Y.double() * 1e200, bandwidth=1.0), ValueError, r"too large.*overflow",
    ),
    "a NumPy array of objects": (
        lambda: mmd(np.array([[None, 1]]), np.ones((2, 2))), TypeError, r"x must be an array of a native .*'O'",
    ),
    "a NumPy array of other byte order": (
        lambda: mmd(np.ones((2, 2)), np.ones((2, 2), ">f8")), TypeError, r"y must be .*>f8",
    ),
    # estimator, bandwidth, scales
    "an unknown estimator": (lambda: mmd(X, Y, estimator="fair"), ValueError, r"estimator must be one of 'biased', 'unbiased', got 'fair'"),
    "one row, unbiased": (lambda: mmd(X, Y[:1], bandwidth=1.0, estimator="unbiased"), ValueError, r"unbiased.*two rows.*sample of 1"),
    "bandwidth zero": (lambda: mmd(X, Y, bandwidth=0.0), ValueError, r"bandwidth must be positive and finite, got 0.0"),
    "bandwidth negative": (lambda: mmd(X, Y, bandwidth=[1.0, -2.0]), ValueError, r"bandwidth must be positive.*-2.0"),
    "bandwidth NaN": (lambda: mmd(X, Y, bandwidth=math.nan), ValueError, r"bandwidth must be positive.*nan"),
    "bandwidth infinite": (lambda: mmd(X, Y, bandwidth=math.inf), ValueError, r"bandwidth must be positive.*inf"),
    "no bandwidth": (lambda: mmd(X, Y, bandwidth=[]), ValueError, r"bandwidth must hold at least one"),
    "a bandwidth in words": (lambda: mmd(X, Y, bandwidth="mean"), ValueError, r'bandwidth must be .*"median", got \'mean\''),
    "a bandwidth of nothing": (lambda: mmd(X, Y, bandwidth=None), TypeError, r"bandwidth must be a number"),
    "a bandwidth of words": (lambda: mmd(X, Y, bandwidth=["a"]), TypeError, r"bandwidth must be a number"),
    "an integer bandwidth tensor": (lambda: mmd(X, Y, bandwidth=torch.tensor([1, 2])), TypeError, r"bandwidth must be a floating-point tensor, got torch.int64"),
    "a bandwidth tensor with a gradient": (
        lambda: mmd(X, Y, bandwidth=torch.ones(2, requires_grad=True)), ValueError, r"bandwidth must not require a gradient",
    ),
    "a bandwidth tensor of another shape": (
        lambda: mmd(X.expand(2, 6, 3), Y, bandwidth=torch.ones(3, 2)), ValueError, r"bandwidth must have shape \(2,\).*got \(3, 2\)",
    ),
    "a bandwidth tensor with a zero": (lambda: mmd(X, Y, bandwidth=torch.zeros(2)), ValueError, r"bandwidth.*positive"),
    "a bandwidth tensor with NaN": (lambda: mmd(X, Y, bandwidth=torch.tensor([1.0, math.nan])), ValueError, r"bandwidth.*positive"),
    "scales of zero": (lambda: mmd(X, Y, scales=(1.0, 0.0)), ValueError, r"scales must be positive.*0.0"),
    "no scales": (lambda: mmd(X, Y, scales=()), ValueError, r"scales must hold at least one"),
    "one number for scales": (lambda: mmd(X, Y, scales=2.0), TypeError, r"scales must be .*sequence"),
    "a median of equal points": (lambda: mmd(X[:1].expand(6, 3), X[:1]), ValueError, r"median distance is zero.*give a bandwidth"),
    "a median of one point": (lambda: median(X[:1]), ValueError, r"at least two points"),
    # ragged batches
    "offsets of one side": (lambda: ragged([0, 6], None), ValueError, r"x_offsets and y_offsets must be given together"),
    "offsets with a batch": (lambda: ragged([0, 6], [0, 5], X[None]), ValueError, r"x must have shape \(rows, d\) with x_offsets.*\(1, 6, 3\)"),
    "offsets that are fractions": (lambda: ragged([0.0, 6.0], [0, 5]), ValueError, r"x_offsets must be a vector of at least two integers.*float"),
    "offsets in a matrix": (lambda: ragged([[0, 6]], [0, 5]), ValueError, r"x_offsets must be a vector.*\(1, 2\)"),
    "a single offset": (lambda: ragged([0, 6], [0]), ValueError, r"y_offsets must be a vector of at least two"),
    "offsets that end early": (lambda: ragged([0, 5], [0, 5]), ValueError, r"x_offsets must begin with 0 and end with the 6 rows of x, got 0 and 5"),
    "offsets that start late": (lambda: ragged([0, 6], [1, 5]), ValueError, r"y_offsets must begin with 0.*got 1 and 5"),
    "offsets with an empty sample": (lambda: ragged([0, 3, 3, 6], [0, 1, 2, 5]), ValueError, r"x_offsets must increase"),
    "offsets of other lengths": (lambda: ragged([0, 3, 6], [0, 5]), ValueError, r"same number of samples, got 2 and 1"),
    "offsets that are words": (lambda: ragged("0, 6", [0, 5]), (TypeError, ValueError), r"x_offsets must be"),
    # groups
    "groups missing": (lambda: mmd_matrix(X, LABELS[:5]), ValueError, r"groups must have shape \(6,\).*got \(5,\)"),
    "fractional groups": (lambda: mmd_matrix(X, LABELS.float()), TypeError, r"groups must have an integer dtype, got torch.float32"),
    "boolean groups": (lambda: mmd_matrix(X, LABELS > 0), TypeError, r"groups must have an integer dtype, got torch.bool"),
    "groups in a list": (lambda: mmd_matrix(X, LABELS.tolist()), TypeError, r"groups must be .*Tensor.*got list"),
    "negative groups": (lambda: mmd_matrix(X, LABELS - 1), ValueError, r"groups must be between 0 and 1, got -1 to 1"),
    "groups above their number": (lambda: mmd_matrix(X, LABELS, num_groups=2), ValueError, r"groups must be between 0 and 1, got 0 to 2"),
    "an empty group": (lambda: mmd_matrix(X, LABELS, num_groups=4), ValueError, r"group 3 has 0 rows"),
    "a group of one, unbiased": (
        lambda: mmd_matrix(X, torch.tensor([0, 0, 1, 2, 2, 2]), estimator="unbiased"), ValueError, r"group 1 has 1 row.*unbiased",
    ),
    "no groups": (lambda: mmd_matrix(X, LABELS, num_groups=0), ValueError, r"num_groups must be at least 1, got 0"),
    "a batch for the matrix": (lambda: mmd_matrix(X[None], LABELS), ValueError, r"x must have shape \(n, d\), got \(1, 6, 3\)"),
    # the permutation test
    "no permutations": (lambda: mmd_test(X, Y, permutations=0), ValueError, r"permutations must be an integer of at least 1, got 0"),
    "half a permutation": (lambda: mmd_test(X, Y, permutations=1.5), ValueError, r"permutations must be an integer.*1.5"),
    "a negative seed": (lambda: mmd_test(X, Y, seed=-1), ValueError, r"seed must be an integer.*got -1"),
    "a seed beyond 63 bits": (lambda: mmd_test(X, Y, seed=2**63), ValueError, r"seed must be an integer"),
    "a sample of one, by default": (lambda: mmd_test(X, Y[:1]), ValueError, r"unbiased.*two rows"),
    # scatter
    "labels missing": (lambda: scatter(X, LABELS[:4]), ValueError, r"labels must have shape \(\.\.\., 6\).*got \(4,\)"),
    "one label": (lambda: scatter(X, torch.tensor(1)), ValueError, r"labels must have shape.*got \(\)"),
    "labels of another batch": (
        lambda: scatter(X.expand(2, 6, 3), LABELS.expand(3, 6)), ValueError, r"labels must have the batch dimensions of x, \(2,\), got \(3,\)",
    ),
    "fractional labels": (lambda: scatter(X, LABELS.double()), TypeError, r"labels must have an integer dtype.*float64"),
    "negative labels": (lambda: scatter(X, LABELS - 1), ValueError, r"label -1 of row 0"),
    "labels above their number": (lambda: scatter(X, LABELS, 2), ValueError, r"label 2 of row 4 is outside 0 to 1"),
    "no classes": (lambda: scatter(X, LABELS, 0), ValueError, r"num_classes must be at least 1, got 0"),
    "NaN to scatter": (lambda: scatter(NAN, LABELS), ValueError, r"x: a row of class 1 holds a NaN"),
    "an accumulator of nothing": (lambda: ScatterAccumulator(0, 3), ValueError, r"num_classes and dim must be at least 1, got 0 and 3"),
    "an update of another width": (lambda: accumulate(X[:, :2], LABELS), ValueError, r"x must be .*\(n, 3\), got .*\(6, 2\)"),
    "an update of integers": (lambda: accumulate(X.long(), LABELS), (TypeError, ValueError), r"x must be floating-point"),
    "an update out of range": (lambda: accumulate(X, LABELS + 1), ValueError, r"label 3 of row 4"),
    "a merge of another shape": (
        lambda: ScatterAccumulator(3, 3).merge(ScatterAccumulator(3, 4)), ValueError, r"other must have 3 classes of 3 features, got 3 of 4",
    ),
    "an unknown criterion": (lambda: separability(X, LABELS, "auto"), ValueError, r"criterion must be one of 'trace', 'fisher', got 'auto'"),
    "shrinkage above one": (lambda: separability(X, LABELS, "fisher", shrinkage=2), ValueError, r"shrinkage must be between 0 and 1, got 2"),
    "a singular Fisher criterion": (
        lambda: separability(X, torch.arange(6), "fisher"), ValueError, r"within-class scatter is singular",
    ),
    # low rank
    "a list of numbers for u": (lambda: low_rank_sum(1.0, S, V), TypeError, r"u must be .*Tensor.*got float"),
    "integer factors": (lambda: low_rank_sum(U.long(), S, V), TypeError, r"u must be float.*int64"),
    "factors without terms": (lambda: low_rank_sum(U[0], S[0], V[0]), ValueError, r"u and v must have shapes .*terms.*\(6, 3\) and \(5, 3\)"),
    "factors of other ranks": (lambda: low_rank_sum(U, S, V[..., :2]), ValueError, r"u and v must have shapes.*\(2, 5, 2\)"),
    "factors of other types": (lambda: low_rank_sum(U, S, V.double()), TypeError, r"u and v .*dtype"),
    "singular values of another shape": (lambda: low_rank_sum(U, S[:, :2], V), ValueError, r"s must have shape \(\.\.\., 2, 3\), got \(2, 2\)"),
    "weights for other terms": (lambda: low_rank_sum(U, S, V, [1.0, 2.0, 3.0]), ValueError, r"weights must have shape \(2,\).*got \(3,\)"),
    "weights in words": (lambda: low_rank_sum(U, S, V, "half"), TypeError, r"weights must be"),
    "boolean weights": (lambda: low_rank_sum(U, S, V, [True, False]), TypeError, r"weights must be real numbers.*bool"),
    "a base of another shape": (lambda: low_rank_sum(U, S, V, base=torch.zeros(5, 6)), ValueError, r"base must have shape \(6, 5\), got \(5, 6\)"),
    "a base of another type": (lambda: low_rank_sum(U, S, V, base=torch.zeros(6, 5).double()), TypeError, r"u and base .*dtype"),
    "factors whose batches do not broadcast": (
        lambda: low_rank_sum(U.expand(2, 2, 6, 3), S, V.expand(3, 2, 5, 3)), ValueError, r"batch dimensions of u, s and v must broadcast",
    ),
    "a sequence beside a tensor": (lambda: low_rank_sum(list(U), list(S), V), TypeError, r"u, s and v must all be"),
    "terms missing": (lambda: low_rank_sum(list(U), list(S), list(V)[:1]), ValueError, r"same number of terms.*2, 2 and 1"),
    "no terms": (lambda: low_rank_sum([], [], []), ValueError, r"at least one"),
    "a term of another height": (
        lambda: low_rank_sum([U[0], U[1][:4]], list(S), list(V)), ValueError, r"term 1: u, s and v must have shapes.*\(4, 3\)",
    ),
    "rank zero": (lambda: truncate(U, S, V, 0), ValueError, r"rank must be an integer of at least 1, got 0"),
    "a fractional rank": (lambda: truncate(U, S, V, 1.0), ValueError, r"rank must be an integer.*1.0"),
    "NaN to truncate": (lambda: truncate(U * math.nan, S, V, 2), ValueError, r"NaN or an infinity"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_explained(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 250


def test_the_table_is_long_enough():
    assert len(CASES) >= 40


def test_cuda_is_refused_in_words_where_there_are_no_kernels():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if not awpf_ext.build_info()["cuda_kernels"].startswith("not built"):
        pytest.skip("the CUDA kernels are built")
    with pytest.raises(NotImplementedError, match=r"\.cpu\(\)"):
        mmd(X.cuda(), Y.cuda())
    with pytest.raises(ValueError, match="same device"):
        mmd(X, Y.cuda())
