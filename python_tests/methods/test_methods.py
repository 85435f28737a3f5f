"""The methods: their formulas, their registry, and data that is short of something."""

from __future__ import annotations

import pytest
import torch
from error_bounds import backward_error, sum_error
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize

from awpf_ext.errors import UserError
from awpf_ext.fusion import delta_stack, qr_mask, svd_mask
from awpf_ext.methods import METHODS, create_method, method_config, register
from awpf_ext.methods._base.adapter import Batch
from awpf_ext.methods.calfuse import calibrated

ALL = ["zero_shot", "finetune", "rapf", "awpf", "calfuse"]
ADAPTERS = ALL[1:]
QUICK = {"epochs": 2, "replay_per_epoch": 40}
TEXT_ONLY = {"awpf": {"head": "none", "weights": "tau"}}  # the other adapter methods are so


def assert_same_logits(found, expected):
    """100 times the cosine, a sum of 16 products, in whatever order they are added up."""
    bound = 100 * sum_error(torch.float32, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)


def quick(name: str) -> dict[str, object]:
    return {} if name == "zero_shot" else {**QUICK, **TEXT_ONLY.get(name, {})}


def fitted(name, stream, tasks=None, settings=None, **arguments):
    method = create_method(name, stream, {**quick(name), **(settings or {})}, **arguments)
    for index in range(tasks or len(stream)):
        method.fit(stream[index])
    return method


def test_all_methods_are_registered():
    assert set(ALL) <= set(METHODS)


@pytest.mark.parametrize("name", ALL)
def test_logits_are_scaled_cosines_over_the_classes_seen(name, make_stream):
    stream = make_stream()
    method = fitted(name, stream, tasks=2)
    x, _ = stream.test_seen(1)
    logits = method.logits(x)
    assert logits.shape == (len(x), 6)
    assert not logits.requires_grad
    assert logits.abs().max() <= 100.01
    assert_same_logits(method.logits(x, 12)[:, :6], logits)


def test_zero_shot_is_the_cosine_with_the_texts(make_stream):
    stream = make_stream()
    method = fitted("zero_shot", stream)
    x, _ = stream.test_seen(3)
    expected = 100 * normalize(x, dim=1) @ stream.text.T
    assert_same_logits(method.logits(x), expected)


@pytest.mark.parametrize("name", ADAPTERS)
def test_identity_starts_as_zero_shot(name, make_stream):
    stream = make_stream()
    x, _ = stream.test_seen(3)
    start = create_method(name, stream).logits(x, 12)
    assert_same_logits(start, create_method("zero_shot", stream).logits(x, 12))


def test_uniform_initialisation(make_stream):
    stream = make_stream()
    method = create_method("rapf", stream, {"init": "uniform"}, seed=3)
    assert method.adapter.abs().max() <= 16**-0.5
    assert method.adapter.std() == pytest.approx(16**-0.5 / 3**0.5, rel=0.15)
    same = create_method("rapf", stream, {"init": "uniform"}, seed=3)
    assert torch.equal(method.adapter, same.adapter)


