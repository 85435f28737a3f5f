"""The folder of a run: names of its files, its status, and what it holds apart from checkpoints.

    run.json                     format of the folder, identity of the run, and its environment
    config.yaml                  configuration; `awpf run --config` repeats the run from it
    class_texts.safetensors      class names, text embeddings, and the backbone that they come from
    task_0000.safetensors        state of the method after task 0
    statistics_0000.safetensors  class statistics that task 0 added
    adapters/task_0000/          LoRA that task 0 trained, in PEFT's format
    task_0000.json               results of task 0; this and the three above: checkpoint.py
    diagnostics.safetensors      predictions and embeddings of test images (diagnostics.py)
    result.json                  result; if this file exists, the run is finished
    tensorboard/                 curves for TensorBoard (loggers.py)
    references/METHOD/           runs of other methods, shown in the report (references.py)
    run.lock                     lock of the process that is writing

Every file is written atomically, so that a run killed at any moment can be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from awpf_ext import io
from awpf_ext.data import TaskStream
from awpf_ext.errors import AwpfError, CheckpointError, DataError, UserError
from awpf_ext.finetuning.roles import Role, keys_with
from awpf_ext.lora.adapter_writer import ADAPTERS
from awpf_ext.runs.config import RunConfig, read_config_file, resolve_config
from awpf_ext.runs.diagnostics import RunDiagnostics, read_diagnostics, write_diagnostics
from awpf_ext.runs.result import Result

FORMAT = 3  # of this layout; a folder of another format is refused
_CONFIG_FILE = "config.yaml"


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs directly inside a folder; folders that cannot be read are left out."""
    return sorted(file.parent for file in folder.glob(f"*/{_CONFIG_FILE}"))


class RunStatus(NamedTuple):
    """The state of a folder, the number of finished tasks, and the result of a finished run."""

    state: Literal["empty", "unfinished", "finished"] = "empty"
    tasks: int = 0
    result: Result | None = None


class RunIdentity(NamedTuple):
    """The content of run.json."""

    identity: dict[str, Any]  # must agree for two runs to be the same
    environment: dict[str, Any]  # may change the last digits of a result


class ClassTexts(NamedTuple):
    """The content of class_texts.safetensors; together with a checkpoint it makes a model."""

    text: Tensor  # (classes, dimension), in the order of learning
    class_names: tuple[str, ...]  # in the order of learning
    class_order: tuple[int, ...]  # labels of these classes in the data set
    logit_scale: float
    provenance: dict[str, Any]  # of the features, with the backbone that made them


