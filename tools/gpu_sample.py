"""Runs every CUDA kernel once on small and odd sizes, for compute-sanitizer.

    compute-sanitizer --tool memcheck python tools/gpu_sample.py [PART...]

No size is a multiple of a tile, slab or piece, and some groups and classes are empty. --list prints
the names of the parts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import awpf_ext

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def points(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x (2, 150, 67), y (2, 43, 67), and labels (150,) of eight classes; odd classes are empty."""
    torch.manual_seed(0)
    x, y = (torch.randn(2, n, 67, device="cuda", dtype=dtype) for n in (150, 43))
    return x, y, torch.randint(0, 4, (150,), device="cuda") * 2


def small_mmd(dtype: torch.dtype) -> None:
    x, y, _ = points(dtype)
    awpf_ext.mmd(x, y, bandwidth=3.0, estimator="unbiased")
    ends = torch.tensor([0, 7, 150], device="cuda"), torch.tensor([0, 42, 43], device="cuda")
    awpf_ext.mmd(x[0], y[0], x_offsets=ends[0], y_offsets=ends[1], bandwidth=3.0)
    many = torch.randn(2, 3, 300, 67, device="cuda", dtype=dtype)  # enough for split fp16 products
    awpf_ext.mmd(many[0], many[1], bandwidth=20.0, scales=SCALES)


def median(dtype: torch.dtype) -> None:
    x, y, _ = points(dtype)
    awpf_ext.mmd(x, y, scales=SCALES)


def gradient(dtype: torch.dtype) -> None:
    x, y, _ = points(dtype)
    awpf_ext.mmd(x.requires_grad_(), y, bandwidth=9.0, scales=SCALES).sum().backward()
    many = torch.randn(1100, 67, device="cuda", dtype=dtype, requires_grad=True)
    awpf_ext.mmd(many[:600], many[600:], bandwidth=20.0).backward()


def large_mmd(dtype: torch.dtype) -> None:
    many = torch.randn(1100, 67, device="cuda", dtype=dtype)
    awpf_ext.mmd(many[:600], many[600:], bandwidth=20.0, scales=SCALES)


def matrix(dtype: torch.dtype) -> None:
    x, _, labels = points(dtype)
    awpf_ext.mmd_matrix(x[0], labels, num_groups=8, bandwidth=5.0)
    many = torch.randn(700, 67, device="cuda", dtype=dtype)
    awpf_ext.mmd_matrix(many, torch.arange(700, device="cuda") % 5, num_groups=5, bandwidth=20.0)


def permutations(dtype: torch.dtype) -> None:
    x, y, _ = points(dtype)
    awpf_ext.mmd_test(x[0], y[0], permutations=33)


def scatter(dtype: torch.dtype) -> None:
    x, _, labels = points(dtype)
    odd = labels.clone()
    odd[::10] = 2**40
    awpf_ext.scatter(x[0], odd, 8)
    awpf_ext.scatter(1e6 * labels[:, None].to(dtype) + x[0], labels, 8)  # needs float64


def low_rank(dtype: torch.dtype) -> None:
    u, v = (torch.randn(2, 3, n, 11, device="cuda", dtype=dtype) for n in (130, 45))
    awpf_ext.low_rank_sum(u, None, v, base=torch.zeros(2, 130, 45, device="cuda", dtype=dtype))


def in_a_graph(dtype: torch.dtype) -> None:
    """A call captured in a CUDA graph on its own stream, after a warm-up call on that stream."""
    x, y, _ = points(dtype)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = awpf_ext.mmd(x, y, bandwidth=3.0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = awpf_ext.mmd(x, y, bandwidth=3.0)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, expected)


PARTS: dict[str, Callable[[torch.dtype], None]] = {
    part.__name__: part
    for part in (
        *(small_mmd, large_mmd, median, gradient, matrix, permutations, scatter, low_rank),
        in_a_graph,
    )
}


def main(names: list[str]) -> None:
    if names == ["--list"]:
        print(*PARTS)
        return
    for name in names or PARTS:
        for element in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            PARTS[name](element)
            torch.cuda.synchronize()
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
