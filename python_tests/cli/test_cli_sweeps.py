"""Comparisons and sweeps."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from awpf_ext import io
from awpf_ext.cli.compare import LAMBDAS, METHODS_COMPARED, _default_methods
from awpf_ext.methods import METHODS
from awpf_ext.report.load import read_comparison
from awpf_ext.runs.config import ConfigLayer


def test_compare(quick_arguments, awpf, tmp_path, monkeypatch):
    options = ["--methods=zero_shot,rapf", "--orders=seed:0,natural", "--seeds=0,1", "--out=all"]
    arguments = ["compare", *(a for a in quick_arguments if "order" not in a), *options]
    report = awpf(*arguments, "--json").json
    assert len(report["runs"]) == 8
    assert report == io.read_json(tmp_path / "all" / "sweep.json")
    last = {
        variant: [r["last"] for r in report["runs"] if r["variant"] == variant]
        for variant in ("zero_shot", "rapf")
    }
    rapf = report["variants"][1]
    assert rapf["last"]["mean"] == pytest.approx(statistics.mean(last["rapf"]))
    assert rapf["last"]["std"] == pytest.approx(statistics.stdev(last["rapf"]))
    differences = [a - b for a, b in zip(last["rapf"], last["zero_shot"], strict=True)]
    assert rapf["difference"]["last"] == pytest.approx(
        {
            "mean": statistics.mean(differences),
            "std": statistics.stdev(differences),
            "higher": sum(difference > 0 for difference in differences),
            "runs": 4,
        }
    )
    names = [f"{m}_order-{o}_seed-{s}" for m in last for o in ("0", "natural") for s in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir()) == sorted(
        names
    )

    monkeypatch.setattr("awpf_ext.runs.run.train", lambda *_, **__: pytest.fail("it was run again"))
    table = awpf(*arguments)
    assert table.code == 0
    assert table.out.splitlines()[0].startswith("features:clip.npz: 4 runs each")
    lines = table.out.splitlines()
    heads = [line.split() for line in lines if line.startswith("method")]
    assert heads == [
        ["method", "average", "last", "forgetting", "worst", "class", "seconds", "to", "learn"],
        ["method", "average", "last", "worst", "class"],
    ]
    assert "minus zero_shot on the same order and seed" in table.out
    mean, std = (f"{100 * rapf['last'][part]:.1f}" for part in ("mean", "std"))
    assert f" {mean} ± {std} " in next(line for line in lines if line.startswith("rapf "))
    assert lines[-1] == "all"


def test_an_interrupted_comparison_goes_on(quick_arguments, awpf, monkeypatch):
    options = ["--methods=zero_shot,rapf", "--orders=seed:0", "--out=all"]
    arguments = ["compare", *(a for a in quick_arguments if "order" not in a), *options]

    def hook(name: str) -> None:
        if name == "synced task_0002.json" and len(trained) == 1:
            raise KeyboardInterrupt
        if name == "renamed result.json":
            trained.append(name)

    trained: list[str] = []
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    stopped = awpf(*arguments)
    assert stopped.code == 130
    assert stopped.err == "interrupted: 1 of 2 runs done in all; the same command continues\n"
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)
    resumed = awpf(*arguments, "--json").json
    whole = awpf(*arguments, "--json", "--out=other").json
    times_and_places = {"folder": "", "seconds_to_learn": 0.0}
    for run, other in zip(resumed["runs"], whole["runs"], strict=True):
        assert {**run, **times_and_places} == {**other, **times_and_places}


def test_sweep_varies_lambda_by_default_and_any_key(quick_arguments, awpf):
    arguments = [a for a in quick_arguments if "order" not in a]
    report = awpf("sweep", *arguments, "--orders=seed:0", "--set", "epochs=1", "--json").json
    assert [axis["key"] for axis in report["axes"]] == ["balance_scale"]
    assert [variant["variant"] for variant in report["variants"]] == LAMBDAS.split(",")
    weights = [run["records"][-1]["weight"] for run in report["runs"]]
    taus = [run["records"][-1]["tau"] for run in report["runs"]]
    scales = [float(run["variant"]) for run in report["runs"]]
    assert weights == pytest.approx(
        [min(1, scale * tau) for scale, tau in zip(scales, taus, strict=True)]
    )
    by_key = awpf(
        "sweep", *arguments, "--method=rapf", "--parameter=increment", "--values=1,2,3", "--out=i"
    )
    assert by_key.code == 0
    assert by_key.out.splitlines()[2].split() == [
        *("increment", "average", "last", "forgetting", "worst", "class", "seconds", "to", "learn")
    ]


def test_sweep_over_several_keys_runs_them_all(quick_arguments, awpf, tmp_path, monkeypatch):
    keys = ["--parameter=method", "--values=finetune,awpf", "--parameter=epochs", "--values=1,2"]
    arguments = [
        "sweep",
        *quick_arguments[:2],
        *keys,
        "--orders=seed:0,seed:1",
        "--out=all",
        "--no-report",
    ]
    report = awpf(*arguments, "--json").json
    labels = [f"method={m} epochs={e}" for m in ("finetune", "awpf") for e in (1, 2)]
    assert [variant["variant"] for variant in report["variants"]] == labels
    assert [axis["key"] for axis in report["axes"]] == ["method", "epochs"]
    assert report["axes"][1] == {"key": "epochs", "values": ["1", "2"]}
    made = io.read_json(tmp_path / "all" / "method=awpf-epochs=2_order-1_seed-0" / "result.json")
    assert made["provenance"]["method"] == "awpf"
    assert made["provenance"]["config"]["epochs"] == 2
    of_run = next(r for r in report["runs"] if r["variant"] == labels[3] and r["order"] == "seed:1")
    assert of_run["worst_class"] == made["worst_class"]

    monkeypatch.setattr("awpf_ext.runs.run.train", lambda *_, **__: pytest.fail("it was run again"))
    table = awpf(*arguments).out.splitlines()
    assert table[2] == "average"
    assert table[3].split() == ["method", "epochs", "1", "2"]
    by_label = {variant["variant"]: variant for variant in report["variants"]}
    for line, method in zip(table[4:6], ("finetune", "awpf"), strict=True):
        spreads = [by_label[f"method={method} epochs={e}"]["average"] for e in (1, 2)]
        cells = [f"{100 * s['mean']:.1f} ± {100 * s['std']:.1f}" for s in spreads]
        assert line.split("  ")[0] == method
        assert line.endswith("  ".join(cells))
    assert [line for line in table if line in ("last", "forgetting", "worst class")]
    assert "seconds to learn" in table


def test_the_bounds_are_marked_and_never_the_best(quick_arguments, awpf):
    options = ["--methods=zero_shot,naive,finetune,joint", "--orders=seed:0", "--out=all"]
    arguments = ["compare", *(a for a in quick_arguments if "order" not in a), *options]
    report = awpf(*arguments, "--json").json
    assert [variant["is_bound"] for variant in report["variants"]] == [False] * 3 + [True]
    accuracy = {"zero_shot": 0.5, "naive": 0.9, "finetune": 0.75, "joint": 1.0}
    for run in report["runs"]:  # the bounds lead, whatever these few images say
        result = io.read_json(Path(run["folder"], "result.json"))
        for task in result["tasks"]:
            task["accuracy"] = accuracy[run["variant"]]
        io.write_json(Path(run["folder"], "result.json"), result)
    lines = awpf(*arguments).out.splitlines()
    assert len([line for line in lines if line.startswith("joint (bound) ")]) == 2
    assert read_comparison([Path("all")]).sweep.best("last") == 0.75


def test_a_default_comparison_leaves_out_what_the_protocol_does_not_allow():
    layers = [ConfigLayer("test", {"dataset": "demo:all"})]
    methods, notes = _default_methods(layers)
    assert methods == [*METHODS_COMPARED]
    assert notes == []
    methods, notes = _default_methods([*layers, ConfigLayer("test", {"protocol": "domain"})])
    assert "zero_shot" in methods
    assert all("domain" in METHODS[name].protocols for name in methods)
    assert notes == ["left out, as they have no domain protocol: finetune, rapf, awpf, calfuse"]


def test_a_method_without_the_protocol_is_refused_before_anything_runs(write_features, awpf):
    domains = {
        "train_domain": np.arange(36) % 2,
        "test_domain": np.arange(30) % 2,
        "domainnames": np.array(["a", "b"]),
    }
    data = write_features(**domains)
    methods = ["--methods=zero_shot,rapf", "--protocol=domain", "--out=all"]
    refused = awpf("compare", f"--dataset=features:{data}", *methods)
    assert refused.code == 2
    assert "method 'rapf' does not support the domain protocol" in refused.err
    assert not Path("all").exists()


def test_a_table_that_is_too_wide_to_go_across_goes_down(quick_arguments, awpf, monkeypatch):
    dataset = quick_arguments[0]
    values = ",".join(str(value) for value in range(2, 22))
    keys = [
        "--parameter=method",
        "--values=zero_shot",
        "--parameter=increment",
        f"--values={values}",
    ]
    report = awpf("sweep", dataset, *keys, "--orders=seed:0,seed:1", "--no-report", "--out=wide")
    lines = report.out.splitlines()
    assert lines[2].split()[:4] == ["method", "increment", "average", "last"]
    assert [line.split()[:2] for line in lines[3:23]] == [
        ["zero_shot", value] for value in values.split(",")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parameter=epochs", "--parameter=tau"], "given 2 times and --values 0 times"),
        (["--parameter=epochs", "--values=1", "--parameter=epochs", "--values=2"],
         "--parameter epochs is given more than once"),
        (["--parameter=epochs", "--values=1", "--parameter=seed", "--values=2"],
         "seed can only be varied by --seeds"),
        (["--parameter=epochs", "--values=1", "--parameter=method", "--values=,"],
         "expected values separated by commas"),
        (["--parameter=epochs", "--values=1", "--set", "epochs=2"], "remove it from --set"),
        (["--parameter=epochz", "--values=1"], "did you mean 'epochs'"),
        (["--parameter=method", "--values=awpf,awfp"], "awfp"),
    ],
)  # fmt: skip
def test_wrong_sweeps_are_refused_before_anything_runs(quick_arguments, awpf, arguments, message):
    refused = awpf("sweep", quick_arguments[0], *arguments)
    assert refused.code == 2
    assert message in refused.err


def test_a_comparison_of_another_configuration_is_refused(quick_arguments, awpf):
    plain = [quick_arguments[0], "--no-report"]
    arguments = ["compare", *plain, "--methods=zero_shot", "--out=all"]
    assert awpf(*arguments, "--increment=2").code == 0
    refused = awpf(*arguments, "--increment=3")
    assert refused.code == 4
    assert "belongs to another run: increment is 2 there, 3 here" in refused.err
