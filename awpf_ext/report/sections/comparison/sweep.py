"""Accuracy against a numeric setting that was swept, as in Figure 4 of the AWPF paper."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from awpf_ext.report.blocks import Drawing, Section, Text
from awpf_ext.report.load import Comparison
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.style import MUTED, end_labels, error_bars, new_figure, series, with_room

SYMBOLS = {"balance_scale": "λ (balance_scale)"}


def section(comparison: Comparison) -> Section | None:
    values = swept_values(comparison.sweep.variants)
    if values is None or len(values) < 2:
        return None
    blocks = [
        Drawing(
            f"sweep_{metric}",
            f"{metric.capitalize()} accuracy (%) against "
            f"{SYMBOLS.get(comparison.varied, comparison.varied)}: the mean, with bars of one "
            "standard deviation, and a thin line for each order and seed.",
            _sweep(comparison, values, metric),
        )
        for metric in ("average", "last")
    ]
    sweep = comparison.sweep
    mean = {variant: sweep.mean_std(variant, "last").mean for variant in sweep.variants}
    best = max(mean, key=lambda variant: mean[variant])
    gap = 100 * (max(mean.values()) - min(mean.values()))
    text = (
        f"Last accuracy is highest at {best}; over all values it varies by {gap:.1f} points. "
        "A value that is chosen on these test images will look better than it is."
    )
    return Section("Sweep", [Text(text), *blocks])


def swept_values(variants: Sequence[str]) -> list[float] | None:
    """The values that were swept; None if they are not all numbers."""
    try:
        return [float(variant) for variant in variants]
    except ValueError:
        return None


def _sweep(comparison: Comparison, values: Sequence[float], metric: str) -> Figure:
    sweep = comparison.sweep
    figure, axes = new_figure()
    order = sorted(range(len(values)), key=lambda place: values[place])
    places = [values[place] for place in order]
    variants = [sweep.variants[place] for place in order]
    single: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for sweep_run, result in zip(sweep.runs, sweep.results, strict=True):
        point = (float(sweep_run.variant), 100 * float(getattr(result, metric)))
        single.setdefault((sweep_run.order, sweep_run.seed), []).append(point)
    ends = []
    if len(single) > 1:
        for (order_name, seed), points in single.items():
            points.sort()
            axes.plot(*zip(*points, strict=True), color=MUTED.light, linewidth=0.8, alpha=0.6)
            if len(single) <= 6:
                seeds = {sweep_run.seed for sweep_run in sweep.runs}
                name = order_name if len(seeds) == 1 else f"{order_name}, {seed}"
                ends.append((*points[-1], short(name, NARROW), MUTED))
    mean_stds = [sweep.mean_std(variant, metric) for variant in variants]
    means = [100 * mean_std.mean for mean_std in mean_stds]
    deviations = [100 * (mean_std.std or 0.0) for mean_std in mean_stds]
    axes.errorbar(
        places, means,
        yerr=error_bars(means, deviations) if len(single) > 1 else None,
        color=series(0).light, marker="o", capsize=2.5, elinewidth=1.1, zorder=4,
    )  # fmt: skip
    if len(places) <= 10:
        axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_ylim(with_room(*axes.get_ylim()))
    axes.set_xlabel(SYMBOLS.get(comparison.varied, short(comparison.varied)))
    gap = (axes.get_xlim()[1] - axes.get_xlim()[0]) * 0.025
    ends.append((places[-1], means[-1], "mean", series(0)))
    end_labels(axes, [(x + gap, y, label, colour) for x, y, label, colour in ends])
    return figure
