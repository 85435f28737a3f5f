"""Data sets with domains: their layouts, what is refused, and what reaches the stream."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from awpf_ext.data import FeatureStore, extract_features, load_dataset, task_stream
from awpf_ext.data.demo import STYLES
from awpf_ext.errors import DataError

SMALL = {
    "clipart": {"train": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}},
    "sketch": {"train": {"cat": 1, "dog": 3}, "test": {"dog": 2}},
}


@pytest.fixture
def domain_folders(tmp_path, save_png):
    """PATH/DOMAIN/train|test/CLASS/N.png."""
    root = tmp_path / "mine"
    for domain, splits in SMALL.items():
        for split, classes in splits.items():
            for name, count in classes.items():
                for number in range(count):
                    path = root / domain / split / name / f"{number}.png"
                    save_png(path, len(str(path)) * 7 + number)
    return root


@pytest.fixture
def domainnet(tmp_path, save_png):
    """The lists and folders of two of DomainNet's six domains; labels 3 and 7."""
    root = tmp_path / "DomainNet"
    labels = {"cat": 3, "dog": 7}
    for domain, splits in SMALL.items():
        for split, classes in splits.items():
            lines = []
            for name, count in classes.items():
                for number in range(count):
                    file = f"{domain}/{name}/{domain}_{labels[name]:03d}_{split}{number}.png"
                    save_png(root / file, number)
                    lines.append(f"{file} {labels[name]}\n")
            (root / f"{domain}_{split}.txt").write_text("".join(lines))
    return root


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("layout", ["domain_folders", "domainnet"])
def test_both_layouts_tell_classes_and_domains(layout, request):
    root = request.getfixturevalue(layout)
    name = "domains" if layout == "domain_folders" else "domainnet"
    data = load_dataset(f"{name}:{root}")
    assert data.domain_names == ("clipart", "sketch")
    assert data.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1, 0, 1, 1, 1]
    assert data.train_domain.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 1, 1, 1]
    assert data.test_domain.tolist() == [0, 0, 1, 1]
    for row in range(7):
        domain, key = data.domain_names[data.train_domain[row]], data.class_keys[0]
        path = Path(data.train.name(row)).relative_to(root)
        assert path.parts[0] == domain
        assert (key in path.parts) == (data.train.labels[row] == 0)
        assert data.train.read(row).size == (10, 12)


def test_a_domain_stream_has_a_domain_a_task(domain_folders, tiny, tmp_path):
    data = load_dataset(f"domains:{domain_folders}")
    features = extract_features(data, tiny, FeatureStore(tmp_path / "store"))
    stream = task_stream(features, protocol="domain", order="seed:0")
    assert stream.domain_names == ("sketch", "clipart")
    assert [task.classes for task in stream] == [range(2), range(2)]
    for task, rows, labels in zip(
        stream, ([3, 4, 5, 6], [0, 1, 2]), ([0, 1, 1, 1], [0, 0, 1]), strict=True
    ):
        assert task.train_ids.tolist() == rows
        assert task.train_y.tolist() == labels
        for row, pixels in zip(rows, task.images[task.train_ids], strict=True):
            assert np.array_equal(pixels, tiny.prepare(data.train.read(row)))
    assert [len(stream.test_seen(i)[1]) for i in range(2)] == [2, 4]
    assert len(stream.test_images_seen(1)) == 4


def test_classes_of_all_domains_come_together_in_the_class_protocol(domain_folders, tiny, tmp_path):
    data = load_dataset(f"domains:{domain_folders}")
    features = extract_features(data, tiny, FeatureStore(tmp_path / "store"))
    stream = task_stream(features, increment=1, order="natural")
    assert [task.train_ids.tolist() for task in stream] == [[0, 1, 3], [2, 4, 5, 6]]
    assert [len(task.test_y) for task in stream] == [1, 3]


def test_unreadable_images_lose_their_domain_too(domain_folders, tiny, tmp_path):
    (domain_folders / "clipart" / "train" / "cat" / "0.png").write_bytes(b"rubbish")
    data = load_dataset(f"domains:{domain_folders}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = extract_features(
            data, tiny, FeatureStore(tmp_path / "store"), on_unreadable="skip"
        )
    assert features.train_domain.tolist() == [0, 0, 1, 1, 1, 1]
    assert torch.equal(
        features.train_images[[0]][0], torch.from_numpy(tiny.prepare(data.train.read(1)))
    )


