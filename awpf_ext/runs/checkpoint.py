"""Checkpoints of a run: after every task the method's state, class statistics and results.

The results of a task are written last: a task whose results are missing is trained again. All files
carry a fingerprint of the run's identity, so that a file copied from another run is refused. A run
that is killed at any moment continues after its last finished task.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from awpf_ext import io
from awpf_ext.errors import CheckpointError, DataError, UserError
from awpf_ext.lora.adapter_writer import AdapterFiles, write_adapter
from awpf_ext.runs.folder import RunFolder

Resume = bool | Literal["intact"]
NO_STATE = "there is no"  # of methods with a large state only the last two are kept


class SavedRun(NamedTuple):
    """The finished tasks of a run and the state of its method after the last of them."""

    results: list[dict[str, Any]]  # one per task
    statistics: list[dict[str, Tensor]]  # one per task; empty if the method keeps none
    state: dict[str, Tensor] | None  # None if no task is finished


class Checkpoint:
    """Reads and writes the checkpoints in a run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._fingerprint = ""

    def begin(
        self, identity: Mapping[str, Any], environment: Mapping[str, Any], resume: Resume
    ) -> SavedRun:
        """Start a run, or read what an earlier process has saved of it.

        identity: must agree with the saved run's. environment: a difference may change the last
        digits of a result and causes a warning. resume: with "intact", damaged tasks are dropped
        and the run continues after the last intact one, instead of being refused.
        """
        identity = json.loads(json.dumps(identity))
        self._fingerprint = _digest(identity)
        saved = self.folder.identity()
        if saved is None:
            if self.folder.task_result_file(0).exists():
                name = self.folder.identity_file.name
                raise CheckpointError(f"{self.folder} holds results, but its {name} is missing")
            self.folder.set_identity(identity, environment)
            return SavedRun([], [], None)
        if not resume:
            advice = "resume it or choose another folder"
            raise UserError(f"{self.folder} holds a run already; {advice}")
        differences = _differences(saved.identity, identity)
        if differences:
            raise self.folder.another_run(differences)
        for key, before, now in _differences(saved.environment, environment):
            warnings.warn(
                f"this run was started with {key} {before} and continues with {now}; its numbers "
                "may differ from an uninterrupted run's in the last digits",
                stacklevel=3,
            )
        return self._load(resume)

    def load(self) -> SavedRun:
        """The saved tasks and state of the run in this folder, whichever run it is."""
        saved = self.folder.identity()
        if saved is None:
            return SavedRun([], [], None)
        self._fingerprint = _digest(saved.identity)
        return self._load(resume=True)

    def save(
        self,
        index: int,
        state: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor] | None,
        results: Mapping[str, Any],
        *,
        adapters: Mapping[str, AdapterFiles] | None = None,
        drop_old_states: bool = False,
    ) -> None:
        """Add one task; it counts as finished once its results are written.

        drop_old_states: keep only this state and the one before, for methods with a large state.
        """
        folder, metadata = self.folder, {"run": self._fingerprint, "task": str(index)}
        io.save_tensors(folder.state_file(index), state, metadata)
        for name, adapter in (adapters or {}).items():
            write_adapter(folder.adapters / name, adapter)
        if statistics is not None:
            io.save_tensors(folder.statistics_file(index), statistics, metadata)
        content = {**metadata, "statistics": statistics is not None, "results": dict(results)}
        file = folder.task_result_file(index)
        io.write_json(file, {**content, "digest": _digest(content)})
        if drop_old_states and index > 1:
            folder.state_file(index - 2).unlink(missing_ok=True)

    def _load(self, resume: Resume) -> SavedRun:
        """All tasks with intact results and statistics, up to the last with an intact state."""
        folder = self.folder
        results: list[dict[str, Any]] = []
        statistics: list[dict[str, Tensor]] = []
        damage: list[str] = []
        while folder.task_result_file(len(results)).exists() and not damage:
            try:
                content = self._load_results(len(results))
                if content["statistics"]:
                    file = folder.statistics_file(len(results))
                    statistics.append(self._load_tensors(file, len(results)))
                results.append(content["results"])
            except DataError as error:
                damage.append(str(error))
        state = None
        while results and state is None:
            file = folder.state_file(len(results) - 1)
            try:
                state = self._load_tensors(file, len(results) - 1)
            except DataError as error:
                if file.exists():
                    damage.append(str(error))
                elif not any(NO_STATE in line for line in damage):
                    damage.append(f"{NO_STATE} {file.name}")
                results.pop()
                del statistics[len(results) :]
        if damage and resume != "intact":
            intact = f"{len(results)} whole task{'' if len(results) == 1 else 's'}"
            raise CheckpointError(
                f"{folder} is damaged after {intact}: {'; '.join(damage)}; "
                'resume with --resume-intact (in Python resume="intact") to train the later tasks '
                "again"
            )
        if damage:
            self._discard_results(len(results))
        return SavedRun(results, statistics, state)

    def _discard_results(self, start: int) -> None:
        """Delete the results of the tasks from `start` on, the last task first."""
        first = self.folder.task_result_file(start)
        for file in reversed(self.folder.task_result_files()):
            if file >= first:
                file.unlink()

    def _load_results(self, index: int) -> dict[str, Any]:
        file = self.folder.task_result_file(index)
        content = io.read_json(file)
        digest = content.pop("digest", None) if isinstance(content, dict) else None
        if digest is None or digest != _digest(content):
            raise DataError(f"{file.name} is damaged (its digest does not match)")
        self._check_owner(file, content, index)
        return dict(content)

    def _load_tensors(self, file: Path, index: int) -> dict[str, Tensor]:
        tensors, metadata = io.load_tensors(file)
        self._check_owner(file, metadata, index)
        return tensors

    def _check_owner(self, file: Path, content: Mapping[str, Any], index: int) -> None:
        if content.get("run") != self._fingerprint or content.get("task") != str(index):
            raise DataError(f"{file.name} belongs to another run or task")


def _digest(content: Any) -> str:
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, before, now) of all values in which two nested mappings differ."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return [(name, before, now)] if before != now else []
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*before, *now]):
        found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    return found
