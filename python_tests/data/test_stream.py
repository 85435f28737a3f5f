"""Task streams: every row once, in the right task, under the right label."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from awpf_ext.data import FeatureSet, class_order, task_stream
from awpf_ext.errors import DataError, UserError


def feature_set(train_y, test_y, classes: int, dtype=torch.float32) -> FeatureSet:
    """Features whose first column is the row number and second the label."""

    def x(y):
        numbered = torch.stack([torch.arange(len(y)), y], dim=1)
        return numbered.to(dtype)

    train_y, test_y = (torch.as_tensor(y, dtype=torch.int64) for y in (train_y, test_y))
    text = torch.nn.functional.normalize(torch.randn(classes, 2), dim=1)
    names = tuple(f"class {i}" for i in range(classes))
    return FeatureSet(x(train_y), train_y, x(test_y), test_y, text, names, 50.0, {"dataset": "d"})


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(1, 12),
    base=st.integers(0, 12),
    increment=st.integers(1, 14),
    seed=st.integers(0, 10),
    train_y=st.lists(st.integers(0, 11), min_size=1, max_size=40),
    test_y=st.lists(st.integers(0, 11), max_size=40),
)
def test_every_row_is_in_one_task_under_its_label(classes, base, increment, seed, train_y, test_y):
    base = min(base, classes)
    train_y, test_y = ([label % classes for label in y] for y in (train_y, test_y))
    features = feature_set(train_y, test_y, classes)
    stream = task_stream(features, base=base, increment=increment, order=f"seed:{seed}")
    rows = []
    seen = 0
    for index, task in enumerate(stream):
        assert task.index == index
        assert task.classes.start == seen
        seen = task.classes.stop
        assert stream.seen(index) == seen
        for x, y in ((task.train_x, task.train_y), (task.test_x, task.test_y)):
            assert x.dtype == torch.float32
            assert x.is_contiguous()
            assert all(label in task.classes for label in y.tolist())
            assert [stream.class_order[label] for label in y.tolist()] == x[:, 1].tolist()
            assert (x[1:, 0] > x[:-1, 0]).all()  # the data set's own order
        rows += task.train_x[:, 0].tolist()
    assert seen == classes
    assert sorted(rows) == list(range(len(train_y)))
    x, y = stream.test_seen(len(stream) - 1)
    assert sorted(x[:, 0].tolist()) == list(range(len(test_y)))
    assert torch.equal(y, torch.cat([task.test_y for task in stream]))


@pytest.mark.parametrize(
    ("base", "increment", "sizes"),
    [
        (0, 10, [10] * 10),
        (50, 5, [50] + [5] * 10),
        (0, 1, [1] * 100),
        (0, 30, [30, 30, 30, 10]),
        (50, 20, [50, 20, 20, 10]),
        (100, 7, [100]),
        (0, 200, [100]),
        (99, 50, [99, 1]),
    ],
)
def test_base_and_increment(base, increment, sizes):
    stream = task_stream(feature_set(range(100), [0], 100), base=base, increment=increment)
    assert [len(task.classes) for task in stream] == sizes


def test_text_and_names_follow_the_order():
    features = feature_set([0, 1, 2, 3], [0], 4)
    stream = task_stream(features, base=0, increment=3, order="seed:5")
    order = np.random.RandomState(5).permutation(4).tolist()
    assert list(stream.class_order) == order
    assert torch.equal(stream.text, features.text[order])
    assert stream.class_names == tuple(features.class_names[label] for label in order)
    assert (stream.logit_scale, stream.dim) == (50.0, 2)


def test_a_stream_is_a_sequence():
    stream = task_stream(feature_set(range(5), range(5), 5), base=0, increment=2)
    assert len(stream) == 3
    assert stream[-1].index == 2
    assert [task.index for task in stream[1:]] == [1, 2]
    for index in (3, -4):
        with pytest.raises(IndexError, match="of a stream of 3 tasks"):
            stream[index]


def test_evaluation_needs_no_training_data():
    stream = task_stream(feature_set(range(6), [5, 0, 3, 0], 6), base=0, increment=2)
    x, y = stream.test(0)
    assert x[:, 0].tolist() == [1.0, 3.0]
    assert y.tolist() == [0, 0]
    assert stream.test_seen(1)[0][:, 0].tolist() == [1.0, 3.0, 2.0]


def test_classes_without_images_are_recorded_and_harmless():
    stream = task_stream(feature_set([0, 0, 2], [0, 1], 4), base=0, increment=1)
    assert stream.provenance["classes_without_train_images"] == [1, 3]
    assert stream.provenance["classes_without_test_images"] == [2, 3]
    assert [len(task.train_y) for task in stream] == [2, 0, 1, 0]
    assert [tuple(task.test_x.shape) for task in stream] == [(1, 2), (1, 2), (0, 2), (0, 2)]


def test_half_features_become_float32():
    stream = task_stream(feature_set([0, 1], [1], 2, torch.float16), base=0, increment=1)
    assert stream[0].train_x.dtype == stream[1].test_x.dtype == torch.float32


def test_no_training_images_at_all_is_an_error():
    with pytest.raises(DataError, match="no training images"):
        task_stream(feature_set([], [0], 1), base=0, increment=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": -1, "increment": 1}, "base is -1; expected 0..3"),
        ({"base": 4, "increment": 1}, "base is 4; expected 0..3"),
        ({"base": 0, "increment": 0}, "increment is 0; expected at least 1"),
        ({"base": 0, "increment": 1, "order": "random"}, "order is 'random'; expected natural"),
        ({"base": 0, "increment": 1, "order": "seed:x"}, "seed:N"),
        ({"base": 0, "increment": 1, "order": "seed:-1"}, "seed:N"),
        ({"base": 0, "increment": 1, "order": f"seed:{2**32}"}, "seed:N"),
        ({"base": 0, "increment": 1, "order": "file:"}, "file:PATH"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        task_stream(feature_set([0, 1, 2], [0], 3), **arguments)


def test_orders():
    assert class_order("natural", 3) == (0, 1, 2)
    expected = np.random.RandomState(1993).permutation(100).tolist()
    assert class_order("seed:1993", 100) == tuple(expected)
    assert all(type(label) is int for label in class_order("seed:1993", 100))


@pytest.mark.parametrize("text", ["[2, 0, 1]", "2 0 1", "2\n0\n1\n"])
def test_an_order_from_a_file(tmp_path, text):
    (tmp_path / "order").write_text(text)
    assert class_order(f"file:{tmp_path}/order", 3) == (2, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 1", "class 1 appears more than once"),
        ("0 1", "2 is missing"),
        ("0 1 2 3", "3 is foreign"),
        ("0 one 2", "cannot read a class order"),
        ("[0, 1.5, 2]", "cannot read a class order"),
        ("[0, 1", "cannot read a class order"),
    ],
)
def test_a_bad_order_file_is_refused(tmp_path, text, message):
    (tmp_path / "order").write_text(text)
    with pytest.raises(DataError, match=message):
        class_order(f"file:{tmp_path}/order", 3)
    with pytest.raises(DataError, match="No such file"):
        class_order(f"file:{tmp_path}/missing", 3)


def test_the_order_hash_names_the_order_alone():
    features = feature_set(range(6), [0], 6)
    hashes = {
        spec: task_stream(features, base=0, increment=step, order=spec).order_hash
        for spec, step in (("natural", 1), ("seed:0", 2), ("seed:1", 2))
    }
    assert len(set(hashes.values())) == 3
    again = task_stream(features, base=2, increment=3, order="seed:0")
    assert again.order_hash == hashes["seed:0"] == again.provenance["order_hash"]
    listed = json.dumps(list(again.class_order)).encode()
    assert again.order_hash == hashlib.sha256(listed).hexdigest()[:16]
    assert again.provenance["dataset"] == "d"
    json.dumps(again.provenance)


def in_domains(train_domain, test_domain, names=("a", "b", "c")) -> FeatureSet:
    """Two classes, one after the other, in the domains given."""
    train_y, test_y = ([row % 2 for row in range(len(d))] for d in (train_domain, test_domain))
    return replace(
        feature_set(train_y, test_y, 2),
        domain_names=names,
        train_domain=torch.tensor(train_domain),
        test_domain=torch.tensor(test_domain),
    )


def test_a_task_of_the_domain_protocol_is_a_domain_with_all_classes():
    features = in_domains([2, 0, 0, 2, 1, 0], [0, 1, 2, 2])
    order = class_order("seed:1", 3)
    stream = task_stream(features, protocol="domain", order="seed:1")
    assert stream.protocol == "domain"
    assert stream.domain_names == tuple("abc"[domain] for domain in order)
    assert stream.class_order == (0, 1)
    assert stream.provenance["domains"] == list(stream.domain_names)
    for index, domain in enumerate(order):
        task = stream[index]
        assert task.classes == range(2)
        assert stream.seen(index) == 2
        rows = [row for row, of in enumerate([2, 0, 0, 2, 1, 0]) if of == domain]
        assert task.train_x[:, 0].tolist() == rows
        assert task.train_y.tolist() == [row % 2 for row in rows]
        tested = [row for row, of in enumerate([0, 1, 2, 2]) if of == domain]
        assert task.test_x[:, 0].tolist() == tested
        assert len(stream.test_seen(index)[1]) == sum(
            of in order[: index + 1] for of in [0, 1, 2, 2]
        )


def test_rows_are_found_by_their_names_in_every_order():
    features = feature_set([0, 1, 2, 3] * 3, [0, 1, 2, 3], 4)
    for order in ("natural", "seed:3"):
        for task in task_stream(features, base=1, increment=2, order=order):
            assert torch.equal(task.features[task.train_ids].float(), task.train_x)
            labels = [features.train_y[row].item() for row in task.train_ids]
            assert labels == task.train_x[:, 1].tolist()
            assert task.images is None


def test_what_is_wrong_with_domains_is_told():
    with pytest.raises(UserError, match="protocol is domain, but d has no domains"):
        task_stream(feature_set([0], [0], 1), protocol="domain")
    features = in_domains([0, 1], [0])
    with pytest.raises(UserError, match="expected class or domain"):
        task_stream(features, protocol="task")
    with pytest.raises(DataError, match=r"train_domain has values outside 0\.\.2"):
        in_domains([0, 3], [0])
    with pytest.raises(DataError, match=r"expected int64 and \(2,\) as train_y"):
        replace(features, train_domain=torch.tensor([0]))
    with pytest.raises(DataError, match="3 domain names, but no test_domain"):
        replace(features, test_domain=None)


def test_domains_do_not_change_the_class_protocol():
    features = in_domains([2, 0, 0, 2], [0, 1])
    stream = task_stream(features, increment=1, order="natural")
    assert [task.train_x[:, 0].tolist() for task in stream] == [[0, 2], [1, 3]]
    assert stream.domain_names == ()
    with pytest.raises(DataError, match="has features, but no images"):
        stream.test_images(0)


def test_an_order_file_of_domains_speaks_of_domains(tmp_path):
    file = tmp_path / "order.txt"
    file.write_text("0 1")
    features = in_domains([0, 1, 2], [0, 1, 2])
    with pytest.raises(DataError, match=r"2 domains, expected each of 0\.\.2 once; 2 is missing"):
        task_stream(features, protocol="domain", order=f"file:{file}")
