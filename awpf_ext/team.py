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
        try:
            dist.all_reduce(word)
        except RuntimeError as error:
            raise UserError(
                "another process of this torchrun ended early; what is finished is kept, and the "
                "same command goes on"
            ) from error
        return bool(word)

    def share(self, count: int) -> range:
        """The part of range(count) that is this process's; the parts differ by one at most."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gathered(self, own: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process brings those of its share."""
        if self.size == 1:
            return own
        most = -(-count // self.size)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        shares = [Team(rank, self.size).share(count) for rank in range(self.size)]
        return torch.cat([part[: len(s)] for part, s in zip(parts, shares, strict=True)])


ALONE = Team()


@contextmanager
def assembled() -> Iterator[Team]:
    """This process's team, as torchrun's environment tells; alone without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


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
