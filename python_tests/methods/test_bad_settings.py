"""Settings without a meaning, or too extreme for arithmetic: one sentence, not a traceback."""

from __future__ import annotations

import pytest

from awpf_ext.errors import UserError
from awpf_ext.methods import create_method, method_config


@pytest.mark.parametrize(
    ("method", "setting"),
    [("awpf", "weight_prior"), ("awpf", "balance_loss"), ("rapf", "learning_rate")],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_settings_are_finite(method, setting, value):
    with pytest.raises(UserError, match=f"{method}: {setting} is"):
        method_config(method, {setting: value})


def test_a_method_without_settings_says_so():
    with pytest.raises(UserError, match="slda has no setting 'width'; there is none"):
        method_config("slda", {"width": 3})


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("klda", {"width": 2000, "bandwidth": 1e4}, "expected a bandwidth nearer to 2"),
        ("cca", {"width": 2000, "penalty": 1e-12}, "penalty is 1e-12; expected a larger one"),
    ],
)
def test_a_singular_covariance_is_one_sentence(method, settings, sentence, make_stream):
    stream = make_stream(train=20, classes=12, increment=6)
    learner = create_method(method, stream, settings)
    with pytest.raises(UserError, match=sentence):
        learner.fit(stream[0])
