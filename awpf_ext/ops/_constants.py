"""Small tensors that follow from sizes and numbers alone: made once for a device and stream.

On a GPU a call of a few microseconds would otherwise spend most of its time launching them. They
are filled on the device, never copied to it: a copy would wait for the device, and cannot be
captured in a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from awpf_ext.ops._arguments import is_captured, is_traced

T = TypeVar("T")
KEPT = 128


def remembered(make: Callable[..., T]) -> Callable[..., T]:
    """`make(*key, device)` with its results kept, which nobody may change.

    A result belongs to the stream it was made on: another stream might read it too early. What is
    made while tracing, under a mode of torch or in a capture is nobody else's.
    """

    @functools.lru_cache(maxsize=KEPT)
    def kept(stream: int, device: torch.device, *key: Hashable) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return make(*key, device)

    @functools.wraps(make)
    def get(*arguments: Hashable) -> T:
        *key, device = arguments
        assert isinstance(device, torch.device)
        if is_traced() or is_captured(device) or torch._C._len_torch_dispatch_stack() > 0:
            return make(*arguments)
        on_gpu = device.type == "cuda"
        stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
        return kept(stream, device, *key)

    return get


def filled(numbers: Sequence[float], device: torch.device) -> Tensor:
    """The numbers as a float64 vector."""
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=torch.float64)
    values = [torch.full((), number, dtype=torch.float64, device=device) for number in numbers]
    return torch.stack(values)


@remembered
def numbers_on(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """`filled`, kept."""
    return filled(numbers, device)


@remembered
def repeated_on(numbers: tuple[float, ...], times: int, device: torch.device) -> Tensor:
    """(times, numbers), contiguous."""
    return filled(numbers, device).expand(times, -1).contiguous()


@remembered
def batch_ranges(problems: int, n: int, m: int, device: torch.device) -> Tensor:
    """(problems, 2, 2): ranges of rows where all samples of n rows come first, then those of m."""
    first = torch.arange(problems + 1, device=device) * n
    second = torch.arange(problems + 1, device=device) * m + problems * n
    ends = torch.stack([first[:-1], first[1:], second[:-1], second[1:]], dim=-1)
    return ends.reshape(problems, 2, 2)


@remembered
def single_ranges(problems: int, n: int, device: torch.device) -> Tensor:
    """(problems, 1, 2): ranges of samples of n rows one after the other."""
    ends = torch.arange(problems + 1, device=device) * n
    return torch.stack([ends[:-1], ends[1:]], dim=-1).unsqueeze(1)
