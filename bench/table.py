"""Tables of results: text for the terminal, Markdown and JSON to save."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from comparison import OURS, Error, Outcome, Row

import awpf_ext

Outcomes = Mapping[str, Sequence[Outcome]]

_HEAD = ("contender", "time", "time / ours", "extra memory", "error vs fp64", "of floor", "runs")
_LEGEND = """\
time: median of interleaved runs. time / ours: median over the runs of both; * marks the best
baseline. extra memory: peak resident memory in addition to the inputs, in a fresh process. In
brackets after an error: the fraction of the error bound. of floor: time of the floor / this time.
The floor is the time of torch's own GEMM, in the same run, for the matrix products that cannot be
avoided (half of a symmetric product). |- marks a part of our own work."""


def as_text(outcomes: Outcomes) -> str:
    """Fixed-width tables."""
    lines = [machine(), *_LEGEND.splitlines(), ""]
    for kernel, found in outcomes.items():
        bodies = [_body(outcome) for outcome in found]
        columns = zip(_HEAD, *(line for body in bodies for line in body), strict=True)
        widths = [max(len(cell) for cell in column) for column in columns]
        lines += [f"==== {kernel} ====", _aligned(_HEAD, widths)]
        for outcome, body in zip(found, bodies, strict=True):
            lines.append(f"-- {outcome.ours.work}")
            lines += [_aligned(line, widths) for line in body]
            lines += [f"   {verdict}" for verdict in _verdicts(outcome)]
        lines.append("")
    missed = [
        f"   {verdict.work}: {verdict.goal}; {verdict.measured}"
        for found in outcomes.values()
        for outcome in found
        for verdict in outcome.verdicts
        if not verdict.met
    ]
    lines += [f"goals missed: {len(missed)}", *missed, ""]
    return "\n".join(lines)


def as_markdown(outcomes: Outcomes, heading: str | None = None, legend: str = _LEGEND) -> str:
    """One Markdown table per kernel."""
    lines = [heading or machine(), "", legend.replace("*", r"\*").replace("|-", r"\|-"), ""]
    for kernel, found in outcomes.items():
        lines += [f"## {kernel}", ""]
        for outcome in found:
            lines += [f"**{outcome.ours.work}**", "", "| " + " | ".join(_HEAD) + " |"]
            lines.append("|" + "|".join(["---"] + ["---:"] * (len(_HEAD) - 1)) + "|")
            for line in _body(outcome):
                cells = (cell.replace("*", r"\*").replace("|-", r"\|-") for cell in line)
                lines.append("| " + " | ".join(cells) + " |")
            lines += ["", *(f"- {verdict}" for verdict in _verdicts(outcome)), ""]
    return "\n".join(lines)


def as_json(outcomes: Outcomes, processor: str | None = None) -> str:
    """All measurements, and the machine."""
    data = {
        "machine": {**_build(), "processor": processor or _processor()},
        "kernels": {kernel: [as_data(one) for one in found] for kernel, found in outcomes.items()},
    }
    return json.dumps(data, indent=1) + "\n"


def as_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values."""
    return {
        "work": outcome.ours.work,
        "rows": [dataclasses.asdict(row) for row in outcome.rows],
        "goals": [dataclasses.asdict(verdict) for verdict in outcome.verdicts],
    }


def machine() -> str:
    """One line that describes the machine and the build."""
    build = _build()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = load > cores + 1
    warning = f"; BUSY: load {load:.1f} on {cores} cores, times are unreliable" if busy else ""
    return (
        f"{_processor()}, {build['threads']} threads, torch {build['torch']}, "
        f"awpf_ext {build['awpf_ext']} ({build.get('instruction_set', 'no kernels')}){warning}"
    )


def _build() -> dict[str, Any]:
    return awpf_ext.build_info()


def _processor() -> str:
    import cpuinfo  # comes with pytest-benchmark

    return str(cpuinfo.get_cpu_info().get("brand_raw", "unknown processor"))


def _body(outcome: Outcome) -> list[tuple[str, ...]]:
    best = outcome.best_baseline
    order = {"ours": 0, "stage": 1, "floor": 2, "baseline": 3, "approximate": 4}
    rows = sorted(outcome.rows, key=lambda row: order[row.role])
    return [_cells(row, row is best) for row in rows]


def _cells(row: Row, best: bool) -> tuple[str, ...]:
    name = f"|- {row.name}" if row.role == "stage" else row.name
    if row.note:
        name = f"{name} ({row.note})"
    ratio = "" if row.ratio is None or row.name == OURS else f"{row.ratio:.2f}{'*' if best else ''}"
    floor = "" if row.of_floor is None or row.role in ("floor", "stage") else f"{row.of_floor:.0%}"
    return (
        name,
        _time(row.seconds),
        ratio,
        "" if row.extra_bytes is None else _size(row.extra_bytes),
        "" if row.error is None else _error(row.error),
        floor,
        str(row.rounds) if row.rounds else "",
    )


def _verdicts(outcome: Outcome) -> list[str]:
    best = outcome.best_baseline
    lines = []
    if best is not None and best.ratio is not None:
        outcome_word = "faster" if best.ratio > 1 else "SLOWER: we lose"
        lines.append(f"best baseline: {best.name}; ours is {best.ratio:.2f}x ({outcome_word})")
    for verdict in outcome.verdicts:
        word = "met" if verdict.met else "MISSED"
        lines.append(f"goal {verdict.goal}: {verdict.measured}, {word}")
    return lines


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if k == 0 else cell.rjust(width)
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "   " + "  ".join([first, *rest]).rstrip()


def _time(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.1f} s"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def _size(extra: int) -> str:
    megabytes = extra / 2**20
    return f"{megabytes / 1024:.2f} GiB" if megabytes >= 1024 else f"{megabytes:.1f} MiB"


def _error(error: Error) -> str:
    share = "" if error.of_bound is None else f" ({error.of_bound:.2g})"
    return f"{error.absolute:.1e}{share}"
