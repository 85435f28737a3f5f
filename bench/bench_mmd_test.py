"""MMD permutation test.

All contenders use the same five kernels. The gather loop permutes rows and columns of the kernel
matrix for every split, as alibi-detect and most other libraries do. The matrix form multiplies the
kernel matrix once with the 0-1 membership vectors of all splits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import eager
import torch
from comparison import OURS, Contender, Error, Outcome, Work
from goals import by_processor, faster, within_bound
from torch import Tensor

import awpf_ext

D = 512
LOOPED = 20
"""Number of splits that the loop forms run; their time is scaled to all splits."""


def block_means(kernel: Tensor, n: int) -> Tensor:
    """Unbiased squared MMD from a pooled kernel matrix whose first n rows are x."""
    m = kernel.shape[0] - n
    xx = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    yy = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return xx + yy - 2 * kernel[:n, n:].mean()


def gather_loop(z: Tensor, n: int, gammas: list[float], permutations: int) -> tuple[Tensor, Tensor]:
    """Statistic and null: the kernel matrix once, two gathers per split."""
    kernel = eager.gram(z, z, gammas)
    null = []
    for _ in range(permutations):
        order = torch.randperm(z.shape[0])
        null.append(block_means(kernel[order][:, order], n))
    return block_means(kernel, n), torch.stack(null)


def matrix_form(z: Tensor, n: int, gammas: list[float], permutations: int) -> tuple[Tensor, Tensor]:
    """Statistic and null: one product of the kernel matrix with all membership vectors."""
    total, m = z.shape[0], z.shape[0] - n
    kernel = eager.gram(z, z, gammas)
    order = torch.rand(permutations, total).argsort(1)
    members = torch.cat([torch.arange(total).unsqueeze(0), order]).lt(n).to(z.dtype).mT.contiguous()
    product = kernel @ members
    xx = (members * product).sum(0)
    touching = product.sum(0)
    yy = kernel.sum() - 2 * touching + xx
    values = (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * (touching - xx) / (n * m)
    return values[0], values[1:]


def permutation_test(n: int, permutations: int) -> Work:
    """A test between two samples of n points."""
    x, y = eager.two_samples(n, D)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    z = torch.cat([x, y])
    kernel = eager.gram(z, z, gammas)
    products = torch.empty_like(kernel)
    members = torch.rand(2 * n, permutations + 1).round()
    rows = torch.tensor([[[0, n], [n, 2 * n]]])
    exponents = torch.tensor([gammas], dtype=torch.float64)
    compiled = torch.compile(matrix_form, dynamic=False, fullgraph=True)

    def recompute_loop() -> list[Tensor]:
        null = []
        for _ in range(LOOPED // 4):
            order = torch.randperm(2 * n)
            null.append(eager.mmd(z[order[:n]], z[order[n:]], gammas))
        return null

    @cache
    def reference() -> tuple[float, float]:
        kernel64 = eager.gram(z.double(), z.double(), gammas)
        value = float(block_means(kernel64, n))
        return value, 1e-5 * abs(value) + 1e-9 * float(
            kernel64[:n, :n].mean() + kernel64[n:, n:].mean()
        )

    def error(result: tuple[Tensor, ...]) -> Error:
        value, bound = reference()
        difference = abs(float(result[0]) - value)
        return Error(difference, difference / bound)

    contenders = {
        OURS: Contender(
            lambda: awpf_ext.mmd_test(
                x, y, permutations=permutations, bandwidth=sigma, scales=eager.SCALES
            )
        ),
        "sums of one split": Contender(
            lambda: torch.ops.awpf.rbf_permutation_sums(z, rows, exponents, 0, 0, False),
            stage=True,
            note="no permutations",
        ),
        "gather loop": Contender(
            lambda: gather_loop(z, n, gammas, LOOPED),
            scale=permutations / LOOPED,
            note=f"{LOOPED} of {permutations} permutations, scaled",
        ),
        "recomputing loop": Contender(
            recompute_loop,
            scale=permutations / (LOOPED // 4),
            note=f"{LOOPED // 4} of {permutations} permutations, scaled",
            checked=False,
        ),
        "eager, matrix form": Contender(lambda: matrix_form(z, n, gammas, permutations)),
        "torch.compile, matrix form": Contender(
            lambda: compiled(z, n, gammas, permutations), compiles=True
        ),
    }
    floor = Contender(
        lambda: (torch.mm(z, z.mT, out=products), kernel @ members),
        scale=0.5,
        note="z'z and K S, both by half",
    )
    name = f"mmd_test N={2 * n}, d={D}, {permutations} permutations; error of the statistic"
    return Work(name, contenders, floor, error)


def test_mmd_test(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(permutation_test, 1000, 500),
        by_processor(faster("gather loop", 130), amx=faster("gather loop", 200)),
        within_bound(),
    )
