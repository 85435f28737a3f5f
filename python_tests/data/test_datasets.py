"""Data sets in their usual layouts, and the errors for broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from awpf_ext.data import DATASETS, ImageDataset, dataset, load_dataset
from awpf_ext.errors import DataError, OfflineError, UserError

GOLDFISH, SHARK = "n01443537", "n01484850"


def counts(split, classes: int) -> list[int]:
    return np.bincount(split.labels.numpy(), minlength=classes).tolist()


def names_of(split) -> list[str]:
    return [Path(split.name(index)).name for index in range(len(split.labels))]


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_folder(image_folder, test_name):
    root = image_folder({"great_white": (3, 2), "ant": (2, 1)}, test_name)
    loaded = load_dataset(f"folder:{root}")
    assert loaded.class_keys == ("ant", "great_white")
    assert loaded.class_names == ("ant", "great white")
    assert counts(loaded.train, 2) == [2, 3]
    assert counts(loaded.test, 2) == [1, 2]
    assert loaded.train.read(0).size == (10, 12)
    assert loaded.train.name(0) == str(root / "train" / "ant" / "000.png")


def test_a_class_may_lack_a_split_and_other_files_are_no_images(image_folder, save_png):
    root = image_folder({"a": (2, 0), "b": (0, 1), "c": (1, 1)})
    (root / "train" / "d").mkdir()
    (root / "train" / "a" / "notes.txt").write_text("no image")
    (root / "train" / "a" / ".hidden.png").write_text("no image")
    (root / "train" / ".cache").mkdir()
    save_png(root / "train" / "c" / "deep" / "er" / "X.PNG", 1)
    loaded = load_dataset(f"folder:{root}")
    assert loaded.class_keys == ("a", "b", "c", "d")
    assert counts(loaded.train, 4) == [2, 0, 2, 0]
    assert counts(loaded.test, 4) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (("train/a/0.png",), r"expected folders train/ and test/"),
        (("a/0.png", "b/0.png"), r"expected folders train/ and test/"),
        (("train/a/0.png", "test/a/readme.txt"), "has no test images"),
        (("train/a/readme.txt", "test/a/0.png"), "has no training images"),
    ],
)
def test_a_folder_with_another_layout_is_refused(tmp_path, save_png, layout, message):
    for name in layout:
        if name.endswith(".png"):
            save_png(tmp_path / name, 0)
        else:
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=message):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifar10", "did you mean 'cifar100'"),
        ("folder", "folder:PATH"),
        ("imagenet100", "imagenet100:PATH"),
        ("folder:/no/such/place", "there is no /no/such/place"),
        ("", "there is no data set ''; expected one of demo, "),
    ],
)
def test_an_unknown_or_unplaced_data_set(spec, message):
    with pytest.raises(UserError, match=message):
        load_dataset(spec)


def wordnet_ids(count: int) -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo().label_names()[:count]


def empty_images(root: Path, keys: list[str], split: str, number: int = 1) -> None:
    """Files whose names are all that matters here."""
    for key in keys:
        (root / split / key).mkdir(parents=True)
        for index in range(number):
            (root / split / key / f"{index}.JPEG").touch()


def test_imagenet_layouts(tmp_path):
    keys = wordnet_ids(100)
    for split in ("train", "val"):
        empty_images(tmp_path / "selection", keys, split)
        empty_images(tmp_path / "original" / "ILSVRC" / "Data" / "CLS-LOC", keys, split)
    for place in ("selection", "original"):
        loaded = load_dataset(f"imagenet100:{tmp_path / place}")
        assert loaded.name == "imagenet100"
        assert loaded.class_names[:2] == ("tench", "goldfish")
        assert len(loaded.train.labels) == len(loaded.test.labels) == 100
    with pytest.raises(DataError, match="has 100 classes; imagenet1k has 1000"):
        load_dataset(f"imagenet1k:{tmp_path / 'selection'}")


def test_imagenet_r_split_and_unsplit(tmp_path):
    keys = wordnet_ids(200)
    for split in ("train", "test"):
        empty_images(tmp_path / "split", keys, split)
    loaded = load_dataset(f"imagenet-r:{tmp_path / 'split'}")
    assert len(loaded.class_names) == 200
    assert loaded.notes == {}
    empty_images(tmp_path, keys, "flat", number=10)
    loaded = load_dataset(f"imagenet-r:{tmp_path / 'flat'}")
    again = load_dataset(f"imagenet-r:{tmp_path / 'flat'}")
    assert "one image in five" in loaded.notes["split"]
    assert len(loaded.train.labels) + len(loaded.test.labels) == 2000
    assert 300 < len(loaded.test.labels) < 500
    assert names_of(again.test) == names_of(loaded.test)
    train, test = ({s.name(i) for i in range(len(s.labels))} for s in (loaded.train, loaded.test))
    assert not train & test


def cub(root: Path, classes: int = 200) -> Path:
    base = root / "CUB_200_2011"
    base.mkdir(parents=True)
    keys = [f"{i:03d}.Some_Bird_{i}" for i in range(1, classes + 1)]
    images = [(key, number) for key in keys for number in range(2)]
    lines = {
        "classes.txt": [f"{i} {key}" for i, key in enumerate(keys, 1)],
        "images.txt": [f"{i} {key}/{n} a.jpg" for i, (key, n) in enumerate(images, 1)],
        "image_class_labels.txt": [f"{i} {(i + 1) // 2}" for i in range(1, len(images) + 1)],
        "train_test_split.txt": [f"{i} {i % 2}" for i in range(1, len(images) + 1)],
    }
    for name, content in lines.items():
        (base / name).write_text("\n".join(content) + "\n")
    return base


def test_cub_with_its_own_lists(tmp_path):
    base = cub(tmp_path)
    for root in (tmp_path, base):
        loaded = load_dataset(f"cub200:{root}")
        assert loaded.class_names[:2] == ("Some Bird 1", "Some Bird 2")
        assert counts(loaded.train, 200) == counts(loaded.test, 200) == [1] * 200
        assert loaded.train.name(0) == str(base / "images" / "001.Some_Bird_1" / "0 a.jpg")
        assert loaded.test.name(0).endswith("1 a.jpg")


def test_cub_in_folders_and_cub_in_pieces(tmp_path):
    keys = [f"{i:03d}.Bird" for i in range(200)]
    for split in ("train", "test"):
        empty_images(tmp_path / "folders", keys, split)
    assert load_dataset(f"cub200:{tmp_path / 'folders'}").class_names[7] == "Bird"
    base = cub(tmp_path / "archive")
    (base / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(DataError, match="contradict each other at id '2'"):
        load_dataset(f"cub200:{base}")
    (base / "train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*train_test_split\.txt"):
        load_dataset(f"cub200:{base}")


def test_a_csv_with_splits(tmp_path, save_png):
    save_png(tmp_path / "a.png", 0)
    (tmp_path / "list.csv").write_text(
        "split,path,label\ntrain,a.png,10\ntrain,b b.png,9\nval,sub/c.png,9\ntest,/abs/d.png,10\n"
    )
    loaded = load_dataset(f"csv:{tmp_path / 'list.csv'}")
    assert loaded.class_keys == ("9", "10")  # numbers, in their order
    assert loaded.train.labels.tolist() == [1, 0]
    assert loaded.test.labels.tolist() == [0, 1]
    assert loaded.train.name(0) == str(tmp_path / "a.png")
    assert loaded.test.name(1) == "/abs/d.png"
    assert loaded.train.read(0).size == (10, 12)


def test_a_csv_without_splits_holds_out_one_in_five(tmp_path):
    rows = "".join(f"{i}.png,{'cat' if i % 2 else 'dög'}\n" for i in range(200))
    (tmp_path / "list.csv").write_text("path,label\n" + rows, encoding="utf-8-sig")
    loaded = load_dataset(f"csv:{tmp_path / 'list.csv'}")
    assert loaded.class_names == ("cat", "dög")
    assert len(loaded.train.labels) + len(loaded.test.labels) == 200
    assert 20 < len(loaded.test.labels) < 60
    assert "one image in five" in loaded.notes["split"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\na,b\n", "header is 'file,class'; expected path,label"),
        ("", "header is ''"),
        ("path,label\na.png,\n", "line 2: path or label is empty"),
        ("path,label,split\na.png,x,train\nb.png,y,dev\n", "line 3: split is 'dev'"),
        ("path,label,split\na.png,x\n", "line 2: split is ''"),
        ("path,label,split\na.png,x,train\n", "no test images"),
    ],
)
def test_a_wrong_csv_is_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(f"csv:{tmp_path / 'list.csv'}")


class FakeCifar:
    """What torchvision's CIFAR100 offers, without the download."""

    classes = ("apple", "aquarium_fish")

    def __init__(self, root, train, download):
        assert download
        self.data = np.full((4 if train else 2, 32, 32, 3), 7 if train else 9, dtype=np.uint8)
        self.targets = [0, 1, 1, 0][: len(self.data)]


