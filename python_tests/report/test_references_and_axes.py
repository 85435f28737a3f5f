"""References in the report of a run, axes of accuracies, the t-SNE map and the visual head."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from report_samples import QUICK, features_file
from test_report import outline

from awpf_ext import io
from awpf_ext.report import sections, write_report
from awpf_ext.report.blocks import Drawing
from awpf_ext.report.load import read_comparison, read_run
from awpf_ext.report.sections import comparison
from awpf_ext.report.style import drawing
from awpf_ext.report.tsne import tsne
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.references import plan_references
from awpf_ext.runs.run import run, run_configured

# What each figure shows on which axis, where that is an accuracy.
ACROSS = {"runs_average", "runs_last", "runs_worst_class"}
UP = {
    *("accuracy", "earlier_and_new", "forgetting", "sweep_average", "sweep_last"),
    *("combinations_average", "combinations_last", "combinations_worst_class"),
}


@pytest.fixture(scope="module")
def with_references(tmp_path_factory):
    """A run on clusters that are far apart, with naive and joint beside it."""
    folder = tmp_path_factory.mktemp("references")
    rng = np.random.default_rng(0)
    text = rng.normal(size=(6, 8)).astype(np.float32)
    exact = {"train_x": np.repeat(text, 4, 0), "test_x": np.repeat(text, 5, 0), "text": text}
    data = features_file(folder / "exact.npz", **exact)
    keys = {"dataset": f"features:{data}", "increment": 2, **QUICK}
    run(out=folder / "run", **keys)
    layers = [ConfigLayer("test", keys)]
    own = RunFolder(folder / "run")
    for reference in plan_references(("naive", "joint"), layers, own.config(), own):
        run_configured(reference.config, reference.folder)
    return folder / "run"


def figures(found) -> dict[str, Drawing]:
    blocks = [block for section in found if section is not None for block in section.blocks]
    return {block.name: block for block in blocks if isinstance(block, Drawing)}


def drawn(folder: Path) -> dict[str, Drawing]:
    """The figures of a report on a run, or on several."""
    with drawing():
        if RunFolder(folder).is_run:
            saved = read_run(folder)
            return figures(section(saved) for section in sections.SECTIONS)
        several = read_comparison([folder])
        return figures(section(several) for section in comparison.SECTIONS)


@pytest.mark.parametrize("which", ["with_references", "finished_sweep", "combinations"])
def test_axes_of_accuracies_end_at_0_and_100(which, request):
    found = drawn(request.getfixturevalue(which))
    seen = 0
    for name in (ACROSS | UP) & set(found):
        axes = found[name].figure.axes[0]
        low, high = axes.get_xlim() if name in ACROSS else axes.get_ylim()
        assert 0 <= low < high <= 100, name
        seen += 1
    assert seen >= 3


def test_bars_and_bands_end_at_100(tmp_path, finished_sweep):
    """Two orders at 100 and 90 %: the mean and one deviation would reach 102."""
    own = Path(shutil.copytree(finished_sweep, tmp_path / "own"))
    for folder in own.glob("*_seed-0"):
        saved = io.read_json(folder / "result.json")
        for task in saved["tasks"]:
            task["accuracy"] = 1.0 if "natural" in folder.name else 0.9
        io.write_json(folder / "result.json", saved)
    found = drawn(own)
    for name in ("sweep_last", "accuracy"):
        axes = found[name].figure.axes[0]
        reached = [path.vertices[:, 1].max() for c in axes.collections for path in c.get_paths()]
        reached += [segment[:, 1].max() for c in axes.collections for segment in _segments(c)]
        assert reached
        assert max(reached) <= 100
        assert axes.get_ylim()[1] <= 100


def _segments(collection) -> list[np.ndarray]:
    return collection.get_segments() if hasattr(collection, "get_segments") else []


def test_references_are_in_one_figure_with_the_run(with_references, tmp_path, strict):
    page = write_report(with_references, out=tmp_path)
    lines = {
        line.get_linestyle(): line
        for line in drawn(with_references)["accuracy"].figure.axes[0].get_lines()
    }
    assert set(lines) == {"-", "--", ":"}
    text = re.sub(r"\s+", " ", outline(page).text)
    assert "Forgetting: naive trains on one task after the other" in text
    assert "joint may do what a continual method may not" in text
    assert "method average last forgetting seconds to learn awpf" in text
    row = next(row for row in _rows(page) if row[0] == "joint (bound)")
    assert row[2] == f"{100 * RunFolder(with_references / 'references/joint').result().last:.1f}"


def _rows(page: Path) -> list[list[str]]:
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(<td.*?)</tr>", text)
    return [[re.sub("<.*?>", "", cell) for cell in row.split("</td>")] for row in rows]


def test_a_reference_on_other_data_is_left_out(with_references, tmp_path):
    own = Path(shutil.copytree(with_references, tmp_path / "own"))
    shutil.rmtree(own / "references" / "joint")
    other = features_file(tmp_path / "other.npz")
    keys = {"dataset": f"features:{other}", "increment": 2, "method": "joint", **QUICK}
    config = resolve_config([ConfigLayer("test", keys)]).config
    run_configured(config, RunFolder(own / "references" / "joint"))
    text = outline(write_report(own)).text
    assert "Left out, as unfinished or on other data: joint." in text
    assert "(bound)" not in text


def test_the_map_by_t_sne_is_an_extra(finished, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason='needs the extra "tsne"')
    whole = outline(write_report(finished, out=tmp_path / "whole"))
    assert {"figure-map_after", "figure-tsne_before", "figure-tsne_after"} <= set(whole.ids)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    without = outline(write_report(finished, out=tmp_path / "without"))
    assert "figure-map_after" in without.ids
    assert not any("tsne" in name for name in without.ids)
    assert 'scikit-learn is installed: pip install "awpf_ext[tsne]"' in without.text


def test_t_sne_keeps_clusters_together_and_is_repeatable():
    pytest.importorskip("sklearn", reason='needs the extra "tsne"')
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(3, 16, generator=generator)
    x = centres.repeat_interleave(20, 0) + torch.randn(60, 16, generator=generator)
    places = tsne(x)
    assert torch.equal(places, tsne(x))
    distances = torch.cdist(places, places).fill_diagonal_(torch.inf)
    nearest = distances.argmin(dim=1) // 20
    assert torch.equal(nearest, torch.arange(60) // 20)
    assert tsne(torch.ones(60, 16)) is None
    assert tsne(x[:5]) is None


def test_the_visual_head_and_the_mean_weight(own, strict):
    saved = io.read_json(own / "result.json")
    for task in saved["tasks"]:
        for record in task["records"]:
            record.pop("head_share", None)
    io.write_json(own / "result.json", saved)
    assert "Visual head" not in outline(write_report(own)).text
    for index, task in enumerate(saved["tasks"]):
        task["records"].append({"task": index, "head_share": 0.125 * index})
        for record in task["records"]:
            if "tau" in record:
                record.update(mean_weight=0.6543, weights=[0.5, 0.8])
    io.write_json(own / "result.json", saved)
    content = outline(write_report(own))
    assert {"figure-head_share", "figure-weights"} <= set(content.ids)
    assert "0.1250" in content.text
    assert "0.6543" in content.text
    assert "choose one for every direction of the change" in content.text