@pytest.mark.parametrize("name", ADAPTERS)
def test_learning_beats_zero_shot_on_shifted_classes(name, make_stream):
    stream = make_stream(train=20, test=20, classes=20, increment=5, dim=10)
    x, y = stream.test_seen(3)
    settings = {"epochs": 15, "replay_per_epoch": 200, "learning_rate": 5e-3}
    learned = fitted(name, stream, settings=settings).logits(x).argmax(1) == y
    zero_shot = fitted("zero_shot", stream).logits(x).argmax(1) == y
    assert learned.float().mean() > zero_shot.float().mean()


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_seed_gives_one_result(name, make_stream):
    stream = make_stream()
    first, again, other = (fitted(name, stream, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.adapter, again.adapter)
    assert not torch.equal(first.adapter, other.adapter)


@pytest.mark.parametrize("name", ADAPTERS)
def test_scaling_the_features_changes_nothing_but_the_ridge(name, make_stream):
    """By a power of two, which rounds nothing: training would enlarge any other difference."""
    x, _ = make_stream().test_seen(3)
    small = fitted(name, make_stream(), settings={"added_variance": 1e-8}, tasks=4)
    large = fitted(name, make_stream(scale=16.0), settings={"added_variance": 256e-8}, tasks=4)
    assert_same_logits(large.logits(16 * x), small.logits(x))


@pytest.mark.parametrize("name", ADAPTERS)
def test_fusion_is_that_of_the_method(name, make_stream, monkeypatch):
    stream = make_stream()
    method = fitted(name, stream, tasks=2)
    old = method.adapter.clone()
    trained = {}
    train = type(method).train

    def remember(self, task, progress):
        train(self, task, progress)
        trained["adapter"] = self.adapter.clone()

    monkeypatch.setattr(type(method), "train", remember)
    method.fit(stream[2])
    new = trained["adapter"]
    assert not torch.equal(old, new)
    expected = {
        "finetune": lambda: new,
        "rapf": lambda: svd_mask(old, new, 0.7),
        "calfuse": lambda: qr_mask(old, new, 0.7),
        "awpf": lambda: delta_stack(old, new, method.records[-1]["weight"], 64),
    }[name]()
    torch.testing.assert_close(method.adapter, expected)


def test_awpf_can_stack_literally(make_stream):
    """At full rank both ways are interpolation. After one fusion they differ by rounding, which
    further training would enlarge.
    """
    stream = make_stream()
    settings = {"stacking": "literal", "rank": 16, "balance_scale": 0.5}
    literal = fitted("awpf", stream, tasks=2, settings=settings)
    delta = fitted("awpf", stream, tasks=2, settings={**settings, "stacking": "delta"})
    bound = backward_error(torch.float32, literal.adapter.norm(), 16)
    assert (literal.adapter - delta.adapter).norm() <= bound
    narrow = fitted("awpf", stream, settings={**settings, "rank": 2})
    assert torch.linalg.matrix_rank(narrow.adapter, rtol=1e-5) <= 4


def test_awpf_records_what_it_was_weighed_by(make_stream):
    method = fitted("awpf", make_stream())
    assert [record["task"] for record in method.records] == [1, 2, 3]
    for record in method.records:
        assert set(record) == {"task", "mmd2", "separability", "alignment", "tau", "weight"}
        assert 0 < record["weight"] == record["tau"] <= 1
    assert method.records[0]["alignment"] == 1


def test_awpf_with_scale_zero_keeps_the_first_adapter(make_stream):
    stream = make_stream()
    first = fitted("awpf", stream, tasks=1, settings={"balance_scale": 0.0}).adapter.clone()
    last = fitted("awpf", stream, settings={"balance_scale": 0.0}).adapter
    torch.testing.assert_close(last, first)


def test_awpf_old_side_fits_its_limit(make_stream):
    stream = make_stream(train=9)
    method = fitted("awpf", stream, tasks=3, settings={"balance_rows": 20})
    x, labels = method.old_side(stream[3])
    assert x.shape == (18, 16)
    assert torch.unique(labels, return_counts=True)[1].tolist() == [9, 9]
    assert len(method.new_side(stream[3])[1]) == 20


def test_calfuse_calibration_and_distillation(make_stream):
    stream = make_stream()
    method = fitted("calfuse", stream)
    assert float(method.theta) != 0  # a was learned from 0.5
    x, _ = stream.test_seen(3)
    share = torch.sigmoid(method.theta)
    mixed = share * normalize(x, dim=1) + (1 - share) * normalize(x @ method.adapter.T, dim=1)
    assert_same_logits(method.logits(x), 100 * normalize(mixed, dim=1) @ stream.text.T)

    method.seen = 9
    batch = Batch(x, torch.zeros(len(x)), torch.ones(len(x)), len(x), torch.empty(0, 2))
    logits = method.logits(x, 12)
    old = 100 * normalize(calibrated(x, *method.teacher), dim=1) @ stream.text[:9].T
    expected = 4 * kl_div(
        log_softmax(logits[:, :9] / 2, 1), log_softmax(old / 2, 1).exp(), reduction="batchmean"
    )
    torch.testing.assert_close(method.distillation_loss(logits, batch), expected)


def test_calfuse_with_a_fixed_share(make_stream):
    stream = make_stream()
    method = fitted("calfuse", stream, settings={"calibration": 0.3, "distillation": 0.0})
    assert float(method.theta.sigmoid()) == pytest.approx(0.3)
    x, _ = stream.test_seen(3)
    whole = fitted("calfuse", stream, settings={"calibration": 1.0})
    assert_same_logits(whole.logits(x), fitted("zero_shot", stream).logits(x))


def test_class_balance_weighs_by_classes_and_its_absence_by_rows(make_stream):
    stream = make_stream(train=4)
    for balanced in (True, False):
        method = fitted("finetune", stream, tasks=3, settings={"class_balance": balanced})
        batch = next(method.batches(stream[3], torch.empty(0, 2, dtype=torch.int64)))
        assert batch.images == 12
        assert batch.labels[:12].min() >= 9
        assert batch.labels[12:].max() < 9
        logits = method.logits(batch.x, 12)
        losses = cross_entropy(logits, batch.labels, reduction="none")
        expected = losses.mean()
        if balanced:
            expected = 3 / 12 * losses[:12].mean() + 9 / 12 * losses[12:].mean()
        torch.testing.assert_close(method.classification_loss(logits, batch), expected)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    "shape",
    [
        {"classes": 5, "increment": 1},
        {"train": 1, "classes": 6, "increment": 2},
        {"train": 1, "classes": 4, "increment": 1},
        {"train": [5, 0, 3, 4, 0, 0, 2, 6], "classes": 8, "increment": 2},
        {"train": [0, 0, 3, 4, 2, 2], "classes": 6, "increment": 2},
        {"test": [5, 0, 3, 0, 0, 4], "classes": 6, "increment": 2},
        {"classes": 7, "increment": 3},
        {"classes": 7, "increment": 3, "base": 2},
        {"train": 40, "classes": 4, "increment": 2, "dim": 6},
    ],
    ids=[
        "increment one",
        "one image a class",
        "one image a task",
        "classes and a task without training images",
        "first task without training images",
        "tasks without test images",
        "smaller last task",
        "base",
        "more images than dimensions",
    ],
)
def test_data_that_is_short_of_something(name, shape, make_stream):
    stream = make_stream(**shape)
    method = fitted(name, stream, settings={"hinge": True, "hinge_threshold": 1.5})
    x, _ = stream.test_seen(len(stream) - 1)
    assert torch.isfinite(method.logits(x)).all()
    assert method.seen == len(stream.class_names)


