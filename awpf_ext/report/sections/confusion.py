"""The classes that are confused most often, with sample images, and the least accurate classes."""

from __future__ import annotations

import base64
import io

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from awpf_ext.report.blocks import Block, Drawing, Pictures, Section, Shown, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import plain, short
from awpf_ext.report.style import MUTED, SMALL, new_figure, series
from awpf_ext.runs.diagnostics import (
    PAIRS_WITH_IMAGES,
    ConfusedImage,
    ConfusedPair,
    RunDiagnostics,
    most_confused_pairs,
)
from awpf_ext.runs.wording import percent, pluralize

PAIRS = 10
SHOWN_CLASSES = 12
LONGEST = 60  # characters of a name outside figures
TINY = 64  # pixels; smaller images are shown without smoothing


def section(run: FinishedRun) -> Section | None:
    diagnostics = run.diagnostics
    if diagnostics is None:
        return None
    pairs = most_confused_pairs(diagnostics.labels, diagnostics.predictions)[:PAIRS]
    if not pairs:
        return Section("Confusions", [Text("No test image was misclassified.")])
    wrong = int((diagnostics.labels != diagnostics.predictions).sum())
    text = (
        f"{pluralize(wrong, 'test image')} of {len(diagnostics.labels):,} "
        f"{'was' if wrong == 1 else 'were'} misclassified after the last {run.noun}."
    )
    if diagnostics.fraction < 1:
        text += " The counts are over an evenly spaced subset of the test images."
    blocks: list[Block] = [Text(text)]
    caption = f"Test images of either class predicted as the other, after the last {run.noun}"
    if run.method != "zero_shot":
        caption += " (dot) and by zero-shot CLIP (ring)"
    blocks.append(Drawing("confused_pairs", f"{caption}.", _pairs_figure(run, diagnostics, pairs)))
    blocks.append(_weakest(run, diagnostics))
    if diagnostics.images:
        blocks.append(_pictures(run, diagnostics, pairs))
    else:
        blocks.append(Text(f"No sample images: {plain(diagnostics.images_missing)}."))
    return Section("Confusions", blocks)


def _pairs_figure(
    run: FinishedRun, diagnostics: RunDiagnostics, pairs: list[ConfusedPair]
) -> Figure:
    figure, axes = new_figure(height=0.8 + 0.42 * len(pairs))
    zero_shot = most_confused_pairs(diagnostics.labels, diagnostics.zero_shot_predictions)
    at_first = {pair[:2]: pair.confused for pair in zero_shot}
    before = [at_first.get(pair[:2], 0) for pair in pairs]
    after = [pair.confused for pair in pairs]
    rows = range(len(pairs))
    if run.method != "zero_shot":
        axes.hlines(rows, before, after, color=MUTED.light, linewidth=1, zorder=2)
        axes.scatter(
            before, rows, s=34, facecolors="none", edgecolors=MUTED.light, linewidths=1.2, zorder=3
        )
    axes.scatter(after, rows, s=34, color=series(0).light, zorder=4)
    names = [f"{short(run.labels[pair.first])}\n{short(run.labels[pair.second])}" for pair in pairs]
    axes.set_yticks(rows, names)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    most = max(before + after)
    axes.set_xlim(-0.03 * most, 1.05 * most)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("test images confused")
    axes.tick_params(axis="y", labelsize=SMALL - 0.5)
    for label in axes.get_yticklabels():
        label.set_linespacing(1.05)
    return figure


def _weakest(run: FinishedRun, diagnostics: RunDiagnostics) -> Table:
    """The classes with the lowest accuracy, and their zero-shot accuracy."""
    count = len(run.labels)
    images = torch.bincount(diagnostics.labels, minlength=count)
    accuracies = []
    for predictions in (diagnostics.predictions, diagnostics.zero_shot_predictions):
        right = diagnostics.labels[predictions == diagnostics.labels]
        accuracies.append(torch.bincount(right, minlength=count) / images)
    known = [label for label in range(count) if images[label]]
    weakest = sorted(known, key=lambda label: float(accuracies[0][label]))[:SHOWN_CLASSES]
    rows = []
    for label in weakest:
        wrong = diagnostics.predictions[(diagnostics.labels == label)]
        wrong = wrong[wrong != label]
        other = run.labels[int(torch.bincount(wrong).argmax())] if len(wrong) else "-"
        row = [short(run.labels[label], LONGEST), short(other, LONGEST)]
        if not run.domains:
            row.append(next(str(i) for i, end in enumerate(run.seen, 1) if label < end))
        shown = (percent(float(accuracy[label])) for accuracy in accuracies)
        row += [f"{int(images[label]):,}", *shown]
        rows.append(row)
    task = [] if run.domains else ["task"]
    columns = ["class", "predicted as", *task, "images", "accuracy", "zero-shot"]
    return Table(columns, rows, words=2, title="Classes with the lowest accuracy", beside=True)


def _pictures(run: FinishedRun, diagnostics: RunDiagnostics, pairs: list[ConfusedPair]) -> Pictures:
    groups = []
    for pair in pairs[:PAIRS_WITH_IMAGES]:
        both = {pair.first, pair.second}
        own = [
            picture for picture in diagnostics.images if {picture.label, picture.predicted} == both
        ]
        shown = [_shown(run, picture) for picture in own]
        if shown:
            title = f"{run.labels[pair.first]} / {run.labels[pair.second]}: {pair.confused}"
            groups.append((title, shown))
    return Pictures(groups)


def _shown(run: FinishedRun, picture: ConfusedImage) -> Shown:
    kind = "png" if picture.content.startswith(b"\x89PNG") else "jpeg"
    with Image.open(io.BytesIO(picture.content)) as opened:
        tiny = max(opened.size) < TINY
    data = f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"
    label, other = (short(run.labels[i], LONGEST) for i in (picture.label, picture.predicted))
    return Shown(data, f"{label}, predicted {other}", tiny)
