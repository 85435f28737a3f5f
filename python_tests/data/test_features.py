"""Ready-made features: read without unpickling, refused with the row that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from awpf_ext.data import FeatureSet, load_dataset, read_features, task_stream
from awpf_ext.data.features import nonfinite_rows
from awpf_ext.errors import DataError, UserError


def arrays(classes: int = 3, dim: int = 4, train: int = 9, test: int = 6) -> dict:
    generator = np.random.default_rng()
    return {
        "train_x": generator.normal(size=(train, dim)).astype(np.float16),
        "train_y": np.arange(train) % classes,
        "test_x": generator.normal(size=(test, dim)).astype(np.float64),
        "test_y": (np.arange(test) % classes).astype(np.uint8),
        "text": generator.normal(size=(classes, dim)),
        "classnames": np.array([f"klasse {i} ü" for i in range(classes)]),
    }


def saved(tmp_path, content: dict):
    path = tmp_path / "f.npz"
    np.savez(path, **content)
    return path


def test_an_npz_is_read_as_it_is(tmp_path):
    content = arrays()
    features = read_features(saved(tmp_path, content))
    assert features.train_x.dtype == torch.float16
    assert torch.equal(features.train_x, torch.from_numpy(content["train_x"]))
    assert features.test_x.dtype == torch.float32
    assert features.train_y.dtype == features.test_y.dtype == torch.int64
    assert torch.allclose(features.text.norm(dim=1), torch.ones(3))
    assert features.class_names == ("klasse 0 ü", "klasse 1 ü", "klasse 2 ü")
    assert features.logit_scale == 100.0
    assert (features.dim, features.num_classes) == (4, 3)
    assert features.provenance["dataset"] == "features:f.npz"


def test_the_content_hash_follows_the_content(tmp_path):
    content = arrays()
    first = read_features(saved(tmp_path, content)).provenance["content_hash"]
    assert read_features(saved(tmp_path, content)).provenance["content_hash"] == first
    content["train_y"][0] ^= 1
    assert read_features(saved(tmp_path, content)).provenance["content_hash"] != first


def test_a_logit_scale_in_the_file_counts(tmp_path):
    path = saved(tmp_path, {**arrays(), "logit_scale": np.float32(50)})
    assert load_dataset(f"features:{path}").logit_scale == 50.0


def test_domains_in_the_file_make_a_domain_stream(tmp_path):
    domains = {
        "train_domain": np.arange(9) // 5,
        "test_domain": np.array([1, 1, 0, 0, 0, 1], np.int8),
        "domainnames": np.array(["day", "nacht ü"]),
    }
    features = read_features(saved(tmp_path, {**arrays(), **domains}))
    stream = task_stream(features, protocol="domain", order="natural")
    assert stream.domain_names == ("day", "nacht ü")
    assert [task.train_ids.tolist() for task in stream] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert torch.equal(stream[0].test_x, features.test_x[[2, 3, 4]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domainnames": np.array(["a"])}, "1 domain names, but no train_domain"),
        ({"train_domain": np.zeros(9, int)}, "there is train_domain, but no domain names"),
        (
            {
                "domainnames": np.array(["a"]),
                "train_domain": np.zeros(9, int),
                "test_domain": np.zeros(5, int),
            },
            r"test_domain has type .* shape \(5,\); expected int64 and \(6,\)",
        ),
        ({"text": None}, "lacks text; it has classnames"),
        ({"train_y": np.arange(8) % 3}, r"train_y .* shape \(8,\); expected int64 and \(9,\)"),
        ({"train_y": np.arange(9.0)}, "train_y has type float64; expected integers"),
        ({"test_y": np.array([0, 1, 7, 0, 1, -2])}, r"outside 0..2 .* rows 2, 5, the first .* 7"),
        ({"train_x": np.zeros((9, 5), np.float32)}, r"train_x has shape \(9, 5\); expected \(n, 4"),
        ({"train_x": np.zeros(9, np.float32)}, r"train_x has shape \(9,\)"),
        ({"classnames": np.array(["a"])}, "text has shape .* for 1 class names"),
        ({"classnames": np.array(["a", 1, None], object)}, "without pickled objects"),
        ({"train_x": np.array([["x"] * 4] * 9)}, "f.npz"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, change, message):
    content = {**arrays(), **change}
    path = saved(tmp_path, {name: value for name, value in content.items() if value is not None})
    with pytest.raises(DataError, match=message) as error:
        read_features(path)
    assert "f.npz" in str(error.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    for content in (b"", b"rubbish", b"PK\x03\x04 cut"):
        (tmp_path / "f.npz").write_bytes(content)
        with pytest.raises(DataError, match="cannot read features from"):
            read_features(tmp_path / "f.npz")


def test_class_names_cannot_be_replaced_under_their_text_features(tmp_path):
    path = saved(tmp_path, arrays())
    with pytest.raises(UserError, match="brings its own class names"):
        load_dataset(f"features:{path}", class_names=tmp_path / "names.txt")


def test_nan_and_infinity_are_named_by_row(tmp_path):
    content = arrays()
    content["test_x"][4, 1] = np.nan
    content["test_x"][2, 0] = np.inf
    features = read_features(saved(tmp_path, content))
    with pytest.raises(DataError, match=r"test_x holds NaN or infinity in rows 2, 4$"):
        task_stream(features, base=0, increment=1)


def test_nonfinite_rows_across_chunks():
    x = torch.zeros(25, 3)
    x[[3, 9, 24], [0, 1, 2]] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    assert nonfinite_rows(x, chunk=4) == [3, 9, 24]
    assert nonfinite_rows(torch.full((4, 3), 6e4, dtype=torch.float16)) == []


def test_many_bad_rows_are_counted_not_listed():
    x = torch.full((30, 2), float("nan"))
    y = torch.zeros(30, dtype=torch.int64)
    features = FeatureSet(x, y, x, y, torch.ones(1, 2), ("a",), 100.0, {})
    with pytest.raises(DataError, match=r"rows 0, 1, .* and 20 more"):
        features.check_finite()


def test_the_shared_features_give_the_known_zero_shot_accuracy(shared_file):
    features = read_features(shared_file("imagenet309_clip_vitb32.npz"))
    hits = (features.test_x.float() @ features.text.T).argmax(dim=1) == features.test_y
    assert features.num_classes == 309
    assert hits.float().mean().item() == pytest.approx(0.686, abs=0.003)
