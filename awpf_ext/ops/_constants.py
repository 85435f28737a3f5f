"""Small tensors that depend on sizes and numbers only: made once for each device and stream.

On a GPU, a call that takes a few microseconds would otherwise spend most of its time launching
them. They are filled on the device and never copied to it: a copy would wait for the device, and
cannot be captured in a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from awpf_ext.ops._arguments import is_captured, is_traced
from awpf_ext.ops._torch_private import dispatch_mode_active

T = TypeVar("T")
CACHE_SIZE = 128


def cached(make: Callable[..., T]) -> Callable[..., T]:
    """Cache the results of `make(*key, device)`, which must not be modified.

    A result belongs to the stream it was made on, because another stream might read it too early.
    Results made while tracing, under a dispatch mode of torch or in a capture are not cached.
    """

    @functools.lru_cache(maxsize=CACHE_SIZE)
    def lookup(stream: int, device: torch.device, *key: Hashable) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return make(*key, device)

    @functools.wraps(make)
    def get(*arguments: Hashable) -> T:
        *key, device = arguments
        assert isinstance(device, torch.device)
        if is_traced() or is_captured(device) or dispatch_mode_active():
            return make(*arguments)
        on_gpu = device.type == "cuda"
        stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
        return lookup(stream, device, *key)

    return get


def float64_vector(numbers: Sequence[float], device: torch.device) -> Tensor:
    """The numbers as a float64 vector."""
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=torch.float64)
    values = [torch.full((), number, dtype=torch.float64, device=device) for number in numbers]
    return torch.stack(values)


@cached
def constant(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """`float64_vector`, cached."""
    return float64_vector(numbers, device)


@cached
def repeated_constant(numbers: tuple[float, ...], times: int, device: torch.device) -> Tensor:
    """The vector repeated in `times` rows, contiguous."""
    return float64_vector(numbers, device).expand(times, -1).contiguous()


@cached
def batch_ranges(problems: int, n: int, m: int, device: torch.device) -> Tensor:
    """(problems, 2, 2): ranges of rows if all samples of n rows come first, then those of m."""
    first = torch.arange(problems + 1, device=device) * n
    second = torch.arange(problems + 1, device=device) * m + problems * n
    ends = torch.stack([first[:-1], first[1:], second[:-1], second[1:]], dim=-1)
    return ends.reshape(problems, 2, 2)


@cached
def single_ranges(problems: int, n: int, device: torch.device) -> Tensor:
    """(problems, 1, 2): ranges of samples of n rows, one after the other."""
    ends = torch.arange(problems + 1, device=device) * n
    return torch.stack([ends[:-1], ends[1:]], dim=-1).unsqueeze(1)
