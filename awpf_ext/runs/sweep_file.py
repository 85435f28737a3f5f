"""`sweep.json`, in which a comparison or a sweep keeps its results below its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from awpf_ext import io
from awpf_ext.errors import AwpfError, CheckpointError
from awpf_ext.runs.sweep import Axis, SweepResult

SWEEP_FILE = "sweep.json"


class SavedSweep(NamedTuple):
    """What `sweep.json` says of the runs in its folder."""

    axes: tuple[Axis, ...]
    variants: Mapping[str, str]  # of each run, by the name of its folder

    @property
    def varied(self) -> str:
        """The keys that are varied."""
        return ", ".join(axis.key for axis in self.axes)


def write_sweep(folder: Path, axes: Sequence[Axis], result: SweepResult) -> dict[str, Any]:
    """Write `sweep.json`; its content."""
    content = {
        "axes": [{"key": axis.key, "values": list(axis.values)} for axis in axes],
        "folder": str(folder),
        **result.to_json(),
    }
    io.write_json(folder / SWEEP_FILE, content)
    return content


def read_sweep(folder: Path) -> SavedSweep | None:
    """The content of `sweep.json`; None if there is none, as in an unfinished sweep."""
    if not (folder / SWEEP_FILE).exists():
        return None
    try:
        saved = io.read_json(folder / SWEEP_FILE)
        return SavedSweep(
            tuple(
                Axis(str(axis["key"]), tuple(map(str, axis["values"]))) for axis in saved["axes"]
            ),
            {Path(run["folder"]).name: str(run["variant"]) for run in saved["runs"]},
        )
    except (AwpfError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / SWEEP_FILE} is damaged ({error})") from None
