"""Training of a method on a task stream: fit, evaluate and checkpoint task after task."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from awpf_ext._library import __version__
from awpf_ext.data.stream import TaskStream
from awpf_ext.finetuning.roles import Role, keys_with
from awpf_ext.methods._base.method import Method
from awpf_ext.runs.checkpoint import Checkpoint, Resume, SavedRun
from awpf_ext.runs.evaluation import evaluate_next, evaluate_seen
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.result import Result, TaskResult

SAMPLE_ROWS = 1024  # rows of each split that enter the hash of a stream


class Progress(NamedTuple):
    """The progress of a run, reported after each epoch ("train") and after each task ("task")."""

    stage: Literal["train", "task"]
    task: int
    tasks: int
    epoch: int  # epochs done in this task
    epochs: int
    accuracy: tuple[float, ...]  # over all classes seen, after each task so far


def train(
    stream: TaskStream,
    method: Method,
    *,
    folder: RunFolder | None = None,
    resume: Resume = False,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Train a new `method` on all tasks of the stream.

    folder: gets a checkpoint after every task. resume: True continues the run in the folder or
    starts one if there is none; "intact" also continues if some of its tasks are damaged. A resumed
    run gives the same numbers and weights as an uninterrupted one with the same number of threads.
    """
    report = progress or (lambda event: None)
    results: list[TaskResult] = []
    world = method.world
    identity, environment = _identity(stream, method), _environment(stream, method)
    checkpoint = None if folder is None else Checkpoint(folder)
    with ExitStack() as stack:
        if checkpoint is not None:
            if world.is_main:
                stack.enter_context(checkpoint.folder.hold())
                saved = checkpoint.begin(identity, environment, resume)
            world.barrier()  # the main process has written the identity of the run
            if not world.is_main:
                saved = checkpoint.begin(identity, environment, resume or True)
            world.barrier()  # every process has read the checkpoint before the main process writes
            results = _restore(method, saved)
        for index in range(len(results), len(stream)):
            results.append(_run_task(stream, method, index, results, report))
            if checkpoint is not None and world.is_main:
                _save(method, checkpoint, index, results[-1])
            report(_progress("task", stream, index, results, 0, 0))
    return Result(
        tasks=tuple(results),
        test_images=tuple(len(stream.test(index)[1]) for index in range(len(stream))),
        provenance={**stream.provenance, **identity, **environment},
    )


def _run_task(
    stream: TaskStream,
    method: Method,
    index: int,
    done: list[TaskResult],
    report: Callable[[Progress], None],
) -> TaskResult:
    method.seconds.clear()
    known = len(method.records)
    start = time.perf_counter()

    def epoch_done(epoch: int, epochs: int) -> None:
        report(_progress("train", stream, index, done, epoch, epochs))

    method.fit(stream[index], epoch_done)
    with method.timed("evaluate"), torch.no_grad():
        accuracy, accuracies, by_class = evaluate_seen(stream, method, index)
        next_accuracy, next_baseline = evaluate_next(stream, method, index)
    seconds = dict(method.seconds)
    seconds["other"] = time.perf_counter() - start - sum(seconds.values())
    return TaskResult(
        accuracy,
        accuracies,
        next_accuracy,
        next_baseline,
        seconds,
        tuple(method.records[known:]),
        by_class,
    )


def _progress(
    stage: Literal["train", "task"],
    stream: TaskStream,
    index: int,
    results: list[TaskResult],
    epoch: int,
    epochs: int,
) -> Progress:
    accuracy = tuple(result.accuracy for result in results)
    return Progress(stage, index, len(stream), epoch, epochs, accuracy)


def _restore(method: Method, saved: SavedRun) -> list[TaskResult]:
    """Load the saved run into `method` and return the results of its tasks."""
    if saved.state is not None:
        method.load_state_dict(saved.state)
    for block in saved.statistics:
        method.append_task_block(block)
    results = [TaskResult.from_json(result) for result in saved.results]
    method.records += [record for result in results for record in result.records]
    return results


def _save(method: Method, checkpoint: Checkpoint, index: int, result: TaskResult) -> None:
    checkpoint.save(
        index,
        method.state_dict(),
        method.task_block(),
        result.to_json(),
        adapters=method.adapters(),
        drop_old_states=method.large_state,
    )


def _identity(stream: TaskStream, method: Method) -> dict[str, Any]:
    """What two runs must agree in to be the same: method, settings, seed and stream."""
    return {
        "method": method.name,
        "config": method.config.model_dump(mode="json", exclude=_machine_settings(method)),
        "seed": method.seed,
        "order_hash": stream.order_hash,
        "stream_hash": stream_hash(stream),
    }


def _environment(stream: TaskStream, method: Method) -> dict[str, Any]:
    """What may change the last digits of a result without making it another run."""
    return {
        "threads": torch.get_num_threads(),
        "device": stream.text.device.type,
        "torch": torch.__version__,
        "awpf_ext": __version__,
        "processes": method.world.size,
        **method.config.model_dump(mode="json", include=_machine_settings(method)),
    }


def _machine_settings(method: Method) -> set[str]:
    return set(keys_with(type(method.config), Role.MACHINE))


def stream_hash(stream: TaskStream) -> str:
    """A hash of a stream's content: classes, texts, test images and images of the first task.

    Of large splits only evenly spaced rows are hashed, so that the cost is negligible.
    """
    first = stream[0]
    test_x, test_y = stream.test_seen(len(stream) - 1)
    seen = [stream.seen(index) for index in range(len(stream))]
    digest = hashlib.sha256(json.dumps([seen, stream.logit_scale]).encode())
    for tensor in (stream.text, test_y, first.train_y, _sample(test_x), _sample(first.train_x)):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(x: Tensor) -> Tensor:
    return x[:: len(x) // SAMPLE_ROWS + 1]
