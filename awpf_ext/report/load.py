"""Finished runs, read from their folders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from awpf_ext.data.stream import task_boundaries
from awpf_ext.errors import UserError
from awpf_ext.report.names import class_labels, plain
from awpf_ext.runs.config import RunConfig
from awpf_ext.runs.diagnostics import RunDiagnostics
from awpf_ext.runs.folder import ClassTexts, RunFolder, run_folders
from awpf_ext.runs.references import SavedReferences, read_references
from awpf_ext.runs.result import Result
from awpf_ext.runs.sweep import Axis, SweepResult, SweepRun, variant_label
from awpf_ext.runs.sweep_file import SavedSweep, read_sweep


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """Everything that a report of one run is made of."""

    folder: Path
    config: RunConfig
    result: Result
    class_texts: ClassTexts
    diagnostics: RunDiagnostics | None
    references: SavedReferences

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of learning."""
        return self.class_texts.class_names

    @cached_property
    def labels(self) -> list[str]:
        """Class names as they appear in the report, in the order of learning."""
        return class_labels(self.class_names)

    @cached_property
    def domains(self) -> list[str]:
        """The domains in the order of learning; empty unless tasks are domains."""
        return [plain(name) for name in self.result.provenance.get("domains", ())]

    @cached_property
    def classes(self) -> list[range]:
        """The classes of each task."""
        if self.domains:
            return [range(len(self.class_names))] * len(self.domains)
        facts = self.result.provenance
        ends = task_boundaries(len(self.class_names), facts["base"], facts["increment"])
        return list(map(range, ends[:-1], ends[1:]))

    @property
    def seen(self) -> list[int]:
        """The number of classes seen after each task."""
        return [classes.stop for classes in self.classes]

    @property
    def noun(self) -> str:
        """ "domain" if tasks are domains, else "task"."""
        return "domain" if self.domains else "task"

    @property
    def task_names(self) -> list[str]:
        return self.domains or [str(place + 1) for place in range(len(self.classes))]

    @property
    def places(self) -> list[int]:
        """The position of each task on the axis that `across` names."""
        return list(range(1, len(self.domains) + 1)) or self.seen

    @property
    def across(self) -> str:
        return f"{'domains' if self.domains else 'classes'} seen"

    @property
    def order(self) -> str:
        """The order of the classes or of the domains."""
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
    """Several runs side by side: those of a comparison, of a sweep, or any other."""

    sweep: SweepResult
    runs: tuple[FinishedRun, ...]  # in the order of `sweep.runs`
    varied: str  # the keys in which the variants differ
    unfinished: tuple[str, ...] = ()  # folders that are left out
    axes: tuple[Axis, ...] = ()  # of a sweep over several keys that has all combinations

    @property
    def noun(self) -> str:
        """ "domain" if the tasks of all runs are domains, else "task"."""
        return "domain" if all(run.domains for run in self.runs) else "task"

    def of(self, variant: str) -> list[FinishedRun]:
        pairs = zip(self.sweep.runs, self.runs, strict=True)
        return [run for sweep_run, run in pairs if sweep_run.variant == variant]


class _FolderOfRuns(NamedTuple):
    """The finished runs in a folder, in the order of its sweep, and the names of the others."""

    finished: list[Path]
    unfinished: list[str]
    sweep: SavedSweep | None


def combination_label(values: Sequence[str]) -> str:
    """The variant with these values of `Comparison.axes`."""
    return " ".join(values)


def read_run(folder: str | Path) -> FinishedRun:
    """The finished run in a folder; UserError if there is none or it is unfinished."""
    run = RunFolder(folder)
    config, status = run.config(), run.status()
    if status.result is None:
        raise UserError(
            f"{run} holds an unfinished run ({status.tasks} tasks done); finish it with "
            "`awpf run ... --resume`, then there is something to report"
        )
    result = status.result
    kept = (run.class_texts(), run.diagnostics(), read_references(run, result))
    return FinishedRun(run.path, config, result, *kept)


