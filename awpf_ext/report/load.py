"""Finished runs, read from their folders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from awpf_ext import io
from awpf_ext.data.stream import task_boundaries
from awpf_ext.errors import AwpfError, CheckpointError, UserError
from awpf_ext.report.names import class_labels, plain
from awpf_ext.runs.config import RunConfig
from awpf_ext.runs.diagnostics import RunDiagnostics
from awpf_ext.runs.folder import ClassTexts, RunFolder
from awpf_ext.runs.result import Result
from awpf_ext.runs.sweep import Axis, Cell, Grid, arm_label


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """All that a report is made of."""

    folder: Path
    config: RunConfig
    result: Result
    class_texts: ClassTexts
    diagnostics: RunDiagnostics | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of learning."""
        return self.class_texts.class_names

    @cached_property
    def labels(self) -> list[str]:
        """Class names fit for a page, in the order of learning."""
        return class_labels(self.class_names)

    @cached_property
    def domains(self) -> list[str]:
        """The domains in the order of learning, where each task is one."""
        return [plain(name) for name in self.result.provenance.get("domains", ())]

    @cached_property
    def classes(self) -> list[range]:
        """Of each task."""
        if self.domains:
            return [range(len(self.class_names))] * len(self.domains)
        facts = self.result.provenance
        ends = task_boundaries(len(self.class_names), facts["base"], facts["increment"])
        return list(map(range, ends[:-1], ends[1:]))

    @property
    def seen(self) -> list[int]:
        """Classes seen after each task."""
        return [classes.stop for classes in self.classes]

    @property
    def noun(self) -> str:
        """What a task is."""
        return "domain" if self.domains else "task"

    @property
    def task_names(self) -> list[str]:
        return self.domains or [str(place + 1) for place in range(len(self.classes))]

    @property
    def places(self) -> list[int]:
        """Where on an axis `across` each task stands."""
        return list(range(1, len(self.domains) + 1)) or self.seen

    @property
    def across(self) -> str:
        return f"{'domains' if self.domains else 'classes'} seen"

    @property
    def order(self) -> str:
        """Of the classes, or of the domains."""
        facts = self.result.provenance
        return plain(facts["domain_order"] if self.domains else facts["class_order"])

    @property
    def method(self) -> str:
        return plain(self.result.provenance["method"])

    @property
    def dataset(self) -> str:
        return plain(self.result.provenance["dataset"])


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side: those of a comparison, of a sweep, or any that were named."""

    grid: Grid
    runs: tuple[FinishedRun, ...]  # as the grid's cells
    varied: str  # what tells the arms apart
    unfinished: tuple[str, ...] = ()  # folders left out
    axes: tuple[Axis, ...] = ()  # of a sweep over several keys; every combination is an arm

    @property
    def noun(self) -> str:
        """What a task is, where it is the same in all runs."""
        return "domain" if all(run.domains for run in self.runs) else "task"

    def of(self, arm: str) -> list[FinishedRun]:
        pairs = zip(self.grid.cells, self.runs, strict=True)
        return [run for cell, run in pairs if cell.arm == arm]


class _MadeGrid(NamedTuple):
    """What grid.json says of a whole folder of runs."""

    varied: str
    axes: tuple[Axis, ...]

    def short_arms(self, arms: Sequence[str]) -> dict[str, str]:
        """Of several keys the values alone, where every combination is among the arms."""
        if len(self.axes) < 2:
            return {}
        combinations = list(itertools.product(*(axis.values for axis in self.axes)))
        found = {arm_label(self.axes, values): arm_of(values) for values in combinations}
        return found if set(found) == set(arms) and len(set(found.values())) == len(found) else {}


def arm_of(values: Sequence[str]) -> str:
    """The arm of a combination of `Comparison.axes`."""
    return " ".join(values)


def read_run(folder: str | Path) -> FinishedRun:
    """The finished run in a folder; UserError where there is none or it is under way."""
    run = RunFolder(folder)
    config, status = run.config(), run.status()
    if status.result is None:
        raise UserError(
            f"{run} holds an unfinished run ({status.tasks} tasks done); finish it with "
            "`awpf run ... --resume`, then there is something to report"
        )
    return FinishedRun(run.path, config, status.result, run.class_texts(), run.diagnostics())


def read_comparison(folders: Sequence[str | Path]) -> Comparison:
    """Several runs: folders of runs, and of `awpf compare` and `awpf sweep`, in any mixture."""
    found: list[tuple[Path, str | None]] = []
    made: list[_MadeGrid] = []
    unfinished: list[str] = []
    for folder in (Path(folder).expanduser() for folder in folders):
        if RunFolder(folder).is_run:
            found.append((folder, None))
            continue
        below, whole, left_out = _runs_below(folder)
        found += below
        made += [] if whole is None else [whole]
        unfinished += left_out
    runs = tuple(read_run(folder) for folder, _ in found)
    if len(dict.fromkeys(folder.resolve() for folder, _ in found)) < len(found):
        raise UserError("the same run is given twice")
    if not runs:
        raise UserError("there is no finished run in " + ", ".join(map(str, folders)))
    given = [arm for _, arm in found]
    one_grid = made[0] if len(folders) == 1 and len(made) == 1 and None not in given else None
    arms, differing = _arms(runs)
    axes: tuple[Axis, ...] = ()
    if one_grid is not None:
        arms, differing = [plain(arm) for arm in given], one_grid.varied
        shorter = one_grid.short_arms(arms)
        arms = [shorter.get(arm, arm) for arm in arms]
        axes = one_grid.axes if shorter else ()
    cells = [
        Cell(plain(arm), run.config.order, run.config.seed, run.config, run.folder)
        for arm, run in zip(arms, runs, strict=True)
    ]
    by_arm = sorted(range(len(runs)), key=lambda i: list(dict.fromkeys(arms)).index(arms[i]))
    grid = Grid(tuple(cells[i] for i in by_arm), tuple(runs[i].result for i in by_arm))
    sorted_runs = tuple(runs[i] for i in by_arm)
    return Comparison(grid, sorted_runs, plain(differing), tuple(unfinished), axes)


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds the runs of a comparison or a sweep rather than one run."""
    return not RunFolder(folder).is_run and bool(_run_folders(folder))


