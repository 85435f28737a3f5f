"""MMD.

Five kernels, float32 unless stated otherwise, d = 512, and the same sigma for all contenders. The
rows have length one, as features of an encoder, and sigma^2 is 0.25, 0.5, 1, 2 and 4; other points
have unit variance, and sigma is about their median distance. The error is shown as a fraction of
the bound 1e-5 MMD^2 + 1e-9 (mean Kxx + mean Kyy).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, partial

import eager
import memory
import pytest
import torch
from comparison import OURS, Contender, Error, Outcome, Row, Verdict, Work
from goals import (
    MEDIAN,
    by_processor,
    cheap_median,
    either,
    faster,
    near_floor,
    within,
    within_bound,
)
from torch import Tensor

import awpf_ext

D = 512


def error_of_mmd(x: Tensor, y: Tensor, gammas: list[float]) -> Callable[[Tensor], Error]:
    """The largest error of the MMDs of x (..., n, d) and y (..., m, d), absolute and per bound."""

    @cache
    def reference() -> tuple[Tensor, Tensor]:
        pairs = list(zip(x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]), strict=True))
        within = [
            eager.mean_kernel64(a, a, gammas) + eager.mean_kernel64(b, b, gammas) for a, b in pairs
        ]
        between = [eager.mean_kernel64(a, b, gammas) for a, b in pairs]
        return torch.stack(within), torch.stack(between)

    def error(result: Tensor) -> Error:
        within, between = reference()
        value = within - 2 * between
        difference = (result.reshape(-1).double() - value).abs()
        bound = 1e-5 * value.abs() + 1e-9 * within
        return Error(float(difference.max()), float((difference / bound).max()))

    return error


def blocks_of_products(x: Tensor, y: Tensor) -> Callable[[], object]:
    """The three blocks of inner products into allocated memory; of xx and yy half is enough."""
    out = cache(lambda: x @ y.mT)

    def run() -> None:
        for a, b in ((x, x), (x, y), (y, y)):
            torch.matmul(a, b.mT, out=out())

    return run


def one_pair(n: int, dtype: torch.dtype = torch.float32) -> Work:
    """One MMD between two samples of n rows of length one."""
    x, y = (part.to(dtype) for part in eager.two_samples_of_length_one(n, D))
    gammas = eager.exponents_of(eager.SIGMAS)
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)
    contenders = {
        OURS: Contender(lambda: awpf_ext.mmd(x, y, bandwidth=eager.SIGMAS)),
        MEDIAN: Contender(
            lambda: awpf_ext.mmd(x, y, scales=eager.SCALES),
            stage=True,
            note="instead of a given one",
        ),
        "1 kernel": Contender(lambda: awpf_ext.mmd(x, y, bandwidth=1.0), stage=True),
        "eager": Contender(lambda: eager.mmd(x, y, gammas), once=dtype is torch.bfloat16),
        "torch.compile": Contender(lambda: compiled(x, y, gammas), compiles=True),
    }
    note = "x'x and y'y by half"
    if dtype is not torch.float32:
        contenders["products alone"] = Contender(
            lambda: x @ y.mT,
            scale=2,
            note=f"x'y twice, {str(dtype)[6:]}",
            approximate=True,
            checked=False,
        )
        note += ", float32"
    floor = Contender(blocks_of_products(x.float(), y.float()), scale=2 / 3, note=note)
    name = f"mmd n=m={n}, d={D}, {str(dtype)[6:]}, rows of length one, 5 kernels"
    return Work(name, contenders, floor, error_of_mmd(x, y, gammas))


def unit_variance(n: int) -> Work:
    """One MMD between two samples of n points of unit variance, with more baselines."""
    x, y = eager.two_samples(n, D)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)

    def with_sklearn() -> Tensor:
        from sklearn.metrics.pairwise import rbf_kernel

        a, b = x.numpy(), y.numpy()
        total = 0.0
        for gamma in gammas:
            within = rbf_kernel(a, gamma=gamma).mean() + rbf_kernel(b, gamma=gamma).mean()
            total += within - 2 * rbf_kernel(a, b, gamma=gamma).mean()
        return torch.tensor(total / len(gammas))

    contenders = {
        OURS: Contender(lambda: awpf_ext.mmd(x, y, bandwidth=sigma, scales=eager.SCALES)),
        "eager": Contender(lambda: eager.mmd(x, y, gammas)),
        "eager, cdist": Contender(lambda: eager.cdist_mmd(x, y, gammas)),
        "torch.compile": Contender(lambda: compiled(x, y, gammas), compiles=True),
        "scikit-learn": Contender(with_sklearn, note="rbf_kernel"),
    }
    if importlib.util.find_spec("geomloss") is not None:
        contenders["geomloss"] = Contender(_geomloss(x, y, sigma), note="tensorized")
    floor = Contender(blocks_of_products(x, y), scale=2 / 3, note="x'x and y'y by half")
    name = f"mmd n=m={n}, d={D}, unit variance, 5 kernels"
    return Work(name, contenders, floor, error_of_mmd(x, y, gammas))


def _geomloss(x: Tensor, y: Tensor, sigma: float) -> Callable[[], Tensor]:
    from geomloss import SamplesLoss

    losses = [
        SamplesLoss("gaussian", blur=sigma * scale**0.5, backend="tensorized")
        for scale in eager.SCALES
    ]
    return lambda: torch.stack([2 * loss(x, y) for loss in losses]).mean()


def many_pairs(pairs: int, n: int) -> Work:
    """A batch of MMDs between samples of n rows of length one."""
    x, y = eager.two_samples_of_length_one(pairs, n, D)
    gammas = eager.exponents_of(eager.SIGMAS)
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)

    def loop() -> Tensor:
        return torch.stack([eager.mmd(a, b, gammas) for a, b in zip(x, y, strict=True)])

    all_x, all_y, offsets = x.flatten(0, 1), y.flatten(0, 1), [n * k for k in range(pairs + 1)]

    def ragged() -> Tensor:
        layout = {"x_offsets": offsets, "y_offsets": offsets}
        return awpf_ext.mmd(all_x, all_y, bandwidth=eager.SIGMAS, **layout)

    contenders = {
        OURS: Contender(lambda: awpf_ext.mmd(x, y, bandwidth=eager.SIGMAS)),
        "ragged": Contender(ragged, stage=True, note="the same rows, with offsets"),
        "eager, loop": Contender(loop),
        "torch.compile, batched": Contender(lambda: compiled(x, y, gammas), compiles=True),
    }
    floor = Contender(blocks_of_products(x, y), scale=2 / 3, note="x'x and y'y by half")
    name = f"mmd {pairs} x ({n}, {n}, {D}), rows of length one, 5 kernels"
    return Work(name, contenders, floor, error_of_mmd(x, y, gammas))


def forward_backward(n: int) -> Work:
    """MMD between two samples of n rows of length one, and its gradients."""
    x, y = eager.two_samples_of_length_one(n, D)
    gammas = eager.exponents_of(eager.SIGMAS)
    x.requires_grad_()
    y.requires_grad_()
    z = torch.cat([x, y]).detach()
    kernel_like = cache(lambda: torch.full((2 * n, 2 * n), 0.1))
    halves = cache(lambda: torch.empty(n, 2 * n))
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)

    def gradients(value: Tensor) -> Tensor:
        return torch.cat(torch.autograd.grad(value, (x, y)))

    @cache
    def reference() -> Tensor:
        a, b = (part.detach().double().requires_grad_() for part in (x, y))
        return torch.cat(torch.autograd.grad(eager.mmd(a, b, gammas), (a, b)))

    def error(result: Tensor) -> Error:
        worst = (result.double() - reference()).abs().max()
        return Error(float(worst / reference().abs().max()))

    def forward() -> Tensor:
        with torch.no_grad():
            return awpf_ext.mmd(x, y, bandwidth=eager.SIGMAS)

    contenders = {
        OURS: Contender(lambda: gradients(awpf_ext.mmd(x, y, bandwidth=eager.SIGMAS))),
        "forward alone": Contender(forward, stage=True),
        "eager autograd": Contender(lambda: gradients(eager.mmd(x, y, gammas))),
        "torch.compile": Contender(lambda: gradients(compiled(x, y, gammas)), compiles=True),
    }
    # Inner products of the lower triangle, and the product of all kernel values with the points.
    floor = Contender(
        lambda: (torch.mm(z[:n], z.mT, out=halves()), kernel_like() @ z),
        note="zz', half of its rows for half of it; Kz",
    )
    name = f"mmd forward + backward n=m={n}, d={D}, rows of length one, 5 kernels"
    return Work(f"{name}; error of the gradient, relative", contenders, floor, error)


def class_matrix(classes: int, rows: int, sampled: int) -> Work:
    """MMDs between all pairs of classes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, 1, D, generator=generator) * 0.2
    x = (centres + torch.randn(classes, rows, D, generator=generator)).reshape(-1, D)
    groups = torch.arange(classes).repeat_interleave(rows)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    pairs = classes * (classes - 1) // 2
    every = torch.combinations(torch.arange(classes))
    chosen = every[torch.randperm(len(every), generator=generator)[:sampled]].tolist()
    parts = x.split(rows)
    half = x[: classes * rows // 2]
    panel = cache(lambda: parts[0] @ half.mT)

    def pairwise() -> list[Tensor]:
        return [eager.mmd(parts[g], parts[h], gammas) for g, h in chosen]

    some = error_of_mmd(
        torch.stack([parts[g] for g, _ in chosen[:10]]),
        torch.stack([parts[h] for _, h in chosen[:10]]),
        gammas,
    )
    contenders = {
        OURS: Contender(
            lambda: awpf_ext.mmd_matrix(x, groups, bandwidth=sigma, scales=eager.SCALES)
        ),
        "eager, pairwise": Contender(
            pairwise,
            scale=pairs / sampled,
            note=f"{sampled} of {pairs} pairs, scaled",
            checked=False,
        ),
    }
    # Row panels of the lower triangle have half of all columns on average.
    floor = Contender(
        lambda: torch.mm(parts[0], half.mT, out=panel()),
        scale=classes,
        note=f"1 of {classes} mean row panels, scaled",
    )

    def error(result: Tensor) -> Error:
        return some(torch.stack([result[g, h] for g, h in chosen[:10]]))

    name = f"mmd_matrix {classes} classes x {rows} rows, d={D}, 5 kernels; error of 10 pairs"
    return Work(name, contenders, floor, error)


def test_mmd_large(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(one_pair, 4096),
        by_processor(near_floor(1.0), amx=near_floor(0.5)),
        by_processor(faster("torch.compile", 2), amx=faster("torch.compile", 3)),
        cheap_median(1.3),
        within_bound(),
    )


def test_mmd_large_bf16(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(one_pair, 4096, torch.bfloat16),
        by_processor(near_floor(1.0), amx=faster("torch.compile", 1.3)),
        within_bound(),
    )


def test_mmd(compare: Callable[..., Outcome]) -> None:
    compare(partial(one_pair, 2048), near_floor(1.0), cheap_median(1.3), within_bound())


def test_mmd_small(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(one_pair, 512),
        by_processor(faster("torch.compile", 1.3), amx=faster("torch.compile", 2.5)),
        cheap_median(1.3),
        within_bound(),
    )


def test_mmd_tiny(compare: Callable[..., Outcome]) -> None:
    compare(partial(one_pair, 64), within("torch.compile", 1.5), cheap_median(1.3), within_bound())


def test_mmd_unit_variance(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(unit_variance, 1024), faster("eager", 6), faster("torch.compile", 2), within_bound()
    )


def test_mmd_batch(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(many_pairs, 45, 500),
        by_processor(faster("eager, loop", 2.5), amx=faster("eager, loop", 5)),
        within_bound(),
    )


def test_mmd_batch_tiny(compare: Callable[..., Outcome]) -> None:
    compare(partial(many_pairs, 200, 64), faster("eager, loop", 3), within_bound())


def test_mmd_gradient(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(forward_backward, 2048),
        by_processor(
            either(faster("eager autograd", 5), near_floor(1.15)), amx=faster("eager autograd", 8)
        ),
    )


def test_mmd_gradient_tiny(compare: Callable[..., Outcome]) -> None:
    compare(partial(forward_backward, 64), within("torch.compile", 1.5))


def test_mmd_gradient_memory(record: Callable[[Outcome], Outcome]) -> None:
    if not memory.can_measure():
        pytest.skip("peak memory is read through Linux's /proc")
    work = "mmd forward + backward, memory as n grows (one run each)"
    rows = []
    for name, sizes in ((OURS, (2048, 4096, 8192)), ("eager autograd", (1024, 2048))):
        for n in sizes:
            peak = memory.peak(partial(forward_backward, n), name, warm_up=False)
            role = "ours" if name == OURS else "baseline"
            rows.append(
                Row(work, f"{name}, n=m={n}", peak.seconds, None, peak.extra_bytes, role=role)
            )
    outcome = Outcome(rows)
    small, large = rows[0].extra_bytes or 1, rows[2].extra_bytes or 1
    growth = large / small
    outcome.verdicts.append(
        Verdict(work, "memory linear in n (4x from 2048 to 8192)", f"{growth:.1f}x", growth <= 5)
    )
    record(outcome)


def test_mmd_matrix(compare: Callable[..., Outcome]) -> None:
    compare(
        partial(class_matrix, 100, 500, sampled=100),
        by_processor(near_floor(0.9), amx=near_floor(0.45)),
        within_bound(),
    )
