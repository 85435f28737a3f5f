"""Curves of a run for TensorBoard, an optional package."""

from __future__ import annotations

import math
from importlib.util import find_spec

from awpf_ext.errors import UserError, not_installed
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.result import Result


def check_tensorboard(folder: RunFolder | None) -> None:
    """UserError if the curves cannot be written; called before any work is done."""
    if folder is None:
        raise UserError("tensorboard writes to the run's folder, but out is not given")
    if find_spec("tensorboard") is None:
        raise UserError(not_installed("tensorboard"))


def write_tensorboard(folder: RunFolder, result: Result) -> None:
    """Write accuracies, seconds and the method's records, one step per task.

    Nothing is written if the folder has curves already: repeated events would be drawn twice.
    """
    from torch.utils.tensorboard import SummaryWriter

    if folder.tensorboard.exists():
        return
    with SummaryWriter(str(folder.tensorboard)) as writer:
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
