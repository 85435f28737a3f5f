"""What the references of a run show (runs/references.py), in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from awpf_ext.methods.registry import is_upper_bound, method_class
from awpf_ext.report.blocks import Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import plain
from awpf_ext.runs.metrics import average
from awpf_ext.runs.references import COLUMNS, by_method, table_row
from awpf_ext.runs.result import Result
from awpf_ext.runs.wording import percent

FUSING = ("rapf", "awpf", "calfuse")  # of the methods that train an adapter as finetune does


def table(run: FinishedRun) -> list[Table]:
    """The run, its references and zero-shot CLIP; nothing without references."""
    if not run.references.results:
        return []
    methods = list(by_method([run.result, *run.references.results]))
    rows = [table_row(method, result) for method, result in methods]
    accuracies = [
        (math.nan, math.nan) if method_class(method).bound else (result.average, result.last)
        for method, result in methods
    ]
    if run.diagnostics is not None and run.method != "zero_shot":
        steps = run.diagnostics.zero_shot_accuracy
        accuracies.append((average(steps), steps[-1]))
        rows.append(["zero-shot", *map(percent, accuracies[-1]), "-", "-"])
    best = {
        (place, column + 1)
        for column, values in enumerate(zip(*accuracies, strict=True))
        for place, value in enumerate(values)
        if percent(value) == percent(max(filter(math.isfinite, values), default=0.0))
    }
    return [Table(COLUMNS, rows, strong=frozenset(best))]


def in_words(run: FinishedRun) -> list[Text]:
    """What forgetting is, what cures it, and how far the upper bound is."""
    results = dict(by_method(run.references.results))
    if not results:
        return []
    sentences = [_forgetting(run, results), *_learning(run, results), *_bounds(run, results)]
    if run.references.left_out:
        names = ", ".join(map(plain, run.references.left_out))
        sentences.append(f"Left out, as unfinished or on other data: {names}.")
    return [Text(" ".join(filter(None, sentences)))]


def _forgetting(run: FinishedRun, results: Mapping[str, Result]) -> str:
    if "naive" not in results or len(run.result.tasks) < 2:
        return ""
    naive = results["naive"]
    return (
        f"Forgetting: naive trains on one {run.noun} after the other, without replay and without "
        f"fusion; on average it loses {percent(naive.forgetting)} points on an earlier {run.noun}, "
        f"and it ends at {percent(naive.last)}%."
    )


def _learning(run: FinishedRun, results: Mapping[str, Result]) -> Iterator[str]:
    """Where the contenders end."""
    last = percent(run.result.last)
    own = f"{run.method} ends at {last}%"
    if "finetune" in results:
        start = (
            "With replay, in which pseudo-features stand for the earlier classes, the same "
            f"training (finetune) ends at {percent(results['finetune'].last)}%"
        )
        if run.method in FUSING:
            own = (
                f"{run.method}, which also fuses the adapters of successive tasks, ends at {last}%"
            )
        yield f"{start}; {own}."
    else:
        yield f"{own}."
    for method, result in results.items():
        if method != "finetune" and method_class(method).bound is None:
            yield f"{method} ends at {percent(result.last)}%."


def _bounds(run: FinishedRun, results: Mapping[str, Result]) -> Iterator[str]:
    for method, result in results.items():
        if is_upper_bound(method):
            gap = 100 * (result.last - run.result.last)
            side = "above" if gap > 0 else "below"
            yield (
                f"{method} may do what a continual method may not: it trains anew on the images of "
                f"all {run.noun}s seen. It ends at {percent(result.last)}%, {abs(gap):.1f} points "
                f"{side} {run.method}."
            )
