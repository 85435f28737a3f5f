"""Fingerprints of image files follow their content, not their place."""

from __future__ import annotations

import os

from awpf_ext.data import load_dataset


def test_a_fingerprint_follows_files_not_their_place(image_folder, tmp_path):
    root = image_folder({"a": (3, 1)})
    train = load_dataset(f"folder:{root}").train
    before = [train.fingerprint(0, 2), train.fingerprint(2, 3)]
    stamp = (root / "train" / "a" / "002.png").stat().st_mtime_ns + 10**9
    os.utime(root / "train" / "a" / "002.png", ns=(stamp, stamp))
    assert train.fingerprint(0, 2) == before[0]
    assert train.fingerprint(2, 3) != before[1]
    moved = root.rename(tmp_path / "moved")
    assert load_dataset(f"folder:{moved}").train.fingerprint(0, 2) == before[0]


def test_every_file_of_a_small_range_counts_and_a_lost_one_too(image_folder):
    root = image_folder({"a": (9, 1)})
    train = load_dataset(f"folder:{root}").train
    before = train.fingerprint(0, 9)
    assert train.fingerprint(0, 9) == before
    (root / "train" / "a" / "004.png").unlink()
    assert train.fingerprint(0, 9) != before
    assert train.fingerprint(9, 9) != before
