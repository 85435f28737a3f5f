"""Extraction killed at given moments, and by two processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from awpf_ext.data import FeatureStore, extract_features, load_dataset

TINY = Path(__file__).parents[1] / "clip" / "tiny.json"

# argv: image folder, store, moment of io.fault_point to be killed at (or "never"), how many times
# to pass it before. Prints the number of images it encoded itself.
EXTRACTOR = """
import json, os, signal, sys
import open_clip
from awpf_ext import io
from awpf_ext.clip import load_backbone
from awpf_ext.data import FeatureStore, extract_features, load_dataset, store
open_clip.add_model_config(os.environ["TINY"])
folder, root, moment, before = sys.argv[1:]
store.SHARD = 4
passed = 0
def kill(name):
    global passed
    if name.startswith(moment):
        passed += 1
        if passed > int(before):
            os.kill(os.getpid(), signal.SIGKILL)
io.FAULT_HOOK = kill
encoded = 0
def progress(now):
    global encoded
    encoded += now.stage != "text" and now.per_second > 0
dataset, backbone = load_dataset("folder:" + folder), load_backbone("tiny", "random:0")
print("ready", flush=True)
sys.stdin.readline()
extract_features(dataset, backbone, FeatureStore(root), batch_size=1, progress=progress)
print(encoded)
"""


def start_extractor(root: Path, folder: Path, moment: str = "never", before: int = 0):
    return subprocess.Popen(
        [sys.executable, "-c", EXTRACTOR, str(folder), str(root), moment, str(before)],
        env={**os.environ, "TINY": str(TINY), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("moment", "before", "left"),
    [("writing shard", 4, 8), ("synced features", 0, 0)],
)
def test_a_killed_extraction_continues_to_equal_features(
    image_folder, tmp_path, tiny, counted, small_shards, same_features, moment, before, left
):
    """Killed with `left` of the 12 training images still to encode."""
    folder = image_folder({"a": (7, 1), "b": (5, 2)})
    root = tmp_path / "store"
    killed = start_extractor(root, folder, moment, before)
    killed.communicate("go\n")
    assert killed.returncode == -9
    dataset = load_dataset(f"folder:{folder}")
    resumed = extract_features(dataset, counted, FeatureStore(root), batch_size=1)
    whole = extract_features(dataset, tiny, FeatureStore(tmp_path / "whole"), batch_size=1)
    assert counted.images == left + 3
    assert same_features(resumed, whole)
    assert not list(root.rglob("*.tmp"))
    assert not list(root.rglob("shard-*"))


def test_two_processes_share_the_work_and_the_result(image_folder, tmp_path, counted, small_shards):
    folder = image_folder({"a": (30, 6), "b": (30, 6)})
    root = tmp_path / "store"
    processes = [start_extractor(root, folder) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    encoded = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(encoded) == 72  # each image was encoded by one of them
    dataset = load_dataset(f"folder:{folder}")
    features = extract_features(dataset, counted, FeatureStore(root))
    assert counted.images == 0
    assert features.train_x.shape == (60, 16)
