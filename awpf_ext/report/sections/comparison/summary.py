"""One row per setting: mean, standard deviation, and the difference from the first setting."""

from __future__ import annotations

from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import Comparison, FinishedRun
from awpf_ext.report.sections.comparison.looks import MOST_LINES, looks
from awpf_ext.report.sections.comparison.sweep import swept_values
from awpf_ext.report.style import INK, new_figure, series, with_room
from awpf_ext.runs.sweep import HIGHER_IS_BETTER, SECONDS, Difference
from awpf_ext.runs.wording import mean_std_text, metric_label, percent, pluralize, seconds_text

SECONDS_MEAN = (
    "seconds to learn: mean time of the method alone, without encoding images and measuring "
    "accuracies."
)
MOST_DOTS = 24  # with more settings the runs are not drawn as dots


def section(comparison: Comparison) -> Section:
    sweep = comparison.sweep
    first = sweep.variants[0]
    alike = len({_cut(run) for run in comparison.runs}) == 1
    compared = [
        variant
        for variant in sweep.variants
        if alike and variant != first and sweep.paired(variant)
    ]
    differing = [metric for metric in sweep.metrics if compared and metric in HIGHER_IS_BETTER]
    columns = [comparison.varied, "runs", *map(metric_label, (*sweep.metrics, SECONDS))]
    columns += [f"{metric_label(metric)}, diff." for metric in differing]
    best = {metric: sweep.best(metric) for metric in sweep.metrics}
    strong = set()
    rows = []
    for line, variant in enumerate(sweep.variants):
        row = [sweep.label(variant), str(len(comparison.of(variant)))]
        for metric in sweep.metrics:
            mean_std = sweep.mean_std(variant, metric)
            if mean_std.mean == best[metric]:
                strong.add((line, len(row)))
            row.append(mean_std_text(mean_std))
        row.append(seconds_text(sweep.mean_std(variant, SECONDS).mean))
        for metric in differing:
            differs = variant in compared
            row.append(_difference(sweep.difference(variant, metric)) if differs else "-")
        rows.append(row)
    blocks: list[Block] = [
        Text(_made_of(comparison)),
        Table(columns, rows, strong=frozenset(strong)),
    ]
    if not compared:
        blocks.append(Text(SECONDS_MEAN))
    else:
        blocks.append(
            Text(
                f"{SECONDS_MEAN} diff.: difference from {first} on the same order and seed, mean "
                "± standard deviation, and the number of pairs in which it is positive."
            )
        )
    if (
        1 < len(sweep.variants) <= MOST_DOTS
        and not comparison.axes
        and swept_values(sweep.variants) is None
    ):
        blocks += [
            _dots(comparison, metric) for metric in sweep.metrics if metric in HIGHER_IS_BETTER
        ]
    return Section("Summary", blocks)


def _cut(run: FinishedRun) -> tuple[object, ...]:
    """The data and the tasks; differences are meaningful only if they are equal."""
    facts = run.result.provenance
    return (facts.get("content_hash", facts["dataset"]), len(run.class_names), *_shape(run))


def _shape(run: FinishedRun) -> tuple[object, ...]:
    """How the data is split into tasks."""
    return (run.noun, *run.places)


def _made_of(comparison: Comparison) -> str:
    """What the numbers in the table are computed from."""
    sweep = comparison.sweep
    orders = list(dict.fromkeys(sweep_run.order for sweep_run in sweep.runs))
    seeds = list(dict.fromkeys(sweep_run.seed for sweep_run in sweep.runs))
    images = {sum(run.result.test_images) for run in comparison.runs}
    datasets = list(dict.fromkeys(run.dataset for run in comparison.runs))
    contents = {run.result.provenance.get("content_hash") for run in comparison.runs}
    text = (
        f"Values in percent: mean ± sample standard deviation over the runs of a setting. "
        f"Data: {', '.join(datasets)}, {' or '.join(f'{n:,}' for n in sorted(images))} test "
        f"images. Orders: {', '.join(orders)}. Seeds: {', '.join(map(str, seeds))}."
    )
    if len(contents) > 1:
        text += (
            " These runs are not all on the same data. Numbers from different data sets, backbones "
            "or prompts cannot be used to compare methods."
        )
    shapes = {(len(run.class_names), _shape(run)) for run in comparison.runs}
    if len(shapes) > 1:
        text += (
            " They do not have the same tasks either."
            if len(contents) > 1
            else (" The runs do not all have the same tasks.")
        )
    if comparison.unfinished:
        text += f" Left out because unfinished: {pluralize(len(comparison.unfinished), 'run')}."
    return text


def _dots(comparison: Comparison, metric: str) -> Drawing:
    """A dot for each run, and a bar for the mean."""
    sweep = comparison.sweep
    figure, axes = new_figure(height=0.75 + 0.3 * len(sweep.variants))
    drawn = looks(comparison, most=None)
    for row, variant in enumerate(sweep.variants):
        values = [100 * value for value in sweep.values(variant, metric)]
        few = len(drawn) <= MOST_LINES + 2
        colour = (drawn[variant].colour if few else series(0)).light
        axes.scatter(
            values, [row] * len(values),
            s=30, color=colour, alpha=0.7, linewidths=0, clip_on=False,
        )  # fmt: skip
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=INK.light, linewidth=1.6)
    axes.set_yticks(range(len(sweep.variants)), [look.label for look in drawn.values()])
    axes.set_ylim(len(sweep.variants) - 0.4, -0.8)
    axes.set_xlim(with_room(*axes.get_xlim()))
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.set_xlabel(f"{metric_label(metric)} accuracy (%)")
    caption = (
        f"{metric_label(metric).capitalize()} accuracy: one dot per run; the line marks the mean."
    )
    return Drawing(f"runs_{metric}", caption, figure)


def _difference(difference: Difference) -> str:
    deviation = "" if difference.std is None else f" ± {percent(difference.std)}"
    return f"{100 * difference.mean:+.1f}{deviation} ({difference.higher}/{difference.runs})"
