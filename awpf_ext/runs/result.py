"""The result of a run: accuracies after every task, and the metrics computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from awpf_ext.runs import metrics

# Stages of a run that are not learning: reading or encoding the data, and measuring the accuracy.
NOT_LEARNING = ("features", "evaluate")


@dataclass(frozen=True)
class TaskResult:
    """The results of one task, as a checkpoint stores them. NaN means no test images."""

    accuracy: float  # over all test images of the classes seen
    accuracies: tuple[float, ...]  # on each task so far, among all classes seen
    next_accuracy: float  # on the next task before it is learned; its classes are candidates too
    next_baseline: float  # of zero-shot CLIP on the next task
    seconds: dict[str, float]  # by stage
    records: tuple[dict[str, Any], ...]  # what the method reports about itself
    class_accuracies: tuple[float, ...] = ()  # on each class seen

    @property
    def seconds_to_learn(self) -> float:
        """The time of the method alone, without features and evaluation."""
        return sum(time for stage, time in self.seconds.items() if stage not in NOT_LEARNING)

    def to_json(self) -> dict[str, Any]:
        return {key: _jsonable(value) for key, value in vars(self).items()}

    @staticmethod
    def from_json(saved: Mapping[str, Any]) -> TaskResult:
        return TaskResult(
            accuracy=_number(saved["accuracy"]),
            accuracies=tuple(_number(value) for value in saved["accuracies"]),
            next_accuracy=_number(saved["next_accuracy"]),
            next_baseline=_number(saved["next_baseline"]),
            seconds=dict(saved["seconds"]),
            records=tuple(saved["records"]),
            class_accuracies=tuple(_number(v) for v in saved.get("class_accuracies", ())),
        )


@dataclass(frozen=True)
class Result:
    """The numbers of a run; metrics.py has the formulas. Accuracies are fractions."""

    tasks: tuple[TaskResult, ...]
    test_images: tuple[int, ...]  # of each task
    provenance: dict[str, Any]

    @property
    def accuracy(self) -> list[float]:
        """Accuracy after each task, over all classes seen."""
        return [task.accuracy for task in self.tasks]

    @property
    def accuracy_matrix(self) -> list[list[float]]:
        """R[i][j]: accuracy on task j after task i; 0 for j > i; NaN without test images."""
        count = len(self.tasks)
        absent = [0.0 if images else math.nan for images in self.test_images]
        return [[*task.accuracies, *absent[len(task.accuracies) : count]] for task in self.tasks]

    @property
    def average(self) -> float:
        return metrics.average(self.accuracy)

    @property
    def last(self) -> float:
        return metrics.last(self.accuracy)

    @property
    def forgetting(self) -> float:
        return metrics.forgetting(self.accuracy_matrix)

    @property
    def worst_class(self) -> float:
        return metrics.worst_class(self.tasks[-1].class_accuracies)

    @property
    def backward_transfer(self) -> float:
        return metrics.backward_transfer(self.accuracy_matrix)

    @property
    def forward_transfer(self) -> float:
        return metrics.forward_transfer(
            [task.next_accuracy for task in self.tasks[:-1]],
            [task.next_baseline for task in self.tasks[:-1]],
        )

    @property
    def per_task(self) -> list[float]:
        return metrics.per_task(self.accuracy_matrix)

    @property
    def old(self) -> list[float]:
        return metrics.old_accuracy(self.accuracy_matrix, self.test_images)

    @property
    def new(self) -> list[float]:
        return metrics.new_accuracy(self.accuracy_matrix)

    @property
    def harmonic(self) -> list[float]:
        return metrics.harmonic_mean(self.old, self.new)

    @property
    def seconds(self) -> dict[str, float]:
        """Total per stage over all tasks, including those before the run was resumed."""
        stages = dict.fromkeys(stage for task in self.tasks for stage in task.seconds)
        return {s: sum(task.seconds.get(s, 0.0) for task in self.tasks) for s in stages}

    @property
    def seconds_to_learn(self) -> float:
        """The time that the method needed to learn all tasks, without features and evaluation."""
        return sum(task.seconds_to_learn for task in self.tasks)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for task in self.tasks for record in task.records]

    def to_json(self) -> dict[str, Any]:
        """All metrics, ready for JSON; NaN becomes null."""
        names = [name for name, value in vars(Result).items() if isinstance(value, property)]
        content = {name: _jsonable(getattr(self, name)) for name in names}
        return {**content, "test_images": list(self.test_images), "provenance": self.provenance}

    def to_full_json(self) -> dict[str, Any]:
        """`to_json`, and the results of each task; `from_json` reads it."""
        return {**self.to_json(), "tasks": [task.to_json() for task in self.tasks]}

    @staticmethod
    def from_json(saved: Mapping[str, Any]) -> Result:
        return Result(
            tasks=tuple(TaskResult.from_json(task) for task in saved["tasks"]),
            test_images=tuple(saved["test_images"]),
            provenance=dict(saved["provenance"]),
        )


def _jsonable(value: Any) -> Any:
    """Tuples as lists and NaN as None, recursively."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
