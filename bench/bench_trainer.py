"""Trainer.

A protocol of the size of CIFAR-100 with artificial features: 50,000 x 512, ten tasks of ten
classes, 15 epochs, batches of 100, 2,000 replayed vectors per epoch, with the published settings of
RAPF. Each method runs once, including evaluation. For comparison there is an implementation like
RAPF's code without its text encoding: a DataLoader, a Python loop over classes and hard pairs in
every batch, and a MultivariateNormal that is factorised for every draw. Some batches of its middle
task are timed and scaled to the nine tasks with replay.

The floor is the time of the matrix products that the method's recipe cannot avoid, timed before and
after it with the same threads; `of floor` is the fraction of our time that they take alone.

The published settings leave out AWPF's visual head and its weight for each direction, so that AWPF
also runs with its defaults, with batches and replay of the same size. This floor counts the partner
that learns all rows but the held-out ones, too.

Last, what the two losses of `balance=both` take of a step: an epoch of the middle task with them,
one without them, and the losses of such an epoch alone, forward and backward, in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from comparison import OURS, Contender, Outcome, Row, Verdict, Work
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from awpf_ext.data.features import FeatureSet
from awpf_ext.data.stream import TaskStream, task_stream
from awpf_ext.methods import create_method
from awpf_ext.methods._base.adapter import AdapterMethod
from awpf_ext.methods._base.hinge import hard_pairs
from awpf_ext.methods._base.holdout import MOST_HELD_OUT
from awpf_ext.methods.awpf import Awpf
from awpf_ext.runs.trainer import train

CLASSES, IMAGES, TESTS, DIM = 100, 500, 100, 512
TASKS, EPOCHS, BATCH = 10, 15, 100
REPLAYED_CLASSES, DRAWS, PAIR_DRAWS, THRESHOLD = 2, 20, 40, 0.55
HINGE_DRAWS = 64  # of ours per batch
MIDDLE = 5  # the task on which the loop form is timed
SAMPLE = 8  # number of its batches
GOAL = 30.0  # seconds per method with the published settings
PRESET = "cifar100-b0-inc10"
SIZES = {"batch_size": BATCH, "replay_per_epoch": 2000, "beta": DRAWS / 10}  # of the preset
DEFAULTS = "awpf, defaults"
FRACTIONS = {  # products / our time
    "finetune": 0.6,
    "awpf": 0.6,
    DEFAULTS: 0.6,
    "rapf": 0.5,
    "calfuse": 0.5,
}


def contender(name: str) -> AdapterMethod:
    """A method that has learned nothing yet."""
    if name == DEFAULTS:
        method = create_method("awpf", protocol(), SIZES)
    else:
        method = create_method(name, protocol(), preset=PRESET)
    assert isinstance(method, AdapterMethod)
    return method


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


def products(name: str) -> float:
    """Seconds of the matrix products that a method's recipe cannot avoid, by torch's own GEMM.

    A step: the adapter's product with its rows, the texts' with the embeddings, and the two of the
    gradient; rapf's hinge adds rows to the adapter's products, and calfuse the two products of its
    teacher. An epoch: the draws' product with the factors of their classes. A task: the embeddings
    and logits of the test images. The number of classes is that of the mean over tasks with replay.
    A partner has the epochs of its share of the rows.
    """
    steps = CLASSES // TASKS * IMAGES // BATCH  # of an epoch
    known = sum(range(0, CLASSES, CLASSES // TASKS)) // (TASKS - 1)
    replayed, hard = REPLAYED_CLASSES * DRAWS, HINGE_DRAWS if name == "rapf" else 0
    adapter, factor = torch.randn(DIM, DIM), torch.randn(IMAGES - 1, DIM)

    def classify(x: Tensor, text: Tensor) -> Tensor:
        return x @ adapter.T @ text.T

    def step(labelled: int, hard: int, classes: int) -> Callable[[], object]:
        x, text = torch.randn(labelled + hard, DIM), torch.randn(classes, DIM)

        def run() -> None:
            embedded = x @ adapter.T
            logits = embedded[:labelled] @ text.T
            logits @ text
            embedded.T @ x
            if name == "calfuse" and labelled > BATCH:
                classify(x, text[:known])

        return run

    normal = torch.randn((replayed + hard) * steps // known, IMAGES - 1)  # of one class
    tests, text = torch.randn(TESTS * CLASSES // TASKS, DIM), torch.randn(CLASSES, DIM)
    first = seconds_of(step(BATCH, 0, CLASSES // TASKS), steps)
    later = seconds_of(step(BATCH + replayed, hard, known + CLASSES // TASKS), steps)
    draws = seconds_of(lambda: normal @ factor, known)
    evaluations = TASKS * (TASKS + 1) // 2 + TASKS - 1  # of seen tasks and of the next one
    evaluation = seconds_of(lambda: classify(tests, text), 1) * evaluations
    learners = 1 + (IMAGES - MOST_HELD_OUT) / IMAGES if name == DEFAULTS else 1
    return learners * EPOCHS * (first + (TASKS - 1) * (later + draws)) + evaluation


def seconds_of(work: Callable[[], object], count: int, rounds: int = 5) -> float:
    """Seconds of `count` calls: the median over rounds, after a call that is not timed."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@pytest.mark.parametrize("name", list(FRACTIONS))
