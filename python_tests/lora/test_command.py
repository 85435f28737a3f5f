"""`awpf merge`: what it prints, and how it ends."""

from __future__ import annotations

import json

import pytest
from small_adapters import deltas, distance

from awpf_ext.lora import merge

pytest.importorskip("typer", reason='needs the extra "clip"')


@pytest.fixture
def awpf(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from awpf_ext.cli.commands import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *arguments: CliRunner().invoke(app, ["merge", *arguments])


def test_it_prints_a_row_a_kind_of_module(awpf, write):
    for name, rank in (("a", 4), ("b", 2)):
        write(name, rank, base_model_name_or_path="some/model")
    done = awpf("a", "b", "--method=svd", "-o", "out")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["svd", "of", "2", "adapters", "of", "some/model:", "3", "layers"]
    assert lines[2] == ["module", "layers", "ranks", "rank", "of", "the", "merge", "energy", "kept"]
    rows = {line[0]: line[1:4] for line in lines[3:5]}
    assert rows == {"q": ["2", "2-4", "4"], "up": ["1", "2-4", "4"]}
    assert lines[6][:2] == ["energy", "kept"]
    assert lines[7] == ["out"]
    assert done.stderr == ""


def test_options_reach_the_merge(awpf, write, tmp_path):
    folders = [write("a"), write("b")]
    done = awpf("a", "b", "-m", "ties", "--weights", "-0.5,2", "--density", "0.4", "--rank", "3",
                "--dtype", "float16", "-o", "out", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["settings"] == {"rank": 3, "density": 0.4, "merge_space": "delta"}
    assert report["weights"] == [-0.5, 2]
    assert {layer["rank"] for layer in report["layers"]} == {3}
    assert 0 < report["energy_kept"] < 1
    assert {"seconds", "peak_memory", "sources"} <= report.keys()
    again = merge(folders, tmp_path / "again", method="ties", weights=[-0.5, 2], density=0.4,
                  rank=3, dtype="float16")  # fmt: skip
    assert distance(deltas(tmp_path / "out"), deltas(again.out)) == 0
    assert awpf("a", "-o", "out").exit_code == 2
    assert awpf("a", "-o", "out", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a", "b"], 2, "Missing option '--out'"),
        (["a", "none", "-o", "out"], 2, "error: there is no folder none; expected an adapter's"),
        (["a", "-m", "tie", "-o", "out"], 2, "error: there is no merge method 'tie'; did you mean"),
        (
            ["a", "--weights=x", "-o", "out"],
            2,
            "error: --weights is 'x'; expected numbers separated by commas",
        ),
        (["damaged", "-o", "out"], 3, "error: cannot read damaged/adapter_model.safetensors"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(arguments, code, message, awpf, write):
    write("a")
    (write("damaged") / "adapter_model.safetensors").write_bytes(b"no")
    done = awpf(*arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
