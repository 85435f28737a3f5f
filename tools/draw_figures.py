"""Draw the diagrams of docs/architecture.md and the badges of the README as SVG.

    python tools/draw_figures.py

writes them into docs/images/. They need no fonts and follow the reader's light or dark mode. A test
compares the files with what this script draws, and the names in them with the tree.
"""

from __future__ import annotations

import re
import textwrap
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


class Box(NamedTuple):
    """A file or folder of the tree, and what it does."""

    name: str
    text: str


Row = tuple[Box, ...]  # side by side

# From the top down; parts in the same row do not import each other.
FLOORS: tuple[Row, ...] = (
    (Box("cli", "The command awpf: options, progress bars, tables in the terminal."),),
    (Box("report", "The HTML report of one run, or of several runs side by side."),),
    (
        Box(
            "runs",
            "One run: its configuration, its folder, training, evaluation, export, prediction.",
        ),
    ),
    (Box("methods", "What is learned from each task: one file per method."),),
    (Box("finetuning", "A trainable CLIP, its losses, its buffer of earlier images."),),
    (Box("lora", "Reading, merging and writing LoRA adapters in PEFT's format."),),
    (
        Box("data", "Data sets, cached features, streams of tasks."),
        Box("fusion", "Parameter fusion and the balance factor."),
    ),
    (
        Box("clip", "The CLIP backbone and its prompts."),
        Box("ops", "MMD, scatter, low-rank sums: checks, autograd, vmap."),
    ),
    (
        Box("io", "Files that are written whole or not at all."),
        Box("distributed", "Several processes under torchrun."),
    ),
    (
        Box("errors", "The exceptions and their exit codes."),
        Box("_library", "Loads the native kernels from csrc/."),
    ),
)

MMD: tuple[Row, ...] = (
    (
        Box(
            "awpf_ext/ops/mmd.py",
            "mmd(x, y) checks the arguments and turns the estimator into coefficients.",
        ),
    ),
    (
        Box(
            "awpf_ext/ops/_samples.py",
            "Pools x and y into one matrix z, with a table of the rows of each sample. Bandwidths "
            "become exponents gamma = 1 / (2 sigma^2).",
        ),
    ),
    (
        Box(
            "awpf_ext/ops/_rbf.py",
            "Chooses the operation: the value alone, or with its gradient if x or y needs one.",
        ),
        Box("awpf_ext/ops/_autograd.py", "Keeps that gradient for backward, and serves vmap."),
    ),
    (
        Box(
            "csrc/ops.cpp", "torch.ops.awpf.rbf_weighted_sums: torch's dispatcher picks the device."
        ),
    ),
    (
        Box(
            "csrc/cpu/mmd/sums.cpp", "CPU: cuts the triangle of pairs into blocks for the threads."
        ),
        Box("csrc/cuda/mmd/weighted_sums.cu", "CUDA: one launch for small problems, else several."),
    ),
    (
        Box("csrc/cpu/mmd/packed_rows.cpp", "Centres the rows and packs them for the product."),
        Box(
            "csrc/cuda/mmd/prepare.cu",
            "Centres the rows, splits them into two halves, lists the work.",
        ),
    ),
    (
        Box("csrc/cpu/gemm.h", "A block of inner products, in AVX-512, AVX2 or baseline code."),
        Box("csrc/cuda/mmd/gram.h", "A tile of inner products on tensor cores."),
    ),
    (
        Box(
            "csrc/cpu/rbf.h",
            "Turns the block into distances, kernels and one sum while it is in cache.",
        ),
        Box(
            "csrc/cuda/mmd/mixture.h",
            "Turns the tile into distances, kernels and one sum in registers.",
        ),
    ),
    (
        Box("csrc/cpu/mmd/sums.cpp", "Adds the sums of the blocks in a fixed order, in double."),
        Box("csrc/cuda/mmd/reduce.cu", "Adds the sums of the tiles in a fixed order, in double."),
    ),
)

IMAGE: tuple[Row, ...] = (
    (
        Box("awpf_ext/cli/run.py", "awpf run --dataset folder:my_images"),
        Box("awpf_ext/runs/config.py", "Options, files and presets become one RunConfig."),
    ),
    (Box("awpf_ext/runs/run.py", "run() takes the RunConfig through all the steps below."),),
    (
        Box(
            "awpf_ext/data/datasets.py", "Lists the images of the folder, one class per subfolder."
        ),
        Box("awpf_ext/clip/prompts.py", "Class names become prompts."),
    ),
    (
        Box("awpf_ext/data/extract.py", "Decodes and prepares the images in batches."),
        Box("awpf_ext/clip/backbone.py", "The frozen CLIP encodes images and prompts."),
    ),
    (Box("awpf_ext/data/store.py", "Keeps the features, so that an image is encoded only once."),),
    (Box("awpf_ext/data/stream.py", "Orders the classes or domains and cuts them into tasks."),),
    (
        Box(
            "awpf_ext/runs/trainer.py", "For each task: learn, evaluate on all classes seen, save."
        ),
        Box("awpf_ext/methods/registry.py", "Finds the method, for example methods/awpf.py."),
    ),
    (
        Box("awpf_ext/runs/checkpoint.py", "The method's state after each task."),
        Box("awpf_ext/runs/diagnostics.py", "Predictions and sample images for the report."),
    ),
    (
        Box(
            "awpf_ext/report/load.py", "Reads the run's folder; neither images nor CLIP are needed."
        ),
    ),
    (Box("awpf_ext/report/compose.py", "The sections become report.html and figures/."),),
)

