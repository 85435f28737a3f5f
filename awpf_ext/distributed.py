"""The processes that torchrun starts for one job."""

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

PATIENCE = timedelta(days=7)  # one may wait for another that encodes for hours


@dataclass(frozen=True)
class Team:
    """Equal processes, each with a share of the work; the first of them leads. Mostly: one."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        self.told(True)

    def told(self, said: bool) -> bool:
        """What the leader says, once all are here; of the others' words nothing counts."""
        if self.size == 1:
            return said
        word = torch.tensor([int(said) if self.leads else 0])
        dist.all_reduce(word)
        return bool(word)

    def share(self, count: int) -> range:
        """The part of range(count) that is this process's; the parts differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gathered(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process brings those of its share."""
        if self.size == 1:
            return own
        shares = [len(Team(rank, self.size).share(count)) for rank in range(self.size)]
        return self._exchanged(own, shares)

    def joined(self, own: Tensor) -> tuple[Tensor, range]:
        """The rows of all processes one after another, however many each has, and where in them
        this process's lie.
        """
        if self.size == 1:
            return own, range(len(own))
        counts = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(own)]))
        sizes = [int(count) for count in counts]
        start = sum(sizes[: self.rank])
        return self._exchanged(own, sizes), range(start, start + len(own))

    def _exchanged(self, own: Tensor, sizes: list[int]) -> Tensor:
        padded = own.new_zeros((max(sizes), *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


ALONE = Team()


@contextmanager
def assembled() -> Iterator[Team]:
    """This process's team, as torchrun's environment tells; alone without torchrun.

    UserError where the block fails because another of the team is gone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group(_backend(), timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), size)
    except RuntimeError as error:
        if not _by_another(error):
            raise
        raise UserError(
            "another process of this torchrun ended early; what is finished is kept, and the "
            "same command goes on"
        ) from error
    finally:
        dist.destroy_process_group()


def _by_another(error: RuntimeError) -> bool:
    """Whether it comes from waiting for a process that does not answer; gloo's has no type."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def processes_here() -> int:
    """How many processes of the team share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def _backend() -> str:
    """gloo, and nccl for tensors on GPUs where each process of a machine has its own."""
    if not dist.is_nccl_available() or torch.cuda.device_count() < processes_here():
        return "gloo"
    torch.cuda.set_device(local_gpu())
    return "cpu:gloo,cuda:nccl"


def check_alone(command: str) -> None:
    """UserError under torchrun, for what one process does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{command} works in one process; under torchrun share the encoding with "
            "`awpf features`, or a single run with `awpf run`, then start it without torchrun"
        )


def local_gpu() -> int:
    """The GPU of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)
