"""Random calls of the raw operations: mostly valid ones of which a few arguments are damaged.

Each is an error or has a result; none may crash, hang or leave what C++ defines. Run as a script,
with a library, a seed and a number of calls, so that a crash ends this process only.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 2**31, 2**62, 2**63 - 2, 2**63 - 1)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHER_DTYPES = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
VALUES = (0.0, -1.0, 1e-40, 1e-300, 1e4, 1e19, 1e38, 1e200, float("nan"), float("inf"))
SHAPES = ((), (0,), (1,), (0, 0), (3, 0), (0, 3), (1, 2, 2), (2, 2, 2), (0, 2**40), (2**62, 0, 1))


class Fuzzer:
    """Calls that follow from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    # ---- valid arguments ----

    def points(self, *shape: int) -> Tensor:
        scale = self.random.choice((1e-3, 1.0, 1.0, 1e3))
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale
        return values.to(self.random.choice(DTYPES))

    def doubles(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def ranges(self, problems: int, groups: int, rows: int) -> Tensor:
        ends = torch.randint(0, rows + 1, (problems, groups, 2), generator=self.generator)
        return ends.sort(-1)[0].contiguous()

    def size(self, most: int) -> int:
        return self.random.choice((0, 1, self.random.randint(0, most)))

    def pooled(self, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """Points, ranges and gamma."""
        rows, problems, kernels = self.size(90), self.size(4), self.random.randint(1, 6)
        z = self.points(rows, self.random.randint(1, 40))
        return z, self.ranges(problems, groups, rows), self.doubles(problems, kernels) + 1e-3

    def rbf_sums(self) -> list[Any]:
        z, rows, gamma = self.pooled(self.size(5))
        centre = self.random.choice((None, self.doubles(rows.shape[0], z.shape[1])))
        columns = self.random.choice((None, self.ranges(rows.shape[0], self.size(5), len(z))))
        return [z, rows, columns, gamma, centre, self.random.random() < 0.5]

    def rbf_sums_backward(self) -> list[Any]:
        z, rows, columns, *others = self.rbf_sums()
        across = rows if columns is None else columns
        return [self.doubles(*rows.shape[:2], across.shape[1]), z, rows, columns, *others]

    def rbf_sums_and_gradient(self) -> list[Any]:
        z, rows, gamma = self.pooled(self.size(5))
        return [z, rows, gamma, self.doubles(*rows.shape[:2], rows.shape[1]), False]

    def rbf_weighted_sums(self) -> list[Any]:
        z, rows, gamma, coefficients, _ = self.rbf_sums_and_gradient()
        return [z, rows, gamma, coefficients, self.doubles(len(rows)), False]

    def rbf_permutation_sums(self) -> list[Any]:
        return [*self.pooled(2), self.size(40), self.random.randint(0, 9), False]

    def median_square_distance(self) -> list[Any]:
        z, rows, _ = self.pooled(self.random.randint(1, 3))
        return [z, rows, self.random.randint(2, 80), self.random.randint(0, 9)]

    def scatter(self) -> list[Any]:
        batch, rows, classes = self.size(3), self.size(70), self.random.randint(1, 9)
        labels = torch.randint(0, classes, (batch, rows), generator=self.generator)
        return [self.points(batch, rows, self.random.randint(1, 40)), labels, classes]

    def low_rank_sum(self) -> list[Any]:
        batch, terms, m, n, rank = (self.size(most) for most in (3, 4, 30, 30, 12))
        u = self.points(batch, terms, m, rank)
        base = self.random.choice((None, self.points(batch, m, n).to(u.dtype)))
        v = self.points(batch, terms, n, rank).to(u.dtype)
        return [u, v, self.doubles(batch, terms, rank), base]

    # ---- damage ----

    def damaged(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.random.choice(self.kinds_of_damage())(value)
        if isinstance(value, bool):
            return self.random.choice((None, 1, "x"))
        return self.random.choice((*INTEGERS, *VALUES, None, torch.ones(2)))

    def kinds_of_damage(self) -> list[Callable[[Tensor], Any]]:
        pick = self.random.choice
        dtypes = (*DTYPES, *OTHER_DTYPES)
        return [
            lambda t: t.to(pick(dtypes)),
            lambda t: t.new_empty(pick(SHAPES)),
            lambda t: t.transpose(0, -1) if t.dim() else t,
            lambda t: t[..., ::2] if t.dim() else t,
            lambda t: t[pick((0, -1))] if t.dim() and len(t) else t[None],
            lambda t: t[None].expand(2, *t.shape),
            lambda t: t[:1].expand(t.shape) if t.dim() and len(t) else t,
            lambda t: t.flip(-1) if t.dim() else t,
            lambda t: t[:-1] if t.dim() else t,
            lambda t: torch.cat([t, t]) if t.dim() else t,
            self.with_a_strange_value,
            self.with_a_strange_value,
            lambda t: t.as_strided((max(t.numel() - 1, 0),), (1,), 1) if t.numel() else t,
            lambda t: t.to("meta"),
            lambda t: t.to_sparse() if t.dtype in DTYPES[2:] else t,
            lambda t: None,
        ]

    def with_a_strange_value(self, tensor: Tensor) -> Tensor:
        if tensor.numel() == 0:
            return tensor
        changed = tensor.clone().reshape(-1)
        where = self.random.randrange(changed.numel())
        if tensor.dtype.is_floating_point:
            changed[where] = torch.tensor(self.random.choice(VALUES)).to(tensor.dtype)
        elif tensor.dtype == torch.int64:
            changed[where] = self.random.choice(INTEGERS)
        return changed.reshape(tensor.shape)

    def call(self) -> tuple[str, list[Any]]:
        name = self.random.choice(OPERATIONS)
        arguments: list[Any] = getattr(self, name)()
        count = self.random.choice((0, 1, 1, 1, 2, 3))
        for where in self.random.sample(range(len(arguments)), count):
            arguments[where] = self.damaged(arguments[where])
        return name, arguments


OPERATIONS = (
    "rbf_sums",
    "rbf_sums_backward",
    "rbf_sums_and_gradient",
    "rbf_weighted_sums",
    "rbf_permutation_sums",
    "median_square_distance",
    "scatter",
    "low_rank_sum",
)


def described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    strides = tuple(value.stride()) if value.layout == torch.strided else value.layout
    return f"{value.dtype}{tuple(value.shape)}/{strides}@{value.device}"


def run(seed: int, count: int, report: Callable[[str], object]) -> Counter[str]:
    """Make the calls, announcing each; how many of each operation had a result, and were errors."""
    warnings.simplefilter("ignore")  # of torch, about sparse tensors
    fuzzer, outcomes = Fuzzer(seed), Counter[str]()
    for index in range(count):
        name, arguments = fuzzer.call()
        report(f"{seed}:{index} {name}({', '.join(map(described, arguments))})")
        try:
            getattr(torch.ops.awpf, name)(*arguments)
            outcomes[f"{name} has a result"] += 1
        except Exception:
            outcomes[f"{name} is an error"] += 1
    return outcomes


if __name__ == "__main__":
    path, first, calls = sys.argv[1:]
    torch.set_num_threads(2)
    torch.ops.load_library(path)
    for text, number in sorted(run(int(first), int(calls), lambda line: print(line)).items()):
        print(number, text)
