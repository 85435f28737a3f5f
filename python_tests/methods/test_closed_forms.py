"""The closed forms: exact whatever the order and size of tasks, and equal to their references."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn.functional import normalize, one_hot

from awpf_ext.data.features import FeatureSet
from awpf_ext.data.stream import TaskStream, task_stream
from awpf_ext.errors import UserError
from awpf_ext.methods import METHODS, create_method, method_config
from awpf_ext.methods._base.pooled_covariance import shrunk_covariance
from awpf_ext.methods.ridge import held_out

SETTINGS = {
    "ncm": {},
    "slda": {},
    "klda": {"width": 50},
    "ridge": {"width": 50, "penalty": 0.1},
    "cca": {"width": 50},
}
FIXED = [
    *SETTINGS.items(),
    ("ridge", {"width": None, "penalty": 0.1}),
    ("ridge", {"width": 50, "prior": "text", "penalty": 0.1}),
]
VARIANTS = [*FIXED, ("ridge", {"width": 50}), ("ridge", {"width": 50, "prior": "text"})]
CHOOSES = [{"width": 50}, {"width": 50, "prior": "text"}, {"width": None, "prior": "text"}]


@pytest.fixture
def features() -> FeatureSet:
    """Twelve Gaussian classes around points off their texts, with 3 to 12 images."""
    counts = torch.tensor([6, 9, 8, 3, 7, 8, 12, 5, 8, 8, 4, 10])
    text = normalize(torch.randn(12, 16), dim=1)
    centres = normalize(text + 0.8 * normalize(torch.randn(12, 16), dim=1), dim=1)
    train_y = torch.arange(12).repeat_interleave(counts)
    test_y = torch.arange(12).repeat_interleave(4)
    return FeatureSet(
        train_x=centres[train_y] + 0.12 * torch.randn(len(train_y), 16),
        train_y=train_y,
        test_x=centres[test_y] + 0.12 * torch.randn(len(test_y), 16),
        test_y=test_y,
        text=text,
        class_names=tuple(map(str, range(12))),
        logit_scale=100.0,
        provenance={"dataset": "gaussian"},
    )


def fitted(name: str, stream: TaskStream, tasks: Sequence[int] | None = None, **settings):
    method = create_method(name, stream, settings or SETTINGS[name])
    for index in range(len(stream)) if tasks is None else tasks:
        method.fit(stream[index])
    return method


def reordered(method, stream: TaskStream, x: torch.Tensor) -> torch.Tensor:
    """Logits with the classes in the order of the data set."""
    return method.logits(x)[:, torch.tensor(stream.class_order).argsort()]


@pytest.mark.parametrize(("name", "settings"), FIXED)
def test_tasks_and_their_order_change_nothing(name, settings, features):
    found = []
    for base, increment, order in ((0, 12, "natural"), (0, 3, "seed:4"), (5, 1, "seed:9")):
        stream = task_stream(features, base=base, increment=increment, order=order)
        method = fitted(name, stream, **settings)
        scale = method.scale if name == "ridge" else 1.0  # fits the latest task
        found.append(reordered(method, stream, features.test_x) / scale)
    for other in found[1:]:
        torch.testing.assert_close(
            other, found[0], rtol=1e-3, atol=1e-3 * float(found[0].abs().max())
        )


def test_rows_are_added_in_parts(features, monkeypatch):
    stream = task_stream(features, increment=6)
    for name in SETTINGS:
        whole = fitted(name, stream).logits(features.test_x)
        with monkeypatch.context() as patched:
            patched.setattr("awpf_ext.methods._base.feature_sums.ROWS_AT_ONCE", 7)
            patched.setattr("awpf_ext.methods._base.feature_sums.BLOCK", 11)
            parts = fitted(name, stream).logits(features.test_x)
        atol = 1e-3 * float(whole.abs().max())
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=atol)


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(name, settings, features):
    stream = task_stream(features, increment=4)
    whole = fitted(name, stream, **settings)
    half = fitted(name, stream, [0, 1], **settings)
    resumed = create_method(name, stream, settings or SETTINGS[name])
    resumed.load_state_dict(half.state_dict())
    resumed.fit(stream[2])
    assert torch.equal(resumed.logits(features.test_x), whole.logits(features.test_x))
    assert resumed.records == whole.records[2:]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_an_export_has_no_sums(name, settings, features):
    stream = task_stream(features, increment=4)
    method = fitted(name, stream, **settings)
    state = method.learned_state()
    assert not any(key.startswith("sums.") for key in state)
    loaded = create_method(name, stream, settings or SETTINGS[name])
    loaded.load_state_dict(state)
    assert torch.equal(loaded.logits(features.test_x), method.logits(features.test_x))


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_they_beat_zero_shot_off_the_texts(name, settings, make_stream):
    stream = make_stream(train=20, test=20, classes=20, increment=5, dim=10)
    x, y = stream.test_seen(3)
    accuracy = (fitted(name, stream, **settings).logits(x).argmax(1) == y).float().mean()
    zero_shot = create_method("zero_shot", stream)
    assert accuracy > (zero_shot.logits(x, 20).argmax(1) == y).float().mean()


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
@pytest.mark.parametrize(
    "shape",
    [
        {"classes": 5, "increment": 1},
        {"train": 1, "classes": 4, "increment": 1},
        {"train": 2, "classes": 4, "increment": 1},
        {"train": [5, 0, 3, 4, 0, 0, 2, 6], "classes": 8, "increment": 2},
        {"train": [0, 0, 3, 4, 2, 2], "classes": 6, "increment": 2},
        {"train": 40, "classes": 4, "increment": 2, "dim": 6},
    ],
    ids=["increment one", "one image", "two images", "gaps", "none at first", "few dimensions"],
)
def test_data_that_is_short_of_something(name, settings, shape, make_stream):
    stream = make_stream(**shape)
    method = create_method(name, stream, settings or SETTINGS[name])
    counts = torch.zeros(len(stream.class_names), dtype=torch.int64)
    for task in stream:
        method.fit(task)
        counts += torch.bincount(task.train_y, minlength=len(counts))
        x, _ = stream.test_seen(task.index)
        logits = method.logits(x)
        assert logits.shape == (len(x), task.classes.stop)
        assert logits.softmax(1).isfinite().all()
        assert method.logits(x, len(counts)).shape == (len(x), len(counts))
    if name != "cca" and "prior" not in settings:
        assert (counts[logits.argmax(1)] > 0).all()


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_domains_are_learned(name, settings, domain_stream):
    x, y = domain_stream.test_seen(2)
    whole = fitted(name, domain_stream, **settings)
    first = fitted(name, domain_stream, [0], **settings)
    accuracy = [(method.logits(x).argmax(1) == y).float().mean() for method in (first, whole)]
    assert accuracy[1] >= accuracy[0]


def test_domains_sum_up_to_the_covariance_of_all_images(domain_stream):
    method = fitted("slda", domain_stream)
    x = torch.cat([normalize(task.train_x, dim=1) for task in domain_stream]).double()
    labels = torch.cat([task.train_y for task in domain_stream])
    means = torch.stack([x[labels == label].mean(0) for label in range(6)])
    residuals = x - means[labels]
    torch.testing.assert_close(method.sums.scatter(), residuals.T @ residuals)


def test_ncm_is_the_cosine_with_the_class_means(features):
    stream = task_stream(features, increment=4)
    x = normalize(features.train_x, dim=1)
    means = torch.stack([x[features.train_y == label].mean(0) for label in range(12)])
    expected = 100 * normalize(features.test_x, dim=1) @ normalize(means, dim=1).T
    torch.testing.assert_close(
        fitted("ncm", stream).logits(features.test_x), expected, rtol=1e-4, atol=1e-3
    )


def test_klda_is_lda_of_the_lifted_features(features):
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    stream = task_stream(features, increment=4)
    method = fitted("klda", stream)
    sums = method.sums
    shrunk = shrunk_covariance(
        sums.scatter(), sums.quartic, means=sums.means, counts=sums.counts
    ).covariance.numpy()

    class Given:
        def fit(self, rows):
            self.covariance_ = shrunk
            return self

    lda = discriminant.LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Given(), priors=[1 / 12] * 12
    ).fit(method.lift(features.train_x).double().numpy(), features.train_y.numpy())
    expected = torch.from_numpy(lda.predict_log_proba(method.lift(features.test_x).numpy()))
    found = method.logits(features.test_x).log_softmax(1)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-2)


def test_random_fourier_features_approximate_the_gaussian_kernel(features):
    method = create_method("klda", task_stream(features), {"width": 20_000, "bandwidth": 0.7})
    h = method.lift(features.test_x)
    distances = torch.cdist(normalize(features.test_x, dim=1), normalize(features.test_x, dim=1))
    expected = (-distances.square() / (2 * 0.7**2)).exp()
    torch.testing.assert_close(h @ h.T, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("width", [50, None])
def test_ridge_is_the_batch_solution(width, features):
    stream = task_stream(features, increment=4)
    method = fitted("ridge", stream, width=width, penalty=0.1)
    h, test = method.lift(features.train_x).double(), method.lift(features.test_x).double()
    targets = one_hot(features.train_y).double()
    weight = torch.linalg.solve(h.T @ h + 0.1 * torch.eye(h.shape[1]), h.T @ targets)
    found = method.logits(features.test_x) / method.scale
    torch.testing.assert_close(found, (test @ weight).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [50, None])
def test_a_large_penalty_with_a_text_prior_is_zero_shot(width, features):
    stream = task_stream(features, increment=4)
    method = fitted("ridge", stream, width=width, prior="text", penalty=1e7)
    zero_shot = create_method("zero_shot", stream)
    expected = zero_shot.logits(features.test_x, 12).argmax(1)
    assert torch.equal(method.logits(features.test_x).argmax(1), expected)


@pytest.mark.parametrize("settings", CHOOSES)
def test_the_penalty_is_chosen_on_held_out_images(settings, features):
    stream = task_stream(features, increment=4)
    method = fitted("ridge", stream, **settings)
    assert method.penalty in method.grid
    assert method.records[-1] == {"task": 2, "penalty": method.penalty, "scale": method.scale}
    fixed = fitted("ridge", stream, **{**settings, "penalty": method.penalty})
    found, expected = (m.logits(features.test_x) / m.scale for m in (method, fixed))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_held_out_images_are_a_fifth_of_each_class():
    labels = torch.tensor([1] * 10 + [0] * 4 + [2] * 2 + [1] * 5)
    held = held_out(labels)
    assert torch.bincount(labels[held], minlength=3).tolist() == [1, 3, 0]
    shuffled = torch.randperm(len(labels))
    assert torch.bincount(labels[shuffled][held_out(labels[shuffled])]).tolist() == [1, 3]


def test_cca_aligns_images_with_texts(features):
    stream = task_stream(features, increment=4)
    method = fitted("cca", stream)
    record = method.records[-1]
    assert 1 <= record["directions"] <= 11  # of twelve centred texts
    assert 0 < record["correlation"] <= 1
    everything = fitted("cca", stream, width=50, eta=1.0)
    assert everything.records[-1]["directions"] == 11
    assert method.logits(features.test_x).abs().max() <= 100.01


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ridge", {"width": 0}, "ridge: width is 0"),
        ("ridge", {"prior": "texts"}, "ridge: prior is 'texts'"),
        ("ridge", {"penalty": 0}, "ridge: penalty is 0"),
        ("klda", {"bandwidth": float("inf")}, "klda: bandwidth is inf"),
        ("cca", {"eta": 1.5}, "cca: eta is 1.5"),
        ("slda", {"width": 5}, "slda has no setting 'width'"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(UserError, match=message):
        method_config(name, settings)


def test_a_penalty_below_rounding_is_refused(make_stream):
    stream = make_stream(train=3, classes=4, dim=8)
    with pytest.raises(UserError, match=r"penalty is 1e-30; expected a larger one"):
        fitted("ridge", stream, width=2000, penalty=1e-30)


def test_none_of_them_is_a_bound():
    assert all(METHODS[name].bound is None for name in SETTINGS)
