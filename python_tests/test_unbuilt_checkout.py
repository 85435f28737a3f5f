"""Tests and benchmarks in a checkout that was never built use the installed package.

Python looks for modules in the working folder before the installed ones, and a checkout has a
folder `awpf_ext` without native libraries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import awpf_ext

PACKAGE = Path(awpf_ext.__file__).parent
CHECKOUT = Path(__file__).parents[1]
WITHOUT_CACHES = shutil.ignore_patterns("__pycache__", ".*_cache")

pytestmark = pytest.mark.skipif(
    not (CHECKOUT / "bench" / "conftest.py").exists(), reason="needs the checkout"
)


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory):
    """A checkout without native libraries, with the package installed in the folder beside it."""
    root = tmp_path_factory.mktemp("unbuilt")
    shutil.copytree(PACKAGE, root / "installed" / "awpf_ext", ignore=WITHOUT_CACHES)
    checkout = root / "checkout"
    shutil.copytree(
        CHECKOUT / "awpf_ext",
        checkout / "awpf_ext",
        ignore=lambda folder, names: [n for n in names if n.endswith(".so") or n == "__pycache__"],
    )
    shutil.copytree(CHECKOUT / "bench", checkout / "bench", ignore=WITHOUT_CACHES)
    (checkout / "python_tests").mkdir()
    for name in ("pyproject.toml", "python_tests/conftest.py"):
        shutil.copy(CHECKOUT / name, checkout / name)
    return checkout


def run_pytest(
    checkout: Path, *arguments: str, script: bool = False, **environment: str
) -> tuple[int, str]:
    """The status and the output of `python -m pytest`, or of the script `pytest`."""
    command = [sys.executable, "-m", "pytest"]
    if script:
        found = shutil.which("pytest", path=Path(sys.executable).parent)
        if found is None:
            pytest.skip("the script pytest is not installed")
        command = [found]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout.parent / "installed"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("script", [False, True], ids=["python -m pytest", "pytest"])
def test_a_row_of_the_bench(unbuilt, script):
    pytest.importorskip("pytest_benchmark", reason='needs the extra "bench"')
    row = "bench/bench_low_rank.py::test_truncate"
    status, output = run_pytest(unbuilt, row, script=script)
    assert status == 0, output
    table = output.partition("==== Low-rank sums and their truncation ====")[2]
    ours = next(line for line in table.splitlines() if line.split()[:1] == ["awpf_ext"])
    if sys.platform == "linux":
        assert "MiB" in ours  # a process of its own measured it
    assert "full SVD of the sum" in table


SMALL_BENCH = '''\
"""A small sum."""

import torch
from comparison import OURS, Contender, Work
from goals import by_processor, faster, within

def work():
    x = torch.ones(100)
    compiled = torch.compile(torch.sum)
    contenders = {
        OURS: Contender(x.sum),
        "loop": Contender(lambda: sum(x.tolist(), torch.zeros(1))),
        "torch.compile": Contender(lambda: compiled(x), compiles=True),
    }
    return Work("sum of 100", contenders)

def test_sum(compare):
    compare(
        work,
        by_processor(within("loop", 1e9), amx=faster("loop", 1e9)),
        faster("torch.compile", 1e9),
    )
'''


@pytest.mark.parametrize("isa", ["baseline", "amx"])
def test_saved_goals_without_a_compiler(unbuilt, tmp_path, isa):
    pytest.importorskip("pytest_benchmark", reason='needs the extra "bench"')
    if isa not in (awpf_ext.build_info().get("instruction_sets_built") or ()):
        pytest.skip(f"the kernels were built without {isa}")
    if reason := (awpf_ext.build_info().get("instruction_sets_rejected") or {}).get(isa):
        pytest.skip(f"{isa}: {reason}")
    results = unbuilt / "bench" / "results"
    shutil.rmtree(results, ignore_errors=True)
    (unbuilt / "bench" / "bench_small.py").write_text(SMALL_BENCH)
    status, output = run_pytest(
        unbuilt,
        "bench/bench_small.py",
        "--save-table",
        CXX=str(tmp_path / "no_compiler"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path),
        AWPF_CPU_ISA=isa,
    )
    assert status == 0, output
    (markdown,) = results.glob("*.md")
    (data,) = results.glob("*.json")
    assert markdown.stem == data.stem
    assert markdown.stem.endswith(f"_{isa}")
    heading, _, rest = markdown.read_text().partition("\n")
    assert f", {isa}, " in heading
    assert re.search(r"\b20\d\d-\d\d-\d\d\b", heading)
    section = rest.partition("## A small sum\n")[2]
    assert "| torch.compile (skipped: InvalidCxxCompiler" in section
    first, second = [line.split("|")[1:-1] for line in section.splitlines()[-2:]]
    assert "at most 1e+09x the time of loop" in first[1]
    assert first[1].endswith(", met ")
    assert "at least 1e+09x loop" in first[2]
    assert first[2].endswith(", MISSED " if isa == "amx" else ": no AMX here ")
    assert "at least 1e+09x torch.compile: skipped" in second[1]
    found = json.loads(data.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert found["machine"]["instruction_set"] == isa
    goals = found["kernels"]["A small sum"][0]["goals"]
    assert [goal["met"] for goal in goals] == [True, None]


def test_a_failing_row_prints_no_log_of_torch(unbuilt):
    pytest.importorskip("pytest_benchmark", reason='needs the extra "bench"')
    (unbuilt / "bench" / "bench_failing.py").write_text(
        "import logging\n\n"
        "def test_failing():\n"
        "    logger = logging.getLogger('torch.__trace')\n"
        "    logger.setLevel(logging.DEBUG)\n"
        "    logger.debug('one of %d', 1000)\n"
        "    logger.warning('something to know')\n"
        "    raise RuntimeError('no compiler')\n"
    )
    status, output = run_pytest(unbuilt, "bench/bench_failing.py")
    assert status == 1
    assert "no compiler" in output
    assert "something to know" in output
    assert "one of 1000" not in output


def test_a_test(unbuilt):
    (unbuilt / "python_tests" / "test_kernels.py").write_text(
        "import awpf_ext\n\n"
        "def test_kernels():\n"
        "    assert awpf_ext.build_info()['cpu_kernels'] == 'ready'\n"
    )
    status, output = run_pytest(unbuilt, "python_tests/test_kernels.py")
    assert status == 0, output
