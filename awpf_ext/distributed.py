"""Processes that work together: the package's wrapper of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from awpf_ext.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

TIMEOUT = timedelta(days=7)  # a process may wait for another one that encodes images for hours


@dataclass(frozen=True)
class World:
    """The processes of a job, or of a process group, as one of them sees them: usually only one.

    Every process has a share of the work; rank 0 is the main process, which writes files and
    prints. The methods that exchange values are collective: every process must call them, in the
    same order. None of them carries gradients.
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None  # None: the default group, of all processes

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The device of tensors passed to collectives: the GPU if the group has no CPU backend."""
        if self.size > 1 and dist.get_backend(self.group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.broadcast(True)

    def broadcast(self, value: bool) -> bool:
        """The main process's value; the values of the other processes are ignored."""
        if self.size == 1:
            return value
        word = torch.tensor([int(value) if self.is_main else 0], device=self.device)
        dist.all_reduce(word, group=self.group)
        return bool(word)

    def share(self, count: int) -> range:
        """This process's part of range(count); the lengths of the parts differ by at most one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over all processes, with the same bits everywhere."""
        total = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(total, group=self.group)
        return total

    def all_gather(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process passes those of its share."""
        if self.size == 1:
            return own
        counts = [len(World(rank, self.size).share(count)) for rank in range(self.size)]
        return self._padded_all_gather(own, counts)

    def all_gather_ragged(self, own: Tensor) -> tuple[Tensor, range]:
        """The rows of all processes in the order of their ranks, however many rows each has, and
        the range in which this process's rows are.
        """
        if self.size == 1:
            return own, range(len(own))
        sizes = self.all_gather_stacked(torch.tensor(len(own), device=self.device)).tolist()
        start = sum(sizes[: self.rank])
        return self._padded_all_gather(own, sizes), range(start, start + len(own))

    def all_gather_stacked(self, value: Tensor) -> Tensor:
        """The values of all processes, equal in shape, in a new first dimension."""
        return torch.stack(self._all_gather(value.detach()))

    def ring_exchange(self, value: Tensor, steps: int, rows: Sequence[int]) -> Tensor:
        """Send `value` to the rank `steps` ahead and return what the rank `steps` behind sends.

        rows: numbers of rows to receive and to send; if one is 0, that transfer is skipped.
        """
        arriving, leaving = rows
        received = value.new_empty(arriving, *value.shape[1:])
        transfers = []
        if leaving:
            transfers.append(self._transfer(dist.isend, value.contiguous(), steps))
        if arriving:
            transfers.append(self._transfer(dist.irecv, received, -steps))
        for request in dist.batch_isend_irecv(transfers) if transfers else []:
            request.wait()
        return received

    def _transfer(self, operation: Any, value: Tensor, steps: int) -> dist.P2POp:
        peer = (self.rank + steps) % self.size
        if self.group is not None:
            peer = dist.get_global_rank(self.group, peer)
        return dist.P2POp(operation, value, peer, group=self.group)

    def _padded_all_gather(self, own: Tensor, sizes: list[int]) -> Tensor:
        padded = own.new_zeros((max(sizes), *own.shape[1:]))
        padded[: len(own)] = own
        parts = self._all_gather(padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def _all_gather(self, value: Tensor) -> list[Tensor]:
        if self.size == 1:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous(), group=self.group)
        return parts


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
            "another process of this torchrun ended early; finished work is kept, run the same "
            "command again to continue"
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
            f"{command} does not run under torchrun; encode with `torchrun ... awpf features` "
            "first (or train one run with `torchrun ... awpf run`), then start it in one process"
        )


def local_gpu() -> int:
    """The index of this process's GPU among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)
