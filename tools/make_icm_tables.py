"""Make the tables of docs/methods/icm_fusion.md.

    python tools/make_icm_tables.py --out RUNS              all populations, then all rows
    python tools/make_icm_tables.py --out RUNS --only-write

First each set gets a run of icm_fusion that trains the LoRAs of all tasks and only averages them.
All rows take these LoRAs; each is fused once, after the last task, and tested on all classes. The
seeds vary the buffer, the network and the fusion. Every result is a file below RUNS, and a finished
one is not made again: the command can be interrupted and repeated. The tables are written from the
results that are there, with their numbers of seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from make_results import write

import awpf_ext
from awpf_ext import io
from awpf_ext.data import FeatureSet, TaskStream, task_stream
from awpf_ext.methods import create_method
from awpf_ext.methods._base.task_loras import TaskLoras
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.run import load_features

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods" / "icm_fusion.md"
SEEDS = range(5)
DATA: dict[str, Any] = {"dataset": "demo", "increment": 20, "order": "seed:0", "precision": "fp32"}
LORAS: dict[str, Any] = {
    "lora_rank": 4,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "population": 6,
}
TESTS = 50


class Set(NamedTuple):
    name: str
    limits: dict[str, Any]
    epochs: int


class Row(NamedTuple):
    label: str
    method: str
    settings: dict[str, Any]
    images: bool  # whether the fusion uses images of the buffer, so that seeds matter


SETS = (
    Set("few", {"train_limit": 3}, 10),
    Set("tail", {"train_limit": 20, "imbalance": 0.01}, 6),
    Set("many", {"train_limit": 20}, 2),
)
BY_NETWORK = Row("**`icm_fusion`**", "icm_fusion", {}, True)
BY_COMPONENTS = Row(
    "the same, search over principal components", "icm_fusion", {"search": "pca"}, True
)
BEST_SCALE: dict[str, Any] = {"search": "scale", "refine_steps": 0}
ROWS = (
    Row("CLIP, no LoRA", "lora_merge", {"weight": 1e-9}, False),
    Row("average", "lora_merge", {}, False),
    Row("average times $\\sqrt T$", "lora_merge", {"fusion": "average_sqrt"}, False),
    Row("`stack`", "lora_merge", {"fusion": "stack"}, False),
    Row("`ties`", "lora_merge", {"fusion": "ties"}, False),
    Row("`knots`", "lora_merge", {"fusion": "knots"}, False),
    Row("`tsv`", "lora_merge", {"fusion": "tsv"}, False),
    Row("`icm`, data-free", "lora_merge", {"fusion": "icm"}, False),
    BY_NETWORK,
    BY_COMPONENTS,
    Row("average times a scale found on images", "icm_fusion", BEST_SCALE, True),
    # As many steps on images: 20 of the search, 30 on the LoRA, 10 of the network's training.
    Row("fine-tuned average", "icm_fusion", {"search": "none", "refine_steps": 60}, True),
    Row(
        "CLIP fine-tuned on the same images, without the LoRAs",
        "icm_fusion",
        {"search": "none", "refine_steps": 60, "epochs": 0, "population": 1, "adapters": None},
        True,
    ),
    Row("`icm_fusion`, not refined", "icm_fusion", {"refine_steps": 0}, True),
)


def population_run(own: Set, out: Path) -> Path:
    """The folder of the run that has the LoRAs of a set."""
    folder = out / own.name / "population"
    awpf_ext.run(
        **DATA,
        **own.limits,
        **LORAS,
        out=folder,
        resume=True,
        threads=1,
        test_limit=1,
        method="icm_fusion",
        epochs=own.epochs,
        search="none",
        refine_steps=0,
    )
    return folder


def result_file(own: Set, row: Row, seed: int, out: Path) -> Path:
    settings = "-".join(f"{key}={value}" for key, value in row.settings.items())
    name = "-".join(filter(None, (row.method, settings)))
    return out / own.name / f"{name}-{seed if row.images else 'all'}.json"


def fused(stream: TaskStream, own: Set, row: Row, seed: int, run: Path) -> dict[str, Any]:
    """Fuse the LoRAs of all tasks once, and test the result."""
    given = {**LORAS, "epochs": own.epochs, "adapters": str(run), **row.settings}
    if row.method == "lora_merge":
        del given["population"]
    method = create_method(row.method, stream, given, seed=seed)
    assert isinstance(method, TaskLoras)
    start = time.perf_counter()
    for task in stream:
        if task.index < len(stream) - 1:
            method.collect(task, lambda done, epochs: None)
            method.seen = task.classes.stop
        else:
            method.fit(task)
    seconds = time.perf_counter() - start
    last = len(stream) - 1
    _, labels = stream.test_seen(last)
    images = stream.test_images_seen(last)
    right = torch.cat(
        [
            method.logits(images[begin : begin + 250]).argmax(dim=1) == labels[begin : begin + 250]
            for begin in range(0, len(labels), 250)
        ]
    )
    by_class = [float(right[labels == label].double().mean()) for label in labels.unique()]
    accuracy = float(right.double().mean())
    return {
        "last": accuracy,
        "by_class": by_class,
        "seconds": seconds,
        "records": method.records[-1:],
    }


def features_of(own: Set) -> FeatureSet:
    options = {**DATA, **own.limits, "test_limit": TESTS, "method": "zero_shot"}
    return load_features(resolve_config([ConfigLayer("make_icm_tables.py", options)]).config, None)


def make(out: Path, names: list[str]) -> None:
    chosen = [own for own in SETS if not names or own.name in names]
    runs = {own.name: population_run(own, out) for own in chosen}
    for seed in SEEDS:
        for own in chosen:
            stream = None
            for row in ROWS:
                file = result_file(own, row, seed, out)
                if file.exists():
                    continue
                stream = stream or task_stream(
                    features_of(own), increment=DATA["increment"], order=DATA["order"]
                )
                result = fused(stream, own, row, seed, runs[own.name])
                io.write_json(file, result)
                print(
                    f"{own.name:5s} {row.label:44s} {seed} {100 * result['last']:.1f}", flush=True
                )


def results(own: Set, row: Row, out: Path) -> list[dict[str, Any]]:
    seeds = SEEDS if row.images else SEEDS[:1]
    files = [result_file(own, row, seed, out) for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def ten_worst(found: list[dict[str, Any]]) -> float:
    """Each class is averaged over the seeds before the ten worst are chosen."""
    by_class = [
        statistics.mean(values) for values in zip(*(r["by_class"] for r in found), strict=True)
    ]
    return statistics.mean(sorted(by_class)[:10])


def cell(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    values = [100 * result["last"] for result in found]
    worst = f" / {100 * ten_worst(found):.1f}"
    if len(values) == 1:
        return f"{values[0]:.1f}{worst}"
    return f"{statistics.mean(values):.1f} ({statistics.stdev(values):.1f}){worst}"


def accuracies(out: Path) -> str:
    sets = [own for own in SETS if any(results(own, row, out) for row in ROWS)]
    lines = ["| | uses images | seeds | " + " | ".join(own.name for own in sets) + " |"]
    lines.append("|---" * (len(sets) + 3) + "|")
    for row in ROWS:
        found = [results(own, row, out) for own in sets]
        counts = sorted({len(each) for each in found})
        seeds = "-".join(map(str, counts[:: max(len(counts) - 1, 1)])) if row.images else ""
        cells = " | ".join(map(cell, found))
        lines.append(f"| {row.label} | {'yes' if row.images else 'no'} | {seeds} | {cells} |")
    return "\n".join(lines)


def explained(out: Path) -> str:
    lines = ["| | LoRAs | F-VAE | PCA | logits, F-VAE | logits, PCA |", "|---|---|---|---|---|---|"]
    for own in SETS:
        by_net, by_pca = (
            [result["records"][0] for result in results(own, row, out)]
            for row in (BY_NETWORK, BY_COMPONENTS)
        )
        if by_net and by_pca:
            numbers = [
                statistics.mean(record[key] for record in records)
                for records, key in (
                    (by_net, "explained"),
                    (by_net, "explained_by_pca"),
                    (by_net, "explained_logits"),
                    (by_pca, "explained_logits"),
                )
            ]
            cells = " | ".join(f"{100 * number:.1f}" for number in numbers)
            lines.append(f"| {own.name} | {by_net[0]['loras']} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only-write", action="store_true", help="fuse nothing")
    parser.add_argument("--populations", action="store_true", help="only train the LoRAs")
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(s.name for s in SETS)}; or all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.populations:
        for own in SETS:
            if not given.sets or own.name in given.sets:
                population_run(own, given.out)
        return
    if not given.only_write:
        make(given.out, given.sets)
    write(PAGE, "icm", accuracies(given.out))
    write(PAGE, "explained", explained(given.out))


if __name__ == "__main__":
    main()
