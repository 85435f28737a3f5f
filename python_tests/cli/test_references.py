"""References: other methods beside a run, in its folder and in its report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from awpf_ext import io
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.references import DEMO_REFERENCES, default_references


@pytest.fixture
def with_references(quick_arguments):
    plain = [argument for argument in quick_arguments if argument != "--no-report"]
    return ["run", *plain, "--references=naive,finetune,joint", "--out=run"]


def page() -> str:
    return Path("run/report.html").read_text(encoding="utf-8")


def test_they_are_trained_once_and_drawn_beside_the_run(with_references, awpf, monkeypatch):
    loads = []
    load = sys.modules["awpf_ext.runs.run"].load_features

    def counted(*arguments: object) -> object:
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr("awpf_ext.runs.run.load_features", counted)
    done = awpf(*with_references)
    assert (done.code, done.err, len(loads)) == (0, "", 1)
    lines = done.out.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("method "))
    assert lines[start].split() == [
        "method",
        "average",
        "last",
        "forgetting",
        "seconds",
        "to",
        "learn",
    ]
    rows = [line.split()[0] for line in lines[start + 1 : start + 5]]
    assert rows[0] == "awpf"
    assert set(rows[1:]) == {"naive", "finetune", "joint"}
    drawn = Path("run/figures/accuracy.svg").read_text(encoding="utf-8")
    for label in ("awpf", "naive", "finetune", "joint (bound)", "zero-shot"):
        assert f">{label}</text>" in drawn
    first = Path("run/report.html").stat().st_mtime_ns
    monkeypatch.setattr("awpf_ext.runs.run.train", lambda *_, **__: pytest.fail("it was run again"))
    again = awpf(*with_references, "--json").json
    assert set(again["references"]) == {"naive", "finetune", "joint"}
    for method, facts in again["references"].items():
        saved = io.read_json(Path(facts["folder"]) / "result.json")
        assert saved["provenance"]["method"] == method
        assert saved["provenance"]["order_hash"] == again["provenance"]["order_hash"]
        assert facts["last"] == saved["last"]
    assert Path("run/report.html").stat().st_mtime_ns == first
    assert awpf("report", "run").code == 0
    assert "joint may do what a continual method may not" in page()


def test_interrupted_they_leave_a_finished_run_and_its_report(with_references, awpf, monkeypatch):
    finished = []

    def hook(name: str) -> None:
        if name == "renamed result.json":
            finished.append(name)
        if name == "synced task_0001.json" and len(finished) == 2:
            finished.append(name)
            raise KeyboardInterrupt

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    stopped = awpf(*with_references)
    assert stopped.code == 130
    assert stopped.err == (
        "interrupted: the run in run is finished; the same command continues its references\n"
    )
    assert "average" in stopped.out
    assert "naive trains on one task" in page()
    assert "(finetune)" not in page()
    assert "Left out, as unfinished or on other data: finetune." in page()
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)
    resumed = awpf(*with_references)
    assert resumed.code == 0
    assert "Left out" not in page()
    assert "(finetune)" in page()
    whole = awpf(*with_references, "--out=whole", "--json").json
    for method, facts in whole["references"].items():
        assert io.read_json(Path("run/references", method, "result.json"))["last"] == facts["last"]


def test_one_that_cannot_be_read_is_left_out(with_references, awpf):
    assert awpf(*with_references).code == 0
    Path("run/references/joint/result.json").write_text("{")
    done = awpf(*with_references)
    assert done.code == 0
    assert "the reference joint is left out: " in done.err
    assert awpf("report", "run").code == 0
    assert "Left out, as unfinished or on other data: joint." in page()


def test_only_the_demo_has_them_by_default(quick_arguments, awpf):
    def chosen(**keys: object) -> list[str]:
        return default_references(resolve_config([ConfigLayer("test", keys)]).config)

    assert chosen() == [*DEMO_REFERENCES]
    assert chosen(dataset="demo:all", protocol="domain") == ["naive", "joint"]
    assert chosen(dataset="features:a.npz") == []
    done = awpf("run", *quick_arguments, "--out=run", "--json").json
    assert "references" not in done
    assert not Path("run/references").exists()


def test_none_and_the_method_itself_are_no_references(quick_arguments, awpf):
    run = ["run", *quick_arguments, "--out=run", "--json"]
    assert "references" not in awpf(*run, "--references=none").json
    assert "references" not in awpf(*run, "--references=awpf").json


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ("naiv", "did you mean 'naive'?"),
        (",", "--references is ','; expected methods, or none"),
        ("none,joint", "method is 'none'"),
    ],
)
def test_wrong_ones_are_refused_before_anything_runs(quick_arguments, awpf, references, message):
    refused = awpf("run", *quick_arguments, "--out=run", f"--references={references}")
    assert refused.code == 2
    assert message in refused.err
    assert not Path("run").exists()