def test_cifar100(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR100", FakeCifar)
    loaded = load_dataset(f"cifar100:{tmp_path / 'new'}")
    assert isinstance(loaded, ImageDataset)
    assert loaded.class_names == ("apple", "aquarium fish")
    assert loaded.train.labels.tolist() == [0, 1, 1, 0]
    assert loaded.test.read(1).getpixel((0, 0)) == (9, 9, 9)
    assert loaded.train.name(3) == "CIFAR-100 train image 3"


def test_cifar100_offline_names_the_ways_out(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.CIFAR100", no_network)
    with pytest.raises(OfflineError) as error:
        load_dataset(f"cifar100:{tmp_path}")
    for part in (str(tmp_path), "Name or service", "cifar-100-python.tar.gz", "features:FILE.npz"):
        assert part in str(error.value)


def test_a_data_set_is_one_function(image_folder):
    root = image_folder({"a": (1, 1)})
    try:

        @dataset("mine")
        def mine(where):
            return DATASETS["folder"](where)

        assert load_dataset(f"mine:{root}").class_names == ("a",)
    finally:
        DATASETS.pop("mine", None)


def test_images_in_memory_have_fingerprints_too(monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.CIFAR100", FakeCifar)
    train = load_dataset(f"cifar100:{tmp_path}").train
    before = train.fingerprint(0, 2)
    train.pixels[1, 0, 0, 0] = 8
    assert train.fingerprint(0, 2) != before
    assert isinstance(train.read(0), Image.Image)
