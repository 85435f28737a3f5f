"""Options that are generated from the configuration, and the help that shows them."""

from __future__ import annotations

import re

import pytest
import typer
from typer.testing import CliRunner

from awpf_ext.cli.commands import app
from awpf_ext.cli.options import PanelCommand, takes_config
from awpf_ext.runs.config import RUN_KEYS, RunConfig

COMMANDS = typer.main.get_command(app).commands
OF_FEATURES = (
    *("dataset", "class_names", "train_limit", "test_limit", "imbalance", "on_unreadable"),
    *("model", "pretrained", "precision", "prompt"),
    *("device", "threads", "workers", "encode_batch", "store", "cache_dir"),
)
TAKES = {
    "run": {*RUN_KEYS, "init", "batch_size"},
    "compare": {*RUN_KEYS, "init", "batch_size"} - {"method", "order", "seed"},
    "sweep": {*RUN_KEYS, "init", "batch_size"} - {"order", "seed"},
    "features": {*OF_FEATURES},
}


@pytest.mark.parametrize("command", TAKES)
def test_a_command_has_an_option_for_every_key_that_it_takes(command):
    options = {name for parameter in COMMANDS[command].params for name in parameter.opts}
    keys = {*RUN_KEYS, "init", "batch_size"}
    assert {key for key in keys if f"--{key.replace('_', '-')}" in options} == TAKES[command]
    assert {"--config", "--set", "--json", "--quiet"} <= options


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal(awpf, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    lines = awpf(command, "--help").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines)


def test_help_shows_each_key_in_its_panel_with_its_default(awpf):
    panels = re.split(r"^(\w+):$", awpf("run", "--help").out, flags=re.MULTILINE)
    text = dict(zip(panels[1::2], panels[2::2], strict=True))
    assert list(text) == ["Data", "Method", "Model", "Machine", "Configuration", "Output"]
    for panel, option in (
        ("Data", "increment N"),
        ("Method", "batch-size N"),
        ("Model", "precision auto|fp32|bf16|fp16"),
        ("Machine", "threads N"),
        ("Configuration", "set KEY=VALUE"),
        ("Output", "resume"),
    ):
        assert f"  --{option} " in text[panel]
    for panel, key in (("Data", "order"), ("Model", "prompt"), ("Machine", "store")):
        field = RunConfig.model_fields[key]
        shown = f"{field.description}  [default: {field.default}]"
        assert " ".join(shown.split()) in " ".join(text[panel].split())


def test_a_new_key_is_an_option_of_every_command(monkeypatch):
    """One declaration is all: type, default and description give the option and its help."""

    class WithNewKeys(RunConfig):
        sharpen: float | None = 0.5
        mirror: bool = False

    monkeypatch.setattr("awpf_ext.cli.options.RunConfig", WithNewKeys)
    monkeypatch.setattr("awpf_ext.cli.options.RUN_KEYS", (*RUN_KEYS, "sharpen", "mirror"))
    given = []

    @takes_config()
    def command(layers):
        given.extend(layers)

    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=PanelCommand)(command)
    assert re.search(r"--sharpen X +\[default: 0\.5\]", CliRunner().invoke(app, ["--help"]).output)
    arguments = ["--sharpen=2", "--mirror", "--prompt=a {}", "--prompt=b {}", "--set", "epochs=3"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    options, assignments = given
    assert options.values == {"sharpen": 2.0, "mirror": True, "prompt": ["a {}", "b {}"]}
    assert assignments.values == {"epochs": 3}
