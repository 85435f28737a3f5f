"""The processes that torchrun starts for one job: the package's wrapper of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from awpf_ext.errors import UserError

TIMEOUT = timedelta(days=7)  # a process may wait for another one that encodes images for hours


@dataclass(frozen=True)
class World:
    """All processes of the job, as one of them sees it: usually there is only one.

    Every process has a share of the work; rank 0 is the main process, which writes files and
    prints. Every process must call the collective methods below, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.broadcast(True)

    def broadcast(self, value: bool) -> bool:
        """The main process's value; the values of the other processes are ignored."""
        if self.size == 1:
            return value
        word = torch.tensor([int(value) if self.is_main else 0])
        dist.all_reduce(word)
        return bool(word)

    def share(self, count: int) -> range:
        """This process's part of range(count); the lengths of the parts differ by at most one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_gather(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process passes those of its share."""
        if self.size == 1:
            return own
        shares = [len(World(rank, self.size).share(count)) for rank in range(self.size)]
        return self._padded_all_gather(own, shares)

    def all_gather_ragged(self, own: Tensor) -> tuple[Tensor, range]:
        """The rows of all processes in the order of their ranks, however many rows each has, and
        the range in which this process's rows are.
        """
        if self.size == 1:
            return own, range(len(own))
        counts = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(own)]))
        sizes = [int(count) for count in counts]
        start = sum(sizes[: self.rank])
        return self._padded_all_gather(own, sizes), range(start, start + len(own))

    def _padded_all_gather(self, own: Tensor, sizes: list[int]) -> Tensor:
        padded = own.new_zeros((max(sizes), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


SINGLE_PROCESS = World()


@contextmanager
def init_distributed() -> Iterator[World]:
    """The world that torchrun's environment variables describe; without torchrun, one process.

    Raises UserError if the block fails because another process of the world is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group(_backend(), timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), size)
    except RuntimeError as error:
        if not _is_peer_failure(error):
            raise
        raise UserError(
            "another process of this torchrun ended early; what is finished is kept, and the "
            "same command goes on"
        ) from error
    finally:
        dist.destroy_process_group()


def _is_peer_failure(error: RuntimeError) -> bool:
    """Whether a process waited for one that does not answer; gloo raises a plain RuntimeError."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def local_world_size() -> int:
    """The number of processes of the world that run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _backend() -> str:
    """gloo, and nccl for CUDA tensors if each process on a machine has a GPU of its own."""
    if not dist.is_nccl_available() or torch.cuda.device_count() < local_world_size():
        return "gloo"
    torch.cuda.set_device(local_gpu())
    return "cpu:gloo,cuda:nccl"


def check_single_process(command: str) -> None:
    """Raise UserError under torchrun, for commands that run in one process only."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{command} works in one process; under torchrun share the encoding with "
            "`awpf features`, or a single run with `awpf run`, then start it without torchrun"
        )


def local_gpu() -> int:
    """The index of this process's GPU among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)
