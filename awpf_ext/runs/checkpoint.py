"""A run's folder: after every task its state, its class statistics and its results.

    run.json                     what the run is: configuration, data, seed; and where it was made
    task_0000.safetensors        the method's state after task 0, the random generator's included
    statistics_0000.safetensors  the class statistics that task 0 added; never rewritten
    adapters/task_0000/          a LoRA that task 0 trained, as PEFT reads it; in methods with LoRAs
    task_0000.json               results of task 0; written last, it makes the task count

Every file is whole or absent (awpf_ext.io) and carries the run's fingerprint, so that a file of
another run is told from one of this. A run killed at any moment continues after its last task.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from awpf_ext import io
from awpf_ext.errors import CheckpointError, DataError, UserError
from awpf_ext.lora.adapter_writer import AdapterFiles, write_adapter

FORMAT = 1  # of this layout; a folder of another format is refused
Resume = bool | Literal["intact"]
NO_STATE = "there is no"  # of large states only the last two are kept


class SavedRun(NamedTuple):
    """What a folder holds of a run: the tasks done, and the state after the last of them."""

    results: list[dict[str, Any]]  # one a task
    statistics: list[dict[str, Tensor]]  # one a task, none where the method keeps none
    state: dict[str, Tensor] | None  # None: no task is done


class RunFolder:
    """Reads and writes one run's checkpoints; holds a lock while a run is in it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fingerprint = ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out; UserError naming the one that is in already."""
        with io.lock(self.path / "run.lock", wait=False):
            io.remove_leftovers(self.path)
            yield

    def begin(
        self, identity: Mapping[str, Any], environment: Mapping[str, Any], resume: Resume
    ) -> SavedRun:
        """What to continue from.

        identity: what must agree for a run to be the same; environment: what may change a result's
        last digits, and warns. resume "intact": where something is damaged, continue after the last
        task that is whole instead of refusing.
        """
        identity = json.loads(json.dumps(identity))
        self._fingerprint = _digest(identity)
        marker = self.path / "run.json"
        if not marker.exists():
            if self._results(0).exists():
                raise CheckpointError(f"{self.path} holds results, but its run.json is missing")
            io.write_json(
                marker, {"format": FORMAT, "identity": identity, "environment": dict(environment)}
            )
            return SavedRun([], [], None)
        if not resume:
            raise UserError(f"{self.path} holds a run already; resume it or choose another folder")
        self._check_run(identity, environment)
        return self._load(resume)

    def save(
        self,
        index: int,
        state: Mapping[str, Tensor],
        statistics: Mapping[str, Tensor] | None,
        results: Mapping[str, Any],
        *,
        adapters: Mapping[str, AdapterFiles] | None = None,
        forget: bool = False,
    ) -> None:
        """Add one task; it counts once its results are there.

        forget: of large states keep only this one and the one before.
        """
        metadata = {"run": self._fingerprint, "task": str(index)}
        io.save_tensors(self._file("task", index), state, metadata)
        for name, adapter in (adapters or {}).items():
            write_adapter(self.path / "adapters" / name, adapter)
        if statistics is not None:
            io.save_tensors(self._file("statistics", index), statistics, metadata)
        content = {**metadata, "statistics": statistics is not None, "results": dict(results)}
        io.write_json(self._results(index), {**content, "digest": _digest(content)})
        if forget and index > 1:
            self._file("task", index - 2).unlink(missing_ok=True)

    def _check_run(self, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        try:
            saved = io.read_json(self.path / "run.json")
            found, saved_identity = saved["format"], saved["identity"]
            saved_environment = saved["environment"]
        except (DataError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path}/run.json is damaged: {error}") from None
        if found != FORMAT:
            raise CheckpointError(
                f"{self.path} has checkpoint format {found}; this version reads format {FORMAT}"
            )
        differences = _differences(saved_identity, identity)
        if differences:
            told = "; ".join(f"{key} is {was} there, {here} here" for key, was, here in differences)
            raise CheckpointError(f"{self.path} belongs to another run: {told}")
        for key, was, here in _differences(saved_environment, environment):
            warnings.warn(
                f"this run was started with {key} {was} and continues with {here}; its numbers may "
                "differ from an uninterrupted run's in the last digits",
                stacklevel=4,
            )

    def _load(self, resume: Resume) -> SavedRun:
        """All tasks whose results and statistics are whole, up to the last with a whole state."""
        results: list[dict[str, Any]] = []
        statistics: list[dict[str, Tensor]] = []
        damage: list[str] = []
        while self._results(len(results)).exists() and not damage:
            try:
                content = self._load_results(len(results))
                if content["statistics"]:
                    statistics.append(self._load_tensors("statistics", len(results)))
                results.append(content["results"])
            except DataError as error:
                damage.append(str(error))
        state = None
        while results and state is None:
            try:
                state = self._load_tensors("task", len(results) - 1)
            except DataError as error:
                file = self._file("task", len(results) - 1)
                if file.exists():
                    damage.append(str(error))
                elif not any(NO_STATE in told for told in damage):
                    damage.append(f"{NO_STATE} {file.name}")
                results.pop()
                del statistics[len(results) :]
        if damage and resume != "intact":
            whole = f"{len(results)} whole task{'' if len(results) == 1 else 's'}"
            raise CheckpointError(
                f"{self.path} is damaged after {whole}: {'; '.join(damage)}; "
                "resume from what is intact, and the tasks after that are trained again"
            )
        if damage:
            self._discard_results(len(results))
        return SavedRun(results, statistics, state)

    def _discard_results(self, start: int) -> None:
        """Let the tasks from `start` on count no more, the last first."""
        beyond = [path for path in self.path.glob("task_*.json") if path >= self._results(start)]
        for path in sorted(beyond, reverse=True):
            path.unlink()

    def _load_results(self, index: int) -> dict[str, Any]:
        path = self._results(index)
        content = io.read_json(path)
        digest = content.pop("digest", None) if isinstance(content, dict) else None
        if digest is None or digest != _digest(content):
            raise DataError(f"{path.name} is damaged (its digest does not match)")
        self._check_owner(path, content, index)
        return dict(content)

    def _load_tensors(self, kind: str, index: int) -> dict[str, Tensor]:
        path = self._file(kind, index)
        tensors, metadata = io.load_tensors(path)
        self._check_owner(path, metadata, index)
        return tensors

    def _check_owner(self, path: Path, content: Mapping[str, Any], index: int) -> None:
        if content.get("run") != self._fingerprint or content.get("task") != str(index):
            raise DataError(f"{path.name} belongs to another run or task")

    def _file(self, kind: str, index: int) -> Path:
        return self.path / f"{kind}_{index:04d}.safetensors"

    def _results(self, index: int) -> Path:
        return self.path / f"task_{index:04d}.json"


def _digest(content: Any) -> str:
    encoded = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(encoded).hexdigest()


def _differences(before: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, before, now) wherever two nested mappings differ."""
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return [(name, before, now)] if before != now else []
    found: list[tuple[str, Any, Any]] = []
    for key in dict.fromkeys([*before, *now]):
        found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
    return found
