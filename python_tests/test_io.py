"""Files are whole or absent, damaged tensors are refused, a lock has one holder."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from awpf_ext import io
from awpf_ext.errors import DataError, UserError

MOMENTS = ("writing", "written", "synced", "renamed")

KILLED_WRITER = """
import os, signal, sys
from awpf_ext import io
def kill(name):
    if name.split()[0] == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
io.atomic.FAULT_HOOK = kill
io.write_atomic(sys.argv[1], [b"new ", b"content"])
"""


def fail_at(moment: str, error: BaseException):
    def hook(name: str) -> None:
        if name.startswith(moment):
            raise error

    return hook


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_failed_write_leaves_the_old_file_or_the_new_one(moment, tmp_path, monkeypatch):
    path = tmp_path / "file"
    io.write_atomic(path, b"old")
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", fail_at(moment, RuntimeError("stop")))
    with pytest.raises(RuntimeError, match="stop"):
        io.write_atomic(path, b"new")
    assert path.read_bytes() == (b"new" if moment == "renamed" else b"old")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_write_leaves_the_old_file_or_the_new_one(moment, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    arguments = [sys.executable, "-c", KILLED_WRITER, str(path), moment]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert path.read_bytes() == (b"new content" if moment == "renamed" else b"old")
    io.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    io.write_atomic(path, b"old")
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", fail_at("writing", full))
    with pytest.raises(DataError, match="disk is full"):
        io.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*below"):
        io.write_atomic(tmp_path / "file" / "below", b"")


def test_json_round_trip_keeps_non_ascii_readable(tmp_path):
    path = tmp_path / "deep" / "record.json"
    record = {"naïve 犬": [1, 2.5, None, True]}
    io.write_json(path, record)
    assert io.read_json(path) == record
    assert "犬" in path.read_text(encoding="utf-8")


def test_json_refuses_nan_and_reports_bad_files(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json"):
        io.read_json(tmp_path / "bad.json")
    with pytest.raises(DataError, match="No such file"):
        io.read_json(tmp_path / "missing.json")


DTYPES = sorted(io.DTYPES, key=str)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_tensors_round_trip(dtype, shape, tmp_path):
    path = tmp_path / "t.safetensors"
    tensor = torch.randint(0, 2, shape).to(dtype)
    io.save_tensors(path, {"a": tensor}, {"who": "É"})
    loaded, metadata = io.load_tensors(path)
    assert metadata == {"who": "É"}
    assert loaded["a"].dtype == dtype
    assert loaded["a"].shape == tensor.shape
    assert torch.equal(loaded["a"], tensor)


def test_other_readers_of_safetensors_read_ours(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {
        "odd": torch.arange(3, dtype=torch.uint8),
        "view": torch.randn(4, 6).t()[::2],
        "half": torch.randn(3).half(),
    }
    io.save_tensors(path, tensors, {})
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_sequence_is_written_as_its_concatenation(tmp_path):
    path = tmp_path / "t.safetensors"
    parts = [torch.randn(n, 3) for n in (2, 0, 5)]
    io.save_tensors(path, {"x": parts, "one": [torch.arange(2)]})
    loaded, _ = io.load_tensors(path)
    assert torch.equal(loaded["x"], torch.cat(parts))
    assert torch.equal(loaded["one"], torch.arange(2))
    with pytest.raises(ValueError, match="parts differ"):
        io.save_tensors(path, {"x": [torch.zeros(2, 3), torch.zeros(2, 4)]})


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.randn(7, 5), "b": torch.arange(9)}
    io.save_tensors(path, tensors, {"task": "3", "note": "some words"})
    intact = path.read_bytes()
    for _ in range(400):
        damaged = bytearray(intact)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read"):
            io.load_tensors(path)


def test_a_cut_empty_foreign_or_missing_file_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    io.save_tensors(path, {"a": torch.randn(50)})
    intact = path.read_bytes()
    for length in (0, 5, 20, len(intact) - 1):
        path.write_bytes(intact[:length])
        with pytest.raises(DataError, match="cannot read"):
            io.load_tensors(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(DataError, match="awpf_ext did not write it"):
        io.load_tensors(path)
    with pytest.raises(DataError, match="cannot read"):
        io.load_tensors(tmp_path / "none.safetensors")


def test_a_lock_has_one_holder_and_names_it(tmp_path):
    path = tmp_path / "run" / "lock"
    in_use = r"run is in use by process \d+ on "
    with io.lock(path), pytest.raises(UserError, match=in_use), io.lock(path, wait=False):
        pass
    with io.lock(path, wait=False):
        pass


def test_a_waiter_is_told_once_and_gets_the_lock(tmp_path):
    path = tmp_path / "lock"
    holders: list[str] = []
    order: list[str] = []
    waiting = threading.Event()

    def on_wait(holder: str) -> None:
        holders.append(holder)
        waiting.set()

    def waiter() -> None:
        with io.lock(path, on_wait=on_wait):
            order.append("waiter")

    thread = threading.Thread(target=waiter)
    with io.lock(path):
        thread.start()
        assert waiting.wait(30)
        order.append("holder")
    thread.join(30)
    assert order == ["holder", "waiter"]
    assert len(holders) == 1


def test_a_lock_whose_holder_was_killed_is_free(tmp_path):
    path = tmp_path / "lock"
    script = (
        "import os, signal, sys\nfrom awpf_ext import io\n"
        "with io.lock(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    arguments = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert "process" in path.read_text()  # the name it left does not count
    with io.lock(path, wait=False):
        pass


def test_tensors_are_mapped_not_copied(tmp_path):
    path = tmp_path / "t.safetensors"
    io.save_tensors(path, {"a": torch.zeros(1000)})
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see what is mapped")
    loaded, _ = io.load_tensors(path)
    assert str(path) in maps.read_text(), loaded.keys()