def _run_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if RunFolder(path).is_run)


def _runs_below(
    folder: Path,
) -> tuple[list[tuple[Path, str | None]], _MadeGrid | None, list[str]]:
    """(run, its arm) of a grid's folder in the grid's sequence, what it is, what is undone.

    grid.json is written at the end; without it whatever runs are there are taken.
    """
    inside = _run_folders(folder)
    if not inside:
        raise UserError(
            f"{folder} holds neither a run of `awpf run` nor runs of `awpf compare` or `awpf sweep`"
        )
    finished = [path for path in inside if RunFolder(path).is_finished]
    unfinished = [path.name for path in inside if path not in finished]
    if not (folder / "grid.json").exists():
        return [(path, None) for path in finished], None, unfinished
    try:
        saved = io.read_json(folder / "grid.json")
        arms = {Path(run["folder"]).name: str(run["arm"]) for run in saved["runs"]}
        axes = [
            Axis(plain(axis["key"]), tuple(plain(value) for value in axis["values"]))
            for axis in saved.get("axes", ())
        ]
        made = _MadeGrid(str(saved["varied"]), tuple(axes))
    except (AwpfError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/grid.json is damaged ({error})") from None
    by_name = {path.name: path for path in finished}
    listed: list[tuple[Path, str | None]] = [
        (by_name[name], arm) for name, arm in arms.items() if name in by_name
    ]
    return listed, made, unfinished


def _arms(runs: Sequence[FinishedRun]) -> tuple[list[str], str]:
    """A name for each run by what it differs in from others, order and seed apart; and those keys.

    As few keys as tell the runs apart: the method first, then what parts them most.
    """
    identities = [_identity(run) for run in runs]
    keys = list(dict.fromkeys(key for identity in identities for key in identity))

    def kinds(chosen: Sequence[str]) -> int:
        return len({tuple(identity.get(key) for key in chosen) for identity in identities})

    chosen = ["method"] if kinds(["method"]) > 1 else []
    while kinds(chosen) < kinds(keys):
        chosen.append(max(keys, key=lambda key: kinds([*chosen, key])))
    arms = [_name(run, identity, chosen) for run, identity in zip(runs, identities, strict=True)]
    if len(set(arms)) < kinds(chosen):  # other data under the same name
        pairs = zip(arms, identities, strict=True)
        arms = [f"{arm} ({identity['dataset'][1:7]})" for arm, identity in pairs]
    return arms, ", ".join(chosen) or "method"


def _identity(run: FinishedRun) -> dict[str, str]:
    facts = run.result.provenance
    own = {key: value for key, value in run.config.identity().items() if "." not in key}
    own["dataset"] = facts.get("content_hash", facts["dataset"])
    own = {**own, **facts.get("config", {})}
    return {
        key: json.dumps(value, sort_keys=True, default=str)
        for key, value in own.items()
        if key not in ("order", "seed")
    }


def _name(run: FinishedRun, identity: Mapping[str, str], chosen: Sequence[str]) -> str:
    plainly = {"method": run.method, "dataset": run.dataset}
    parts = []
    for key in chosen or ["method"]:
        if key in plainly:
            parts.append(plainly[key])
        elif key in identity:
            value = plain(json.loads(identity[key]))
            parts.append(value if len(chosen) == 1 else f"{key} {value}")
    return " ".join(parts)
