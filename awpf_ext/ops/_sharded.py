"""Samples whose rows lie on several ranks of a process group (``group=``).

Every rank holds its own rows, any number of them, and gets the result of one process that holds
them all, up to rounding. The rows are never collected in one place: panels travel half way around
a ring, so that each pair of ranks meets once and memory stays that of two shards. In the backward
pass each panel carries along the gradient of its rows, and is sent back to its owner at the end.

The gradient is that of the sum of all ranks' losses, as everywhere in torch.distributed:
DistributedDataParallel, which averages, then makes of it the gradient of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from awpf_ext._library import sampled_rows
from awpf_ext.distributed import World
from awpf_ext.ops._arguments import FLOATING, has_hidden_values
from awpf_ext.ops._autograd import FirstDerivative, ReverseMode, apply, run
from awpf_ext.ops._rbf import fp16_is_allowed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")
MAX_ROWS = 2**31 - 1


def world_of(group: ProcessGroup, *values: object) -> World:
    """The ranks of a process group, of which this process must be one; `values` are to be shared
    among them."""
    if any(isinstance(value, Tensor) and has_hidden_values(value) for value in values):
        raise ValueError("group= works in eager mode only, not under torch.compile or torch.func")
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "group= needs torch.distributed: call init_process_group() first, as under torchrun"
        )
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("this process is not a member of group")
    return World(rank, dist.get_world_size(group), group)


def agree(world: World, check: Callable[[], T], facts: Callable[[T], Sequence[int]]) -> T:
    """The result of `check()`, if it succeeds on all ranks with equal `facts` (d, dtype, number
    of groups); otherwise every rank raises an error."""
    failure: Exception | None = None
    found: T | None = None
    try:
        found = check()
    except (TypeError, ValueError) as error:
        failure = error
    own = [-1] * 3 if found is None else list(facts(found))
    all_facts = world.all_gather_stacked(torch.tensor(own, device=world.device)).tolist()
    if failure is not None:
        raise failure
    assert found is not None
    for rank, theirs in enumerate(all_facts):
        if theirs[0] < 0:
            raise ValueError(f"the arguments on rank {rank} of the group are invalid")
        if theirs != own:
            raise ValueError(
                "all ranks must pass the same number of features, dtype and number of groups, "
                f"got {_described(own)} on rank {world.rank} and {_described(theirs)} on rank "
                f"{rank}"
            )
    return found


def _described(facts: Sequence[int]) -> str:
    d, dtype, groups = facts
    return f"d = {d}, {FLOATING[dtype]}, {groups} groups"


class ShardedRows(NamedTuple):
    """This rank's rows, sorted by group, and what all ranks know."""

    z: Tensor
    sizes: Tensor  # (ranks, groups), int64 on the CPU: rows of each group on each rank
    centre: Tensor  # (1, d), float64: the mean of all rows
    world: World
    allow_fp16: bool

    def rows(self, rank: int) -> Tensor:
        """(1, groups, 2): the ranges of a rank's groups."""
        ends = self.sizes[rank].cumsum(0)
        return torch.stack([ends - self.sizes[rank], ends], dim=-1).unsqueeze(0).to(self.z.device)

    def count(self, rank: int) -> int:
        return int(self.sizes[rank % self.world.size].sum())

    @property
    def group_sizes(self) -> Tensor:
        """(groups,): rows of each group on all ranks together."""
        return self.sizes.sum(0)


def shard(world: World, z: Tensor, sizes: Tensor) -> ShardedRows:
    """Prepare rows sorted by group, of which `sizes` (groups,) are here. Collective."""
    if z.dtype not in (torch.float32, torch.float64):
        z = z.float()  # gradients are summed over panels
    all_sizes = world.all_gather_stacked(sizes.to(world.device)).cpu()
    count = int(all_sizes.sum())
    if count > MAX_ROWS:
        raise ValueError(f"at most 2^31 - 1 rows over all ranks, got {count}")
    sums = world.all_gather_stacked(z.detach().double().sum(0))
    finite = sums.isfinite().all(-1).tolist()
    if not all(finite):
        raise ValueError(f"the rows of rank {finite.index(False)} hold NaN or infinity")
    centre = (sums.sum(0) / max(count, 1)).unsqueeze(0)
    return ShardedRows(z.contiguous(), all_sizes, centre, world, fp16_is_allowed())


