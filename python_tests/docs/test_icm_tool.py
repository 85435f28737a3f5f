"""tools/make_icm_tables.py: its tables are made from the results that are there."""

from __future__ import annotations

import json
import sys

import pytest
from page_blocks import ROOT

pytest.importorskip("open_clip", reason='needs the extra "clip"')


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_icm_tables

    yield make_icm_tables
    for name in ("make_icm_tables", "make_results"):
        sys.modules.pop(name)


def test_cells_have_mean_deviation_and_the_worst_classes_over_seeds(tool, tmp_path):
    own = tool.SETS[0]
    (row,) = [row for row in tool.ROWS if row.label == "**`icm_fusion`**"]
    (average,) = [row for row in tool.ROWS if row.label == "average"]
    (tmp_path / own.name).mkdir()
    for seed, last in ((0, 0.5), (1, 0.7)):
        # Another class is the worst in each: averaged first, all classes are alike.
        by_class = [0.0, 1.0] if seed else [1.0, 0.0]
        content = json.dumps({"last": last, "by_class": by_class})
        tool.result_file(own, row, seed, tmp_path).write_text(content)
    tool.result_file(own, average, 0, tmp_path).write_text(
        json.dumps({"last": 0.25, "by_class": [0.25]})
    )
    lines = {line.split(" | ")[0]: line for line in tool.accuracies(tmp_path).splitlines()}
    assert lines[f"| {row.label}"] == "| **`icm_fusion`** | yes | 2 | 60.0 (14.1) / 50.0 |"
    assert lines["| average"] == "| average | no |  | 25.0 / 25.0 |"
    assert lines["| fine-tuned average"] == "| fine-tuned average | yes | 0 |  |"
