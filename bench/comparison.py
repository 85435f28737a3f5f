"""The parts of a benchmark: the contenders, their results, and how goals were met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

OURS = "awpf_ext"


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    ``scale``: if only a sample of the work is run, the factor that scales its time to all the work.
    ``stage``: a part of our own work, shown to explain the time; not a competitor.
    ``once``: too slow to repeat; timed in the process that measures its memory.
    ``compiles``: uses torch.compile; skipped where that does not work.
    ``builds``: the first call also builds something, so it is not timed; ``compiles`` implies it.
    ``checked``: whether the result is compared with the float64 result.
    ``approximate``: computes less than the work requires; not a competitor either.
    """

    run: Callable[[], Any]
    scale: float = 1.0
    note: str = ""
    stage: bool = False
    once: bool = False
    compiles: bool = False
    builds: bool = False
    checked: bool = True
    approximate: bool = False


class Error(NamedTuple):
    """Distance from the float64 reference, and that distance as a fraction of the allowed error."""

    absolute: float
    of_bound: float | None = None


@dataclass(frozen=True)
class Work:
    """One benchmark: the same inputs for every contender; ours is named `OURS`.

    ``floor`` runs only the matrix products that cannot be avoided, with torch's own GEMM.
    ``error`` compares a contender's result with float64.
    """

    name: str
    contenders: Mapping[str, Contender]
    floor: Contender | None = None
    error: Callable[[Any], Error] | None = None


@dataclass
class Row:
    """The measurements of one contender."""

    work: str
    name: str
    seconds: float
    ratio: float | None  # its time / ours: median over rounds in which both ran
    extra_bytes: int | None = None
    error: Error | None = None
    of_floor: float | None = None  # floor / its time
    rounds: int = 1
    role: str = "baseline"  # or "ours", "stage", "floor", "approximate", "skipped"
    note: str = ""


@dataclass
class Verdict:
    """A goal, the measured value, and whether it meets the goal: None if that is not known here.

    ``with_amx``: the goal that applies as well where AMX is in use, if it is another one.
    """

    work: str
    goal: str
    measured: str
    met: bool | None
    with_amx: Verdict | None = None


@dataclass
class Outcome:
    """The result of one comparison."""

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
        """The fastest baseline."""
        others = [row for row in self.rows if row.role == "baseline"]
        return min(others, key=lambda row: row.ratio or row.seconds, default=None)


def paired_ratio(ours: Mapping[int, float], other: Mapping[int, float]) -> float:
    """The other's time divided by ours: the median over the rounds in which both ran."""
    return statistics.median(other[r] / ours[r] for r in other if r in ours)


def evenly_spaced(rounds: int, wanted: int) -> Sequence[int]:
    """The numbers of `wanted` out of `rounds` rounds, at equal distances."""
    wanted = min(wanted, rounds)
    return [k * rounds // wanted for k in range(wanted)]
