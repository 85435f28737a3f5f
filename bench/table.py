"""Tables of results: text for the terminal, Markdown and JSON to save."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from comparison import OURS, Error, Outcome, Row, Verdict

import awpf_ext

Outcomes = Mapping[str, Sequence[Outcome]]

_HEAD = ("contender", "time", "time / ours", "extra memory", "error vs fp64", "of floor", "runs")
_LEGEND = """\
time: median of interleaved runs, or the one run that there is. time / ours: median over the runs
of both; * marks the best baseline. extra memory: peak resident memory in addition to the inputs,
in a fresh process. In brackets after an error: the fraction of the error bound. of floor: time of
the floor / this time.
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
            lines += [f"   {line}" for line in _best(outcome)]
        head, *goals = goals_of(found)
        if goals:
            widths = [max(map(len, column)) for column in zip(head, *goals, strict=True)]
            lines += ["-- goals", *(_aligned(line, widths, len(head)) for line in (head, *goals))]
        lines.append("")
    missed = [
        f"   {verdict.work}: {verdict.goal}; {verdict.measured}"
        for found in outcomes.values()
        for outcome in found
        for both in outcome.verdicts
        for verdict in (both, both.with_amx)
        if verdict is not None and verdict.met is False
    ]
    lines += [f"goals missed: {len(missed)}", *missed, ""]
    return "\n".join(lines)


def as_markdown(outcomes: Outcomes, heading: str | None = None, legend: str = _LEGEND) -> str:
    """One section per kernel: a table for each work, and one of the goals."""
    lines = [heading or machine(), "", legend.replace("*", r"\*").replace("|-", r"\|-"), ""]
    for kernel, found in outcomes.items():
        lines += [f"## {kernel}", ""]
        for outcome in found:
            lines += [f"**{outcome.ours.work}**", "", "| " + " | ".join(_HEAD) + " |"]
            lines.append("|" + "|".join(["---"] + ["---:"] * (len(_HEAD) - 1)) + "|")
            for line in _body(outcome):
                cells = (cell.replace("*", r"\*").replace("|-", r"\|-") for cell in line)
                lines.append("| " + " | ".join(cells) + " |")
            lines += ["", *(f"- {line}" for line in _best(outcome)), ""]
        head, *goals = goals_of(found)
        if goals:
            lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
            lines += [*("| " + " | ".join(line) + " |" for line in goals), ""]
    return "\n".join(lines)


def as_json(outcomes: Outcomes, device: str | None = None) -> str:
    """All measurements, the machine and the day."""
    date = time.strftime("%Y-%m-%d")
    data = {
        "machine": {**_build(), "processor": device or processor(), "date": date},
        "kernels": {kernel: [as_data(one) for one in found] for kernel, found in outcomes.items()},
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def as_data(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values."""
    return {
        "work": outcome.ours.work,
        "rows": [_without_nan(dataclasses.asdict(row)) for row in outcome.rows],
        "goals": [dataclasses.asdict(verdict) for verdict in outcome.verdicts],
    }


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN, the time of a contender that did not run."""
    return {**row, "seconds": None if math.isnan(row["seconds"]) else row["seconds"]}


def machine() -> str:
    """One line that describes the machine and the build."""
    build = _build()
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = load > cores + 1
    warning = f"; BUSY: load {load:.1f} on {cores} cores, times are unreliable" if busy else ""
    return (
        f"{processor()}, {_instruction_set()}, {build['threads']} threads, torch {build['torch']}, "
        f"awpf_ext {build['awpf_ext']}, {time.strftime('%Y-%m-%d')}{warning}"
    )


def kind() -> str:
    """The kind of processor and its instruction set, as the name of a file."""
    name = re.sub(r"\((R|TM)\)", "", f"{processor()} {_instruction_set()}")
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))


def _instruction_set() -> str:
    return str(_build().get("instruction_set", "no kernels"))


def _build() -> dict[str, Any]:
    return awpf_ext.build_info()


@cache
def processor() -> str:
    """The processor's name, and its family and model: some names tell only the maker."""
    import cpuinfo  # comes with pytest-benchmark

    info = cpuinfo.get_cpu_info()
    name = info.get("brand_raw", "unknown processor")
    if "family" not in info or "model" not in info:
        return str(name)
    return f"{name} (family {info['family']}, model {info['model']})"


def _body(outcome: Outcome) -> list[tuple[str, ...]]:
    best = outcome.best_baseline
    order = {"ours": 0, "stage": 1, "floor": 2, "baseline": 3, "approximate": 4, "skipped": 5}
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


def _best(outcome: Outcome) -> list[str]:
    best = outcome.best_baseline
    if best is None or best.ratio is None:
        return []
    word = "faster" if best.ratio > 1 else "SLOWER: we lose"
    return [f"best baseline: {best.name}; ours is {best.ratio:.2f}x ({word})"]


def goals_of(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """The table of a kernel's goals with its head: two columns of goals if AMX has its own."""
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    if all(verdict.with_amx is None for verdict in verdicts):
        return [("work", "goal"), *((verdict.work, _judged(verdict)) for verdict in verdicts)]
    head = ("work", "goal with AVX, on any machine", "goal with AMX")
    return [
        head,
        *(
            (verdict.work, _judged(verdict), "the same" if amx is None else _judged(amx))
            for verdict in verdicts
            for amx in [verdict.with_amx]
        ),
    ]


def _judged(verdict: Verdict) -> str:
    if verdict.met is None:
        return f"{verdict.goal}: {verdict.measured}"
    return f"{verdict.goal}: {verdict.measured}, {'met' if verdict.met else 'MISSED'}"


def _aligned(cells: Sequence[str], widths: Sequence[int], left: int = 1) -> str:
    """Cells of these widths, the first `left` of them aligned on the left."""
    padded = (
        cell.ljust(width) if k < left else cell.rjust(width)
        for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return ("   " + "  ".join(padded)).rstrip()


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
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