WIDTH, MARGIN, GAP = 760, 16, 20
LINE, PAD, STEP = 17, 10, 26  # height of a line, padding of a box, space between rows
STYLE = """
  .page { fill: #ffffff } .box { fill: #f4f6fb; stroke: #5b6abf; stroke-width: 1.2 }
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .name { font: 600 13px ui-monospace, monospace }
  .arrow { stroke: #5b6abf; stroke-width: 1.4; fill: none } .head { fill: #5b6abf }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1c1f26 } .box { fill: #262b36; stroke: #8c9eff } text { fill: #e6e9ef }
    .arrow { stroke: #8c9eff } .head { fill: #8c9eff }
  }
"""


def diagram(rows: tuple[Row, ...], title: str, *, arrows: bool, left: int = MARGIN) -> str:
    """Rows of boxes below each other, with an arrow from each row to the next."""
    parts: list[str] = []
    top = MARGIN
    for number, row in enumerate(rows):
        width = (WIDTH - left - MARGIN - GAP * (len(row) - 1)) / len(row)
        lines = [textwrap.wrap(box.text, int((width - 2 * PAD) / 7)) for box in row]
        height = 2 * PAD + LINE * (1 + max(map(len, lines)))
        for column, (box, text) in enumerate(zip(row, lines, strict=True)):
            parts += _box(left + column * (width + GAP), top, width, height, box.name, text)
        top += height
        if number + 1 < len(rows):
            columns = max(len(row), len(rows[number + 1])) if arrows else 0
            for column in range(columns):
                x = left + (WIDTH - left - MARGIN) * (2 * column + 1) / (2 * columns)
                parts.append(_arrow(x, top + 3, top + STEP - 3))
            top += STEP if arrows else STEP // 3
    if not arrows:  # one long arrow at the side
        parts.append(_arrow(left / 2 + 14, MARGIN + 6, top - 6))
        x, y = left / 2 - 4, top / 2
        parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="middle" '
            f'transform="rotate(-90 {x:g} {y:g})">imports go down</text>'
        )
    height = top + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(x: float, y: float, width: float, height: float, name: str, lines: list[str]) -> list[str]:
    inside = x + PAD
    shown = [
        f'<rect class="box" x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="5"/>',
        f'<text class="name" x="{inside:g}" y="{y + PAD + 12}">{escape(name)}</text>',
    ]
    for number, line in enumerate(lines, 1):
        height = y + PAD + 12 + LINE * number
        shown.append(f'<text x="{inside:g}" y="{height}">{escape(line)}</text>')
    return shown


def _arrow(x: float, start: float, end: float) -> str:
    return (
        f'<path class="arrow" d="M{x:g} {start:g}V{end - 6:g}"/>'
        f'<path class="head" d="M{x - 5:g} {end - 7:g}h10l-5 7z"/>'
    )


def badge(label: str, value: str, colour: str) -> str:
    """A badge for the README: a label and its value."""
    left, right = (round(12 + 6.6 * len(text)) for text in (label, value))
    text = '<text x="{:g}" y="14">{}</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20">',
            f"<title>{label}: {value}</title>",
            f'<clipPath id="round"><rect width="{left + right}" height="20" rx="3"/></clipPath>',
            '<g clip-path="url(#round)">',
            f'<rect width="{left}" height="20" fill="#555"/>',
            f'<rect x="{left}" width="{right}" height="20" fill="{colour}"/>',
            "</g>",
            '<g fill="#fff" font-family="sans-serif" font-size="11" text-anchor="middle">',
            text.format(left / 2, label),
            text.format(left + right / 2, value),
            "</g>",
            "</svg>\n",
        ]
    )


def figures() -> dict[str, str]:
    """Maps every file name to the text of its SVG."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def found(pattern: str) -> str:
        return re.findall(pattern, project, re.MULTILINE)[0]

    return {
        "badge_licence.svg": badge("licence", found(r'^license = "(.+)"'), "#3949ab"),
        "badge_python.svg": badge("python", found(r'^requires-python = ">=(.+)"') + "+", "#2e7d32"),
        "badge_pytorch.svg": badge(
            "pytorch", found(r'^dependencies = \["torch>=(.+?)"') + "+", "#c2410c"
        ),
        "architecture_floors.svg": diagram(FLOORS, "The floors of awpf_ext", arrows=False, left=66),
        "architecture_mmd.svg": diagram(MMD, "From mmd(x, y) to the kernel", arrows=True),
        "architecture_image.svg": diagram(IMAGE, "From an image to the report", arrows=True),
    }


def main() -> None:
    for name, svg in figures().items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
        print(IMAGES / name)


if __name__ == "__main__":
    main()
