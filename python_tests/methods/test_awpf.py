"""AWPF: its weights, the two readings of its balance factor, records, and data short of images."""

from __future__ import annotations

import pytest
import torch

from awpf_ext.errors import UserError
from awpf_ext.fusion import delta_stack
from awpf_ext.methods import create_method, method_config
from awpf_ext.methods._base.presets import preset_settings
from awpf_ext.methods.awpf import Awpf
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.trainer import train

QUICK = {"epochs": 2, "replay_per_epoch": 40}
MEASURED = {"task", "mmd2", "separability", "alignment", "tau", "weight"}
TEXT_ONLY = {"head": "none"}


def learned(stream, tasks=None, name="awpf", **settings):
    method = create_method(name, stream, {**QUICK, **settings})
    for index in range(tasks or len(stream)):
        method.fit(stream[index])
    return method


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, {"mean_weight", "weights", "head_share"}),
        (TEXT_ONLY, {"mean_weight", "weights"}),
        ({"weights": "tau"}, {"head_share"}),
        ({"weights": "constant", **TEXT_ONLY}, set()),
        ({"balance": "loss"}, {"head_share", "loss_tau"}),
        ({"balance": "both"}, {"mean_weight", "weights", "head_share", "loss_tau"}),
    ],
)
def test_a_task_records_what_decided(settings, more, make_stream):
    records = learned(make_stream(train=10), rank=5, **settings).records
    later = records[1:] if "head_share" in more else records
    assert [record["task"] for record in later] == [1, 2, 3]
    for record in later:
        assert set(record) == MEASURED | more
        if "weights" in more:
            assert len(record["weights"]) == 5
            assert all(0 <= weight <= 1 for weight in record["weights"])
            assert record["mean_weight"] == pytest.approx(sum(record["weights"]) / 5, rel=1e-5)
    if "head_share" in more:
        assert set(records[0]) == {"task", "head_share"}


def test_a_constant_weight_is_that_weight(make_stream):
    """The weight 1 at full rank keeps the adapter as trained, and 0 the first adapter."""
    stream = make_stream()
    fixed = {"weights": "constant", "rank": 16, **TEXT_ONLY}
    whole = learned(stream, 2, constant_weight=1.0, **fixed)
    trained = learned(stream, 2, name="finetune").adapter
    torch.testing.assert_close(whole.adapter, trained, rtol=0, atol=1e-5)
    first = learned(stream, 1, **fixed).adapter
    none = learned(stream, constant_weight=0.0, **fixed)
    torch.testing.assert_close(none.adapter, first)
    part = learned(stream, 2, constant_weight=0.25, **fixed)
    torch.testing.assert_close(part.adapter, 0.75 * first + 0.25 * trained, rtol=0, atol=1e-5)
    assert [record["weight"] for record in none.records] == [0.0] * 3


def test_the_preset_paper_is_the_abstract_alone(make_stream):
    stream = make_stream()
    paper = preset_settings("paper", Awpf.Config)
    method = learned(stream, 2, **paper)
    assert method.holdout is None
    assert method.head is None
    assert set(method.records[-1]) == MEASURED
    old = learned(stream, 1, **paper).adapter
    trained = learned(stream, 2, name="finetune").adapter
    expected = delta_stack(old, trained, method.records[-1]["weight"], 64)
    torch.testing.assert_close(method.adapter, expected, rtol=0, atol=1e-5)


def test_the_preset_text_only_leaves_out_the_head_alone(make_stream):
    stream = make_stream(train=10)
    both, text_only = learned(stream), learned(stream, **preset_settings("text-only", Awpf.Config))
    assert text_only.head is None
    assert torch.equal(text_only.adapter, both.adapter)


