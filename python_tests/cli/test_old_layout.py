"""Runs, comparisons and exported files of the previous layout are refused, not misread."""

from __future__ import annotations

import json

import pytest

from awpf_ext import io

REFUSED = "has checkpoint format 2; this version reads format 3"


def as_before(folder):
    """Turn a run's folder into one of the previous layout."""
    marker = folder / "run.json"
    marker.write_text(json.dumps({**io.read_json(marker), "format": 2}))
    (folder / "class_texts.safetensors").rename(folder / "bank.safetensors")
    (folder / "diagnostics.safetensors").rename(folder / "evidence.safetensors")


@pytest.mark.parametrize("finished", [True, False])
def test_a_run(quick_arguments, awpf, tmp_path, finished):
    command = ["run", *quick_arguments, "--out=run"]
    assert awpf(*command).code == 0
    as_before(tmp_path / "run")
    if not finished:
        (tmp_path / "run" / "result.json").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for arguments in (
        [*command, "--resume"],
        [*command, "--resume-intact"],
        ["predict", "run", "image.png"],
        ["export", "run", "model.safetensors"],
        ["report", "run"],
    ):
        done = awpf(*arguments)
        assert (done.code, done.out) == (4, "")
        assert done.err == f"error: run {REFUSED}\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_comparison(quick_arguments, awpf, tmp_path):
    plain = [quick_arguments[0], "--increment=2", "--no-report"]
    command = ["compare", *plain, "--methods=zero_shot", "--orders=seed:0", "--out=all"]
    assert awpf(*command).code == 0
    as_before(tmp_path / "all" / "zero_shot_order-0_seed-0")
    for arguments in (command, ["report", "all"]):
        done = awpf(*arguments)
        assert (done.code, done.out) == (4, "")
        assert done.err == f"error: all/zero_shot_order-0_seed-0 {REFUSED}\n"


def test_an_exported_file(quick_arguments, awpf, tmp_path):
    assert awpf("run", *quick_arguments, "--out=run").code == 0
    assert awpf("export", "run", "model.safetensors").code == 0
    tensors, metadata = io.load_tensors(tmp_path / "model.safetensors")
    facts = {**json.loads(metadata["awpf_ext"]), "format": 2}
    io.save_tensors(tmp_path / "old.safetensors", tensors, {"awpf_ext": json.dumps(facts)})
    done = awpf("predict", "old.safetensors", "image.png")
    assert (done.code, done.out) == (3, "")
    assert done.err == ("error: old.safetensors has export format 2; this version reads format 3\n")
