"""Times contenders in turn with CUDA events, and measures the memory and the error of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import OURS, Error, Outcome, Row, Verdict, Work, paired_ratio
from goals import Goal

ROUNDS = 15
SAMPLE = 2e-3  # seconds of calls between two events
BUDGET = 3.0  # seconds per contender
FLOOR = "cuBLAS floor"


def compare(work: Work, goals: Sequence[Goal]) -> Outcome:
    """Warms up, checks and times every contender; a failure is recorded in the note of its row."""
    contenders = dict(work.contenders)
    if work.floor is not None:
        contenders[FLOOR] = work.floor
    errors: dict[str, Error] = {}
    extra: dict[str, int] = {}
    failures: dict[str, str] = {}
    repeats: dict[str, int] = {}
    for name, contender in contenders.items():
        try:
            checked = work.error is not None and contender.checked and name != FLOOR
            result = contender.run()
            if checked and not contender.stage:
                errors[name] = work.error(result)  # type: ignore[misc]
            del result
            contender.run()
            extra[name] = _extra_bytes(contender.run)
            repeats[name] = max(1, int(SAMPLE / _seconds(contender.run, 1)))
        except Exception as error:
            failures[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:100]}"
    times: dict[str, dict[int, float]] = {name: {} for name in repeats}
    spent = dict.fromkeys(repeats, 0.0)
    for turn in range(ROUNDS):
        for name in repeats:
            if turn >= 3 and spent[name] > BUDGET:
                continue
            taken = _seconds(contenders[name].run, repeats[name])
            spent[name] += taken * repeats[name]
            times[name][turn] = taken * contenders[name].scale
    rows = []
    for name, contender in contenders.items():
        found = times.get(name, {})
        both = OURS in times and bool(found)
        rows.append(
            Row(
                work=work.name,
                name=name,
                seconds=statistics.median(found.values()) if found else float("nan"),
                ratio=paired_ratio(times[OURS], found) if both else None,
                extra_bytes=extra.get(name),
                error=errors.get(name),
                of_floor=paired_ratio(found, times[FLOOR]) if found and FLOOR in times else None,
                rounds=len(found),
                role=_role(name, contender.stage, contender.approximate),
                note=failures.get(name, contender.note),
            )
        )
    outcome = Outcome(rows)
    outcome.verdicts = [_judged(goal, outcome) for goal in goals]
    return outcome


def at_most(milliseconds: float) -> Goal:
    """Ours takes at most `milliseconds`."""

    def judge(outcome: Outcome) -> Verdict:
        taken = outcome.ours.seconds * 1e3
        goal = f"at most {milliseconds:g} ms"
        return Verdict(outcome.ours.work, goal, f"{taken:.3f} ms", taken <= milliseconds)

    return judge


def _judged(goal: Goal, outcome: Outcome) -> Verdict:
    """A failed contender does not meet its goal; the goal functions may raise on missing rows."""
    try:
        return goal(outcome)
    except Exception as error:
        return Verdict(outcome.ours.work, "a goal", f"cannot be judged: {error!r}", False)


def _role(name: str, stage: bool, approximate: bool) -> str:
    if name == OURS:
        return "ours"
    if name == FLOOR:
        return "floor"
    if approximate:
        return "approximate"
    return "stage" if stage else "baseline"


def _seconds(run: Callable[[], Any], calls: int) -> float:
    """Seconds per call over `calls` calls, measured with CUDA events on the current stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


def _extra_bytes(run: Callable[[], Any]) -> int:
    """Peak of torch's allocator, minus the bytes that were already allocated."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