class RunFolder:
    """The folder of one run; open it once and pass it on."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.identity_file = self.path / "run.json"
        self.config_file = self.path / _CONFIG_FILE
        self.class_texts_file = self.path / "class_texts.safetensors"
        self.diagnostics_file = self.path / "diagnostics.safetensors"
        self.result_file = self.path / "result.json"
        self.adapters = self.path / ADAPTERS
        self.tensorboard = self.path / "tensorboard"
        self.references = self.path / "references"
        self._lock_file = self.path / "run.lock"
        self._held = False

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_run(self) -> bool:
        """Whether a run with a configuration was started here."""
        return self.config_file.exists()

    @property
    def is_finished(self) -> bool:
        return self.result_file.exists()

    def state_file(self, task: int) -> Path:
        """The state of the method after a task."""
        return self.path / f"task_{task:04d}.safetensors"

    def statistics_file(self, task: int) -> Path:
        """The class statistics that a task added."""
        return self.path / f"statistics_{task:04d}.safetensors"

    def task_result_file(self, task: int) -> Path:
        """The results of a task; a task is finished once this file exists."""
        return self.path / f"task_{task:04d}.json"

    def task_result_files(self) -> list[Path]:
        """Those that exist, in the order of the tasks."""
        return sorted(self.path.glob("task_*.json"))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out; UserError with the name of the process that holds the folder.

        Blocks may be nested: only the outermost one locks and unlocks.
        """
        if self._held:
            yield
            return
        with io.lock(self._lock_file, wait=False):
            io.remove_leftovers(self.path)
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def status(self, config: RunConfig | None = None) -> RunStatus:
        """The state of the folder; with `config`, CheckpointError if it holds another run."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; expected a folder for the run")
        identity = self.identity()
        if config is not None:
            self._check_config(config)
        tasks = len(self.task_result_files())
        if self.is_finished:
            return RunStatus("finished", tasks, self.result())
        started = self.is_run or identity is not None
        return RunStatus("unfinished" if started else "empty", tasks)

    def create(self, config: RunConfig, stream: TaskStream) -> None:
        """Write the configuration and the class texts, unless they are there already."""
        with self.hold():
            self._check_config(config)  # since `status`, another run may have been started here
            if not self.class_texts_file.exists():
                facts = {
                    "class_names": stream.class_names,
                    "class_order": stream.class_order,
                    "logit_scale": stream.logit_scale,
                    "provenance": stream.provenance,
                }
                described = json.dumps(facts, ensure_ascii=False)
                io.save_tensors(
                    self.class_texts_file, {"text": stream.text.cpu()}, {"awpf_ext": described}
                )
            if not self.is_run:
                io.write_atomic(self.config_file, config.to_yaml().encode())

    def finish(self, config: RunConfig, result: Result, diagnostics: RunDiagnostics) -> None:
        """Write the diagnostics, the configuration and the result; then the run is finished.

        The configuration is written again, as its files may have moved since the run was started.
        """
        write_diagnostics(self.diagnostics_file, diagnostics)
        io.write_atomic(self.config_file, config.to_yaml().encode())
        io.write_json(self.result_file, result.to_full_json())

    def set_identity(self, identity: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write run.json: from now on the folder belongs to this run."""
        content = {"format": FORMAT, "identity": identity, "environment": dict(environment)}
        io.write_json(self.identity_file, content)

    def identity(self) -> RunIdentity | None:
        """The identity of the run; None if no run was started here.

        CheckpointError if the folder was written in another format or run.json is damaged.
        """
        if not self.identity_file.exists():
            return None
        try:
            saved = io.read_json(self.identity_file)
            found, identity = saved["format"], RunIdentity(saved["identity"], saved["environment"])
        except (DataError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.identity_file} is damaged: {error}") from None
        if found != FORMAT:
            raise CheckpointError(
                f"{self.path} has checkpoint format {found}; this version reads format {FORMAT}"
            )
        return identity

    def config(self) -> RunConfig:
        """The configuration of the run."""
        self.identity()  # an old folder is refused for its format, not for one of its keys
        return self._read_config()

    def class_texts(self) -> ClassTexts:
        """The classes of the run and their text embeddings."""
        try:
            tensors, metadata = io.load_tensors(self.class_texts_file)
            facts = json.loads(metadata["awpf_ext"])
            return ClassTexts(
                tensors["text"],
                tuple(facts["class_names"]),
                tuple(facts["class_order"]),
                facts["logit_scale"],
                facts["provenance"],
            )
        except (DataError, KeyError, ValueError) as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def diagnostics(self) -> RunDiagnostics | None:
        """The diagnostics of a finished run; None if their file was deleted."""
        exists = self.diagnostics_file.exists()
        return read_diagnostics(self.diagnostics_file) if exists else None

    def result(self) -> Result:
        """The result of the finished run."""
        try:
            return Result.from_json(io.read_json(self.result_file))
        except (DataError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.result_file} is damaged ({error}); delete it and resume the run"
            ) from None

    def another_run(self, differences: Iterable[tuple[str, Any, Any]]) -> CheckpointError:
        """The error for a folder whose run differs; differences: (key, value there, value here)."""
        keys = "; ".join(f"{key} is {there} there, {here} here" for key, there, here in differences)
        return CheckpointError(f"{self.path} belongs to another run: {keys}")

    def _check_config(self, config: RunConfig) -> None:
        """CheckpointError if the folder holds a run with another configuration."""
        if not self.is_run:
            return
        here, there = config.identity(), self._read_config().identity()
        ignored = () if self.is_finished else keys_with(RunConfig, Role.FILES)
        differences = [
            (key, there[key], here[key])
            for key in there
            if key in here and there[key] != here[key] and key not in ignored
        ]
        if differences:
            raise self.another_run(differences)

    def _read_config(self) -> RunConfig:
        if not self.is_run:
            name = self.config_file.name
            raise UserError(f"{self.path} holds no run of `awpf run` (there is no {name} in it)")
        try:
            return resolve_config([read_config_file(self.config_file)]).config
        except AwpfError as error:
            raise CheckpointError(f"{self.path} cannot be read by this version: {error}") from None
