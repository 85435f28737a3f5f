"""`pytest bench/`: compares every kernel with the alternatives, and prints one table per kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
if not (CHECKOUT / "awpf_ext" / "awpf_cpu.so").exists():
    # `python -m pytest` looks for modules in the working folder first; use the installed package.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != CHECKOUT]

import memory
import pytest
import table
from comparison import Outcome, Work
from goals import Goal
from measure import compare as run_comparison

_RESULTS = Path(__file__).parent / "results"
_OUTCOMES = pytest.StashKey[dict[str, list[Outcome]]]()
_LONG = ("bench_finetuning.py", "bench_merge.py", "bench_trainer.py")
"""They take minutes each, so that they only run if they are named."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--save-table",
        action="store_true",
        help="save the tables in bench/results/, in files named after the kind of processor",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_OUTCOMES] = {}
    memory.start_server()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    home = config.invocation_params.dir
    named = {(home / argument.partition("::")[0]).resolve() for argument in config.args}
    return (collection_path.name in _LONG and collection_path.resolve() not in named) or None


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Outcome], Outcome]:
    """Add an outcome to the table of its benchmark file."""

    def keep(outcome: Outcome) -> Outcome:
        kernel = (request.module.__doc__ or request.module.__name__).splitlines()[0].rstrip(".")
        request.config.stash[_OUTCOMES].setdefault(kernel, []).append(outcome)
        return outcome

    return keep


@pytest.fixture
def compare(benchmark: Any, record: Callable[[Outcome], Outcome]) -> Callable[..., Outcome]:
    """compare(make, *goals): measure and record the contenders of the picklable `make()`."""

    def run(make: Callable[[], Work], *goals: Goal) -> Outcome:
        outcome = run_comparison(make, goals, benchmark)
        benchmark.extra_info.update(table.as_data(outcome))
        return record(outcome)

    return run


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes = config.stash[_OUTCOMES]
    if not outcomes:
        return
    terminalreporter.write_line("")
    terminalreporter.write(table.as_text(outcomes))
    terminalreporter.write_line(f"take minutes, and only run if named: {', '.join(_LONG)}")
    if config.getoption("--save-table"):
        _RESULTS.mkdir(exist_ok=True)
        saved = _RESULTS / table.kind()
        saved.with_suffix(".json").write_text(table.as_json(outcomes))
        saved.with_suffix(".md").write_text(table.as_markdown(outcomes))
        terminalreporter.write_line(f"saved {saved}.md and {saved.name}.json")
