"""Make the tables of docs/results.md, and the short one of README.md.

    python tools/make_results.py --features DIR --out RUNS            all tables
    python tools/make_results.py --features DIR --out RUNS main       one of: main, controls, images
    python tools/make_results.py --features DIR --out RUNS --only-write

DIR holds the feature files that SETS names; a set whose file is missing is left out. The demo is
always there. Each run has a folder of its own below RUNS, and a finished run is not made again: the
command can be interrupted and repeated. Tables are written from the runs that are there, with the
number of orders of each row.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awpf_ext
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.result import Result

ROOT = Path(__file__).resolve().parent.parent
ORDERS = tuple(f"seed:{number}" for number in range(5))


class Set(NamedTuple):
    """A data set and how it is split into tasks."""

    name: str
    file: str | None  # of the features; None: the demo
    base: int
    increment: int
    train_limit: int | None = None

    def keys(self, features: Path) -> dict[str, Any]:
        dataset = "demo" if self.file is None else f"features:{features / self.file}"
        keys: dict[str, Any] = {"dataset": dataset, "base": self.base, "increment": self.increment}
        if self.file is None:
            keys["precision"] = "fp32"
        return keys if self.train_limit is None else {**keys, "train_limit": self.train_limit}


class Row(NamedTuple):
    """A row of a table: a method with settings."""

    label: str
    method: str
    settings: dict[str, Any]


FLOWERS, DTD = "flowers102_clip_vitb32.npz", "dtd_clip_vitb32.npz"
SETS = (
    Set("flowers", FLOWERS, 12, 10),
    Set("dtd", DTD, 11, 4),
    Set("imagenet309", "imagenet309_clip_vitb32.npz", 0, 31),
    Set("flowers, 5 a class", FLOWERS, 12, 10, 5),
    Set("dtd, 5 a class", DTD, 11, 4, 5),
    Set("demo", None, 0, 10),
)
HEAD, TEXT = {"head": "lda"}, {"head": "none"}
MAIN = (
    Row("`zero_shot`", "zero_shot", {}),
    Row("`naive` (lower bound)", "naive", {}),
    Row("`finetune`", "finetune", {}),
    Row("`rapf`", "rapf", {}),
    Row("`calfuse`", "calfuse", {}),
    Row("`awpf`, texts alone", "awpf", TEXT),
    Row("`ncm`", "ncm", {}),
    Row("`slda`", "slda", {}),
    Row("`klda`", "klda", {}),
    Row("`ridge`", "ridge", {}),
    Row("`ridge`, `prior=text`", "ridge", {"prior": "text"}),
    Row("`cca`", "cca", {}),
    Row("`finetune`, `head=lda`", "finetune", HEAD),
    Row("`rapf`, `head=lda`", "rapf", HEAD),
    Row("`calfuse`, `head=lda`", "calfuse", HEAD),
    Row("**`awpf`**", "awpf", {}),
    Row("`joint` (bound)", "joint", {}),
)
CONTROLS = (
    Row("as it ships", "awpf", {}),
    Row("texts alone", "awpf", TEXT),
    Row("preset `paper`: $w=\\tau$, texts alone", "awpf", {**TEXT, "weights": "tau"}),
    *(
        Row(f"constant $w={w}$, texts alone", "awpf",
            {**TEXT, "weights": "constant", "constant_weight": w, "rank": 512})
        for w in (0.4, 0.6, 0.8)
    ),
    Row("constant $w=1$, texts alone (= `finetune`)", "finetune", {}),
    Row("`balance=loss`, texts alone", "awpf", {**TEXT, "balance": "loss"}),
    Row("`balance=both`, texts alone", "awpf", {**TEXT, "balance": "both"}),
    Row("no replay", "awpf", {"replay_per_epoch": 0}),
)  # fmt: skip
FEW = tuple(
    row
    for row in MAIN
    if row.label in ("`zero_shot`", "`finetune`", "`rapf`", "`slda`", "`ridge`, `prior=text`",
                     "**`awpf`**", "`joint` (bound)")
)  # fmt: skip
IMAGES = tuple(
    Set(f"{name}, {limit or 'all'}", file, base, increment, limit)
    for name, file, base, increment, limits in (
        ("flowers", FLOWERS, 12, 10, (1, 2, 5, 20)),
        ("dtd", DTD, 11, 4, (1, 2, 5, None)),
        ("demo", None, 0, 10, (1, 2, 5, 20, 80, 200)),
    )
    for limit in limits
)
TASKS = (
    Set("flowers, 10 tasks", FLOWERS, 12, 10),
    Set("flowers, 51 tasks", FLOWERS, 0, 2),
    Set("demo, 10 tasks", None, 0, 10),
    Set("demo, 50 tasks", None, 0, 2),
)


class Table(NamedTuple):
    sets: Sequence[Set]
    rows: Sequence[Row]
    orders: Sequence[str]


TABLES = {
    "main": Table(SETS, MAIN, ORDERS),
    "controls": Table(SETS, CONTROLS, ORDERS[:1]),
    "images": Table(IMAGES, FEW, ORDERS[:1]),
    "tasks": Table(TASKS, FEW, ORDERS[:1]),
}


class Arguments(NamedTuple):
    features: Path
    out: Path


def configured(own: Set, row: Row, order: str, features: Path) -> dict[str, Any]:
    return {
        **own.keys(features),
        "method": row.method,
        "order": order,
        "threads": 1,
        **row.settings,
    }


def folder_of(own: Set, row: Row, order: str, out: Path) -> RunFolder:
    limit = "all" if own.train_limit is None else own.train_limit
    data = f"{(own.file or 'demo').partition('_')[0]}-{limit}-{own.base}+{own.increment}"
    settings = "-".join(f"{key}={value}" for key, value in row.settings.items())
    return RunFolder(out / data / "-".join(filter(None, (row.method, settings))) / order[5:])


def available(table: Table, features: Path) -> Iterator[Set]:
    for own in table.sets:
        if own.file is None or (features / own.file).exists():
            yield own


def make(table: Table, given: Arguments) -> None:
    """Make the runs of a table that are not finished, the orders one after the other."""
    for order in table.orders:
        for own in available(table, given.features):
            for row in table.rows:
                folder = folder_of(own, row, order, given.out)
                options = configured(own, row, order, given.features)
                result = awpf_ext.run(out=folder.path, resume=True, **options)
                print(f"{own.name:20s} {row.label:32s} {order} {100 * result.last:.2f}", flush=True)


def results(table: Table, own: Set, row: Row, given: Arguments) -> list[Result]:
    """The finished runs of a cell, over the orders."""
    found = []
    for order in table.orders:
        options = configured(own, row, order, given.features)
        config = resolve_config([ConfigLayer("tools/make_results.py", options)]).config
        folder = folder_of(own, row, order, given.out)
        status = folder.status(config) if folder.path.exists() else None
        if status is not None and status.result is not None:
            found.append(status.result)
    return found


def cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * statistics.stdev(values):.1f})"


def markdown(table: Table, metric: str, given: Arguments, title: str) -> str:
    """One metric of a table: a row per method, a column per set, and the mean over the sets."""
    sets = list(available(table, given.features))
    lines = [f"| {title} | " + " | ".join(own.name for own in sets) + " | mean |"]
    lines.append("|---" * (len(sets) + 2) + "|")
    for row in table.rows:
        cells = []
        for own in sets:
            found = results(table, own, row, given)
            cells.append([getattr(result, metric) for result in found])
        # A run that had to wait for others says nothing about the method's time.
        middle = statistics.median if metric == "seconds_to_learn" else statistics.mean
        mean = statistics.mean(middle(values) for values in cells) if all(cells) else None
        if metric == "seconds_to_learn":
            texts = [f"{middle(values):.1f}" if values else "" for values in cells]
            last = "" if mean is None else f"{mean:.1f}"
        else:
            texts = [cell(values) for values in cells]
            last = "" if mean is None else f"{100 * mean:.1f}"
        lines.append(f"| {row.label} | " + " | ".join([*texts, last]) + " |")
    return "\n".join(lines)


def transposed(table: str) -> str:
    """A table with the sets as rows and the methods as columns, where there are many sets."""
    lines = table.splitlines()
    cells = [line.strip("| ").split(" | ") for line in (lines[0], *lines[2:])]
    heads, *rows = zip(*cells, strict=True)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def write(file: Path, name: str, content: str) -> None:
    """Replace what stands between the markers `<!-- results: NAME -->` and `<!-- end -->`."""
    text = file.read_text(encoding="utf-8")
    start = f"<!-- results: {name} -->\n"
    before, found, after = text.partition(start)
    if not found:
        raise SystemExit(f"{file.name} has no marker {start.strip()}")
    _, end, rest = after.partition("<!-- end -->")
    file.write_text(f"{before}{found}\n{content}\n\n{end}{rest}", encoding="utf-8")


def write_tables(given: Arguments) -> None:
    page = ROOT / "docs" / "results.md"
    for metric in ("last", "average", "forgetting", "seconds_to_learn"):
        title = {"seconds_to_learn": "seconds to learn"}.get(metric, metric)
        write(page, metric, markdown(TABLES["main"], metric, given, title))
    for name in ("controls", "tasks"):
        write(page, name, markdown(TABLES[name], "last", given, "last"))
    write(page, "images", transposed(markdown(TABLES["images"], "last", given, "last")))
    short = ("`zero_shot`", "`naive` (lower bound)", "`finetune`", "`rapf`", "`calfuse`", "`slda`",
             "`ridge`", "`awpf`, texts alone", "`finetune`, `head=lda`", "**`awpf`**",
             "`joint` (bound)")  # fmt: skip
    rows = [row for row in MAIN if row.label in short]
    table = Table(SETS, rows, ORDERS)
    write(ROOT / "README.md", "last", markdown(table, "last", given, "last"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=Path, required=True, help="folder of the feature files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only-write", action="store_true", help="make no runs")
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; by default all")
    parsed = parser.parse_args()
    unknown = sorted(set(parsed.tables) - set(TABLES))
    if unknown:
        parser.error(f"tables: {unknown[0]!r}; expected {', '.join(TABLES)}")
    given = Arguments(parsed.features, parsed.out)
    for name in () if parsed.only_write else parsed.tables or TABLES:
        make(TABLES[name], given)
    write_tables(given)


if __name__ == "__main__":
    main()
