"""`awpf compare` and `awpf sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from awpf_ext import io
from awpf_ext.commands import options as o
from awpf_ext.commands.app import guarded, print_json
from awpf_ext.commands.report import Wanted, closing_report
from awpf_ext.config import read_assignments
from awpf_ext.console import Reporter
from awpf_ext.errors import UserError
from awpf_ext.grid import Arm, Cell, plan_grid, run_grid
from awpf_ext.tables import counted, print_grid, say
from awpf_ext.team import check_alone

# The values of lambda in the paper's Figure 4.
LAMBDAS = "0.25,0.5,0.75,1,1.25,1.5,1.75,2"

Methods = Annotated[
    str,
    typer.Option("--methods", metavar="A,B,...", help="the first is what others are compared with"),
]
Orders = Annotated[str, typer.Option("--orders", metavar="A,B,...", help="class orders")]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N,M,...", help="seeds of the methods")]
Out = Annotated[
    Path,
    typer.Option(
        "--out", metavar="DIR", help="folder of the runs; those finished in it are not repeated"
    ),
]


@guarded
def compare(
    context: typer.Context,
    methods: Methods = "zero_shot,finetune,rapf,awpf,calfuse",
    orders: Orders = "seed:0,seed:1,seed:2",
    seeds: Seeds = "0",
    out: Out = Path("runs/compare"),
    dataset: o.Dataset = None,
    class_names: o.ClassNames = None,
    base: o.Base = None,
    increment: o.Increment = None,
    preset: o.Preset = None,
    init: o.Init = None,
    batch_size: o.BatchSize = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    precision: o.Precision = None,
    prompt: o.Prompt = None,
    device: o.Device = None,
    threads: o.Threads = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    report: Wanted = True,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run several methods on several class orders and seeds.

    Prints mean and standard deviation, and the difference from the first method on the same order
    and seed, with the number of runs in which it is positive.
    """
    arms = [Arm(name, {"method": name}) for name in _listed("--methods", methods)]
    _run(context, arms, "method", orders, seeds, out, report, quiet, as_json, True)


@guarded
def sweep(
    context: typer.Context,
    parameter: Annotated[
        str, typer.Option("--parameter", metavar="KEY", help="what is varied (lambda of awpf)")
    ] = "balance_scale",
    values: Annotated[
        str, typer.Option("--values", metavar="A,B,...", help="the values it takes")
    ] = LAMBDAS,
    orders: Orders = "seed:0,seed:1,seed:2",
    seeds: Seeds = "0",
    out: Out = Path("runs/sweep"),
    dataset: o.Dataset = None,
    class_names: o.ClassNames = None,
    base: o.Base = None,
    increment: o.Increment = None,
    method: o.Method = None,
    preset: o.Preset = None,
    init: o.Init = None,
    batch_size: o.BatchSize = None,
    model: o.Model = None,
    pretrained: o.Pretrained = None,
    precision: o.Precision = None,
    prompt: o.Prompt = None,
    device: o.Device = None,
    threads: o.Threads = None,
    config: o.ConfigFile = None,
    assignments: o.Assignments = None,
    report: Wanted = True,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run one setting over several values.

    By default AWPF's lambda, as in the paper's Figure 4; any key can be varied.
    """
    taken = _listed("--values", values)
    arms = [Arm(value, read_assignments([f"{parameter}={value}"]).values) for value in taken]
    _run(context, arms, parameter, orders, seeds, out, report, quiet, as_json, False)


def _run(
    context: typer.Context,
    arms: Sequence[Arm],
    varied: str,
    orders: str,
    seeds: str,
    out: Path,
    report: bool,
    quiet: bool,
    as_json: bool,
    paired: bool,
) -> None:
    check_alone(f"awpf {context.info_name}")
    layers, out = o.layers(context), out.expanduser()
    for key in ("order", "seed"):
        if varied == key or key in layers[-1].values:
            raise UserError(f"{key} is varied by --{key}s, in no other way")
    if varied in layers[-1].values:
        raise UserError(f"{varied} is what is varied here; leave it out of --set")
    cells = plan_grid(
        arms,
        layers,
        orders=_listed("--orders", orders),
        seeds=[_whole_number(seed) for seed in _listed("--seeds", seeds)],
        out=out,
    )

    reporter = Reporter(quiet, bar_width=12)

    def starting(index: int, cell: Cell) -> None:
        reporter.prefix = f"run {index + 1}/{len(cells)} ({cell.arm}) "

    try:
        with reporter.watching():
            grid = run_grid(cells, progress=reporter, starting=starting)
    except KeyboardInterrupt:
        done = sum((cell.folder / "result.json").exists() for cell in cells)
        kept = f"{done} of {counted(len(cells), 'run')} done in {out}"
        raise KeyboardInterrupt(f": {kept}; the same command goes on") from None
    facts = {"varied": varied, "folder": str(out), **grid.to_json()}
    io.write_json(out / "grid.json", facts)
    if not as_json:
        print_grid(grid, varied, paired=paired, folder=out)
    page = closing_report(out, reporter) if report else None
    if as_json:
        print_json(facts if page is None else {**facts, "report": str(page)})
    elif page is not None:
        say((str(page), "dim"))


def _listed(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise UserError(f"{name} is {text!r}; expected values with commas between them")
    return items


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--seeds holds {text!r}; expected whole numbers with commas between them")
    return int(text)
