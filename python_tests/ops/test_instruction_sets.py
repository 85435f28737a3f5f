"""The core of the operations under every instruction set this machine has, each in a process of its own."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import awpf_ext

SETS = ("baseline", "avx2", "avx512")

# Compact, because each set runs all of it: values and gradients around every tile, all element types, all operations.
SCRIPT = """
import json, sys, torch, awpf_ext, references
torch.manual_seed(0)
worst = {}

def note(name, found, expected, tolerance):
    scale = float(expected.abs().max()) or 1.0
    ratio = float((found.double() - expected.double()).abs().max()) / scale / tolerance
    worst[name] = max(worst.get(name, 0.0), ratio)

TYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
for dtype, tolerance in TYPES.items():
    kind = str(dtype).split(".")[1]
    for n, m, d in ((1, 2, 1), (13, 15, 7), (33, 31, 17), (113, 127, 33), (290, 257, 65), (449, 230, 321)):
        z = (torch.randn(n + m, d) * 2 + 5).to(dtype)
        rows = torch.tensor([[[0, n], [n, n + m]]])
        gamma = torch.tensor([[0.25, 0.5, 1.0, 3.0]], dtype=torch.float64) / (8 * d)
        exact = references.block_sums(z, rows, None, gamma)
        note(f"sums {kind}", torch.ops.awpf.rbf_sums(z, rows, None, gamma, None), exact, tolerance / 50)
        columns = rows[:, 1:].contiguous()
        other = torch.ops.awpf.rbf_sums(z, rows[:, :1].contiguous(), columns, gamma, None)
        note(f"rectangles {kind}", other, exact[:, :1, 1:], tolerance / 50)
        split = torch.ops.awpf.rbf_permutation_sums(z, rows, gamma, 5, 0)[0, 0]
        note(f"permutations {kind}", split, exact[0].flatten()[[0, 1, 3]], tolerance)
        c = torch.tensor([[[1.0, -2.0], [-2.0, 1.5]]], dtype=torch.float64)
        wanted = references.block_gradient(z, [n, m], gamma[0].tolist(), c[0])
        _, gradient = torch.ops.awpf.rbf_sums_and_gradient(z, rows, gamma, c)
        note(f"gradient {kind}", gradient, wanted, 2 * tolerance)
        if d > 1:
            median = awpf_ext.median_bandwidth(z)
            note(f"median {kind}", median, references.median_distance(z), 1e-7)
    for n, d, classes in ((5, 3, 2), (300, 33, 7), (700, 129, 5)):
        x, labels = (torch.randn(n, d) + 3).to(dtype), torch.randint(0, classes, (n,))
        for found, expected in zip(awpf_ext.scatter(x, labels, classes), references.scatter(x, labels, classes)):
            note(f"scatter {kind}", found, expected, tolerance)
    for terms, m, n, r in ((1, 1, 1, 1), (3, 33, 47, 5), (2, 230, 260, 170)):
        u, v = torch.randn(terms, m, r).to(dtype), torch.randn(terms, n, r).to(dtype)
        s, base = torch.rand(terms, r).to(dtype), torch.randn(m, n).to(dtype)
        expected = references.low_rank_sum(list(u), list(s), list(v), [1.0] * terms, base)
        rounding = {"bfloat16": 4e-3, "float16": 5e-4}.get(kind, tolerance)
        note(f"low rank {kind}", awpf_ext.low_rank_sum(u, s, v, base=base), expected, 1.01 * rounding)

members = torch.ops.awpf.rbf_permutation_sums(
    torch.arange(40.0).double().unsqueeze(1), torch.tensor([[[0, 17], [17, 40]]]),
    torch.full((1, 1), 0.01, dtype=torch.float64), 30, 3)
torch.set_num_threads(1)
x, y = torch.randn(900, 40), torch.randn(800, 40)
alone = awpf_ext.mmd(x, y)
torch.set_num_threads(3)
same = bool(torch.equal(alone, awpf_ext.mmd(x, y)))
print(json.dumps({"set": awpf_ext.build_info()["instruction_set"], "worst": worst, "same": same,
                  "splits": members[0, :, 0].tolist()}))
"""


@functools.cache
def outcome(name: str) -> dict:
    info = awpf_ext.build_info()
    if name not in info["instruction_sets_built"]:
        pytest.skip(f"{name} is not built on this platform")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "AWPF_CPU_ISA": name, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "does not have that instruction set" in done.stderr:
        pytest.skip(f"this machine does not have {name}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SETS)
def test_the_operations_under(name):
    found = outcome(name)
    assert found["set"] == name
    assert {case: ratio for case, ratio in found["worst"].items() if not ratio <= 1} == {}
    assert len(found["worst"]) == 4 * 7
    assert found["same"]


def test_the_splits_of_a_seed_are_the_same_under_all():
    results = []
    for name in SETS:
        try:
            results.append(outcome(name)["splits"])
        except pytest.skip.Exception:
            continue
    assert results
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-12)


def test_the_best_one_is_taken():
    """Unless the switch says otherwise."""
    if "AWPF_CPU_ISA" in os.environ:
        assert awpf_ext.build_info()["instruction_set"] == os.environ["AWPF_CPU_ISA"]
        return
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "avx2" not in awpf_ext.build_info()["instruction_sets_built"]:
        pytest.skip("reads the flags of an x86 processor from /proc/cpuinfo")
    has = set(flags.read_text().split())
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= has:
        best = "avx512"
    else:
        best = "avx2" if {"avx2", "fma"} <= has else "baseline"
    assert awpf_ext.build_info()["instruction_set"] == best
