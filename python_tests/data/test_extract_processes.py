"""Extraction killed at given moments, and by two processes at once."""

from __future__ import annotations

import os
import socket
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
from awpf_ext.distributed import init_distributed
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
io.atomic.FAULT_HOOK = kill
encoded = 0
def progress(now):
    global encoded
    encoded += now.stage != "text" and now.per_second > 0
dataset, backbone = load_dataset("folder:" + folder), load_backbone("tiny", "random:0")
print("ready", flush=True)
sys.stdin.readline()
with init_distributed() as world:
    extract_features(
        dataset, backbone, FeatureStore(root), batch_size=1, progress=progress, world=world
    )
print(encoded)
"""


def start_extractor(
    root: Path,
    folder: Path,
    moment: str = "never",
    before: int = 0,
    torchrun: dict[str, str] | None = None,
):
    return subprocess.Popen(
        [sys.executable, "-c", EXTRACTOR, str(folder), str(root), moment, str(before)],
        env={**os.environ, "TINY": str(TINY), "OMP_NUM_THREADS": "1", **(torchrun or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes):
    """All started at one moment; what each printed."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=120) for process in processes]


def start_extractors(root: Path, folder: Path, size: int, killed: int | None = None):
    """Processes as torchrun starts them; `killed` is killed when it has written two shards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start_extractor(
            root,
            folder,
            "writing shard" if rank == killed else "never",
            8,
            {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]


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
    encoded = [int(output) for output, _ in ended(processes)]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(encoded) == 72  # each image was encoded by one of them
    dataset = load_dataset(f"folder:{folder}")
    features = extract_features(dataset, counted, FeatureStore(root))
    assert counted.images == 0
    assert features.train_x.shape == (60, 16)


def test_the_processes_of_torchrun_share_the_shards(
    image_folder, tmp_path, tiny, counted, small_shards, same_features
):
    """One of them killed: the other ends with an error, and a new start encodes the rest."""
    folder = image_folder({"a": (22, 5), "b": (21, 4)})
    root = tmp_path / "store"
    processes = start_extractors(root, folder, 2, killed=1)
    outputs = ended(processes)
    assert processes[1].returncode == -9
    assert processes[0].returncode == 1
    assert "another process of this torchrun ended early" in outputs[0][1]

    finished = len(list(root.rglob("shard-*.safetensors")))
    assert finished == 6 + 2  # of 11 of training images: all of one process, two of the other
    processes = start_extractors(root, folder, 2)
    counts = [int(output.split()[-1]) for output, _ in ended(processes)]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(counts) == 3 * 4 + 9
    assert min(counts) > 0

    dataset = load_dataset(f"folder:{folder}")
    shared = extract_features(dataset, counted, FeatureStore(root), batch_size=1)
    assert counted.images == 0
    alone = extract_features(dataset, tiny, FeatureStore(tmp_path / "alone"), batch_size=1)
    assert same_features(shared, alone)
    assert not list(root.rglob("shard-*"))
