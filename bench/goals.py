"""Goals: what a benchmark has to show, judged on its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from comparison import Outcome, Verdict

import awpf_ext

Goal = Callable[[Outcome], Verdict]

MEDIAN = "median bandwidth"
"""Name of the stage that chooses the bandwidth itself."""


def faster(than: str, factor: float) -> Goal:
    """Ours is at least `factor` times as fast as a baseline."""

    def judge(outcome: Outcome) -> Verdict:
        baseline = outcome.row(than)
        goal = f"at least {factor:g}x {than}"
        if baseline.role == "skipped":
            return Verdict(outcome.ours.work, goal, baseline.note, None)
        ratio = baseline.ratio or 0.0
        measured = f"{ratio:.2f}x"
        if ratio < factor and baseline.of_floor:
            measured += f" (the floor itself would be {1 / baseline.of_floor:.2f}x)"
        return Verdict(outcome.ours.work, goal, measured, ratio >= factor)

    return judge


def within(of: str, factor: float) -> Goal:
    """Ours takes at most `factor` times the time of a baseline."""

    def judge(outcome: Outcome) -> Verdict:
        goal = f"at most {factor:g}x the time of {of}"
        if outcome.row(of).role == "skipped":
            return Verdict(outcome.ours.work, goal, outcome.row(of).note, None)
        taken = 1 / (outcome.row(of).ratio or 1e-9)
        return Verdict(outcome.ours.work, goal, f"{taken:.2f}x", taken <= factor)

    return judge


def near_floor(factor: float) -> Goal:
    """Ours takes at most `factor` times the time of the floor."""

    def judge(outcome: Outcome) -> Verdict:
        taken = 1 / (outcome.ours.of_floor or 1e-9)
        return Verdict(
            outcome.ours.work, f"at most {factor:g}x its GEMMs", f"{taken:.2f}x", taken <= factor
        )

    return judge


def cheap_median(factor: float) -> Goal:
    """With the default bandwidth ours takes at most `factor` times as long as with a given one."""

    def judge(outcome: Outcome) -> Verdict:
        taken = outcome.row(MEDIAN).ratio or 0.0
        goal = f"{MEDIAN} at most {factor:g}x a given one"
        return Verdict(outcome.ours.work, goal, f"{taken:.2f}x", taken <= factor)

    return judge


def within_bound() -> Goal:
    """Our error is within the bound that the documentation promises."""

    def judge(outcome: Outcome) -> Verdict:
        error = outcome.ours.error
        share = error.of_bound if error is not None and error.of_bound is not None else float("inf")
        return Verdict(
            outcome.ours.work, "error within the bound", f"{share:.2g} of the bound", share <= 1
        )

    return judge


def either(*goals: Goal) -> Goal:
    """One of several goals is enough."""

    def judge(outcome: Outcome) -> Verdict:
        verdicts = [goal(outcome) for goal in goals]
        words = (" or ".join(getattr(v, field) for v in verdicts) for field in ("goal", "measured"))
        unknown = any(verdict.met is None for verdict in verdicts)
        met = any(verdict.met for verdict in verdicts) or (None if unknown else False)
        return Verdict(outcome.ours.work, *words, met)

    return judge


def by_processor(usual: Goal, amx: Goal) -> Goal:
    """A goal for every processor with AVX, and one that applies as well where AMX is in use."""
    in_use = awpf_ext.build_info().get("instruction_set") == "amx"

    def judge(outcome: Outcome) -> Verdict:
        verdict = amx(outcome)
        if not in_use:
            verdict = replace(verdict, measured="no AMX here", met=None)
        return replace(usual(outcome), with_amx=verdict)

    return judge
