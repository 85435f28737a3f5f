"""Trainer.

A protocol of the size of CIFAR-100 with artificial features: 50,000 x 512, ten tasks of ten
classes, 15 epochs, batches of 100, 2,000 replayed vectors per epoch, with the published settings of
RAPF. Each method runs once, including evaluation. For comparison there is an implementation like
RAPF's code without its text encoding: a DataLoader, a Python loop over classes and hard pairs in
every batch, and a MultivariateNormal that is factorised for every draw. Some batches of its middle
task are timed and scaled to the nine tasks with replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from comparison import OURS, Outcome, Row, Verdict
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from awpf_ext.data.features import FeatureSet
from awpf_ext.data.stream import TaskStream, task_stream
from awpf_ext.methods import create_method
from awpf_ext.methods._base.hinge import hard_pairs
from awpf_ext.runs.trainer import train

CLASSES, IMAGES, TESTS, DIM = 100, 500, 100, 512
TASKS, EPOCHS, BATCH = 10, 15, 100
REPLAYED_CLASSES, DRAWS, PAIR_DRAWS, THRESHOLD = 2, 20, 40, 0.55
MIDDLE = 5  # the task on which the loop form is timed
SAMPLE = 8  # number of its batches
GOAL = 30.0  # seconds per method


@cache
def protocol() -> TaskStream:
    """Classes in groups of five with similar texts, as in CIFAR-100."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return normalize(torch.randn(*shape, DIM, generator=generator), dim=-1)

    groups = normal(CLASSES // 5).repeat_interleave(5, 0)
    text = normalize(1.5 * normal(1) + groups + 0.7 * normal(CLASSES), dim=1)
    centres = 10 * normalize(normal(1) + 0.5 * text + 0.3 * normal(CLASSES), dim=1)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(CLASSES).repeat_interleave(count)
        return centres[labels] + 6 * normal(len(labels)), labels

    train_x, train_y = images(IMAGES)
    test_x, test_y = images(TESTS)
    names = tuple(str(index) for index in range(CLASSES))
    features = FeatureSet(train_x, train_y, test_x, test_y, text, names, 100.0, {})
    return task_stream(features, base=0, increment=CLASSES // TASKS, order="seed:0")


def loop_form(hinge: bool) -> Callable[[], float]:
    """Seconds of the whole protocol in the form of RAPF's code, estimated from `SAMPLE` batches."""
    stream = protocol()
    task = stream[MIDDLE]
    old = [stream[index] for index in range(MIDDLE)]
    rows = [t.train_x[t.train_y == c] for t in old for c in t.classes]
    means = [x.mean(0) for x in rows]
    covariances = [torch.cov(x.T) + 1e-4 * torch.eye(DIM) for x in rows]
    pairs = hard_pairs(
        stream.text, torch.arange(task.classes.start), torch.tensor(list(task.classes)), THRESHOLD
    ).tolist()
    text = stream.text[: task.classes.stop]
    adapter = torch.nn.Linear(DIM, DIM, bias=False)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(task.train_x, task.train_y), batch_size=BATCH, shuffle=True)

    def draw(class_id: int, count: int) -> Tensor:
        return MultivariateNormal(means[class_id], covariances[class_id]).sample((count,))

    def step(x: Tensor, y: Tensor, turns: Iterator[int]) -> None:
        for _ in range(REPLAYED_CLASSES):
            class_id = next(turns)
            x = torch.cat([x, draw(class_id, DRAWS)])
            y = torch.cat([y, torch.full((DRAWS,), class_id)])
        loss = cross_entropy(100 * normalize(adapter(x), dim=1) @ text.T, y)
        terms = []
        for old_class, new_class in pairs if hinge else []:
            embedded = normalize(adapter(draw(old_class, PAIR_DRAWS)), dim=1)
            gap = embedded @ text[new_class] - embedded @ text[old_class]
            terms.append(torch.relu(0.1 + gap).mean())
        if terms:
            loss = loss + torch.stack(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def measure() -> float:
        turns = iter(torch.randperm(len(means)).tolist() * SAMPLE)
        batches = iter(loader)
        step(*next(batches), turns)  # warm up
        start = time.perf_counter()
        for _ in range(SAMPLE):
            step(*next(batches), turns)
        seconds = (time.perf_counter() - start) / SAMPLE
        return seconds * (TASKS - 1) * EPOCHS * len(loader)

    return measure


def products() -> float:
    """Seconds of the matrix products that cross-entropy with replay cannot avoid."""
    rows = BATCH + REPLAYED_CLASSES * DRAWS
    x, adapter, text = torch.randn(rows, DIM), torch.randn(DIM, DIM), torch.randn(55, DIM)
    draws, factor = torch.randn(rows - BATCH, IMAGES), torch.randn(IMAGES, DIM)

    def step() -> None:
        embedded = x @ adapter.T
        logits = embedded @ text.T
        (logits @ text).T @ x
        draws @ factor

    step()
    count = 100
    start = time.perf_counter()
    for _ in range(count):
        step()
    steps = TASKS * EPOCHS * CLASSES // TASKS * IMAGES // BATCH
    return (time.perf_counter() - start) / count * steps


@pytest.mark.parametrize("name", ["finetune", "rapf", "awpf", "calfuse"])
def test_protocol(name: str, benchmark: Any, record: Callable[[Outcome], Outcome]) -> None:
    stream = protocol()
    results = []

    def run() -> None:
        method = create_method(name, stream, preset="cifar100-b0-inc10")
        results.append(train(stream, method))

    benchmark.pedantic(run, rounds=1, iterations=1)
    ours = float(benchmark.stats.stats.total)
    work = f"{name}, ten tasks of 5,000 x {DIM}"
    floor = products()
    reference = loop_form(hinge=name == "rapf")()
    rows = [Row(work, OURS, ours, 1.0, None, None, floor / ours, 1, "ours")]
    for stage, seconds in results[0].seconds.items():
        rows.append(Row(work, stage, seconds, seconds / ours, None, None, None, 1, "stage"))
    note = f"{SAMPLE} batches of the middle task, scaled"
    rows += [
        Row(
            work,
            "loop form",
            reference,
            reference / ours,
            None,
            None,
            floor / reference,
            1,
            note=note,
        ),
        Row(work, "GEMM floor", floor, floor / ours, None, None, 1.0, 1, "floor"),
    ]
    verdict = Verdict(work, f"at most {GOAL:g} s", f"{ours:.1f} s", ours <= GOAL)
    record(Outcome(rows, [verdict]))
