"""`awpf report`, and the reports that other commands end with."""

from __future__ import annotations

import os
import sys

import pytest

from awpf_ext import io


@pytest.fixture
def with_report(quick_arguments):
    return [argument for argument in quick_arguments if argument != "--no-report"]


def test_a_run_ends_with_its_report(with_report, awpf, tmp_path):
    done = awpf("run", *with_report, "--out=run")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-2:] == ["run", "run/report.html"]
    first = (tmp_path / "run" / "report.html").stat().st_mtime_ns
    again = awpf("run", *with_report, "--out=run", "--json")
    assert again.json["report"] == "run/report.html"
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns == first
    assert awpf("report", "run").out == "run/report.html\n"
    assert (tmp_path / "run" / "report.html").stat().st_mtime_ns > first


def test_without_it_there_is_none(quick_arguments, awpf, tmp_path):
    assert "report" not in awpf("run", *quick_arguments, "--out=run", "--json").json
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_comparison_and_several_runs(with_report, awpf, tmp_path):
    arguments = [argument for argument in with_report if "order" not in argument]
    done = awpf("compare", *arguments, "--methods=zero_shot,rapf", "--orders=seed:0", "--out=all")
    assert done.out.splitlines()[-2:] == ["all", "all/report.html"]
    assert (tmp_path / "all" / "table.csv").exists()
    runs = sorted(
        path for path in (tmp_path / "all").iterdir() if (path / "class_texts.safetensors").exists()
    )
    done = awpf("report", *runs, "--json").json
    assert done == {"report": "runs/report/report.html"}
    assert awpf("report", *runs, "--out=both").out == "both/report.html\n"


def test_what_has_no_report(awpf, tmp_path):
    (tmp_path / "empty").mkdir()
    done = awpf("report", "empty")
    assert (done.code, done.out) == (2, "")
    assert "empty holds no run" in done.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module", name="jinja2"), "jinja2 is not installed; get it with"),
        (ZeroDivisionError("oops"), "(ZeroDivisionError: oops); `awpf report run` shows"),
    ],
)
def test_a_report_that_fails_leaves_a_finished_run(with_report, awpf, monkeypatch, error, message):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["awpf_ext.cli.report"], "write_report", fail)
    done = awpf("run", *with_report, "--out=run")
    assert done.code == 0
    assert message in done.err
    assert done.out.splitlines()[-1] == "run"


def test_a_full_disk_and_an_interrupt_leave_a_finished_run(with_report, awpf, monkeypatch):
    def full(name: str) -> None:
        if name.endswith(".png"):
            raise OSError(28, os.strerror(28))

    def interrupt(name: str) -> None:
        if name.endswith(".png"):
            raise KeyboardInterrupt

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", full)
    done = awpf("run", *with_report, "--out=run")
    assert done.code == 0
    assert "there is no report: cannot write run/figures/" in done.err
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", interrupt)
    stopped = awpf("run", *with_report, "--out=run")
    assert stopped.code == 130
    assert stopped.err.endswith("all runs are finished; `awpf report run` writes the report\n")
