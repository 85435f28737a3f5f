"""Comparisons and sweeps."""

from __future__ import annotations

import statistics

import pytest

from awpf_ext import io
from awpf_ext.commands.grids import LAMBDAS


def test_compare(quick_arguments, awpf, tmp_path, monkeypatch):
    grid = ["--methods=zero_shot,rapf", "--orders=seed:0,natural", "--seeds=0,1", "--out=grid"]
    arguments = ["compare", *(a for a in quick_arguments if "order" not in a), *grid]
    told = awpf(*arguments, "--json").json
    assert len(told["runs"]) == 8
    assert told == io.read_json(tmp_path / "grid" / "grid.json")
    last = {
        arm: [r["last"] for r in told["runs"] if r["arm"] == arm] for arm in ("zero_shot", "rapf")
    }
    rapf = told["arms"][1]
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
    assert sorted(path.name for path in (tmp_path / "grid").iterdir() if path.is_dir()) == sorted(
        names
    )

    monkeypatch.setattr("awpf_ext.run.train", lambda *_, **__: pytest.fail("it was run again"))
    table = awpf(*arguments)
    assert table.code == 0
    assert table.out.splitlines()[0].startswith("features:clip.npz: 4 runs each")
    assert "average diff." in table.out
    assert table.out.splitlines()[-1] == "grid"


def test_an_interrupted_comparison_goes_on(quick_arguments, awpf, monkeypatch):
    grid = ["--methods=zero_shot,rapf", "--orders=seed:0", "--out=grid"]
    arguments = ["compare", *(a for a in quick_arguments if "order" not in a), *grid]

    def hook(name: str) -> None:
        if name == "synced task_0002.json" and len(trained) == 1:
            raise KeyboardInterrupt
        if name == "renamed result.json":
            trained.append(name)

    trained: list[str] = []
    monkeypatch.setattr(io, "FAULT_HOOK", hook)
    stopped = awpf(*arguments)
    assert stopped.code == 130
    assert stopped.err == "interrupted: 1 of 2 runs done in grid; the same command goes on\n"
    monkeypatch.setattr(io, "FAULT_HOOK", None)
    resumed = awpf(*arguments, "--json").json
    whole = awpf(*arguments, "--json", "--out=other").json
    for run, other in zip(resumed["runs"], whole["runs"], strict=True):
        assert {**run, "folder": ""} == {**other, "folder": ""}


def test_sweep_varies_lambda_by_default_and_any_key(quick_arguments, awpf):
    arguments = [a for a in quick_arguments if "order" not in a]
    told = awpf("sweep", *arguments, "--orders=seed:0", "--set", "epochs=1", "--json").json
    assert told["varied"] == "balance_scale"
    assert [arm["arm"] for arm in told["arms"]] == LAMBDAS.split(",")
    weights = [run["records"][-1]["weight"] for run in told["runs"]]
    taus = [run["records"][-1]["tau"] for run in told["runs"]]
    scales = [float(run["arm"]) for run in told["runs"]]
    assert weights == pytest.approx(
        [min(1, scale * tau) for scale, tau in zip(scales, taus, strict=True)]
    )
    by_key = awpf(
        "sweep", *arguments, "--method=rapf", "--parameter=increment", "--values=1,2,3", "--out=i"
    )
    assert by_key.code == 0
    assert by_key.out.splitlines()[2].split() == ["increment", "average", "last", "forgetting"]


def test_a_comparison_of_another_configuration_is_refused(quick_arguments, awpf):
    plain = [quick_arguments[0], "--no-report"]
    arguments = ["compare", *plain, "--methods=zero_shot", "--out=grid"]
    assert awpf(*arguments, "--increment=2").code == 0
    refused = awpf(*arguments, "--increment=3")
    assert refused.code == 4
    assert "belongs to another run: increment is 2 there, 3 here" in refused.err
