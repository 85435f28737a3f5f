"""Tables that the commands print on standard output."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table
from rich.text import Text

from awpf_ext.lora import MergedLayer, MergeReport
from awpf_ext.methods import Method
from awpf_ext.runs.config import RUN_KEYS, RunConfig
from awpf_ext.runs.predict import Prediction
from awpf_ext.runs.result import Result
from awpf_ext.runs.wording import metric_label, percent, pluralize, seconds_text, yaml_text

SHOWN_TASKS = 20  # rows in a table of tasks; longer tables show the first and last


def print_result(result: Result) -> None:
    """One run: one row per task, then the metrics and the time."""
    facts = result.provenance
    domains = facts.get("domains", [])
    step, order = ("domain", facts["domain_order"]) if domains else ("task", facts["class_order"])
    print_line(
        (facts["method"], "bold"),
        f" on {facts['dataset']}: {pluralize(len(result.tasks), step)}, "
        f"order {order}, seed {facts['seed']}\n",
    )
    table = new_table(step, "test images", "seen", "old", "new", "seconds to learn")
    seconds = [task.seconds_to_learn for task in result.tasks]
    accuracies = (result.accuracy, result.old, result.new)
    rows = list(zip(result.test_images, *accuracies, seconds, strict=True))
    for index in _shown(len(rows)):
        if index is None:
            table.add_row(*["..."] * 6)
        else:
            images, *measured, spent = rows[index]
            name = domains[index] if domains else str(index + 1)
            table.add_row(name, f"{images:,}", *map(percent, measured), seconds_text(spent))
    console().print(table)
    metrics: list[str | tuple[str, str]] = []
    for metric in ("average", "last", "forgetting", "worst_class"):
        value = getattr(result, metric)
        if not math.isnan(value):
            metrics += [f"{metric_label(metric)} ", (percent(value), "bold"), "   "]
    print_line("\n", *metrics, (_seconds(result), "dim"))


def print_features(facts: Mapping[str, Any]) -> None:
    """What is in the store for a data set, and how fast it was encoded."""
    provenance = facts["provenance"]
    (train, width), (test, _) = facts["train"], facts["test"]
    print_line(
        (provenance["dataset"], "bold"),
        f": {train:,} training and {test:,} test images, {pluralize(facts['classes'], 'class')}",
    )
    rates = list(facts["images_per_second"].values())
    encoded = f"encoded at {rates[0]:,.0f} images/s" if rates else "all were in the store"
    backbone = f"{provenance['model']} {provenance['pretrained']} {provenance['precision']}"
    print_line(f"{backbone}, {width} wide: {encoded}")
    print_line((facts["store"], "dim"))


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """The most likely classes of each image; on one line if there is only one."""
    read = [prediction for prediction in predictions if prediction.error is None]
    if all(len(prediction.classes) == 1 for prediction in read):
        width = max((len(prediction.image) for prediction in read), default=0)
        for prediction in read:
            likely = prediction.classes[0]
            print_line(
                f"{prediction.image:<{width}}  {100 * likely.probability:5.1f}%  {likely.name}"
            )
        return
    for prediction in read:
        print_line((prediction.image, "bold"))
        for likely in prediction.classes:
            print_line(f"  {100 * likely.probability:5.1f}%  {likely.name}")


def print_merge(report: MergeReport) -> None:
    """One row per kind of module: layers, ranks, and the energy that the final rank keeps."""
    what = "adapter" if report.base is None else "checkpoint"
    print_line(
        (report.method, "bold"),
        f" of {pluralize(len(report.sources), what)}"
        f" of {report.base_model or 'an unnamed model'}: "
        f"{pluralize(len(report.layers), 'layer')}\n",
    )
    kinds: dict[str, list[MergedLayer]] = {}
    for layer in report.layers:
        kinds.setdefault(layer.name.rpartition(".")[2], []).append(layer)
    table = new_table("module", "layers", "ranks", "rank of the merge", "energy kept")
    for kind, layers in kinds.items():
        table.add_row(
            kind,
            f"{len(layers):,}",
            _range({rank for layer in layers for rank in layer.ranks}),
            _range({layer.rank for layer in layers}),
            _range({percent(layer.energy_kept) for layer in layers}, key=float),
        )
    console().print(table)
    if report.others:
        print_line(f"\nand {report.others:,} other parameters: vectors, embeddings, kernels")
    memory = report.peak_memory
    peak = "" if memory is None else f", {memory / 1e6:,.0f} MB at the peak"
    print_line(
        "\nenergy kept ",
        (percent(report.energy_kept), "bold"),
        (f"   {report.seconds:.1f} s{peak}", "dim"),
    )
    print_line((str(report.written), "dim"))


def print_methods(methods: Mapping[str, type[Method]], presets: Iterable[str]) -> None:
    """One line per method, the names of the presets, and the keys of RunConfig."""
    width = max(map(len, methods))
    for name, method in methods.items():
        summary = (inspect.getdoc(method) or "").split("\n", 1)[0]
        bound = f" ({method.bound} bound)" if method.bound else ""
        print_line((f"{name:<{width}}", "bold"), f"  {summary}{bound}")
    console().print(Text(f"\nPresets: {', '.join(presets)}"))
    print_line("\nKeys of every run, as options, in YAML files and for --set:")
    print_keys({key: RunConfig.model_fields[key] for key in RUN_KEYS})


def print_keys(fields: Mapping[str, FieldInfo]) -> None:
    """One row per key: name, default and meaning."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("key", "default", "meaning"):
        table.add_column(name, overflow="fold")
    for key, field in fields.items():
        default = "" if field.is_required() else yaml_text(field.default)
        table.add_row(Text(key, "bold"), default, field.description or "")
    console().print(table)


def print_line(*parts: str | tuple[str, str]) -> None:
    """Print a line of plain and styled text; never wrapped, so that it can be copied."""
    console().print(Text.assemble(*parts), soft_wrap=True)


def console() -> Console:
    """Standard output; if it is not a terminal, it is wide enough for every table."""
    width = None if sys.stdout.isatty() else 200
    return Console(width=width, highlight=False, markup=False, emoji=False)


def new_table(first: str | Sequence[str], *numbers: str) -> Table:
    """A table without lines: one or more columns of text, then columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in (first,) if isinstance(first, str) else first:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _range(values: Iterable[Any], key: Callable[[Any], Any] | None = None) -> str:
    """ "8" or "8-16"."""
    ordered = sorted(values, key=key)
    ends = [str(ordered[0]), str(ordered[-1])]
    return "-".join(dict.fromkeys(ends))


def _shown(count: int) -> Iterator[int | None]:
    """Indices of the rows to show; None stands for a gap."""
    half = SHOWN_TASKS // 2
    if count <= SHOWN_TASKS:
        yield from range(count)
    else:
        yield from range(half)
        yield None
        yield from range(count - half, count)


def _seconds(result: Result) -> str:
    """The time to learn, the total time, and the stages that took at least a tenth of it."""
    total = sum(result.seconds.values())
    stages = sorted(result.seconds.items(), key=lambda stage: -stage[1])
    longest = ", ".join(f"{name} {spent:.1f}" for name, spent in stages if spent >= total / 10)
    learning = f"{seconds_text(result.seconds_to_learn)} s to learn, {total:.1f} s in all"
    return f"{learning} ({longest})" if longest else learning
