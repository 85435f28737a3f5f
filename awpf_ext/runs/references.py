"""References: other methods on the data and the tasks of a run, shown beside it in its report.

They are ordinary runs in RUN/references/METHOD, made after the run itself. A finished one is read
instead of being repeated, and an interrupted one continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from awpf_ext.errors import AwpfError
from awpf_ext.methods import METHODS
from awpf_ext.methods.registry import method_label
from awpf_ext.runs.config import RUN_KEYS, ConfigLayer, RunConfig, resolve_config
from awpf_ext.runs.folder import RunFolder, run_folders
from awpf_ext.runs.result import Result
from awpf_ext.runs.wording import metric_label, percent, seconds_text

# Those of the demo: a lower bound, training without fusion, and an upper bound.
DEMO_REFERENCES = ("naive", "finetune", "joint")

METRICS = ("average", "last", "forgetting")  # in tables of a run and its references
COLUMNS = ("method", *map(metric_label, (*METRICS, "seconds_to_learn")))


class Reference(NamedTuple):
    """One reference of a run: its configuration and its folder."""

    method: str
    config: RunConfig
    folder: RunFolder


class SavedReferences(NamedTuple):
    """The finished references of a run, the lowest last accuracy first, and the other methods."""

    results: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()


def default_references(config: RunConfig) -> list[str]:
    """The references of the built-in demo that its protocol allows; none for other data."""
    if config.dataset.partition(":")[0] != "demo":
        return []
    return [name for name in DEMO_REFERENCES if config.protocol in METHODS[name].protocols]


def plan_references(
    methods: Iterable[str], layers: Sequence[ConfigLayer], config: RunConfig, folder: RunFolder
) -> list[Reference]:
    """The references of the run that `layers` configure; its own method is none of them."""
    shared = {key: getattr(config, key) for key in RUN_KEYS if key != "method"}
    planned = []
    for method in dict.fromkeys(methods):
        if method != config.method:
            own = resolve_config([*layers, ConfigLayer("references", {"method": method})]).config
            path = folder.references / method
            planned.append(Reference(method, own.model_copy(update=shared), RunFolder(path)))
    return planned


def read_references(folder: RunFolder, result: Result) -> SavedReferences:
    """The references of a finished run; unreadable ones and those on other data are left out."""
    found, left_out = [], []
    for path in run_folders(folder.references):
        reference = _finished(RunFolder(path))
        if reference is None or not _same_stream(reference, result):
            left_out.append(path.name)
        else:
            found.append(reference)
    found.sort(key=lambda reference: reference.last)
    return SavedReferences(tuple(found), tuple(left_out))


def by_method(references: Iterable[Result]) -> Iterator[tuple[str, Result]]:
    """Pairs of a method and its result."""
    for result in references:
        yield str(result.provenance["method"]), result


def table_row(method: str, result: Result) -> list[str]:
    """The cells of a method under `COLUMNS`."""
    numbers = [percent(getattr(result, metric)) for metric in METRICS]
    return [method_label(method), *numbers, seconds_text(result.seconds_to_learn)]


def _finished(folder: RunFolder) -> Result | None:
    try:
        return folder.result() if folder.is_finished else None
    except AwpfError:
        return None


def _same_stream(one: Result, other: Result) -> bool:
    keys = ("stream_hash", "order_hash")
    return all(one.provenance.get(key) == other.provenance.get(key) for key in keys)
