"""Test images of some classes on a plane before and after learning: projected, and by t-SNE."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from awpf_ext.errors import install_command
from awpf_ext.report.blocks import Block, Drawing, Section, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.names import short
from awpf_ext.report.style import INK, MARKERS, SMALL, SURFACE, WIDTH, new_figure, series
from awpf_ext.report.tsne import tsne
from awpf_ext.runs.diagnostics import RunDiagnostics, most_confused_pairs
from awpf_ext.runs.wording import percent

TSNE_SHOWS = (
    "Images that were near each other stay near each other; the distances between groups and the "
    "directions have no meaning."
)


def section(run: FinishedRun) -> Section | None:
    diagnostics = run.diagnostics
    if diagnostics is None:
        return None
    classes = list(dict.fromkeys(diagnostics.embedding_labels.tolist()))
    if len(classes) < 2:
        return None
    text = torch.nn.functional.normalize(run.class_texts.text.float(), dim=-1)[classes]
    plane = _plane(text)
    sides = {"before": diagnostics.embeddings_before, "after": diagnostics.embeddings_after}
    if torch.equal(diagnostics.embeddings_before, diagnostics.embeddings_after):
        sides = {"before": diagnostics.embeddings_before}
    spots = {side: (x - x.mean(0)) @ plane for side, x in sides.items()}
    texts = (text - text.mean(0)) @ plane
    drawn_at = _nearer(texts, torch.cat(list(spots.values())))
    texts = texts * drawn_at
    limits = _limits(torch.cat([*spots.values(), texts]))
    captions = {
        "before": "Embeddings of CLIP",
        "after": f"Embeddings of the method after the last {run.noun}",
    }
    blocks: list[Block] = [Text(_explanation(run, diagnostics, classes, len(sides), drawn_at))]
    for side, places in spots.items():
        right = _nearest(sides[side], diagnostics.embedding_labels, text, classes)
        caption = f"{captions[side]}; the nearest text is the right one for {percent(right)}%."
        figure = _scatter(run, places, texts, diagnostics.embedding_labels, classes, limits)
        blocks.append(Drawing(f"map_{side}", caption, figure))
    return Section("Feature map", [*blocks, *_by_tsne(run, sides, captions, classes)])


def _by_tsne(
    run: FinishedRun, sides: Mapping[str, Tensor], captions: Mapping[str, str], classes: list[int]
) -> list[Block]:
    """The same images by t-SNE, or how to get that."""
    assert run.diagnostics is not None
    blocks: list[Block] = []
    try:
        for side, x in sides.items():
            places = tsne(x)
            if places is not None:
                labels = run.diagnostics.embedding_labels
                figure = _scatter(run, places, None, labels, classes, _limits(places))
                caption = f"{captions[side]} by t-SNE. {'' if blocks else TSNE_SHOWS}".strip()
                blocks.append(Drawing(f"tsne_{side}", caption, figure))
    except ModuleNotFoundError:
        command = install_command("scikit-learn")
        return [Text(f"A map by t-SNE is added where scikit-learn is installed: {command}")]
    return blocks


def _explanation(
    run: FinishedRun, diagnostics: RunDiagnostics, classes: list[int], sides: int, drawn_at: float
) -> str:
    pairs = most_confused_pairs(diagnostics.labels, diagnostics.predictions)
    hard = {label for pair in pairs for label in (pair.first, pair.second)}
    chosen = (
        f"the most often confused after the last {run.noun}"
        f"{'' if set(classes) <= hard else ', and some others'}"
    )
    text = (
        f"Test images of {len(classes)} classes ({chosen}). Stars mark the text embeddings of the "
        "classes. The plane is spanned by the first two principal components of these texts, so "
        "it does not depend on the images. Images and texts are each centred on their mean."
    )
    if drawn_at < 1:
        text += f" Stars are drawn at {percent(drawn_at)}% of their distance from the centre."
    same = "" if sides == 2 else f" {run.method} does not change CLIP's features."
    return text + same


def _plane(text: Tensor) -> Tensor:
    """(d, 2): the first two principal directions of the texts, with fixed signs."""
    _, _, directions = torch.linalg.svd((text - text.mean(0)).double(), full_matrices=False)
    directions = directions[:2]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    signed: Tensor = directions * directions.gather(1, largest).sign()
    return signed.T.float()


def _nearer(texts: Tensor, spots: Tensor) -> float:
    """The factor that moves texts towards the centre, so that images fill most of the map."""
    reach = 1.15 * float(spots.norm(dim=1).quantile(0.98))
    return min(1.0, reach / max(float(texts.norm(dim=1).max()), 1e-9))


def _limits(spots: Tensor) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the map, with a margin."""
    low, high = spots.min(0).values, spots.max(0).values
    margin = (high - low).clamp_min(1e-3) * 0.09
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


def _nearest(x: Tensor, labels: Tensor, text: Tensor, classes: list[int]) -> float:
    chosen = torch.tensor(classes)[(x @ text.T).argmax(1)]
    return float((chosen == labels).double().mean())


def _scatter(
    run: FinishedRun,
    places: Tensor,
    texts: Tensor | None,
    labels: Tensor,
    classes: list[int],
    limits: tuple[float, float, float, float],
) -> Figure:
    figure, axes = new_figure(WIDTH, WIDTH * 0.96)
    size = 13 if len(labels) > 150 else 36
    for index, label in enumerate(classes):
        own = places[labels == label]
        axes.scatter(
            own[:, 0].numpy(), own[:, 1].numpy(), s=size, alpha=0.62, linewidths=0,
            color=series(index).light, marker=MARKERS[index % len(MARKERS)],
            label=short(run.labels[label]) if texts is None else None,
        )  # fmt: skip
    for index, label in enumerate(classes if texts is not None else ()):
        assert texts is not None
        axes.scatter(
            float(texts[index, 0]), float(texts[index, 1]),
            s=170, marker="*", linewidths=0.8, zorder=4,
            color=series(index).light, edgecolors=INK.light,
            label=short(run.labels[label]),
        )  # fmt: skip
    axes.set(xlim=limits[:2], ylim=limits[2:], xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[["bottom"]].set_visible(False)
    figure.legend(
        loc="outside lower left", ncols=2, frameon=False, fontsize=SMALL, facecolor=SURFACE.light,
        handletextpad=0.3, columnspacing=1.5, labelspacing=0.35,
        markerscale=1 if texts is not None else 1.7,
    )  # fmt: skip
    return figure
