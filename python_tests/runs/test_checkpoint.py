"""Runs that are killed, resumed, damaged or mistaken for another."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from awpf_ext import io
from awpf_ext.errors import CheckpointError, UserError
from awpf_ext.lora.adapter_reader import open_adapter
from awpf_ext.lora.adapter_writer import AdapterFiles
from awpf_ext.methods import create_method, method_config
from awpf_ext.methods.finetune import Finetune
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.trainer import train

QUICK = {"epochs": 2, "replay_per_epoch": 40}


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def settings_of(name: str) -> dict[str, int]:
    return {} if name == "zero_shot" else QUICK


def run(stream, folder, name="awpf", resume=False, seed=0, settings=None):
    method = create_method(name, stream, settings or settings_of(name), seed=seed)
    result = train(stream, method, folder=RunFolder(folder), resume=resume)
    return result, method


def assert_same(resumed, whole) -> None:
    """Numbers and weights are equal to the last bit."""
    for name in ("accuracy", "accuracy_matrix", "records", "forward_transfer"):
        assert getattr(resumed[0], name) == getattr(whole[0], name)
    assert resumed[1].records == whole[1].records == whole[0].records
    state, expected = resumed[1].state_dict(), whole[1].state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    if getattr(whole[1], "holdout", None) is not None:
        held_out, others = resumed[1].holdout, whole[1].holdout
        assert len(others.labels) > 0
        assert torch.equal(held_out.x, others.x)
        assert torch.equal(held_out.labels, others.labels)
    if whole[1].statistics is not None:
        for block, other in zip(
            resumed[1].statistics.blocks, whole[1].statistics.blocks, strict=True
        ):
            assert all(torch.equal(a, other.tensors()[k]) for k, a in block.tensors().items())


def kill_at(monkeypatch, moment: int) -> list[str]:
    """Raise at the `moment`-th fault point; the names passed so far."""
    passed: list[str] = []

    def hook(name: str) -> None:
        passed.append(name)
        if len(passed) == moment:
            raise Killed(name)

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    return passed


@pytest.mark.parametrize("name", ["zero_shot", "finetune", "rapf", "awpf", "calfuse"])
def test_killed_between_tasks_and_resumed(name, make_stream, tmp_path, monkeypatch):
    stream = make_stream()
    whole = run(stream, tmp_path / "whole", name)

    def hook(event: str) -> None:
        if event == "renamed task_0001.json":
            raise Killed

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    with pytest.raises(Killed):
        run(stream, tmp_path / "killed", name)
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)
    assert_same(run(stream, tmp_path / "killed", name, resume=True), whole)


def test_killed_at_every_moment_of_writing(make_stream, tmp_path, monkeypatch):
    stream = make_stream(classes=4, increment=2)
    whole = run(stream, tmp_path / "whole")
    moments = kill_at(monkeypatch, 0)
    run(stream, tmp_path / "counted")
    total = len(moments)
    assert {name.split()[0] for name in moments} == {"writing", "written", "synced", "renamed"}
    for moment in range(1, total + 1):
        folder = tmp_path / str(moment)
        kill_at(monkeypatch, moment)
        with pytest.raises(Killed):
            run(stream, folder)
        monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)
        assert_same(run(stream, folder, resume=True), whole)
        assert not list(folder.glob(".*.tmp"))


def test_a_finished_run_is_read_back(make_stream, tmp_path):
    stream = make_stream()
    whole = run(stream, tmp_path)
    events = []
    method = create_method("awpf", stream, QUICK)
    again = train(stream, method, folder=RunFolder(tmp_path), resume=True, progress=events.append)
    assert_same((again, method), whole)
    assert again.seconds == whole[0].seconds
    assert events == []


def test_statistics_are_one_file_a_task_and_never_rewritten(make_stream, tmp_path):
    stream = make_stream()
    written: list[str] = []
    io_hook = io.atomic.FAULT_HOOK
    io.atomic.FAULT_HOOK = written.append
    try:
        run(stream, tmp_path)
    finally:
        io.atomic.FAULT_HOOK = io_hook
    renamed = [name for name in written if name.startswith("renamed statistics")]
    assert renamed == [f"renamed statistics_{task:04d}.safetensors" for task in range(4)]


def test_a_folder_with_a_run_is_not_overwritten(make_stream, tmp_path):
    stream = make_stream()
    run(stream, tmp_path)
    with pytest.raises(UserError, match="holds a run already; resume it or choose another"):
        run(stream, tmp_path)


def test_two_processes_cannot_share_a_folder(make_stream, tmp_path):
    with (
        RunFolder(tmp_path).hold(),
        pytest.raises(UserError, match="is in use by process"),
    ):
        run(make_stream(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {**QUICK, "learning_rate": 0.01}}, r"config\.learning_rate is 0\.001 there"),
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"name": "rapf"}, "method is awpf there, rapf here"),
        ({"stream": {"seed": 1}}, "stream_hash is"),
        ({"stream": {"increment": 4}}, "stream_hash is"),
    ],
)
def test_a_foreign_run_is_refused(change, message, make_stream, tmp_path):
    run(make_stream(), tmp_path)
    stream = make_stream(**change.pop("stream", {}))
    with pytest.raises(CheckpointError, match=message):
        run(stream, tmp_path, resume=True, **change)


def test_another_format_is_refused(make_stream, tmp_path):
    run(make_stream(), tmp_path)
    marker = tmp_path / "run.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has checkpoint format 99; this version reads"):
        run(make_stream(), tmp_path, resume=True)


def test_another_runs_file_is_refused(make_stream, tmp_path):
    stream = make_stream()
    run(stream, tmp_path / "a")
    run(stream, tmp_path / "b", seed=1)
    name = "task_0003.safetensors"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"task_0003\.safetensors belongs to another"):
        run(stream, tmp_path / "a", resume=True)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("damage", "name", "intact"),
    [
        (damage, name, intact)
        for damage in (flip, cut, Path.unlink)
        for name, intact in (
            ("task_0003.safetensors", 3),
            ("statistics_0002.safetensors", 2),
            ("statistics_0000.safetensors", 0),
        )
    ]
    + [(flip, "task_0002.json", 2), (cut, "task_0002.json", 2)],
)
def test_damage_is_refused_and_what_is_intact_used(damage, name, intact, make_stream, tmp_path):
    stream = make_stream()
    whole = run(stream, tmp_path)
    damage(tmp_path / name)
    with pytest.raises(CheckpointError, match=f"damaged after {intact} whole tasks?: .*{name}"):
        run(stream, tmp_path, resume=True)
    kept = {path: path.read_bytes() for path in tmp_path.glob("statistics_*") if path.name != name}
    trained = []
    method = create_method("awpf", stream, QUICK)
    result = train(
        stream,
        method,
        folder=RunFolder(tmp_path),
        resume="intact",
        progress=lambda event: trained.append(event.task),
    )
    assert_same((result, method), whole)
    assert sorted(set(trained)) == list(range(intact, 4))
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_an_old_state_is_not_needed(make_stream, tmp_path):
    stream = make_stream()
    whole = run(stream, tmp_path)
    flip(tmp_path / "task_0001.safetensors")
    assert_same(run(stream, tmp_path, resume=True), whole)


def test_a_damaged_marker_is_told(make_stream, tmp_path):
    run(make_stream(), tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json is damaged"):
        run(make_stream(), tmp_path, resume=True)


def test_a_missing_marker_is_told(make_stream, tmp_path):
    run(make_stream(), tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds results, but its run\.json is missing"):
        run(make_stream(), tmp_path)


def test_a_change_of_threads_warns(make_stream, tmp_path, monkeypatch):
    stream = make_stream()
    run(stream, tmp_path)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(UserWarning, match=f"threads {threads} and continues with {threads + 1}"):
        run(stream, tmp_path, resume=True)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(stream, tmp_path, resume=True)


def test_resuming_where_there_is_nothing_starts_a_run(make_stream, tmp_path):
    stream = make_stream()
    assert_same(run(stream, tmp_path / "new", resume=True), run(stream, tmp_path / "other"))


class Large(Finetune):
    """Finetune as if its state were large, with an adapter a task beside it."""

    large_state = True

    def adapters(self):
        task = self.seen // 3 - 1
        factors = {"lora_A": self.adapter[:2].clone(), "lora_B": self.adapter[:, :2].clone()}
        tensors = {f"base_model.model.map.{name}.weight": x for name, x in factors.items()}
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["map"]}
        return {f"task_{task:04d}": AdapterFiles(tensors, config)}


def run_large(stream, folder, resume=False):
    config = method_config("finetune", QUICK)
    method = Large(config, text=stream.text, logit_scale=stream.logit_scale)
    return train(stream, method, folder=RunFolder(folder), resume=resume), method


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("task_*.safetensors"))


def test_of_large_states_the_last_two_are_kept(make_stream, tmp_path):
    whole = run_large(make_stream(), tmp_path)
    assert states(tmp_path) == ["task_0002.safetensors", "task_0003.safetensors"]
    assert_same(run_large(make_stream(), tmp_path, resume=True), whole)
    (tmp_path / "task_0003.safetensors").write_bytes(b"damaged")
    assert_same(run_large(make_stream(), tmp_path, resume="intact"), whole)
    for path in tmp_path.glob("task_*.safetensors"):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"there is no task_0001\.safe") as error:
        run_large(make_stream(), tmp_path, resume=True)
    assert str(error.value).count("there is no") == 1  # nor a word of others let go long ago
    assert_same(run_large(make_stream(), tmp_path, resume="intact"), whole)


def test_adapters_are_kept_task_by_task_also_by_a_killed_run(make_stream, tmp_path, monkeypatch):
    whole = run_large(make_stream(), tmp_path / "whole")
    folders = sorted(path.name for path in (tmp_path / "whole" / "adapters").iterdir())
    assert folders == [f"task_{task:04d}" for task in range(4)]
    passed = kill_at(monkeypatch, 0)
    run_large(make_stream(), tmp_path / "counted")
    for moment in range(1, len(passed), 7):
        folder = tmp_path / f"killed_{moment}"
        kill_at(monkeypatch, moment)
        with pytest.raises(Killed):
            run_large(make_stream(), folder)
        kill_at(monkeypatch, 0)
        assert_same(run_large(make_stream(), folder, resume=True), whole)
        kept = sorted(path.name for path in (folder / "adapters").iterdir())
        assert kept == folders
        with open_adapter(folder / "adapters" / "task_0003") as adapter:
            kept = adapter.read("base_model.model.map.lora_A.weight")
        assert torch.equal(kept, whole[1].adapter[:2])
