"""One rank of test_sharded.py: python sharded_worker.py RANK RANKS MEETING_FILE OUT.pt

Holds its part of the points of `points()` and writes what the sharded operations gave it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import awpf_ext

CLASSES, DIM = 5, 9
WEIGHTS = torch.linspace(-1, 2, DIM * DIM, dtype=torch.float64).reshape(DIM, DIM)
MMD_CALLS: dict[str, dict[str, Any]] = {
    "median": {},
    "mixture": {"bandwidth": 3.0, "scales": (0.5, 1, 2), "estimator": "unbiased"},
}


def points(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, labels of x, and which rank of four holds each row of x; y goes to the same rule."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(700, DIM, generator=generator, dtype=torch.float64) + 5
    y = torch.randn(650, DIM, generator=generator, dtype=torch.float64) * 1.2 + 5.3
    labels = torch.randint(CLASSES, (len(x),), generator=generator)
    owner = torch.randint(7, (len(x),), generator=generator)  # uneven: more than one in rank 0
    return x.to(dtype), y.to(dtype), labels, owner


def part(owner: Tensor, rank: int, ranks: int, count: int) -> Tensor:
    """The rows of a rank, in order; with four, rank 3 has none of y's and few of x's."""
    mine = torch.where(owner < 4, owner, 0) % ranks == rank
    return mine[:count].nonzero().squeeze(1)


def losses(x: Tensor, y: Tensor, labels: Tensor, group: Any = None) -> dict[str, Tensor]:
    """Every operation's value, the same call on one machine and on many."""
    found = {name: awpf_ext.mmd(x, y, group=group, **call) for name, call in MMD_CALLS.items()}
    found["matrix"] = awpf_ext.mmd_matrix(x, labels, num_groups=CLASSES, group=group)
    scatter = awpf_ext.scatter(x, labels, CLASSES, group=group)
    return {**found, **scatter._asdict()}


def scalars(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """A number of each differentiable value, for its gradient."""
    weights = WEIGHTS.to(values["within"])
    return {
        **{name: values[name] for name in MMD_CALLS},
        "matrix": (values["matrix"] * weights[:CLASSES, :CLASSES]).sum(),
        "within": (values["within"] * weights).sum(),
        "between": (values["between"] * weights).sum(),
        "means": (values["means"] * weights[:CLASSES]).sum(),
    }


def gradients(x: Tensor, y: Tensor, labels: Tensor, group: Any = None) -> dict[str, Any]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    values = losses(x, y, labels, group)
    found = {}
    for name, value in scalars(values).items():
        both = torch.autograd.grad(value, (x, y), retain_graph=True, allow_unused=True)
        found[name] = [torch.zeros(1) if part is None else part for part in both]
    return found


def refused(function: Any, *args: Any, **options: Any) -> str:
    try:
        function(*args, **options)
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing was refused"


def work(rank: int, ranks: int) -> dict[str, Any]:
    world = dist.group.WORLD
    out: dict[str, Any] = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, y, labels, owner = points(dtype)
        own_x = part(owner, rank, ranks, len(x))
        own_y = part(owner, rank, ranks, 0 if rank == 3 else len(y))
        if ranks == 4 and rank == 0:  # what rank 3 would have held
            own_y = torch.cat([own_y, part(owner, 3, ranks, len(y))])
        mine = x[own_x], y[own_y], labels[own_x]
        out[str(dtype)] = {
            "rows": (own_x, own_y),
            "values": losses(*mine, world),
            "gradients": gradients(*mine, world),
        }
    x, y, labels, _ = points(torch.float32)
    spoiled = x.clone()
    if rank == 1:
        spoiled[3, 2] = torch.nan
        labels[7] = CLASSES
    mixed = y.double() if rank == 1 else y
    narrow = x[:, :4] if rank == 1 else x
    out["refused"] = {
        "nan": refused(awpf_ext.mmd, spoiled, y, group=world),
        "label": refused(awpf_ext.scatter, x, labels, CLASSES, group=world),
        "group": refused(awpf_ext.mmd_matrix, x, labels, num_groups=CLASSES, group=world),
        "dtype": refused(awpf_ext.mmd, x, mixed, group=world),
        "width": refused(awpf_ext.scatter, narrow, labels.clamp(max=4), CLASSES, group=world),
        "classes": refused(awpf_ext.scatter, x, labels, group=world),
        "empty": refused(awpf_ext.mmd, x, y[:0], group=world),
    }
    return out


def main() -> None:
    rank, ranks = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    meeting = Path(sys.argv[3]).as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    torch.save(work(rank, ranks), sys.argv[4])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
