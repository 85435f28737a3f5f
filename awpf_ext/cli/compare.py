"""`awpf compare` and `awpf sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from awpf_ext.cli.app import handle_errors, print_json
from awpf_ext.cli.options import OUTPUT, Json, Quiet, takes_config
from awpf_ext.cli.progress import Reporter
from awpf_ext.cli.report import ReportOption, closing_report
from awpf_ext.cli.sweep_tables import print_sweep
from awpf_ext.cli.tables import print_line
from awpf_ext.distributed import check_single_process
from awpf_ext.errors import UserError
from awpf_ext.methods import METHODS
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.sweep import Axis, SweepRun, plan_sweep, run_sweep, variants_of
from awpf_ext.runs.sweep_file import write_sweep
from awpf_ext.runs.wording import pluralize

RUNS = "Runs"  # panel of the help: options that determine which runs are made
LAMBDA = "balance_scale"
# The values of lambda in the paper's Figure 4.
LAMBDAS = "0.25,0.5,0.75,1,1.25,1.5,1.75,2"
# Those that the protocol does not allow are left out.
METHODS_COMPARED = (
    *("zero_shot", "naive", "finetune", "rapf", "awpf", "calfuse", "slda", "ridge", "joint"),
)

Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="A,B,...",
        help="Methods to compare; the others are compared with the first  "
        f"[default: {','.join(METHODS_COMPARED)}]",
        rich_help_panel=RUNS,
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        metavar="KEY",
        help="Key to vary; repeat it, each with its --values, for all combinations  "
        f"[default: {LAMBDA}, AWPF's lambda]",
        rich_help_panel=RUNS,
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--values",
        metavar="A,B,...",
        help=f"Values of the key  [default: {LAMBDAS}]",
        rich_help_panel=RUNS,
    ),
]
Orders = Annotated[
    str,
    typer.Option(
        "--orders",
        metavar="A,B,...",
        help="Orders of the classes (or domains)",
        rich_help_panel=RUNS,
    ),
]
Seeds = Annotated[
    str,
    typer.Option("--seeds", metavar="N,M,...", help="Seeds of the methods", rich_help_panel=RUNS),
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder of the runs; finished runs in it are not repeated",
        rich_help_panel=OUTPUT,
    ),
]


@handle_errors
@takes_config(without=("method", "order", "seed"))
def compare(
    layers: list[ConfigLayer],
    methods: Methods = None,
    orders: Orders = "seed:0,seed:1,seed:2",
    seeds: Seeds = "0",
    out: Out = Path("runs/compare"),
    report: ReportOption = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run several methods on several class orders and seeds.

    Prints the mean and standard deviation of each metric, and the difference from the first method
    on the same order and seed, with the number of runs in which it is positive.
    """
    if methods is None:
        compared, notes = _default_methods(layers)
    else:
        compared, notes = _split("--methods", methods), []
    axes = [Axis("method", tuple(compared))]
    runs = (axes, orders, seeds, out)
    _run("awpf compare", layers, *runs, report, quiet, as_json, paired=True, notes=notes)


@handle_errors
@takes_config(without=("order", "seed"))
def sweep(
    layers: list[ConfigLayer],
    parameter: Parameters = None,
    values: Values = None,
    orders: Orders = "seed:0,seed:1,seed:2",
    seeds: Seeds = "0",
    out: Out = Path("runs/sweep"),
    report: ReportOption = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run all combinations of the values of one or more keys.

    Any key can be varied, the method too. The default is AWPF's lambda, with the values of the
    paper's Figure 4.
    """
    axes = _axes(parameter or [LAMBDA], values or [])
    _run("awpf sweep", layers, axes, orders, seeds, out, report, quiet, as_json, paired=False)


def _default_methods(layers: Sequence[ConfigLayer]) -> tuple[list[str], list[str]]:
    """Those of METHODS_COMPARED that the configured protocol allows, and notes on the others."""
    any_method = ConfigLayer("awpf compare", {"method": METHODS_COMPARED[0]})
    protocol = resolve_config([*layers, any_method]).config.protocol
    able = [name for name in METHODS_COMPARED if protocol in METHODS[name].protocols]
    left_out = ", ".join(name for name in METHODS_COMPARED if name not in able)
    return able, [f"left out, as they have no {protocol} protocol: {left_out}"] if left_out else []


def _axes(keys: Sequence[str], values: Sequence[str]) -> list[Axis]:
    if len(keys) == 1 and not values:
        values = [LAMBDAS]
    if len(keys) != len(values):
        raise UserError(
            f"--parameter is given {pluralize(len(keys), 'time')} and --values "
            f"{pluralize(len(values), 'time')}; expected values for each"
        )
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if repeated is not None:
        raise UserError(f"--parameter {repeated} is given more than once; list its values in one")
    pairs = zip(keys, values, strict=True)
    return [Axis(key, tuple(_split("--values", listed))) for key, listed in pairs]


def _run(
    command: str,
    layers: Sequence[ConfigLayer],
    axes: Sequence[Axis],
    orders: str,
    seeds: str,
    out: Path,
    report: bool,
    quiet: bool,
    as_json: bool,
    *,
    paired: bool,
    notes: Sequence[str] = (),
) -> None:
    check_single_process(command)
    out = out.expanduser()
    keys = [axis.key for axis in axes]
    for key in ("order", "seed"):
        if key in keys or key in layers[-1].values:
            raise UserError(f"{key} can only be varied by --{key}s")
    for key in keys:
        if key in layers[-1].values:
            raise UserError(f"{key} is varied by this command; remove it from --set")
    runs = plan_sweep(
        variants_of(axes),
        layers,
        orders=_split("--orders", orders),
        seeds=[_whole_number(seed) for seed in _split("--seeds", seeds)],
        out=out,
    )

    reporter = Reporter(quiet, bar_width=12)
    for note in notes:
        reporter.note(note)

    def starting(index: int, run: SweepRun) -> None:
        reporter.prefix = f"run {index + 1}/{len(runs)} ({run.variant}) "

    try:
        with reporter.live():
            result = run_sweep(runs, progress=reporter, starting=starting)
    except KeyboardInterrupt:
        done = sum(RunFolder(run.folder).is_finished for run in runs)
        kept = f"{done} of {pluralize(len(runs), 'run')} done in {out}"
        raise KeyboardInterrupt(f": {kept}; the same command continues") from None
    facts = write_sweep(out, axes, result)
    if not as_json:
        print_sweep(result, axes, paired=paired, folder=out)
    page = closing_report(out, reporter) if report else None
    if as_json:
        print_json(facts if page is None else {**facts, "report": str(page)})
    elif page is not None:
        print_line((str(page), "dim"))


def _split(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise UserError(f"{name} is {text!r}; expected values separated by commas")
    return items


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--seeds holds {text!r}; expected whole numbers separated by commas")
    return int(text)
