"""Compares tables in the docs with their sources: settings of methods, measured figures."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from page_blocks import ROOT, pages

pytest.importorskip("pydantic", reason='needs the extra "clip"')

from pydantic import BaseModel

import awpf_ext
from awpf_ext.finetuning.trainable_config import TrainableConfig
from awpf_ext.methods import method_class
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.buffered_finetuning import BufferedFineTuningConfig
from awpf_ext.methods._base.finetuning import FineTuningConfig

_MARKED = re.compile(r"<!-- (settings of|figures from) (\S+) -->\s+((?:\|[^\n]*\n)+)")
_FIGURE = re.compile(r"\d[\d.,]*(?: (?:ms|s|MiB|GiB)\b|%|e-\d+)")


class Table(NamedTuple):
    """A table and what the comment above it says that it was made from."""

    page: Path
    source: str
    rows: list[list[str]]


def tables(kind: str) -> list[Table]:
    found = []
    for page in pages():
        for matched, source, lines in _MARKED.findall(page.read_text(encoding="utf-8")):
            rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()]
            if matched == kind:
                found.append(Table(page, source, rows[2:]))
    return found


@pytest.mark.parametrize("table", tables("settings of"), ids=lambda table: table.source)
def test_settings_are_all_there_with_their_defaults(table):
    config = method_class(table.source).Config
    fields = config.model_fields
    recipe = {name: field.default for name, field in _recipe(config).model_fields.items()}
    own = {n for n, f in fields.items() if n not in recipe or f.default != recipe[n]}
    expected = own or set(recipe)  # a method's page leaves out what the recipe's table says
    shown = {row[0].strip("`"): row[1].strip("`") for row in table.rows}
    assert shown == {name: _written(fields[name].default) for name in expected}


def _recipe(config: type[BaseModel]) -> type[BaseModel]:
    """The settings that another page has: what several methods share."""
    if config in (BufferedFineTuningConfig, FineTuningConfig):
        return TrainableConfig
    shared = (BufferedFineTuningConfig, FineTuningConfig, AdapterConfig)
    return next((base for base in shared if issubclass(config, base)), AdapterConfig)


def _written(default: object) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


@pytest.mark.parametrize("table", tables("figures from"), ids=lambda table: table.rows[0][0])
def test_figures_were_measured(table):
    measured = set(_FIGURE.findall((ROOT / table.source).read_text(encoding="utf-8")))
    shown = {figure for row in table.rows for figure in _FIGURE.findall(" ".join(row))}
    assert shown
    assert shown <= measured, f"{table.page.name}: {shown - measured} is not in {table.source}"


def test_every_command_has_its_section():
    typer = pytest.importorskip("typer", reason='needs the extra "clip"')
    from awpf_ext.cli.commands import app

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(
        typer.main.get_command(app).commands
    )


def test_the_reference_has_every_operation_as_it_is():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`(\w+)(\([^`]*\))`", page, re.MULTILINE))
    operations = {name: getattr(awpf_ext, name) for name in awpf_ext.__all__}
    for name, operation in operations.items():
        if name in ("build_info", "BuildInfo", "LowRank", "MMDTest", "Scatter"):
            continue  # results of operations, and a short form of `awpf doctor`
        bare = inspect.signature(operation)
        bare = bare.replace(
            parameters=[p.replace(annotation=p.empty) for p in bare.parameters.values()],
            return_annotation=bare.empty,
        )
        written = " ".join(shown.get(name, "nothing").split())
        assert written == str(bare).replace("'", '"'), f"operations.md: {name}"


def test_the_version_is_one_everywhere():
    for name, pattern in (
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CITATION.cff", r"^version: (.+)$"),
        ("CHANGELOG.md", r"^## \[.*\] \((.+)\)$|^## \[(\d.+)\]"),
    ):
        found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert found, name
        assert awpf_ext.__version__ in found.groups(), name
