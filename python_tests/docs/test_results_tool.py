"""tools/make_results.py: it makes what is missing, repeats nothing, and writes the tables."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from page_blocks import ROOT

pytest.importorskip("open_clip", reason='needs the extra "clip"')


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_results

    yield make_results
    sys.modules.pop("make_results")


@pytest.fixture
def given(tool, tmp_path):
    """Four classes in two dimensions more than they need."""
    generator = np.random.default_rng(0)
    labels = np.arange(4).repeat(6)
    text = np.eye(4, 6, dtype=np.float32)
    x = (text[labels] + 0.1 * generator.standard_normal((24, 6))).astype(np.float32)
    names = np.array(["a", "b", "c", "d"])
    arrays = {"train_x": x, "train_y": labels, "test_x": x, "test_y": labels, "text": text}
    np.savez(tmp_path / "tiny_features.npz", **arrays, classnames=names)
    return tool.Arguments(tmp_path, tmp_path / "runs")


def small(tool):
    sets = (tool.Set("tiny", "tiny_features.npz", 0, 2), tool.Set("absent", "absent.npz", 0, 2))
    rows = (tool.Row("`zero_shot`", "zero_shot", {}), tool.Row("`ncm`", "ncm", {}))
    return tool.Table(sets, rows, ("seed:0", "seed:1"))


def test_runs_are_made_once(tool, given):
    table = small(tool)
    tool.make(table._replace(orders=("seed:0",)), given)
    first = {file: file.stat().st_mtime_ns for file in given.out.rglob("result.json")}
    tool.make(table, given)
    second = {file: file.stat().st_mtime_ns for file in given.out.rglob("result.json")}
    assert len(first) == 2
    assert len(second) == 4
    assert first.items() <= second.items()


def test_a_table_has_a_column_for_each_set_that_is_there(tool, given):
    table = small(tool)
    assert "| `ncm` |  |  |" in tool.markdown(table, "last", given, "last")
    tool.make(table, given)
    lines = tool.markdown(table, "last", given, "last").splitlines()
    assert lines[0] == "| last | tiny | mean |"
    assert lines[3] == "| `ncm` | 100.0 (0.0) | 100.0 |"


def test_the_page_has_a_place_for_every_table(tool, tmp_path):
    for page, names in (
        ("docs/results.md", ("last", "average", "forgetting", "seconds_to_learn")),
        ("docs/results.md", ("controls", "images", "tasks")),
        ("README.md", ("last",)),
    ):
        copy = tmp_path / "page.md"
        copy.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
        for name in names:
            tool.write(copy, name, f"table {name}")
            assert f"\ntable {name}\n" in copy.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="no marker"):
        tool.write(copy, "nothing", "")
