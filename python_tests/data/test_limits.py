"""Fewer images: which are kept, of what, and that the feature store tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awpf_ext.data import (
    FeatureSet,
    FeatureStore,
    ImageDataset,
    Limits,
    extract_features,
    limited,
    load_dataset,
)
from awpf_ext.data.images import ArraySplit


def drawn(labels, domains=None) -> ImageDataset:
    """A data set in memory whose image i is i everywhere."""
    labels = torch.tensor(labels)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    split = ArraySplit("drawn", np.broadcast_to(pixels, (len(labels), 4, 4, 3)), labels)
    keys = tuple(f"class {label}" for label in range(int(labels.max()) + 1))
    if domains is None:
        return ImageDataset("drawn", keys, split, split, {"made": "here"}, keys)
    domain = torch.tensor(domains)
    names = tuple(f"domain {number}" for number in range(int(domain.max()) + 1))
    return ImageDataset("drawn", keys, split, split, {}, keys, names, domain, domain)


def kept(split) -> list[int]:
    return [np.asarray(split.read(row))[0, 0, 0].item() for row in range(len(split.labels))]


def test_a_limit_keeps_images_evenly_spread_over_each_class():
    data = drawn([0] * 10 + [1] * 3 + [0] * 2)
    fewer = limited(data, Limits(train=4, test=5))
    assert kept(fewer.train) == [0, 3, 6, 9, 10, 11, 12]  # of class 0's 12 each third
    assert fewer.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert kept(fewer.test) == [0, 2, 4, 7, 9, 10, 11, 12]
    assert fewer.notes == {"made": "here", "train_limit": 4, "test_limit": 5}
    assert fewer.train.name(2) == "drawn image 6"


def test_no_limit_leaves_the_data_set_as_it_is():
    data = drawn([0, 1])
    assert limited(data, Limits()) is data
    assert kept(limited(data, Limits(train=9)).train) == [0, 1]


def test_limits_hold_in_each_domain():
    data = drawn([0, 0, 0, 0, 1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    fewer = limited(data, Limits(train=2))
    assert kept(fewer.train) == [0, 2, 4, 5, 6, 7, 8]
    assert fewer.train_domain.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert kept(fewer.test) == list(range(10))
    assert torch.equal(fewer.test_domain, data.test_domain)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(imbalance=0.01), [100, 31, 10, 3, 1]),
        (Limits(imbalance=0.5), [100, 84, 70, 59, 50]),
        (Limits(train=20, imbalance=0.01), [20, 6, 2, 1, 1]),  # the tail keeps one
        (Limits(imbalance=1.0), [100] * 5),
    ],
)
def test_a_long_tail_is_exponential(limits, expected):
    """n_k = floor(n_max imbalance^(k / (C - 1))), at least one."""
    data = drawn([label for label in range(5) for _ in range(100)])
    fewer = limited(data, limits)
    assert torch.bincount(fewer.train.labels).tolist() == expected
    assert torch.bincount(fewer.test.labels).tolist() == [100] * 5


def test_a_long_tail_takes_no_more_than_there_is():
    fewer = limited(drawn([0] * 8 + [1] * 2 + [2] * 8), Limits(imbalance=0.5))
    assert torch.bincount(fewer.train.labels).tolist() == [8, 2, 4]
    only = limited(drawn([0, 0, 0]), Limits(imbalance=0.1))
    assert kept(only.train) == [0, 1, 2]


def test_ready_made_features_are_limited_too():
    y = torch.tensor([0] * 6 + [1] * 2)
    x = torch.arange(8.0)[:, None].expand(8, 2)
    features = FeatureSet(x, y, x, y, torch.eye(2), ("a", "b"), 100.0, {"dataset": "made"})
    fewer = limited(features, Limits(train=3, imbalance=0.5))
    assert fewer.train_x[:, 0].tolist() == [0, 2, 4, 6]
    assert fewer.train_y.tolist() == [0, 0, 0, 1]
    assert torch.equal(fewer.test_x, x)
    assert fewer.provenance == {
        "dataset": "made",
        "train_limit": 3,
        "imbalance": 0.5,
        "train_images": 4,
        "test_images": 8,
    }


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_the_store_tells_subsets_apart(kind, image_folder, counted, tmp_path, same_features):
    if kind == "files":
        data = load_dataset(f"folder:{image_folder({'a': (5, 1), 'b': (5, 1)})}")
    else:
        data = drawn([0] * 5 + [1] * 5)
    store = FeatureStore(tmp_path / "store")
    two = limited(data, Limits(train=2))
    first = extract_features(two, counted, store)
    assert counted.images == 4 + len(data.test.labels)
    assert same_features(extract_features(limited(data, Limits(train=2)), counted, store), first)
    assert counted.images == 4 + len(data.test.labels)  # nothing anew
    three = extract_features(limited(data, Limits(train=3)), counted, store)
    assert len(three.train_y) == 6
    assert counted.images == 10 + len(data.test.labels)
    assert torch.equal(three.train_x[0], first.train_x[0])  # the first image of either