def read_comparison(folders: Sequence[str | Path]) -> Comparison:
    """Several runs, from the folders of runs, of comparisons and of sweeps."""
    paths: list[Path] = []
    unfinished: list[str] = []
    sweep: SavedSweep | None = None
    for folder in (Path(folder).expanduser() for folder in folders):
        if RunFolder(folder).is_run:
            paths.append(folder)
            continue
        inside = _read_folder_of_runs(folder)
        paths += inside.finished
        unfinished += inside.unfinished
        sweep = inside.sweep if len(folders) == 1 else None
    runs = [read_run(path) for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("the same run is given twice")
    if not runs:
        raise UserError("there is no finished run in " + ", ".join(map(str, folders)))
    axes: tuple[Axis, ...] = ()
    if sweep is None:
        variants, varied = _variants_by_difference(runs)
    else:
        variants, varied = [plain(sweep.variants[path.name]) for path in paths], sweep.varied
        shorter = _short_labels(sweep, variants)
        variants = [shorter.get(variant, variant) for variant in variants]
        axes = _plain_axes(sweep) if shorter else ()
    sweep_runs = [
        SweepRun(plain(variant), run.config.order, run.config.seed, run.config, run.folder)
        for variant, run in zip(variants, runs, strict=True)
    ]
    places = {variant: place for place, variant in enumerate(dict.fromkeys(variants))}
    order = sorted(range(len(runs)), key=lambda i: places[variants[i]])
    result = SweepResult(tuple(sweep_runs[i] for i in order), tuple(runs[i].result for i in order))
    sorted_runs = tuple(runs[i] for i in order)
    return Comparison(result, sorted_runs, plain(varied), tuple(unfinished), axes)


def is_comparison(folder: Path) -> bool:
    """Whether a folder holds the runs of a comparison or a sweep rather than one run."""
    return not RunFolder(folder).is_run and bool(run_folders(folder))


def _read_folder_of_runs(folder: Path) -> _FolderOfRuns:
    """The runs below a folder; an unfinished sweep has not written its order and labels yet."""
    inside = run_folders(folder)
    if not inside:
        raise UserError(
            f"{folder} holds neither a run of `awpf run` nor runs of `awpf compare` or `awpf sweep`"
        )
    finished = [path for path in inside if RunFolder(path).is_finished]
    unfinished = [path.name for path in inside if path not in finished]
    sweep = read_sweep(folder)
    if sweep is not None:
        by_name = {path.name: path for path in finished}
        finished = [by_name[name] for name in sweep.variants if name in by_name]
    return _FolderOfRuns(finished, unfinished, sweep)


def _plain_axes(sweep: SavedSweep) -> tuple[Axis, ...]:
    return tuple(Axis(plain(axis.key), tuple(map(plain, axis.values))) for axis in sweep.axes)


def _short_labels(sweep: SavedSweep, variants: Sequence[str]) -> dict[str, str]:
    """For a sweep over several keys that has all combinations: labels of the values alone."""
    axes = _plain_axes(sweep)
    if len(axes) < 2:
        return {}
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    short = {variant_label(axes, values): combination_label(values) for values in combinations}
    complete = set(short) == set(variants) and len(set(short.values())) == len(short)
    return short if complete else {}


def _variants_by_difference(runs: Sequence[FinishedRun]) -> tuple[list[str], str]:
    """A label for each run, made of the keys in which runs differ; and those keys.

    Order and seed do not count. As few keys are used as distinguish the runs: first the method,
    then the keys that distinguish most runs.
    """
    identities = [_identity(run) for run in runs]
    keys = list(dict.fromkeys(key for identity in identities for key in identity))

    def kinds(chosen: Sequence[str]) -> int:
        return len({tuple(identity.get(key) for key in chosen) for identity in identities})

    chosen = ["method"] if kinds(["method"]) > 1 else []
    while kinds(chosen) < kinds(keys):
        chosen.append(max(keys, key=lambda key: kinds([*chosen, key])))
    pairs = list(zip(runs, identities, strict=True))
    variants = [_name(run, identity, chosen) for run, identity in pairs]
    if len(set(variants)) < kinds(chosen):  # different data sets with the same name
        variants = [
            f"{variant} ({identity['dataset'][1:7]})"
            for variant, identity in zip(variants, identities, strict=True)
        ]
    return variants, ", ".join(chosen) or "method"


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
            given = json.loads(identity[key])
            value = plain(given if isinstance(given, str) else identity[key])
            parts.append(value if len(chosen) == 1 else f"{key} {value}")
    return " ".join(parts)
