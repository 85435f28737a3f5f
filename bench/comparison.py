"""The parts of a benchmark: the contenders, their results, and the goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OURS = "awpf_ext"


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    ``scale``: if only a sample of the work is run, the factor from its time to that of all of it.
    ``stage``: a part of our own work, shown to explain the time; not a competitor.
    ``once``: too slow to repeat; timed in the process that measures its memory.
    ``compiles``: the first call differs from the others.
    ``checked``: whether the result is compared with the float64 result.
    ``approximate``: computes less than the work requires; not a competitor either.
    """

    run: Callable[[], Any]
    scale: float = 1.0
    note: str = ""
    stage: bool = False
    once: bool = False
    compiles: bool = False
    checked: bool = True
    approximate: bool = False


class Error(NamedTuple):
    """Distance from the float64 reference, and the same as a share of what the contract allows."""

    absolute: float
    of_bound: float | None = None


@dataclass(frozen=True)
class Work:
    """A piece of work: what every contender makes of the same inputs; ours is named `OURS`.

    ``floor`` runs the matrix products nobody can do without, with torch's own GEMM.
    ``error`` compares a contender's result with float64.
    """

    name: str
    contenders: Mapping[str, Contender]
    floor: Contender | None = None
    error: Callable[[Any], Error] | None = None


@dataclass
class Row:
    """What was measured of one contender."""

    work: str
    name: str
    seconds: float
    ratio: float | None  # its time / ours: median over rounds in which both ran
    extra_bytes: int | None = None
    error: Error | None = None
    of_floor: float | None = None  # floor / its time
    rounds: int = 1
    role: str = "baseline"  # or "ours", "stage", "floor", "approximate"
    note: str = ""


@dataclass
class Verdict:
    """A goal beside what was measured."""

    work: str
    goal: str
    measured: str
    met: bool


@dataclass
class Outcome:
    """All that one comparison found."""

    rows: list[Row]
    verdicts: list[Verdict] = field(default_factory=list)

    def row(self, name: str) -> Row:
        """The row of one contender."""
        return next(row for row in self.rows if row.name == name)

    @property
    def ours(self) -> Row:
        """Our own row."""
        return next(row for row in self.rows if row.role == "ours")

    @property
    def best_baseline(self) -> Row | None:
        """The fastest that is not ours."""
        others = [row for row in self.rows if row.role == "baseline"]
        return min(others, key=lambda row: row.ratio or row.seconds, default=None)


Goal = Callable[[Outcome], Verdict]


def faster(than: str, times: float) -> Goal:
    """Ours is at least so many times as fast as a baseline."""

    def judge(outcome: Outcome) -> Verdict:
        baseline = outcome.row(than)
        ratio = baseline.ratio or 0.0
        measured = f"{ratio:.2f}x"
        if ratio < times and baseline.of_floor:
            measured += f" (the floor itself would be {1 / baseline.of_floor:.2f}x)"
        return Verdict(outcome.ours.work, f"at least {times:g}x {than}", measured, ratio >= times)

    return judge


def near_floor(times: float) -> Goal:
    """Ours takes at most so many times its floor."""

    def judge(outcome: Outcome) -> Verdict:
        taken = 1 / (outcome.ours.of_floor or 1e-9)
        return Verdict(
            outcome.ours.work, f"at most {times:g}x its GEMMs", f"{taken:.2f}x", taken <= times
        )

    return judge


def within_contract() -> Goal:
    """Our error is within what the contract allows."""

    def judge(outcome: Outcome) -> Verdict:
        error = outcome.ours.error
        share = error.of_bound if error is not None and error.of_bound is not None else float("inf")
        return Verdict(
            outcome.ours.work, "error within the contract", f"{share:.2g} of the bound", share <= 1
        )

    return judge


def paired_ratio(ours: Mapping[int, float], other: Mapping[int, float]) -> float:
    """How many times the other's time is of ours: the median over the rounds in which both ran."""
    return statistics.median(other[r] / ours[r] for r in other if r in ours)


def spread(rounds: int, wanted: int) -> Sequence[int]:
    """`wanted` of `rounds` rounds, evenly spaced."""
    wanted = min(wanted, rounds)
    return [k * rounds // wanted for k in range(wanted)]
