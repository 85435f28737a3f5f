"""What a type checker says about the scripts of users: right calls pass, mistakes are found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason='needs the extra "dev"')

RIGHT = """
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import awpf_ext

x, y = torch.randn(30, 4), torch.randn(20, 4)
labels = torch.arange(30) % 3
value: Tensor = awpf_ext.mmd(x, y, bandwidth=[0.5, 2], scales=(1, 4), estimator="unbiased")
awpf_ext.mmd(x, y, bandwidth=torch.tensor(2.0), x_offsets=[0, 10, 30], y_offsets=[0, 5, 20])
matrix: Tensor = awpf_ext.mmd_matrix(x, labels, num_groups=3, validate=True)
test = awpf_ext.mmd_test(x, y, permutations=99)
print(f"{test.statistic:.3f} {float(test.p_value):.3f} {test.null.shape}")
sigma: Tensor = awpf_ext.median_bandwidth(x)

found = awpf_ext.scatter(x, labels)
trace = found.within.trace() + found.between.trace()
accumulator = awpf_ext.ScatterAccumulator(3, 4).update(x, labels).update(x.numpy(), labels.numpy())
total: awpf_ext.Scatter = accumulator.result()
j: Tensor = awpf_ext.separability(x, labels, "fisher", shrinkage=0.2)

u, v = torch.randn(2, 5, 1), torch.randn(2, 4, 1)
product: Tensor = awpf_ext.low_rank_sum(u, None, v, weights=[1.0, 0.5])
ragged: Tensor = awpf_ext.low_rank_sum([u[0], u[1]], None, [v[0], v[1]], base=product)
cut: awpf_ext.LowRank = awpf_ext.truncate(u, None, v, 1)
fused: Tensor = awpf_ext.fuse(product, ragged, "stack", weight=0.3, rank=2)
balance = awpf_ext.BalanceFactor(normalisation="bounded")(x, labels, x, labels)
weight: float = balance.weight

a, b = np.zeros((5, 2)), np.ones((6, 2))
array: NDArray[np.float64] = awpf_ext.mmd(a, b)
print(awpf_ext.mmd_test(a, b).null.mean(), awpf_ext.scatter(a, np.zeros(5, int)).within.ravel())

threads: int = awpf_ext.build_info()["threads"]
result = awpf_ext.run(dataset="demo", method="awpf", epochs=1, out=Path("runs/first"), seed=3)
result = awpf_ext.run("settings.yaml", prompt=["a photo of a {}."], awpf={"beta": 1.0})
print(result.average)
model = awpf_ext.load_model("runs/first")
report = awpf_ext.merge(["one", "two"], "merged", method="ties")
best = awpf_ext.choose_merge([Path("one"), "two"], "best", lambda path: float(len(path.name)))
ranked: list[float | None] = [scored.score for scored in best.ranking]
"""

WRONG = """
import torch

import awpf_ext

x = torch.randn(30, 4)
awpf_ext.mmd(x, x, estimator="unbaised")
awpf_ext.mmd(x, x, bandwidth="medain")
awpf_ext.mmd("abc", 3)
awpf_ext.run(epoch=3)
awpf_ext.mdm(x, x)
"""


def errors_in(script: str, folder: Path) -> list[str]:
    """What mypy --strict says about a script, checked against the installed package."""
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder / "cache"),
         "script.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return re.findall(r"^script.py:\d+: error: .*$", done.stdout, re.MULTILINE)


def test_right_calls_are_clean_and_each_mistake_is_found(tmp_path):
    right = RIGHT.count("\n")
    errors = errors_in(RIGHT + WRONG, tmp_path)
    first = right + WRONG[: WRONG.index("awpf_ext.mmd(")].count("\n") + 1
    assert [int(error.split(":")[1]) for error in errors] == list(range(first, first + 5)), errors
    for error, word in zip(errors, ("estimator", "bandwidth", "mmd", "epoch", "mdm"), strict=True):
        assert word in error
