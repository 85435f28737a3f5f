"""Curves of several settings: the mean after each task, and a band of one standard deviation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Block, Drawing, Section, Text
from awpf_ext.report.load import FinishedRun, RunGroup
from awpf_ext.report.names import short
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import MUTED, Colour, new_figure, series

MOST_LINES = 8
Curve = Callable[[FinishedRun], Sequence[float]]


def group_accuracy(group: RunGroup) -> Section:
    arms = group.grid.arms[:MOST_LINES]
    blocks: list[Block] = []
    left_out = len(group.grid.arms) - len(arms)
    if left_out:
        blocks.append(Text(f"The first {MOST_LINES} settings; the table has all."))
    several = any(len(group.of(arm)) > 1 for arm in arms)
    band = "; the band is one standard deviation over the runs of a setting" if several else ""
    with_zero_shot = _zero_shot_runs(group)
    reference = "; dashed: zero-shot CLIP" if with_zero_shot else ""
    blocks.append(
        Drawing(
            "accuracy",
            f"Accuracy (%) over all classes seen, after each task{band}{reference}.",
            _curves(group, arms, lambda run: run.result.accuracy, with_zero_shot),
        )
    )
    if any(len(run.seen) > 1 for run in group.runs):
        blocks.append(
            Drawing(
                "earlier",
                f"Accuracy (%) after each task on the classes of earlier tasks{band}.",
                _curves(group, arms, lambda run: run.result.old, []),
            )
        )
    return Section("Accuracy after each task", blocks)


def _zero_shot_runs(group: RunGroup) -> list[FinishedRun]:
    """One run for each class order, to draw zero-shot from; none where a setting is zero-shot."""
    if any(run.method == "zero_shot" for run in group.runs):
        return []
    if len({(run.result.provenance.get("content_hash"), *run.seen) for run in group.runs}) > 1:
        return []
    known = [run for run in group.runs if run.evidence is not None]
    return list({run.result.provenance["order_hash"]: run for run in known}.values())


def _curves(
    group: RunGroup, arms: Sequence[str], curve: Curve, zero_shot: Sequence[FinishedRun]
) -> Figure:
    figure, axes = new_figure(height=3.6)
    ends: list[tuple[float, float, str, Colour]] = []
    longest: list[int] = []

    def draw(
        label: str, runs: Sequence[FinishedRun], of: Curve, colour: Colour, style: str
    ) -> None:
        nonlocal longest
        by_shape: dict[tuple[int, ...], list[FinishedRun]] = {}
        for run in runs:
            by_shape.setdefault(tuple(run.seen), []).append(run)
        for seen, alike in by_shape.items():
            columns = list(zip(*(of(run) for run in alike), strict=True))
            means = [100 * _mean(column) for column in columns]
            axes.plot(
                seen, means, style, color=colour.light, marker="o" if len(seen) <= 30 else "",
                markersize=3,
            )  # fmt: skip
            if len(alike) > 1:
                spreads = [100 * _deviation(column) for column in columns]
                axes.fill_between(
                    seen,
                    [mean - spread for mean, spread in zip(means, spreads, strict=True)],
                    [mean + spread for mean, spread in zip(means, spreads, strict=True)],
                    color=colour.light, alpha=0.14, linewidth=0,
                )  # fmt: skip
            known = [(x, y) for x, y in zip(seen, means, strict=True) if not math.isnan(y)]
            if known:
                ends.append((*known[-1], label, colour))
            longest = max(longest, list(seen), key=len)

    for place, arm in enumerate(arms):
        draw(short(arm, 18), group.of(arm), curve, series(place), "-")
    if zero_shot:
        draw("zero-shot", zero_shot, _zero_shot, MUTED, "--")
    finish_axes(figure, longest, ends)
    return figure


def _zero_shot(run: FinishedRun) -> Sequence[float]:
    return run.evidence.zero_shot_accuracy if run.evidence else ()


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.mean(known) if known else math.nan


def _deviation(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.stdev(known) if len(known) > 1 else 0.0
