"""Fusing adapters by hand, as the methods of this package do between two tasks.

An adapter is a d x d matrix after a frozen encoder that moves images of a class close to its text.
It is trained on one task, then only on a second one, so that it forgets the first. `fuse` combines
the two adapters, `BalanceFactor` computes the weight of the second, and the table shows the
accuracies after each method. There is no replay, so the table shows the effect of fusion alone.

The second part does the same with updates instead of adapters: eight low-rank updates of a matrix,
like those of LoRA, are added in one product (`low_rank_sum`), and truncated to the rank of a single
update without computing the sum (`truncate`).

    python examples/fuse_adapters.py
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import awpf_ext

DIM, CLASSES, IMAGES = 64, 10, 30  # CLASSES per task, IMAGES per class
UPDATES, UPDATE_RANK = 8, 16


class Task(NamedTuple):
    """Image features and labels; the labels of the second task follow those of the first."""

    x: Tensor
    y: Tensor


class Accuracy(NamedTuple):
    """Accuracies on the two tasks, among the classes of both."""

    first: float
    second: float


class Tasks:
    """Two tasks whose images are close to their texts, but rotated and noisy."""

    def __init__(self) -> None:
        self.text = normalize(torch.randn(2 * CLASSES, DIM), dim=1)
        self.rotation = torch.linalg.qr(torch.eye(DIM) + 0.2 * torch.randn(DIM, DIM)).Q

    def draw(self) -> list[Task]:
        """New images of both tasks."""
        labels = torch.arange(2 * CLASSES).repeat_interleave(IMAGES)
        noise = 1.4 * torch.randn(len(labels), DIM) / DIM**0.5
        images = self.text[labels] @ self.rotation + noise
        cut = CLASSES * IMAGES
        return [Task(images[:cut], labels[:cut]), Task(images[cut:], labels[cut:])]

    def logits(self, adapter: Tensor, x: Tensor) -> Tensor:
        return 20 * embed(adapter, x) @ self.text.T

    def train(self, start: Tensor, task: Task) -> Tensor:
        """`start`, trained on one task with sixty steps of Adam."""
        adapter = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([adapter], lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            cross_entropy(self.logits(adapter, task.x), task.y).backward()
            optimizer.step()
        return adapter.detach()

    def accuracy(self, adapter: Tensor, tests: list[Task]) -> Accuracy:
        correct = [(self.logits(adapter, x).argmax(1) == y).float().mean() for x, y in tests]
        return Accuracy(*map(float, correct))


def embed(adapter: Tensor, x: Tensor) -> Tensor:
    return normalize(x @ adapter.T, dim=1)


def compare_fusions(seed: int) -> dict[str, Accuracy]:
    """The adapters after each task, and the fused adapters."""
    torch.manual_seed(seed)
    tasks = Tasks()
    (first, second), tests = tasks.draw(), tasks.draw()
    old = tasks.train(torch.eye(DIM), first)
    new = tasks.train(old, second)
    balance = awpf_ext.BalanceFactor()(embed(new, first.x), first.y, embed(new, second.x), second.y)
    adapters = {
        "after task 1": old,
        "after task 2": new,
        "svd_mask": awpf_ext.fuse(old, new, "svd_mask"),
        "qr_mask": awpf_ext.fuse(old, new, "qr_mask"),
        "stack": awpf_ext.fuse(old, new, "stack", weight=balance.weight, rank=32),
        "delta_stack": awpf_ext.fuse(old, new, "delta_stack", weight=balance.weight, rank=16),
    }
    return {name: tasks.accuracy(adapter, tests) for name, adapter in adapters.items()}


def kept_fraction() -> float:
    """The fraction of the squared norm of the sum that one update of the same rank can keep."""
    torch.manual_seed(0)
    base = torch.randn(512, 512) / 512**0.5
    u, v = torch.randn(UPDATES, 512, UPDATE_RANK), torch.randn(UPDATES, 512, UPDATE_RANK)
    s = torch.rand(UPDATES, UPDATE_RANK).square()
    weights = torch.full((UPDATES,), 1 / UPDATES)
    merged = awpf_ext.low_rank_sum(u, s, v, weights=weights, base=base)
    kept = awpf_ext.truncate(u, s, v, UPDATE_RANK, weights=weights)
    return float(kept.s.square().sum() / (merged - base).square().sum())


def main(seeds: int = 5) -> dict[str, Accuracy]:
    found = [compare_fusions(seed) for seed in range(seeds)]
    means = {
        name: Accuracy(
            sum(one[name].first for one in found) / seeds,
            sum(one[name].second for one in found) / seeds,
        )
        for name in found[0]
    }
    print(f"{'adapter':14s} task 1  task 2   mean   ({seeds} seeds)")
    for name, (one, two) in means.items():
        print(f"{name:14s} {one:6.1%}  {two:6.1%}  {(one + two) / 2:6.1%}")
    print(
        f"\n{UPDATES} updates of rank {UPDATE_RANK}: their sum, truncated to that rank, "
        f"keeps {kept_fraction():.0%} of its squared norm"
    )
    return means


if __name__ == "__main__":
    main()