@pytest.mark.slow
def test_a_compiled_loss_learns_the_same(make_stream):
    stream = make_stream()
    plain = fitted("finetune", stream, tasks=2)
    compiled = fitted("finetune", stream, tasks=2, settings={"compile": True})
    torch.testing.assert_close(compiled.adapter, plain.adapter, rtol=0, atol=1e-4)


def test_tasks_come_in_order(make_stream):
    stream = make_stream()
    with pytest.raises(ValueError, match="task 1 starts at class 3; expected 0"):
        create_method("rapf", stream).fit(stream[1])


def test_state_continues_a_method(make_stream):
    stream = make_stream()
    for name in ADAPTERS:
        whole = fitted(name, stream)
        half = fitted(name, stream, tasks=2)
        resumed = create_method(name, stream, quick(name))
        resumed.load_state_dict(half.state_dict())
        for block in half.statistics.blocks:
            resumed.statistics.append(block)
        resumed.fit(stream[2])
        resumed.fit(stream[3])
        assert torch.equal(resumed.adapter, whole.adapter), name


def test_misspelt_names_are_met_with_a_suggestion(make_stream):
    with pytest.raises(UserError, match="'raph'; did you mean 'rapf'"):
        method_config("raph")
    with pytest.raises(UserError, match="'learning_rat'; did you mean 'learning_rate'"):
        method_config("rapf", {"learning_rat": 1})
    with pytest.raises(UserError, match="rapf: epochs is 'many'"):
        method_config("rapf", {"epochs": "many"})
    with pytest.raises(UserError, match="awpf has no setting 'mask_bias'"):
        method_config("awpf", {"mask_bias": 0.5})
    with pytest.raises(UserError, match="preset is 'cifar'"):
        method_config("rapf", preset="cifar")


def test_a_name_belongs_to_one_method():
    with pytest.raises(ValueError, match="'rapf' already belongs to Rapf"):

        @register("rapf")
        class Impostor(METHODS["zero_shot"]):
            pass


def test_a_state_from_another_kind_of_device_is_learned_on(make_stream):
    stream = make_stream()
    method = fitted("finetune", stream, tasks=1)
    # CUDA's generators have states of 16 bytes.
    state = {**method.state_dict(), "generator": torch.zeros(16, dtype=torch.uint8)}
    continued = [create_method("finetune", stream) for _ in range(2)]
    for learner in continued:
        learner.load_state_dict(state)
        assert torch.equal(learner.logits(stream[1].test_x), method.logits(stream[1].test_x))
    draws = [torch.rand(8, generator=learner.generator) for learner in continued]
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(8, generator=torch.Generator().manual_seed(0)))
