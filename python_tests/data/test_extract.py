"""Extraction: right features, computed once, whatever is unreadable, damaged, killed or shared."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from awpf_ext import io
from awpf_ext.clip import class_texts, load_backbone
from awpf_ext.data import FeatureStore, extract_features, load_dataset, task_stream
from awpf_ext.errors import DataError, UserError


def test_features_are_those_of_the_images(image_folder, tmp_path, tiny):
    root = image_folder({"犬": (3, 1), "cat": (2, 2)})
    dataset = load_dataset(f"folder:{root}")
    features = extract_features(dataset, tiny, FeatureStore(tmp_path / "store"), prompt="a {}")
    assert features.train_y.tolist() == [0, 0, 1, 1, 1]
    for split, x in ((dataset.train, features.train_x), (dataset.test, features.test_x)):
        images = [tiny.prepare(split.read(i)) for i in range(len(split.labels))]
        pixels = torch.stack([torch.from_numpy(image) for image in images])
        assert torch.allclose(x, tiny.encode_images(pixels), atol=1e-6)
    assert torch.equal(features.text, class_texts(tiny, ["cat", "犬"], ("a {}",)))
    assert features.class_names == ("cat", "犬")
    assert features.logit_scale == pytest.approx(tiny.logit_scale)
    provenance = json.loads(json.dumps(dict(features.provenance)))
    assert provenance["dataset"] == "folder:images"
    assert (provenance["train_images"], provenance["test_images"]) == (5, 3)
    assert provenance["prompt"] == ["a {}"]
    assert provenance["weights_hash"] == tiny.weights_hash
    assert [len(task.train_y) for task in task_stream(features, base=0, increment=1)] == [2, 3]


def test_the_second_time_nothing_is_encoded(image_folder, tmp_path, counted, same_features):
    root = image_folder({"a": (3, 1), "b": (2, 2)})
    features = [
        extract_features(load_dataset(f"folder:{root}"), counted, FeatureStore(tmp_path / "store"))
        for _ in range(2)
    ]
    assert counted.images == 8
    assert same_features(*features)
    assert features[0].provenance == features[1].provenance


def test_what_features_depend_on_is_in_their_key(image_folder, tmp_path, counted):
    root = image_folder({"a": (2, 1), "b": (1, 1)})
    kept = FeatureStore(tmp_path / "store")
    first = extract_features(load_dataset(f"folder:{root}"), counted, kept)
    for other in (
        load_backbone("tiny", "random:1"),
        load_backbone("tiny", "random:0", precision="bf16"),
    ):
        again = extract_features(load_dataset(f"folder:{root}"), other, kept)
        assert not torch.equal(again.train_x, first.train_x)
    (root / "train" / "a" / "000.png").rename(root / "train" / "b" / "zzz.png")
    counted.images = 0
    moved = extract_features(load_dataset(f"folder:{root}"), counted, kept)
    assert counted.images == 3  # the test images are as they were
    assert moved.train_y.tolist() == [0, 1, 1]
    assert moved.provenance["content_hash"] != first.provenance["content_hash"]


def test_labels_are_part_of_the_key_but_not_of_the_encoding(tmp_path, counted, save_png):
    for name in ("a.png", "b.png", "c.png"):
        save_png(tmp_path / name, 0)
    table = tmp_path / "list.csv"
    kept = FeatureStore(tmp_path / "store")
    for labels in ((0, 1), (1, 0)):
        rows = [f"{n},{y},train" for n, y in zip(("a.png", "b.png"), labels, strict=True)]
        table.write_text("\n".join(["path,label,split", *rows, "c.png,0,test"]))
        features = extract_features(load_dataset(f"csv:{table}"), counted, kept)
        assert features.train_y.tolist() == list(labels)


def test_batches_and_workers_change_nothing(image_folder, tmp_path, tiny, small_shards):
    dataset = load_dataset(f"folder:{image_folder({'a': (6, 1), 'b': (5, 2)})}")
    settings = [(1, 1), (3, 2), (64, None)]
    features = [
        extract_features(
            dataset, tiny, FeatureStore(tmp_path / str(size)), batch_size=size, workers=workers
        )
        for size, workers in settings
    ]
    for other in features[1:]:
        assert torch.allclose(features[0].train_x, other.train_x, atol=1e-6)
        assert torch.equal(features[0].train_y, other.train_y)


def test_progress_counts_images_and_prompts(image_folder, tmp_path, tiny, small_shards):
    dataset = load_dataset(f"folder:{image_folder({'a': (6, 1), 'b': (5, 2)})}")
    seen = []
    extract_features(
        dataset, tiny, FeatureStore(tmp_path / "store"), batch_size=3, progress=seen.append
    )
    train = [now for now in seen if now.stage == "train"]
    assert [now.done for now in train] == [3, 4, 7, 8, 11, 11]
    assert {now.total for now in train} == {11}
    assert all(now.per_second > 0 for now in train[:-1])
    assert seen[-1].stage == "text"
    assert seen[-1].done == seen[-1].total == 2


def test_fp16_features_are_kept_as_fp16(image_folder, tmp_path):
    dataset = load_dataset(f"folder:{image_folder({'a': (2, 1)})}")
    half = load_backbone("tiny", "random:0", precision="fp16")
    features = extract_features(dataset, half, FeatureStore(tmp_path / "store"))
    assert features.train_x.dtype == torch.float16
    assert features.text.dtype == torch.float32


def break_images(root: Path) -> list[Path]:
    """An empty, a cut and a rubbish image, and one that is not there when read."""
    folder = root / "train" / "a"
    (folder / "000.png").write_bytes(b"")
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:200])
    (folder / "005.png").write_bytes(b"rubbish" * 50)
    return [folder / f"{number}.png" for number in ("000", "002", "005")]


def test_unreadable_images_stop_the_run_and_are_all_named(
    image_folder, tmp_path, counted, small_shards, same_features
):
    root = image_folder({"a": (6, 0), "b": (5, 2)})
    broken = break_images(root)
    dataset = load_dataset(f"folder:{root}")
    kept = FeatureStore(tmp_path / "store")
    with pytest.raises(DataError, match="3 images cannot be read") as error:
        extract_features(dataset, counted, kept, batch_size=2)
    for path in broken:
        assert str(path) in str(error.value)
    assert "on_unreadable=skip" in str(error.value)
    lists = list((tmp_path / "store").glob("*/*/unreadable.txt"))
    assert [line.split("\t")[0] for line in lists[0].read_text().splitlines()] == list(
        map(str, broken)
    )

    skipped = pytest.warns(UserWarning, match="3 images cannot be read and will be skipped")
    counted.images = 0
    with skipped:
        features = extract_features(dataset, counted, kept, on_unreadable="skip")
    assert counted.images == 0  # everything readable was kept when the run stopped
    assert features.train_y.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert features.provenance["skipped_images"] == 3
    with skipped:  # from the store as well: never silently
        again = extract_features(dataset, counted, kept, on_unreadable="skip")
    assert same_features(features, again)
    with pytest.raises(DataError, match="3 images cannot be read"):
        extract_features(dataset, counted, kept)


def test_mending_images_costs_their_shards_only(
    image_folder, tmp_path, counted, small_shards, save_png
):
    root = image_folder({"a": (12, 4)})
    kept = FeatureStore(tmp_path / "store")
    (root / "train" / "a" / "005.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 image cannot be read"):
        extract_features(load_dataset(f"folder:{root}"), counted, kept)
    save_png(root / "train" / "a" / "005.png", 77)
    counted.images = 0
    features = extract_features(load_dataset(f"folder:{root}"), counted, kept)
    assert counted.images == 4
    fresh = extract_features(
        load_dataset(f"folder:{root}"), counted, FeatureStore(tmp_path / "fresh"), batch_size=4
    )
    assert torch.allclose(features.train_x, fresh.train_x, atol=1e-6)
    assert features.provenance == fresh.provenance


def test_equal_names_sizes_and_times_do_not_make_equal_images(tmp_path, tiny):
    """Bitmaps of one size, as an archive without times leaves them."""
    features = []
    for shade in (0, 200):
        for split in ("train", "test"):
            path = tmp_path / str(shade) / split / "a" / "0.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
            os.utime(path, (0, 0))
        dataset = load_dataset(f"folder:{tmp_path / str(shade)}")
        features.append(extract_features(dataset, tiny, FeatureStore(tmp_path / "store")))
    assert not torch.equal(features[0].train_x, features[1].train_x)


def test_an_image_readable_later_is_tried_again(
    image_folder, tmp_path, tiny, small_shards, monkeypatch
):
    """Permissions and network folders do not show in a file's size and time."""
    dataset = load_dataset(f"folder:{image_folder({'a': (6, 1)})}")
    kept = FeatureStore(tmp_path / "store")
    read = type(dataset.train).read

    def denied(split, index):
        if split.name(index).endswith("train/a/003.png"):
            raise PermissionError("Permission denied")
        return read(split, index)

    with monkeypatch.context() as patch:
        patch.setattr(type(dataset.train), "read", denied)
        with pytest.raises(DataError, match=r"003\.png: Permission denied"):
            extract_features(dataset, tiny, kept)
        assert list((tmp_path / "store").rglob("unreadable.txt"))
    assert len(extract_features(dataset, tiny, kept).train_y) == 6
    assert not list((tmp_path / "store").rglob("unreadable.txt"))


