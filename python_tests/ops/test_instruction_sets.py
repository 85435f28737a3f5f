"""The core of the operations under every instruction set this machine has."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import awpf_ext

SETS = ("baseline", "avx2", "avx512", "amx", "amx_portable")
UNUSABLE = ("this machine does not have", "the operating system does not permit")
AVX512 = ("avx512f", "avx512dq", "avx512bw", "avx512vl")

PROBE = Path(__file__).with_name("instruction_set_probe.py")


@functools.cache
def outcome(name: str) -> dict:
    info = awpf_ext.build_info()
    if name not in info["instruction_sets_built"]:
        pytest.skip(f"{name} is not built on this platform")
    done = subprocess.run(
        [sys.executable, str(PROBE)],
        env={**os.environ, "AWPF_CPU_ISA": name},
        capture_output=True,
        text=True,
        check=False,
    )
    for reason in UNUSABLE:
        if f"AWPF_CPU_ISA={name}: {reason}" in done.stderr:
            pytest.skip(f"{name}: {reason} it")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SETS)
def test_the_operations_under(name):
    found = outcome(name)
    assert found["set"] == name
    assert {case: ratio for case, ratio in found["worst"].items() if not ratio <= 1} == {}
    assert len(found["worst"]) == 4 * 13
    assert found["same"]


def test_the_splits_of_a_seed_are_the_same_under_all():
    results = []
    for name in SETS:
        try:
            results.append(outcome(name)["splits"])
        except pytest.skip.Exception:
            continue
    assert results
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-12)


def test_the_best_one_is_taken():
    """Unless the switch says otherwise."""
    info = awpf_ext.build_info()
    if "AWPF_CPU_ISA" in os.environ:
        assert info["instruction_set"] == os.environ["AWPF_CPU_ISA"]
        assert info["instruction_sets_rejected"] == {}
        return
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or "avx2" not in info["instruction_sets_built"]:
        pytest.skip("reads the flags of an x86 processor from /proc/cpuinfo")
    has = set(flags.read_text().split())
    needed = {"amx": {"amx_tile", "amx_bf16"}, "avx512": set(AVX512), "avx2": {"avx2", "fma"}}
    built = [name for name in needed if name in info["instruction_sets_built"]]
    usable = [name for name in built if needed[name] <= has]
    if UNUSABLE[1] in info["instruction_sets_rejected"].get("amx", ""):
        usable.remove("amx")
    best = usable[0] if usable else "baseline"
    assert info["instruction_set"] == best
    better = built[: built.index(best)] if usable else built
    assert list(info["instruction_sets_rejected"]) == better
