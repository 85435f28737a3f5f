"""A run's curves for TensorBoard, an optional package."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

from awpf_ext.errors import UserError, not_installed
from awpf_ext.runs.result import Result


def check_tensorboard(folder: Path | None) -> None:
    """UserError where the curves could not be written, before any work is done."""
    if folder is None:
        raise UserError("tensorboard is asked for, but out is not: it writes to the run's folder")
    if find_spec("tensorboard") is None:
        raise UserError(not_installed("tensorboard"))


def write_tensorboard(folder: Path, result: Result) -> None:
    """Accuracies, seconds and the method's records, one step a task, to folder/tensorboard.

    Once only: events written twice would be drawn twice.
    """
    from torch.utils.tensorboard import SummaryWriter

    board = folder / "tensorboard"
    if board.exists():
        return
    with SummaryWriter(str(board)) as writer:
        curves = {"seen": result.accuracy, "old": result.old, "new": result.new}
        for name, values in curves.items():
            for step, value in enumerate(values):
                if not math.isnan(value):
                    writer.add_scalar(f"accuracy/{name}", value, step)
        for step, task in enumerate(result.tasks):
            for stage, seconds in task.seconds.items():
                writer.add_scalar(f"seconds/{stage}", seconds, step)
            for record in task.records:
                for name, value in record.items():
                    if isinstance(value, int | float) and name != "task":
                        method = result.provenance["method"]
                        writer.add_scalar(f"{method}/{name}", value, step)
