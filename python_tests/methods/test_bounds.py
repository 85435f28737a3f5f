"""The bounds: naive learns each task alone, joint all tasks anew."""

from __future__ import annotations

import pytest
import torch

from awpf_ext.errors import UserError
from awpf_ext.methods import METHODS, create_method, method_config

QUICK = {"epochs": 3, "learning_rate": 5e-3}


def fitted(name, stream, tasks=None, **settings):
    method = create_method(name, stream, {**QUICK, **settings})
    for index in range(tasks or len(stream)):
        method.fit(stream[index])
    return method


def test_they_are_marked_as_bounds():
    marked = {name: method.bound for name, method in METHODS.items() if method.bound}
    assert marked == {"naive": "lower", "joint": "upper"}


def test_naive_is_finetune_without_replay(make_stream):
    stream = make_stream()
    expected = fitted("finetune", stream, replay_per_epoch=0)
    assert torch.equal(fitted("naive", stream).adapter, expected.adapter)


def test_joint_is_one_task_with_everything(make_stream):
    stream = make_stream(increment=3)
    whole = make_stream(increment=12)
    joint = create_method("joint", stream, QUICK)
    for index in range(3):
        joint.fit(stream[index])
    joint.generator = torch.Generator().manual_seed(0)
    joint.fit(stream[3])
    assert torch.equal(joint.adapter, fitted("naive", whole).adapter)


@pytest.mark.parametrize("init", ["identity", "uniform"])
def test_joint_starts_every_task_from_the_initial_adapter(make_stream, init):
    stream = make_stream()
    joint = create_method("joint", stream, {"init": init, "epochs": 0}, seed=3)
    before = joint.adapter.clone()
    for task in stream:
        joint.fit(task)
    assert torch.equal(joint.adapter, before)
    assert joint.rows.tolist() == list(range(12 * 8))


@pytest.mark.parametrize("name", ["naive", "joint"])
def test_a_resumed_run_equals_an_uninterrupted_one(name, make_stream):
    stream = make_stream()
    whole = fitted(name, stream, init="uniform")
    half = fitted(name, stream, tasks=2, init="uniform")
    resumed = create_method(name, stream, {**QUICK, "init": "uniform"})
    resumed.load_state_dict(half.state_dict())
    for index in (2, 3):
        resumed.fit(stream[index])
    assert torch.equal(resumed.adapter, whole.adapter)


def test_an_export_of_joint_holds_no_rows(make_stream):
    stream = make_stream()
    joint = fitted("joint", stream)
    state = joint.learned_state()
    assert set(state) == {"seen", "adapter"}
    loaded = create_method("joint", stream, QUICK)
    loaded.load_state_dict(state)
    x, _ = stream.test_seen(3)
    assert torch.equal(loaded.logits(x), joint.logits(x))


@pytest.mark.parametrize("name", ["naive", "joint"])
def test_they_learn_domains(name, domain_stream):
    method = fitted(name, domain_stream)
    x, y = domain_stream.test_seen(2)
    zero_shot = create_method("zero_shot", domain_stream)
    accuracy = (method.logits(x, 6).argmax(1) == y).float().mean()
    assert accuracy > (zero_shot.logits(x, 6).argmax(1) == y).float().mean()


def test_joint_beats_naive_after_the_last_task(make_stream):
    stream = make_stream(train=20, test=20, classes=20, increment=4, dim=10)
    x, y = stream.test_seen(4)
    accuracy = {
        name: (fitted(name, stream, epochs=15).logits(x).argmax(1) == y).float().mean()
        for name in ("naive", "joint")
    }
    assert accuracy["joint"] > accuracy["naive"]


def test_settings_of_replay_are_unknown_to_them():
    for name in ("naive", "joint"):
        for key in ("replay_per_epoch", "class_balance", "hinge", "max_rank"):
            with pytest.raises(UserError, match=f"{name} has no setting '{key}'"):
                method_config(name, {key: 1})


def test_a_task_without_images_changes_nothing_in_naive(make_stream):
    stream = make_stream(train=[5, 4, 0, 0, 3, 3], classes=6, increment=2)
    method = fitted("naive", stream, tasks=1)
    before = method.adapter.clone()
    method.fit(stream[1])
    assert torch.equal(method.adapter, before)
