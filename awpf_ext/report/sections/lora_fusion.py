"""ICM-Fusion: codes of the LoRAs on a plane, what is explained of them, and the search's losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from awpf_ext.report.blocks import Block, Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import NARROW, short
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import (
    INK,
    MARKERS,
    SMALL,
    WIDTH,
    new_figure,
    series,
)
from awpf_ext.runs.wording import percent

KIND = "icm_fusion"
_BY_CODE = (
    "The fused LoRA is found by a search over these numbers and a scale that lowers the loss on "
    "images kept of all {noun}s."
)
_STARTS = {
    "network": "A network, which starts as probabilistic PCA, encodes each LoRA in a few numbers. "
    + _BY_CODE,
    "pca": "Each LoRA is described by its first principal components. " + _BY_CODE,
    "scale": "The fused LoRA is their average times a scale, found by a search that lowers the "
    "loss on images kept of all {noun}s.",
    "none": "The fused LoRA is their average.",
}
_SHOWN = {
    "network": (
        ("explained", "network", 0),
        ("explained_by_pca", "PCA", 1),
        ("explained_logits", "logits, network", 2),
    ),
    "pca": (("explained_by_pca", "PCA", 1), ("explained_logits", "logits, PCA", 2)),
}


def section(run: FinishedRun) -> Section | None:
    records = [record for record in run.result.records if record.get("kind") == KIND]
    if not records:
        return None
    last = records[-1]
    search = last["search"]
    blocks: list[Block] = [Text(_explanation(run, last))]
    if "codes" in last:
        what = "Codes" if search == "network" else "Principal components"
        blocks.append(
            Drawing(
                "lora_codes",
                f"{what} of the LoRAs in the last fusion, decoded and on their first two "
                f"principal directions; one colour per {run.noun}. The cross is their mean, where "
                "the search starts, and the star is the fusion before its scale.",
                _codes(run, last),
            )
        )
    measured = [record for record in records if record.get("explained") is not None]
    if measured:
        blocks.append(
            Drawing(
                "lora_explained",
                f"Explained variance (%) of {_rows(measured)}, after each {run.noun}.",
                _explained(run, measured, search),
            )
        )
    if last["losses"] or last["refine_losses"]:
        blocks.append(
            Drawing(
                "lora_search",
                f"Cross-entropy on the batch of each step of the last fusion: {_steps(last)}.",
                _losses(last),
            )
        )
    if measured:
        columns = [run.noun, "LoRAs", "numbers", *(name for _, name, _ in _SHOWN[search]), "scale"]
        rows = [_row(run, each, search) for each in measured]
        blocks.append(Table(columns, rows, title="Values"))
    return Section("Fusion of LoRAs", blocks)


def _explanation(run: FinishedRun, record: dict[str, Any]) -> str:
    parts = [f"Every {run.noun} has one or more LoRAs.", _STARTS[record["search"]]]
    if record["refine_losses"]:
        parts.append("Steps on the LoRA itself then lower the loss on images kept of all {noun}s.")
    return " ".join(parts).format(noun=run.noun)


def _steps(record: dict[str, Any]) -> str:
    parts = (("losses", "the search"), ("refine_losses", "the steps on the LoRA itself"))
    return ", then ".join(name for key, name in parts if record[key])


def _rows(records: Sequence[dict[str, Any]]) -> str:
    held_out = all(record["held_out"] for record in records)
    return "LoRAs that were held out" if held_out else "the LoRAs that it was fitted to"


def _row(run: FinishedRun, record: dict[str, Any], search: str) -> list[str]:
    parts = (record.get(key) for key, *_ in _SHOWN[search])
    shown = ["" if value is None else percent(value) for value in parts]
    name, scale = run.task_names[record["task"]], f"{record['scale']:.2f}"
    return [name, str(record["loras"]), str(record["latent"]), *shown, scale]


def _codes(run: FinishedRun, record: dict[str, Any]) -> Figure:
    figure, axes = new_figure(WIDTH, WIDTH * 0.8)
    for place, task in enumerate(record["tasks"]):
        own = [spot for owner, *spot in record["codes"] if owner == place]
        axes.scatter(
            [x for x, _ in own], [y for _, y in own],
            s=30, alpha=0.7, linewidths=0, color=series(place).light,
            marker=MARKERS[place % len(MARKERS)],
            label=short(f"{run.noun} {run.task_names[task]}", NARROW),
        )  # fmt: skip
    for marker, key, label in (("x", "mean_code", "mean"), ("*", "fused_code", "fusion")):
        x, y = record[key]
        axes.scatter(
            x, y, marker=marker, s=130, zorder=4, color=INK.light, linewidths=1.6, label=label
        )
    axes.set(xticks=[], yticks=[])
    axes.margins(0.09)
    axes.grid(False)
    axes.spines[["bottom"]].set_visible(False)
    figure.legend(
        loc="outside lower left", ncols=4, frameon=False, fontsize=SMALL,
        handletextpad=0.2, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip
    return figure


def _explained(run: FinishedRun, records: Sequence[dict[str, Any]], search: str) -> Figure:
    figure, axes = new_figure(height=3.0)
    places, ends = [run.places[record["task"]] for record in records], []
    marker = "o" if len(places) <= 30 else ""
    for key, label, number in _SHOWN[search]:
        known = [
            (place, 100 * record[key])
            for place, record in zip(places, records, strict=True)
            if record.get(key) is not None
        ]
        if known:
            axes.plot(*zip(*known, strict=True), color=series(number).light, marker=marker)
            ends.append((*known[-1], label, series(number)))
    finish_axes(figure, places, ends, run.across, 3.0, limits=(-math.inf, 100.0))
    return figure


def _losses(record: dict[str, Any]) -> Figure:
    figure, axes = new_figure(height=2.7)
    parts = (("losses", "search"), ("refine_losses", "steps on the LoRA"))
    before = 0
    for number, (key, label) in enumerate(parts):
        values = record[key]
        if values:
            steps = [before + step + 1 for step in range(len(values))]
            marker = "o" if len(values) < 3 else ""
            axes.plot(steps, values, color=series(number).light, marker=marker, label=label)
        before += len(values)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    figure.legend(
        loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL,
        handletextpad=0.4, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip
    return figure
