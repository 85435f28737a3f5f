"""The one call: results, folders, second runs, and data that is not as it should be."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import awpf_ext
from awpf_ext import io
from awpf_ext.data import read_features, task_stream
from awpf_ext.errors import CheckpointError, DataError, UserError
from awpf_ext.methods import create_method
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import run
from awpf_ext.runs.trainer import train


def numbers(result):
    """All of a result but its times."""
    described = result.to_json()
    return {key: described[key] for key in described if "seconds" not in key}


def test_it_equals_the_parts_put_together_by_hand(quick, features_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = run(**quick, method="rapf", seed=3)
    assert set(tmp_path.iterdir()) == before  # without a folder nothing is written
    stream = task_stream(read_features(features_file), base=0, increment=2, order="seed:0")
    settings = {"epochs": 2, "replay_per_epoch": 40}
    expected = train(stream, create_method("rapf", stream, settings, seed=3))
    assert result.accuracy_matrix == expected.accuracy_matrix
    assert result.provenance["order_hash"] == stream.order_hash


def test_the_result_is_kept_with_all_that_it_follows_from(quick, tmp_path):
    result = run(**quick, out=tmp_path / "run", threads=1)
    assert RunFolder(tmp_path / "run").result() == result
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert saved["average"] == result.average
    assert {"features", "train", "fuse", "evaluate"} <= set(saved["seconds"])
    names = "dataset content_hash class_order order_hash method config seed threads torch awpf_ext"
    assert set(names.split()) <= set(saved["provenance"])
    assert saved["provenance"]["instruction_set"] == awpf_ext.build_info()["instruction_set"]
    again = run(tmp_path / "run" / "config.yaml")
    assert numbers(again) == numbers(result)


def test_a_finished_run_is_read_and_another_refused(quick, tmp_path, monkeypatch):
    result = run(**quick, out=tmp_path / "run")
    monkeypatch.setattr("awpf_ext.runs.run.train", lambda *_, **__: pytest.fail("it was run again"))
    assert run(**quick, out=tmp_path / "run") == result
    with pytest.raises(CheckpointError, match="another run: increment is 2 there, 3 here"):
        run(**{**quick, "increment": 3}, out=tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match=r"method is awpf there, rapf here$"):
        run(**quick, method="rapf", out=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"awpf\.rank is 64 there, 3 here"):
        run(**quick, rank=3, out=tmp_path / "run")


def interrupted(quick, folder, monkeypatch, moment="renamed task_0001.json"):
    """Leave a run in `folder` that ended at a moment of io.fault_point."""

    def hook(name: str) -> None:
        if name == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    with pytest.raises(KeyboardInterrupt):
        run(**quick, out=folder)
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", None)


def test_an_unfinished_run_is_refused_and_resumed(quick, tmp_path, monkeypatch):
    whole = run(**quick)
    interrupted(quick, tmp_path / "run", monkeypatch)
    with pytest.raises(UserError, match=r"unfinished run \(2 tasks done\): resume it"):
        run(**quick, out=tmp_path / "run")
    assert numbers(run(**quick, out=tmp_path / "run", resume=True)) == numbers(whole)


def test_damage_is_refused_and_what_is_intact_used(quick, tmp_path, monkeypatch):
    whole = run(**quick)
    interrupted(quick, tmp_path / "run", monkeypatch)
    damaged = tmp_path / "run" / "task_0001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged after 1 whole task: cannot read"):
        run(**quick, out=tmp_path / "run", resume=True)
    assert numbers(run(**quick, out=tmp_path / "run", resume="intact")) == numbers(whole)


def test_a_run_goes_on_where_its_data_moved_but_not_where_it_changed(
    quick, features_file, write_features, tmp_path, monkeypatch
):
    interrupted(quick, tmp_path / "run", monkeypatch)
    moved = tmp_path / "elsewhere" / "clip.npz"
    moved.parent.mkdir()
    shutil.move(features_file, moved)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    elsewhere = {**quick, "dataset": f"features:{moved}"}
    resumed = run(**elsewhere, out=tmp_path / "run", resume=True)
    assert run(**elsewhere, out=tmp_path / "run") == resumed
    with np.load(moved) as arrays:
        write_features(**{**arrays, "test_x": arrays["test_x"] + 1})
    with pytest.raises(CheckpointError, match="another run: stream_hash"):
        run(**quick, out=tmp_path / "copy", resume=True)


def test_folders_that_hold_no_run(quick, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        run(**quick, out=tmp_path / "file")
    run(**quick, out=tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"result\.json is damaged .*delete it and resume"):
        run(**quick, out=tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text("method: gone\n")
    with pytest.raises(CheckpointError, match="cannot be read by this version: method is 'gone'"):
        run(**quick, out=tmp_path / "run")


def test_options_that_a_method_has_not_are_errors_in_python(quick):
    with pytest.raises(UserError, match="zero_shot has no epochs, replay_per_epoch"):
        run(**quick, method="zero_shot")


def test_threads_are_those_asked_for_and_then_as_before(quick):
    before = torch.get_num_threads()
    assert run(**quick, threads=before + 1).provenance["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_gpu_that_is_not_there(quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device is 'cuda', but torch .* sees no GPU"):
        run(**quick, device="cuda")


def test_nan_features_are_named(quick, write_features, features_file):
    with np.load(features_file) as arrays:
        train_x = arrays["train_x"].copy()
    train_x[[3, 7], 2] = np.nan
    write_features(train_x=train_x)
    with pytest.raises(DataError, match="train_x holds NaN or infinity in rows 3, 7"):
        run(**quick)


def test_without_test_images_nothing_can_be_measured(quick, write_features):
    write_features(test_x=np.zeros((0, 8), np.float32), test_y=np.zeros(0, np.int64))
    with pytest.raises(DataError, match="has no test images"):
        run(**quick)


def test_duplicate_and_foreign_names(quick, write_features):
    write_features(classnames=np.array(["犬", "犬", "Äpfel", "a/b", "[red]x[/red]", ""]))
    assert run(**quick).last > 0


def test_a_full_disk_leaves_a_run_to_resume(quick, tmp_path, monkeypatch):
    whole = run(**quick)
    synced = io.atomic.os.fsync

    def fsync(handle: int) -> None:
        if (tmp_path / "run" / "task_0000.json").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    monkeypatch.setattr(io.atomic.os, "fsync", fsync)
    with pytest.raises(DataError, match="the disk is full; what was written before is intact"):
        run(**quick, out=tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert numbers(run(**quick, out=tmp_path / "run", resume=True)) == numbers(whole)


def test_one_class_a_task_and_a_smaller_last_one(quick):
    assert len(run(**{**quick, "increment": 1}).tasks) == 6
    assert run(**{**quick, "increment": 4}).test_images == (20, 10)
    assert run(**{**quick, "increment": 3}, base=2).test_images == (10, 15, 5)


def test_tensorboard_gets_the_curves(quick, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run(**quick, out=tmp_path / "run")
    for _ in range(2):  # a finished run gets its curves too, and once only
        run(**quick, out=tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    seen = [event.value for event in events.Scalars("accuracy/seen")]
    assert seen == pytest.approx(result.accuracy)
    assert {"awpf/tau", "seconds/train"} <= set(events.Tags()["scalars"])


def test_tensorboard_is_asked_for_before_the_work(quick, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="out is not"):
        run(**quick, tensorboard=True)
    monkeypatch.setattr("awpf_ext.runs.loggers.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"awpf_ext\[tensorboard\]\""):
        run(**quick, out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_package_alone_imports_none_of_this():
    heavy = ["typer", "pydantic", "rich", "yaml", "open_clip", "matplotlib", "safetensors"]
    code = f"import sys, awpf_ext; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