def test_nothing_readable_is_an_error_even_where_skipping(image_folder, tmp_path, tiny):
    root = image_folder({"a": (2, 2)})
    for path in (root / "test" / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no test image can be read"):
        extract_features(
            load_dataset(f"folder:{root}"),
            tiny,
            FeatureStore(tmp_path / "store"),
            on_unreadable="skip",
        )


def test_nan_features_stop_with_the_image_named(image_folder, tmp_path, counted, monkeypatch):
    root = image_folder({"a": (3, 1)})

    def poisoned(prepared):
        features = torch.zeros(len(prepared), 16)
        features[1, 3] = float("nan")
        return features

    monkeypatch.setattr(counted, "encode_images", poisoned)
    with pytest.raises(DataError, match=r"1 of 3 images .* NaN .*001\.png: precision fp32"):
        extract_features(load_dataset(f"folder:{root}"), counted, FeatureStore(tmp_path / "store"))


def test_a_damaged_file_is_made_anew_with_a_warning(image_folder, tmp_path, counted):
    dataset = load_dataset(f"folder:{image_folder({'a': (3, 1)})}")
    kept = FeatureStore(tmp_path / "store")
    first = extract_features(dataset, counted, kept)
    expected = first.train_x.clone()
    for path in (tmp_path / "store").rglob("*.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        io.write_atomic(path, bytes(damaged))
    with pytest.warns(UserWarning, match="damaged.*making it anew"):
        again = extract_features(dataset, counted, kept)
    assert torch.equal(again.train_x, expected)
    assert counted.images == 8


def test_a_full_disk_loses_no_finished_shard(
    image_folder, tmp_path, counted, small_shards, monkeypatch
):
    dataset = load_dataset(f"folder:{image_folder({'a': (12, 1)})}")
    kept = FeatureStore(tmp_path / "store")
    shards = []

    def full(name: str) -> None:
        if name.startswith("written shard"):
            shards.append(name)
            if len(shards) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(io.atomic, "FAULT_HOOK", full)
        with pytest.raises(DataError, match="disk is full"):
            extract_features(dataset, counted, kept)
    counted.images = 0
    extract_features(dataset, counted, kept)
    assert counted.images == 4 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_unreadable": "ignore"}, "on_unreadable is 'ignore'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"prompt": "no place"}, "prompt 'no place'"),
    ],
)
def test_bad_settings_are_refused(image_folder, tmp_path, tiny, arguments, message):
    dataset = load_dataset(f"folder:{image_folder({'a': (1, 1)})}")
    with pytest.raises(UserError, match=message):
        extract_features(dataset, tiny, FeatureStore(tmp_path / "store"), **arguments)


def test_cifar100_mini_end_to_end(shared_file, tmp_path, tiny, same_features):
    """Real PNG files, read, prepared, encoded, kept and cut into tasks."""
    with zipfile.ZipFile(shared_file("cifar100_mini.zip")) as archive:
        archive.extractall(tmp_path)
    dataset = load_dataset(f"folder:{tmp_path / 'cifar100_mini'}")
    kept = FeatureStore(tmp_path / "store")
    features = extract_features(dataset, tiny, kept)
    assert features.train_x.shape == (10_000, 16)
    assert features.test_x.shape == (2_000, 16)
    assert features.class_names[1] == "aquarium fish"
    again = extract_features(dataset, tiny, kept)
    assert same_features(features, again)
    stream = task_stream(features, base=50, increment=10, order="seed:1993")
    assert [len(task.train_y) for task in stream] == [5_000] + [1_000] * 5
    # Even random features of real photographs tell classes apart a little: labels are not shuffled.
    means = torch.stack([features.train_x[features.train_y == c].mean(0) for c in range(100)])
    nearest = torch.cdist(features.test_x, means).argmin(dim=1)
    assert (nearest == features.test_y).float().mean() > 0.03
