"""The diagrams and badges show the tree as it is."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
from page_blocks import ROOT

sys.path.append(str(ROOT / "python_tests"))

from test_architecture import FLOORS


@pytest.fixture(scope="module")
def drawn():
    """tools/draw_figures.py as a module."""
    path = ROOT / "tools" / "draw_figures.py"
    spec = importlib.util.spec_from_file_location("draw_figures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_those_that_the_script_draws(drawn):
    for name, svg in drawn.figures().items():
        saved = ROOT / "docs" / "images" / name
        assert saved.read_text(encoding="utf-8") == svg, "run python tools/draw_figures.py"


def test_the_drawn_floors_are_those_that_imports_are_held_to(drawn):
    shown = [{box.name for box in row} for row in drawn.FLOORS]
    assert shown == [set(rooms) for rooms in FLOORS]


def test_every_file_of_a_diagram_is_there(drawn):
    boxes = [box for rows in (drawn.MMD, drawn.IMAGE) for row in rows for box in row]
    for box in boxes:
        assert (ROOT / box.name).is_file(), box.name
        for function in re.findall(r"(\w+)\(", box.text):
            if box.name.startswith("awpf_ext"):
                assert re.search(rf"\b{function}\b", (ROOT / box.name).read_text(encoding="utf-8"))
