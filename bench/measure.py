"""Runs the contenders in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import memory
import torch
from comparison import OURS, Contender, Error, Outcome, Row, Work, evenly_spaced, paired_ratio
from goals import Goal

BUDGET = 0.7  # seconds per contender
FEWEST, MOST = 3, 15  # rounds
SLOW = 2.0  # seconds: from here on, one round of ours and the first run of others are enough
QUICK = 0.5  # seconds: below this, warm up once before measuring memory

FLOOR = "GEMM floor"


def compare(make: Callable[[], Work], goals: Sequence[Goal], benchmark: Any) -> Outcome:
    """Time, memory and error of every contender.

    pytest-benchmark times ours, and the others run between its rounds.
    """
    torch.compiler.reset()  # so that earlier compilations do not affect this work
    work = make()
    contenders, skipped = _runnable(work)
    if work.floor is not None:
        contenders[FLOOR] = work.floor
    errors: dict[str, Error] = {}
    rounds: dict[str, int] = {}
    slow: dict[str, dict[int, float]] = {}
    for name, contender in contenders.items():
        if contender.once:
            continue
        start = time.perf_counter()
        result = contender.run()  # starts threads, fills caches
        seconds = time.perf_counter() - start
        if work.error is not None and contender.checked and name != FLOOR and not contender.stage:
            errors[name] = work.error(result)
        del result
        if contender.compiles or contender.builds:
            seconds = _timed(contender.run)
        if seconds >= SLOW and name != OURS:
            slow[name] = {0: seconds * contender.scale}
            continue
        fewest = FEWEST if seconds < SLOW else 1
        rounds[name] = int(min(MOST, max(fewest, BUDGET / seconds)))

    times = _interleave(contenders, rounds, benchmark) | slow
    medians = {name: statistics.median(taken.values()) for name, taken in times.items()}
    rows = []
    for name, contender in contenders.items():
        peak = None
        builds = contender.compiles or contender.builds
        measured = name != FLOOR and not contender.stage and not (builds and name in slow)
        if measured and memory.can_measure():
            quick = not contender.once and medians[name] / contender.scale < QUICK
            peak = memory.peak(make, name, warm_up=builds or quick)
        if contender.once:
            if peak is None:
                continue
            times[name] = dict.fromkeys(times[OURS], peak.seconds * contender.scale)
            medians[name] = peak.seconds * contender.scale
        rows.append(
            Row(
                work=work.name,
                name=name,
                seconds=medians[name],
                ratio=paired_ratio(times[OURS], times[name]),
                extra_bytes=None if peak is None else peak.extra_bytes,
                error=errors.get(name),
                of_floor=paired_ratio(times[name], times[FLOOR]) if FLOOR in times else None,
                rounds=1 if contender.once else len(times[name]),
                role=_role(name, contender),
                note=contender.note,
            )
        )
    outcome = Outcome(rows + skipped)
    outcome.verdicts = [goal(outcome) for goal in goals]
    return outcome


@cache
def why_not_compiled() -> str | None:
    """Why torch.compile does not work here (usually there is no C++ compiler), if it does not."""
    try:
        torch.compile(torch.sin)(torch.ones(1))
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return f"skipped: {lines[0].strip()}"
    return None


def _runnable(work: Work) -> tuple[dict[str, Contender], list[Row]]:
    """The contenders that can run on this machine, and rows that say why others cannot."""
    runnable, skipped = {}, []
    for name, contender in work.contenders.items():
        reason = why_not_compiled() if contender.compiles else None
        if reason is None:
            runnable[name] = contender
        else:
            row = Row(work.name, name, math.nan, None, rounds=0, role="skipped", note=reason)
            skipped.append(row)
    return runnable, skipped


def _role(name: str, contender: Contender) -> str:
    if name == OURS:
        return "ours"
    if name == FLOOR:
        return "floor"
    if contender.approximate:
        return "approximate"
    return "stage" if contender.stage else "baseline"


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _interleave(
    contenders: dict[str, Contender], rounds: dict[str, int], benchmark: Any
) -> dict[str, dict[int, float]]:
    """Seconds of each contender by round. Ours runs in every round, slow ones only in some."""
    total = rounds[OURS]
    turns = {
        name: set(evenly_spaced(total, wanted)) for name, wanted in rounds.items() if name != OURS
    }
    times: dict[str, dict[int, float]] = {name: {} for name in rounds}
    current = -1

    def others() -> None:
        nonlocal current
        current += 1
        for name, mine in turns.items():
            if current in mine:
                times[name][current] = _timed(contenders[name].run) * contenders[name].scale

    def ours() -> None:
        times[OURS][current] = _timed(contenders[OURS].run)

    benchmark.pedantic(ours, setup=others, rounds=total, iterations=1)
    return times
