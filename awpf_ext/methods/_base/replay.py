"""The schedule of replayed classes in an epoch, and drawing their pseudo-features efficiently."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from awpf_ext.methods._base.class_statistics import ClassStatistics

ROWS_AT_ONCE = 1 << 16  # limits the memory of one batched draw


def replay_schedule(
    old_classes: Tensor, batches: int, *, rows: int, draws: int, generator: torch.Generator
) -> Tensor:
    """(batches, k * draws) class ids: each batch takes the next k classes of a shuffled cycle.

    k is chosen so that an epoch replays about `rows` vectors, `draws` per class at a time.
    """
    if not len(old_classes) or not rows:
        return old_classes.new_empty(batches, 0)
    per_batch = max(1, round(rows / (batches * draws)))
    turns = shuffled_cycle(old_classes, batches * per_batch, generator).view(batches, per_batch)
    return turns.repeat_interleave(draws, dim=1)


def draw_batches(
    statistics: ClassStatistics, labels: Tensor, generator: torch.Generator
) -> Iterator[Tensor]:
    """Pseudo-features (m, d) for each row of `labels` (batches, m)."""
    batches, per_batch = labels.shape
    step = ROWS_AT_ONCE // max(per_batch, 1) or 1
    for start in range(0, batches, step):
        chunk = labels[start : start + step]
        drawn = statistics.draw(chunk.flatten(), generator)
        yield from drawn.view(*chunk.shape, statistics.dim)


def shuffled_cycle(items: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` items: all items in one random order, repeated as often as needed."""
    shuffled = items[torch.randperm(len(items), generator=generator, device=items.device)]
    return shuffled[torch.arange(count, device=items.device) % len(items)]