@pytest.mark.parametrize("balance", ["loss", "both"])
def test_the_two_losses_train_the_adapter(balance, make_stream):
    """mu = 0 draws the same batches, so what differs is the losses; a large mu makes them small."""
    stream = make_stream(train=10)

    def after(mu):
        settings = {"balance": balance, "balance_loss": mu, "weights": "tau", "epochs": 5}
        method = learned(stream, 2, head="none", learning_rate=1e-2, **settings)
        batch = next(method.batches(stream[2], torch.empty(0, 2, dtype=torch.int64)))
        return method, float(method.balanced_losses(batch))

    (without, high), (little, _), (much, low) = after(0.0), after(0.1), after(100.0)
    assert without.loss_tau == little.loss_tau == much.loss_tau > 0
    assert not torch.equal(without.adapter, little.adapter)
    assert low < high


def test_the_two_losses_are_those_of_the_formula(make_stream):
    stream = make_stream(train=10)
    method = learned(stream, 2, balance="loss", balance_loss=3.0, head="none")
    batch = next(method.batches(stream[2], torch.empty(0, 2, dtype=torch.int64)))
    plain = learned(stream, 2, balance="loss", balance_loss=0.0, head="none")
    plain.adapter, plain.loss_tau = method.adapter, method.loss_tau
    extra = method.loss(batch, stream[2]) - plain.loss(batch, stream[2])
    torch.testing.assert_close(extra, 3 * method.balanced_losses(batch))
    method.loss_tau = 1.0
    mmd = float(method.balanced_losses(batch))
    method.loss_tau = 0.0
    overlap = float(method.balanced_losses(batch))
    method.loss_tau = 0.25
    assert 0 < mmd < 2
    assert 0 < overlap < 1
    assert float(method.balanced_losses(batch)) == pytest.approx(0.25 * mmd + 0.75 * overlap)


def test_with_balance_loss_nothing_is_fused(make_stream):
    stream = make_stream(train=10)
    method = learned(stream, 2, balance="loss")
    old, new = torch.eye(16), torch.full((16, 16), 0.5)
    assert method.fuse(old, new, stream[1]) is new
    assert [record["weight"] for record in method.records[1:]] == [1.0]


@pytest.mark.parametrize(
    "shape",
    [
        {"train": [5, 0, 3, 4, 0, 0, 2, 6], "classes": 8, "increment": 2},
        {"train": [0, 0, 3, 4, 2, 2], "classes": 6, "increment": 2},
        {"train": 2, "classes": 6, "increment": 2},
        {"train": [1, 1, 2, 1, 9, 1], "classes": 6, "increment": 2},
        {"train": 6, "classes": 4, "increment": 1},
        {"train": 40, "classes": 4, "increment": 2, "dim": 6},
    ],
    ids=[
        "a task without training images",
        "first task without training images",
        "two images a class",
        "most classes with one image",
        "increment one",
        "more images than dimensions",
    ],
)
@pytest.mark.parametrize(
    "settings", [{}, {"balance": "both", "max_rank": 1, "rank": 3}], ids=["default", "both"]
)
def test_data_short_of_images_is_learned_and_resumed(settings, shape, make_stream, tmp_path):
    stream = make_stream(**shape)
    settings = {**QUICK, **settings}
    whole = create_method("awpf", stream, settings)
    train(stream, whole, folder=RunFolder(tmp_path))
    x, _ = stream.test_seen(len(stream) - 1)
    assert whole.logits(x).isfinite().all()
    assert whole.head.classes == len(stream.class_names)
    RunFolder(tmp_path).task_result_file(len(stream) - 1).unlink()
    again = create_method("awpf", stream, settings)
    train(stream, again, folder=RunFolder(tmp_path), resume=True)
    assert torch.equal(again.logits(x), whole.logits(x))
    assert again.records == whole.records


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("head", "svm", "head is 'svm'"),
        ("weights", "none", "weights is 'none'"),
        ("balance", "mmd", "balance is 'mmd'"),
        ("weight_prior", -1, "weight_prior is -1"),
        ("constant_weight", 1.5, "constant_weight is 1.5"),
        ("balance_loss", -0.5, "balance_loss is -0.5"),
        ("rank", 0, "rank is 0"),
    ],
)
def test_a_setting_out_of_range_is_told_in_one_sentence(setting, value, words):
    with pytest.raises(UserError, match=f"awpf: {words}") as told:
        method_config("awpf", {setting: value})
    assert "\n" not in str(told.value)
