"""The example of docs/adding_a_method.md is complete: it registers, learns, saves and resumes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from awpf_ext.checkpoint import RunFolder
from awpf_ext.methods import METHODS, create_method
from awpf_ext.trainer import train

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"


@pytest.fixture
def example():
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})
    yield "prototype_shift"
    METHODS.pop("prototype_shift")


def test_the_example_runs_and_resumes(example, make_stream, tmp_path):
    stream = make_stream()
    method = create_method(example, stream, {"strength": 0.3}, seed=0)
    result = train(stream, method, checkpoint=RunFolder(tmp_path))
    assert 0 < result.last <= result.average <= 1
    assert result.records[-1] == {"task": 3, "images": 96.0}
    (tmp_path / "task_0003.json").unlink()
    again = create_method(example, stream, {"strength": 0.3}, seed=0)
    resumed = train(stream, again, checkpoint=RunFolder(tmp_path), resume=True)
    assert resumed.accuracy_matrix == result.accuracy_matrix
