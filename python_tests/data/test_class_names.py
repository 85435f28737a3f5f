"""Names of classes for prompts: from folders, from files, from ImageNet's list."""

from __future__ import annotations

import pytest

from awpf_ext.data import load_dataset
from awpf_ext.errors import DataError, UserError

GOLDFISH, SHARK = "n01443537", "n01484850"


def test_class_names_from_files(image_folder, tmp_path):
    root = image_folder({"k1": (1, 1), "k2": (1, 1)})
    for name, text in {
        "names.txt": "Bär\ncrane\n\n",
        "list.json": '["Bär", "crane"]',
        "map.json": '{"k2": "crane", "k1": "Bär", "other": "x"}',
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        loaded = load_dataset(f"folder:{root}", class_names=tmp_path / name)
        assert loaded.class_names == ("Bär", "crane")
        assert loaded.class_keys == ("k1", "k2")


def test_duplicate_and_non_ascii_class_names_are_fine(image_folder, tmp_path):
    root = image_folder({"犬": (1, 1), "crane_1": (1, 1), "crane_2": (1, 1)})
    assert load_dataset(f"folder:{root}").class_names == ("crane 1", "crane 2", "犬")
    (tmp_path / "names.json").write_text('["crane", "crane", "いぬ"]', encoding="utf-8")
    loaded = load_dataset(f"folder:{root}", class_names=tmp_path / "names.json")
    assert loaded.class_names == ("crane", "crane", "いぬ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("names.txt", "one\n", "1 names for 2 classes"),
        ("names.txt", "one\n\ntwo\n", "3 names for 2 classes"),
        ("names.txt", "one\n \n", "name 2 is empty"),
        ("names.json", '{"a": "x"}', "no name for 1 of 2 classes, the first being 'b'"),
        ("names.json", "[1, 2]", "expected a list of names"),
        ("names.json", '"ab"', "expected a list of names"),
        ("names.json", "{", "cannot read class names"),
        ("names.txt", None, "cannot read class names"),
    ],
)
def test_wrong_class_name_files(image_folder, tmp_path, name, text, message):
    root = image_folder({"a": (1, 1), "b": (1, 1)})
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(f"folder:{root}", class_names=tmp_path / name)


def test_wordnet_folders_get_imagenets_names(image_folder):
    root = image_folder({SHARK: (1, 1), GOLDFISH: (1, 1)})
    assert load_dataset(f"folder:{root}").class_names == ("goldfish", "great white shark")


def test_an_unknown_wordnet_id_asks_for_names(image_folder):
    root = image_folder({"n99999999": (1, 1), GOLDFISH: (1, 1)})
    with pytest.raises(UserError, match="n99999999 is not among ImageNet-1k's classes"):
        load_dataset(f"folder:{root}")
