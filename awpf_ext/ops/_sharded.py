"""Samples whose rows lie on several ranks of a process group (``group=``).

Every rank holds its own rows, any number of them, and gets the result of one machine holding all,
to rounding. Rows never meet in one place: panels travel half way around a ring, so that each pair
of ranks meets once and memory stays that of two shards. In the gradient each panel takes along what
it owes its owner, and is sent home at the end.

The gradient is that of the sum of all ranks' losses, as everywhere in torch.distributed:
DistributedDataParallel, which averages, then makes of it the gradient on one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from awpf_ext._library import shuffled_places
from awpf_ext.ops._arguments import FLOATING, is_traced
from awpf_ext.ops._autograd import FirstDerivative, ReverseMode, apply, run
from awpf_ext.ops._rbf import fp16_is_allowed

T = TypeVar("T")
MOST_ROWS = 2**31 - 1


class Ranks:
    """A process group as sharded operations use it; making one is collective."""

    def __init__(self, group: Any) -> None:
        if is_traced():
            raise ValueError("group= is for eager mode: not under torch.compile or torch.func")
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "group= needs torch.distributed: call init_process_group() first, as under torchrun"
            )
        self.group = group
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise ValueError("this process is not a member of group")
        self.count = dist.get_world_size(group)
        on_gpu = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"

    def gathered(self, value: Tensor) -> Tensor:
        """The values of all ranks, (ranks, ...)."""
        parts = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(parts, value.contiguous(), group=self.group)
        return torch.stack(parts)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all ranks, the same everywhere; no gradient."""
        found = value.detach().clone()
        dist.all_reduce(found, group=self.group)
        return found

    def agree(self, check: Callable[[], T], facts: Callable[[T], Sequence[int]]) -> T:
        """`check()` where it succeeds, with equal `facts`, on all ranks; else an error on all."""
        failure: Exception | None = None
        found: T | None = None
        try:
            found = check()
        except (TypeError, ValueError) as error:
            failure = error
        told = [-1] * 3 if found is None else [*facts(found), 0, 0, 0][:3]
        others = self.gathered(torch.tensor(told, device=self.device)).tolist()
        if failure is not None:
            raise failure
        assert found is not None
        for rank, fact in enumerate(others):
            if fact[0] < 0:
                raise ValueError(f"rank {rank} of the group refused its arguments")
            if fact != told:
                raise ValueError(
                    "all ranks must pass the same number of features, dtype and number of groups, "
                    f"got {_told(told)} on rank {self.rank} and {_told(fact)} on rank {rank}"
                )
        return found

    def passed_on(self, value: Tensor, steps: int, rows: Sequence[int]) -> Tensor:
        """`value` to the rank `steps` further on, and that of the rank as far back.

        rows: how many rows arrive and leave; none: nothing travels.
        """
        arriving, leaving = rows
        received = value.new_empty(arriving, *value.shape[1:])
        work = []
        if leaving:
            work.append(self._transfer(dist.isend, value.contiguous(), steps))
        if arriving:
            work.append(self._transfer(dist.irecv, received, -steps))
        for request in dist.batch_isend_irecv(work) if work else []:
            request.wait()
        return received

    def _transfer(self, operation: Any, value: Tensor, steps: int) -> Any:
        peer = (self.rank + steps) % self.count
        return dist.P2POp(
            operation, value, dist.get_global_rank(self.group, peer), group=self.group
        )


class Shard(NamedTuple):
    """This rank's rows, sorted by group of rows, and what all ranks know."""

    z: Tensor
    sizes: Tensor  # (ranks, groups), int64 on the CPU: how many rows each has of each group
    centre: Tensor  # (1, d), float64: the mean of all rows
    ranks: Ranks
    allow_fp16: bool

    def rows(self, rank: int) -> Tensor:
        """(1, groups, 2): the ranges of a rank's groups."""
        ends = self.sizes[rank].cumsum(0)
        return torch.stack([ends - self.sizes[rank], ends], dim=-1).unsqueeze(0).to(self.z.device)

    def count(self, rank: int) -> int:
        return int(self.sizes[rank % self.ranks.count].sum())

    @property
    def group_sizes(self) -> Tensor:
        """(groups,) of all ranks together."""
        return self.sizes.sum(0)


def shard(ranks: Ranks, z: Tensor, sizes: Tensor) -> Shard:
    """Rows sorted by group, with the local size of each group; collective."""
    if z.dtype not in (torch.float32, torch.float64):
        z = z.float()  # gradients add up over panels
    all_sizes = ranks.gathered(sizes.to(ranks.device)).cpu()
    count = int(all_sizes.sum())
    if count > MOST_ROWS:
        raise ValueError(f"at most 2^31 - 1 rows over all ranks, got {count}")
    sums = ranks.gathered(z.detach().double().sum(0))
    finite = sums.isfinite().all(-1).tolist()
    if not all(finite):
        raise ValueError(f"the rows of rank {finite.index(False)} hold NaN or infinity")
    centre = (sums.sum(0) / max(count, 1)).unsqueeze(0)
    return Shard(z.contiguous(), all_sizes, centre, ranks, fp16_is_allowed())