def test_protocol(name: str, benchmark: Any, record: Callable[[Outcome], Outcome]) -> None:
    stream = protocol()
    results = []

    def run() -> None:
        results.append(train(stream, contender(name)))

    reference = loop_form(hinge=name == "rapf")()  # first: torch imports much for an optimizer
    before = products(name)
    benchmark.pedantic(run, rounds=1, iterations=1)
    ours = float(benchmark.stats.stats.total)
    floor = (before + products(name)) / 2
    work = f"{name}, ten tasks of 5,000 x {DIM}"
    rows = [Row(work, OURS, ours, 1.0, None, None, floor / ours, 1, "ours")]
    for stage, seconds in results[0].seconds.items():
        rows.append(Row(work, stage, seconds, seconds / ours, None, None, None, 1, "stage"))
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
            note=f"{SAMPLE} batches of the middle task, scaled",
        ),
        Row(work, "matrix products", floor, floor / ours, None, None, 1.0, 1, "floor"),
    ]
    record(Outcome(rows, goals(name, work, ours, floor)))


def goals(name: str, work: str, ours: float, floor: float) -> list[Verdict]:
    """The seconds with published settings, and the fraction that the matrix products alone take."""
    fraction = FRACTIONS[name]
    in_products = Verdict(
        work,
        f"at least {fraction:.0%} of the time in the products",
        f"{floor / ours:.0%}",
        floor >= fraction * ours,
    )
    if name == DEFAULTS:
        return [in_products]
    return [Verdict(work, f"at most {GOAL:g} s", f"{ours:.1f} s", ours <= GOAL), in_products]


def balance_losses() -> Work:
    """Epochs of AWPF's middle task with and without the losses that its balance factor weighs."""
    stream = protocol()
    task = stream[MIDDLE]

    def learner(balance: str) -> Awpf:
        settings = {"balance": balance, "epochs": 1}
        method = create_method("awpf", stream, settings, preset=PRESET)
        assert isinstance(method, Awpf)
        for index in range(MIDDLE):
            method.fit(stream[index])
        return method

    def epoch(method: Awpf) -> Callable[[], None]:
        """Without the balance factor itself, which is measured once per task."""
        return lambda: AdapterMethod.train(method, task, lambda done, total: None)

    judge = learner("both")
    batches = list(judge.batches(task, judge.hard_pairs(task)))

    def losses() -> None:
        judge.adapter.requires_grad_().grad = None
        for batch in batches:
            torch.autograd.backward(judge.balanced_losses(batch))

    contenders = {
        OURS: Contender(epoch(learner("both"))),
        "without the losses (balance=weight)": Contender(epoch(learner("weight")), stage=True),
        "the losses alone": Contender(losses, stage=True),
    }
    return Work(f"awpf with balance=both, {len(batches)} steps of the middle task", contenders)


def test_balance_losses(compare: Callable[..., Outcome]) -> None:
    compare(balance_losses)
