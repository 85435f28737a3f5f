"""Bad calls of mmd_matrix and mmd_test, as in bad_calls_of_mmd.py."""

from __future__ import annotations

import torch
from bad_calls_of_mmd import X, Y

from awpf_ext import mmd_matrix, mmd_test

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])

CASES = {
    # groups
    "groups missing": (
        lambda: mmd_matrix(X, LABELS[:5]),
        ValueError,
        r"groups must have shape \(6,\).*got \(5,\)",
    ),
    "fractional groups": (
        lambda: mmd_matrix(X, LABELS.float()),
        TypeError,
        r"groups must have an integer dtype, got torch.float32",
    ),
    "boolean groups": (
        lambda: mmd_matrix(X, LABELS > 0),
        TypeError,
        r"groups must have an integer dtype, got torch.bool",
    ),
    "groups in a list": (
        lambda: mmd_matrix(X, LABELS.tolist()),
        TypeError,
        r"groups must be .*Tensor.*got list",
    ),
    "negative groups": (
        lambda: mmd_matrix(X, LABELS - 1),
        ValueError,
        r"groups must be between 0 and 1, got -1 to 1",
    ),
    "groups above their number": (
        lambda: mmd_matrix(X, LABELS, num_groups=2),
        ValueError,
        r"groups must be between 0 and 1, got 0 to 2",
    ),
    "an empty group": (
        lambda: mmd_matrix(X, LABELS, num_groups=4),
        ValueError,
        r"group 3 has 0 rows",
    ),
    "more groups than rows": (
        lambda: mmd_matrix(X, LABELS, num_groups=10**9),
        ValueError,
        r"num_groups must be at most 6, since each needs a row of x, got 1000000000",
    ),
    "the label of a group beyond the rows": (
        lambda: mmd_matrix(X, LABELS * 10**9),
        ValueError,
        r"groups must be integers from 0 to G - 1 .* got 2000000000 among 6 rows",
    ),
    "the largest label of a group": (
        lambda: mmd_matrix(X, LABELS + (2**63 - 3)),
        ValueError,
        r"groups must be integers .* got 9223372036854775807 among 6 rows",
    ),
    "the number of groups in words": (
        lambda: mmd_matrix(X, LABELS, num_groups="3"),
        TypeError,
        r"num_groups must be an integer, got '3'",
    ),
    "a group of one, unbiased": (
        lambda: mmd_matrix(X, torch.tensor([0, 0, 1, 2, 2, 2]), estimator="unbiased"),
        ValueError,
        r"group 1 has 1 row.*unbiased",
    ),
    "no groups": (
        lambda: mmd_matrix(X, LABELS, num_groups=0),
        ValueError,
        r"num_groups must be at least 1, got 0",
    ),
    "a batch for the matrix": (
        lambda: mmd_matrix(X[None], LABELS),
        ValueError,
        r"x must have shape \(n, d\), got \(1, 6, 3\)",
    ),
    # the permutation test
    "no permutations": (
        lambda: mmd_test(X, Y, permutations=0),
        ValueError,
        r"permutations must be at least 1, got 0",
    ),
    "half a permutation": (
        lambda: mmd_test(X, Y, permutations=1.5),
        TypeError,
        r"permutations must be an integer.*1.5",
    ),
    "too many permutations": (
        lambda: mmd_test(X, Y, permutations=10**9),
        ValueError,
        r"permutations must be at most 16777216, got 1000000000",
    ),
    "a negative seed": (
        lambda: mmd_test(X, Y, seed=-1),
        ValueError,
        r"seed must be an integer.*got -1",
    ),
    "a seed beyond 63 bits": (
        lambda: mmd_test(X, Y, seed=2**63),
        ValueError,
        r"seed must be an integer",
    ),
    "a sample of one, by default": (lambda: mmd_test(X, Y[:1]), ValueError, r"unbiased.*two rows"),
}