def test_any_domains_of_domainnet_will_do(domainnet):
    for part in domainnet.glob("sketch*.txt"):
        part.unlink()
    (domainnet / "sketch").rename(domainnet / "unpacked-later")
    assert load_dataset(f"domainnet:{domainnet}").domain_names == ("clipart",)


def test_an_image_missing_from_domainnet_is_named(domainnet, tiny, tmp_path):
    (domainnet / "sketch" / "dog" / "sketch_007_train1.png").unlink()
    data = load_dataset(f"domainnet:{domainnet}")
    with pytest.raises(
        DataError, match=r"(?s)1 image cannot be read.*sketch_007_train1\.png.*No such"
    ):
        extract_features(data, tiny, FeatureStore(tmp_path / "store"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "sketch_test.txt").unlink(),
         "only a part of domain sketch: there is no sketch_test.txt"),
        (lambda root: (root / "sketch").rename(root / "other"),
         "only a part of domain sketch: there is no sketch$"),
        (lambda root: rewrite(root / "sketch_train.txt", "cat/", "bat/"),
         r"sketch_train.txt, line 1: label 3 of class bat is class cat's elsewhere"),
        (lambda root: rewrite(root / "clipart_test.txt", " 3\n", " 4\n"),
         r"clipart_test.txt, line 1: label 4 of class cat is 3 elsewhere"),
        (lambda root: rewrite(root / "clipart_test.txt", " 3\n", " three\n"),
         r"clipart_test.txt, line 1: .*expected clipart/CLASS/IMAGE LABEL"),
        (lambda root: rewrite(root / "clipart_test.txt", " 3\n", "\n"), "line 1: .*expected"),
        (lambda root: rewrite(root / "clipart_test.txt", "clipart/cat", "/etc/cat"),
         "line 1: .*expected"),
        (lambda root: rewrite(root / "clipart_test.txt", "/cat/", "/cat/../../../etc/"),
         "line 1: .*expected"),
        (lambda root: rewrite(root / "clipart_test.txt", "clipart/", "real/"),
         "line 1: .*expected clipart/"),
        (lambda root: (root / "clipart_test.txt").write_bytes(b"\xff\xfe\x00"), "cannot read"),
        (lambda root: (root / "sketch_test.txt").write_text("\n"),
         "domain sketch has no test images"),
    ],
)  # fmt: skip
def test_a_spoilt_domainnet_is_refused(domainnet, spoil, message):
    spoil(domainnet)
    with pytest.raises(DataError, match=message):
        load_dataset(f"domainnet:{domainnet}")


def test_layouts_without_domains_are_refused(tmp_path, image_folder, domain_folders):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected lists NAME_train"):
        load_dataset(f"domainnet:{tmp_path / 'empty'}")
    with pytest.raises(DataError, match="expected one folder per domain"):
        load_dataset(f"domains:{tmp_path / 'empty'}")
    with pytest.raises(DataError, match="one domain, which is folder:"):
        load_dataset(f"domains:{image_folder({'a': (1, 1)})}")
    (domain_folders / "clipart" / "test").rename(domain_folders / "clipart" / "later")
    with pytest.raises(DataError, match=r"clipart: expected folders train/ and test/"):
        load_dataset(f"domains:{domain_folders}")


def test_a_domain_without_test_images_is_refused(domain_folders):
    for image in (domain_folders / "sketch" / "test").rglob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match="domain sketch has no test images"):
        load_dataset(f"domains:{domain_folders}")


def test_demo_all_has_every_style_as_its_own_data_set_has_it():
    data = load_dataset("demo:all")
    assert data.domain_names == STYLES
    assert data.name == "demo:all"
    assert torch.bincount(data.train_domain).tolist() == [20_000] * 6
    assert torch.bincount(data.test.labels).tolist() == [300] * 100
    for place, style in enumerate(STYLES):
        alone = load_dataset(f"demo:{style}")
        row = place * 5000 + 4321
        assert data.test_domain[row] == place
        assert data.test.name(row) == alone.test.name(4321)
        assert data.test.read(row).tobytes() == alone.test.read(4321).tobytes()
        assert data.test.labels[row] == alone.test.labels[4321]
    prints = {data.train.fingerprint(start, start + 1024) for start in range(0, 120_000, 1024)}
    assert len(prints) == -(-120_000 // 1024)
