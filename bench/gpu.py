"""Compares the CUDA kernels with alternatives, timed with CUDA events.

    python bench/gpu.py FOLDER [--quick] [--only KERNEL]

The results in FOLDER/gpu.md and FOLDER/gpu.json are saved after every item, so an interrupted run
keeps them. Needs torch, awpf_ext with CUDA kernels, and a GPU; nothing else.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import bench_low_rank
import bench_mmd
import bench_mmd_test
import bench_scatter
import eager
import table
import torch
from comparison import OURS, Contender, Outcome, Work
from goals import Goal, faster, near_floor, within_bound
from gpu_measure import at_most, compare
from torch import Tensor

import awpf_ext

LEGEND = """\
time: median of interleaved samples, measured with CUDA events. time / ours: median over
the samples of both; * marks the best baseline. extra memory: peak of torch's allocator in addition
to the inputs. In brackets after an error: the fraction of the error bound. of floor: time of the
floor / this time. The floor is the time of cuBLAS, in the same run, for the matrix products that
cannot be avoided (half of a symmetric product). |- marks a part of our own work."""

DEVICE = "cuda"

Item = tuple[str, Callable[[], Work], Sequence[Goal]]


def samples(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with torch.device("cpu"):
        x, y = eager.two_samples(*shape)
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype)


def captured(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same call as a CUDA graph: its time is without the launch overhead of Python."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def optional(make: Callable[[], Callable[[], object]]) -> Callable[[], object]:
    """Calls `make` at the first call only, so that its failure is a failure of this contender."""
    made: list[Callable[[], object]] = []

    def run() -> object:
        if not made:
            made.append(make())
        return made[0]()

    return run


def triton_mmd(x: Tensor, y: Tensor, gammas: list[float]) -> Callable[[], object]:
    def make() -> Callable[[], object]:
        import triton_mmd as tiles

        return lambda: tiles.mmd(x, y, min(gammas), len(gammas))

    return optional(make)


def products(x: Tensor, y: Tensor) -> Contender:
    z = torch.cat([x, y], -2)
    out = torch.empty(*z.shape[:-1], z.shape[-2], device=DEVICE, dtype=z.dtype)
    return Contender(
        lambda: torch.matmul(z, z.mT, out=out), scale=0.5, note="half of z'z, same type"
    )


def pair(n: int, dtype: torch.dtype, batch: tuple[int, ...] = ()) -> Work:
    x, y = samples(*batch, n, bench_mmd.D, dtype=dtype)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)

    def ours() -> Tensor:
        return awpf_ext.mmd(x, y, bandwidth=sigma, scales=eager.SCALES)

    contenders = {
        OURS: Contender(ours),
        "in a CUDA graph": Contender(optional(lambda: captured(ours)), stage=True),
        "median bandwidth": Contender(
            lambda: awpf_ext.mmd(x, y, scales=eager.SCALES), stage=True, note="instead of given"
        ),
        "eager": Contender(lambda: eager.mmd(x, y, gammas)),
        "torch.compile": Contender(lambda: compiled(x, y, gammas)),
    }
    if not batch:
        contenders["Triton tiles"] = Contender(triton_mmd(x, y, gammas))
    error = bench_mmd.error_of_mmd(x, y, gammas) if n < 10_000 else None
    name = f"mmd {'x '.join(map(str, batch))}{' x ' if batch else ''}{n} x {n} x {bench_mmd.D}"
    return Work(f"{name}, 5 kernels, {dtype}", contenders, products(x, y), error)


def gradient(n: int) -> Work:
    x, y = samples(n, bench_mmd.D, dtype=torch.float32)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    x.requires_grad_()
    compiled = torch.compile(eager.mmd, dynamic=False, fullgraph=True)

    def of(value: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(value(), x)[0]

    contenders = {
        OURS: Contender(
            of(lambda: awpf_ext.mmd(x, y, bandwidth=sigma, scales=eager.SCALES)), checked=False
        ),
        "eager": Contender(of(lambda: eager.mmd(x, y, gammas)), checked=False),
        "torch.compile": Contender(of(lambda: compiled(x, y, gammas)), checked=False),
    }
    return Work(f"mmd forward and backward, {n} x {n}, float32", contenders, None, None)


def permutation_test(n: int, permutations: int) -> Work:
    x, y = samples(n, bench_mmd.D, dtype=torch.float32)
    sigma = eager.usual_sigma(x)
    gammas = eager.exponents(sigma)
    z = torch.cat([x, y])
    few = bench_mmd_test.LOOPED

    def ours() -> object:
        return awpf_ext.mmd_test(
            x, y, permutations=permutations, bandwidth=sigma, scales=eager.SCALES
        )

    contenders = {
        OURS: Contender(ours),
        "gather loop": Contender(
            lambda: bench_mmd_test.gather_loop(z, n, gammas, few), scale=permutations / few
        ),
        "matrix form": Contender(lambda: bench_mmd_test.matrix_form(z, n, gammas, permutations)),
    }
    return Work(f"mmd_test N={2 * n}, {permutations} permutations", contenders, None, None)


def scatter(rows: int, d: int, classes: int) -> Work:
    labels = torch.randint(0, classes, (rows,))
    x = 3 + torch.randn(classes, d)[labels] + 0.5 * torch.randn(rows, d)
    compiled = torch.compile(bench_scatter.indexed, dynamic=False, fullgraph=False)

    def distance(result: tuple[Tensor, ...]) -> object:
        return bench_low_rank.distance(result[0], reference[0])

    reference = (torch.zeros(d, d, dtype=torch.float64),)
    means = bench_scatter.class_means(x.double(), labels, classes)[0] if rows < 10**5 else None
    for part in range(0, rows, 1 << 16):
        mine = slice(part, part + (1 << 16))
        centred = x[mine].double()
        if means is not None:
            centred -= means[labels[mine]]
            reference[0].add_(centred.mT @ centred)
    contenders = {
        OURS: Contender(lambda: awpf_ext.scatter(x, labels, classes)),
        "eager": Contender(lambda: bench_scatter.indexed(x, labels, classes)),
        "torch.compile": Contender(lambda: compiled(x, labels, classes)),
    }
    floor = Contender(lambda: x.mT @ x, scale=0.5, note="half of x'x, float32")
    name = f"scatter {rows} x {d}, {classes} classes, float32"
    return Work(name, contenders, floor, distance if means is not None else None)  # type: ignore[arg-type]


def low_rank(layers: int, terms: int, d: int, rank: int) -> Work:
    with torch.device("cpu"):
        given = bench_low_rank.random_terms(layers, terms, d=d, rank=rank)
    given = bench_low_rank.Terms(*(part.to(DEVICE) for part in given))
    left = given.u.movedim(-3, -2).flatten(-2).contiguous()
    right = given.v.movedim(-3, -2).flatten(-2).mT.contiguous()
    one = [part[:1].double() for part in given]

    def distance(result: Tensor) -> object:
        return bench_low_rank.distance(result[:1], bench_low_rank.stacked(*one))

    contenders = {
        OURS: Contender(lambda: awpf_ext.low_rank_sum(*given)),
        "stacked bmm": Contender(lambda: bench_low_rank.stacked(*given)),
        "einsum": Contender(lambda: bench_low_rank.einsum(*given)),
    }
    floor = Contender(lambda: left @ right, note="bmm of ready factors, float32")
    name = f"low_rank_sum {layers} x ({terms} terms, {d}, r={rank}), float32"
    return Work(name, contenders, floor, distance)  # type: ignore[arg-type]


def items(quick: bool) -> Iterator[Item]:
    n = 1024 if quick else 8192
    bf16, fp32 = torch.bfloat16, torch.float32
    tensor_core_share = near_floor(1 / 0.65)
    yield "MMD", lambda: pair(n, bf16), [tensor_core_share, faster("eager", 12)]
    goals = [at_most(0.95), faster("eager", 12), faster("torch.compile", 6), within_bound()]
    yield "MMD", lambda: pair(n, fp32), goals
    small = [at_most(0.04), faster("eager", 12), faster("torch.compile", 3), within_bound()]
    yield "MMD", lambda: pair(512, fp32), small
    many = [faster("eager", 15), faster("torch.compile", 6), within_bound()]
    yield "MMD", lambda: pair(500, fp32, (4 if quick else 100,)), many
    yield "MMD gradient", lambda: gradient(n), [faster("eager", 10), faster("torch.compile", 5)]
    test = (256, 100) if quick else (2048, 1000)
    yield "MMD test", lambda: permutation_test(*test), [faster("gather loop", 100)]
    middle = (5000, 128, 10) if quick else (50_000, 512, 100)
    yield "Scatter", lambda: scatter(*middle), [faster("eager", 5)]
    if not quick:
        yield "Scatter", lambda: scatter(1_281_167, 768, 1000), [faster("eager", 5)]
    layers = (2, 10, 512, 16) if quick else (96, 10, 4096, 16)
    yield "Low-rank sums", lambda: low_rank(*layers), [faster("stacked bmm", 3)]


def machine() -> str:
    build = awpf_ext.build_info()
    return (
        f"{torch.cuda.get_device_name()}, driver {driver()}, torch {build['torch']}, "
        f"awpf_ext {build['awpf_ext']}, {time.strftime('%Y-%m-%d')}; "
        f"CUDA kernels {build['cuda_kernels']}"
    )


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return output[0] if output else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run")
    parser.add_argument("--only", metavar="KERNEL", help="run one table only, for example MMD")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench/gpu.py needs a GPU", file=sys.stderr)
        return 3
    torch.set_default_device(DEVICE)
    options.folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, list[Outcome]] = {}
    failures: list[str] = []
    for kernel, make, goals in items(options.quick):
        if options.only not in (None, kernel):
            continue
        try:
            outcomes.setdefault(kernel, []).append(compare(make(), goals))
        except Exception as error:
            failures.append(f"{kernel}: {type(error).__name__}: {error}")
            print(failures[-1], file=sys.stderr)
        torch.cuda.empty_cache()
        found = {name: done for name, done in outcomes.items() if done}
        notes = "".join(f"\nfailed: {failure}\n" for failure in failures)
        (options.folder / "gpu.md").write_text(table.as_markdown(found, machine(), LEGEND) + notes)
        (options.folder / "gpu.json").write_text(table.as_json(found, machine()))
    print((options.folder / "gpu.md").read_text())
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