def median_subset(found: ShardedRows, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """The rows that one process would take the median of, on every rank, and their range."""
    total = int(found.sizes.sum())
    world = found.world
    starts = (found.group_sizes.cumsum(0) - found.group_sizes)[None] + (
        found.sizes.cumsum(0) - found.sizes
    )  # of each rank's part of each group, if one process held them all
    positions = [
        torch.cat(
            [
                torch.arange(start, start + size)
                for start, size in zip(begin.tolist(), sizes.tolist(), strict=True)
            ]
        )
        for begin, sizes in zip(starts, found.sizes, strict=True)
    ]  # of the rows of each rank
    number = torch.arange(total)  # of each row among those that are looked at
    if total > most:
        number = torch.full((total,), -1)
        number[sampled_rows(seed, total, most)] = torch.arange(most)
    own = (number[positions[world.rank]] >= 0).nonzero().squeeze(1)
    rows, _ = world.all_gather_ragged(found.z.detach()[own.to(found.z.device)])
    gathered = number[torch.cat(positions)]
    rows = rows[gathered[gathered >= 0].argsort().to(rows.device)]
    return rows, torch.tensor([[[0, len(rows)]]], device=rows.device)


def sharded_rbf_sums(found: ShardedRows, gamma: Tensor) -> Tensor:
    """(1, groups, groups): `rbf_sums` over the rows of all ranks; differentiable in z, once."""
    sums: Tensor = apply(_ShardedRbfSums, found.z, gamma, found)
    return sums


def all_sum(value: Tensor, world: World) -> Tensor:
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""
    total: Tensor = apply(_AllSum, value, world)
    return total


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, world: World) -> Tensor:
        return world.all_reduce(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.world = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_sum(grad, ctx.world), None


class _ShardedRbfSums(ReverseMode):
    @staticmethod
    def forward(z: Tensor, gamma: Tensor, found: ShardedRows) -> Tensor:
        raw = torch.ops.awpf.rbf_sums
        rank = found.world.rank
        rest = (gamma, found.centre, found.allow_fp16)
        sums: Tensor = run(raw, z, found.rows(rank), None, *rest)
        panel = z
        for step in _steps(found):
            panel = _next_panel(found, panel, step)
            if _meets(found, step):
                block = run(raw, *_with_panel(found, z, panel, step), *rest)
                sums = sums + block + block.mT
        return found.world.all_reduce(sums)

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
    def forward(grad: Tensor, z: Tensor, gamma: Tensor, found: ShardedRows) -> Tensor:
        raw = torch.ops.awpf.rbf_sums_backward
        world, n = found.world, len(z)
        grad = world.all_reduce(grad)
        both_ways = (grad + grad.mT).contiguous()
        rest = (gamma, found.centre, found.allow_fp16)
        gradient: Tensor = run(raw, grad, z, found.rows(world.rank), None, *rest)
        panel, owed = z, torch.zeros_like(z)
        for step in _steps(found):
            panel, owed = _next_panel(found, panel, step), _next_panel(found, owed, step)
            if _meets(found, step):
                pair = _with_panel(found, z, panel, step)
                parts = run(raw, both_ways, *pair, *rest)
                gradient = gradient + parts[:n]
                owed = owed + parts[n:]
        away = world.size // 2
        if away:
            rows = (n, found.count(world.rank - away))
            gradient = gradient + world.ring_exchange(owed, -away, rows)
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass


def _steps(found: ShardedRows) -> range:
    """Half a turn of the ring."""
    return range(1, found.world.size // 2 + 1)


def _meets(found: ShardedRows, step: int) -> bool:
    """Whether this rank computes with the panel: of two opposite ranks, only one does."""
    return 2 * step < found.world.size or found.world.rank < step


def _next_panel(found: ShardedRows, panel: Tensor, step: int) -> Tensor:
    """The panel of the rank `step` behind, which the next rank behind holds now."""
    rank = found.world.rank
    return found.world.ring_exchange(panel, 1, (found.count(rank - step), len(panel)))


def _with_panel(
    found: ShardedRows, z: Tensor, panel: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The own rows and those of the panel in one tensor, and the ranges of both."""
    world = found.world
    theirs = found.rows((world.rank - step) % world.size) + len(z)
    return torch.cat([z, panel]), found.rows(world.rank), theirs