def chosen_rows(found: Shard, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows that the median of one machine looks at, on every rank, and their range."""
    total = int(found.sizes.sum())
    ranks = found.ranks
    starts = (found.group_sizes.cumsum(0) - found.group_sizes)[None] + (
        found.sizes.cumsum(0) - found.sizes
    )  # of each rank's part of each group, on one machine holding all
    own = torch.cat(
        [
            torch.arange(start, start + size)
            for start, size in zip(
                starts[ranks.rank].tolist(), found.sizes[ranks.rank].tolist(), strict=True
            )
        ]
    )
    if total > most:
        own = torch.isin(own, shuffled_places(seed, total, most)).nonzero().squeeze(1)
    else:
        own = torch.arange(len(own))
    counts = ranks.gathered(torch.tensor([len(own)], device=ranks.device)).flatten().tolist()
    padded = found.z.new_zeros(max(counts), found.z.shape[1])
    padded[: len(own)] = found.z.detach()[own.to(found.z.device)]
    parts = ranks.gathered(padded)
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows, torch.tensor([[[0, len(rows)]]], device=rows.device)


def sharded_rbf_sums(found: Shard, gamma: Tensor) -> Tensor:
    """(1, groups, groups): `rbf_sums` over the rows of all ranks; differentiable in z, once."""
    sums: Tensor = apply(_ShardedRbfSums, found.z, gamma, found)
    return sums


def all_sum(value: Tensor, ranks: Ranks) -> Tensor:
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""
    total: Tensor = apply(_AllSum, value, ranks)
    return total


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, ranks: Ranks) -> Tensor:
        return ranks.total(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.ranks = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_sum(grad, ctx.ranks), None


class _ShardedRbfSums(ReverseMode):
    @staticmethod
    def forward(z: Tensor, gamma: Tensor, found: Shard) -> Tensor:
        raw = torch.ops.awpf.rbf_sums
        rank = found.ranks.rank
        rest = (gamma, found.centre, found.allow_fp16)
        sums: Tensor = run(raw, z, found.rows(rank), None, *rest)
        panel = z
        for step in _steps(found):
            panel = _from_behind(found, panel, step)
            if _meets(found, step):
                block = run(raw, *_joined(found, z, panel, step), *rest)
                sums = sums + block + block.mT
        return found.ranks.total(sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, gamma, ctx.found = inputs
        ctx.save_for_backward(z, gamma)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, gamma = ctx.saved_tensors
        return apply(_ShardedGradient, grad, z, gamma, ctx.found), None, None


class _ShardedGradient(FirstDerivative):
    @staticmethod
    def forward(grad: Tensor, z: Tensor, gamma: Tensor, found: Shard) -> Tensor:
        raw = torch.ops.awpf.rbf_sums_backward
        ranks, n = found.ranks, len(z)
        grad = ranks.total(grad)
        both_ways = (grad + grad.mT).contiguous()
        rest = (gamma, found.centre, found.allow_fp16)
        gradient: Tensor = run(raw, grad, z, found.rows(ranks.rank), None, *rest)
        panel, owed = z, torch.zeros_like(z)
        for step in _steps(found):
            panel, owed = _from_behind(found, panel, step), _from_behind(found, owed, step)
            if _meets(found, step):
                joined = _joined(found, z, panel, step)
                parts = run(raw, both_ways, *joined, *rest)
                gradient = gradient + parts[:n]
                owed = owed + parts[n:]
        away = ranks.count // 2
        if away:
            rows = (n, found.count(ranks.rank - away))
            gradient = gradient + ranks.passed_on(owed, -away, rows)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass


def _steps(found: Shard) -> range:
    """Half a turn of the ring."""
    return range(1, found.ranks.count // 2 + 1)


def _meets(found: Shard, step: int) -> bool:
    """Whether this rank looks at the panel: of two that sit opposite each other only one does."""
    return 2 * step < found.ranks.count or found.ranks.rank < step


def _from_behind(found: Shard, panel: Tensor, step: int) -> Tensor:
    """The panel of the rank `step` back, which the rank just behind holds."""
    rank = found.ranks.rank
    return found.ranks.passed_on(panel, 1, (found.count(rank - step), len(panel)))


def _joined(found: Shard, z: Tensor, panel: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Own rows and the panel's in one tensor, and the ranges of either."""
    ranks = found.ranks
    theirs = found.rows((ranks.rank - step) % ranks.count) + len(z)
    return torch.cat([z, panel]), found.rows(ranks.rank), theirs


def _told(facts: Sequence[int]) -> str:
    d, dtype, groups = facts
    return f"d = {d}, {FLOATING[dtype]}, {groups} groups"
