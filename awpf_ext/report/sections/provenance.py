"""Everything that the results depend on, and the command that repeats the run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from awpf_ext.finetuning.roles import Role, keys_with
from awpf_ext.report.blocks import Block, Code, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import plain
from awpf_ext.runs.config import RUN_KEYS, RunConfig
from awpf_ext.runs.wording import yaml_text


def section(run: FinishedRun) -> Section:
    blocks: list[Block] = [
        Text("This command repeats the run:"),
        Code(command(run.config)),
        Text(
            "The same settings are in config.yaml in the run's folder (awpf run --config). The "
            "last digits may depend on threads, device, instruction set and version of torch."
        ),
        Table(["key", "value"], facts_table(run.result.provenance), words=2),
        _order(run),
    ]
    kept = [record for record in run.result.records if record.get("kind") == "buffer"]
    if kept:
        blocks.append(_buffer(run, kept))
    return Section("Provenance", blocks)


def _order(run: FinishedRun) -> Table:
    if run.domains:
        rows = [[str(place), name] for place, name in enumerate(run.domains, 1)]
        return Table(["place", "domain"], rows, words=2, title="Domain order")
    rows = [
        [name, ", ".join(run.labels[classes.start : classes.stop])]
        for name, classes in zip(run.task_names, run.classes, strict=True)
    ]
    return Table(["task", "classes, in the order of learning"], rows, words=2, title="Class order")


def _buffer(run: FinishedRun, records: Sequence[Mapping[str, Any]]) -> Table:
    """The contents of the buffer of earlier images after each task."""
    rows = [
        [
            run.task_names[record["task"]],
            f"{record['samples']:,}",
            f"{record['min_per_class']:,}",
            f"{record['max_per_class']:,}",
            f"{record['copied_bytes']:,}",
        ]
        for record in records
    ]
    columns = [f"after {run.noun}", "samples", "fewest per class", "most", "bytes of copies"]
    return Table(columns, rows, title="Buffer")


def command(config: RunConfig) -> str:
    """The command that repeats a run; keys with their default value are left out."""
    given: list[str] = []
    machine = keys_with(RunConfig, Role.MACHINE)
    for key in RUN_KEYS:
        value, default = getattr(config, key), RunConfig.model_fields[key].default
        if (value == default and key != "method") or key in machine:
            continue
        if key == "prompt" and not isinstance(value, str):
            for template in value:
                given += ["--prompt", template]
        else:
            given += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(["awpf", "run", *given, *settings_arguments(config)])


def settings_arguments(config: RunConfig) -> list[str]:
    """The method's settings that differ from the defaults; all of them if there is a preset."""
    given: list[str] = []
    own = config.settings.model_dump(mode="json")
    for key, field in type(config.settings).model_fields.items():
        default = field.get_default(call_default_factory=True)
        plain_default = list(default) if isinstance(default, tuple) else default
        if config.preset is not None or own[key] != plain_default:
            given += ["--set", f"{key}={yaml_text(own[key])}"]
    return given


def facts_table(facts: Mapping[str, Any]) -> list[list[str]]:
    """Every key that identifies a run, with a row per method setting; long lists are cut."""
    rows = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            rows += [[plain(f"{key}.{name}"), _told(item)] for name, item in value.items()]
        else:
            rows.append([plain(key), _told(value)])
    return rows


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(item) for item in value[:20])
        return f"{shown}, … ({len(value)})" if len(value) > 20 else shown or "none"
    return plain(value)
