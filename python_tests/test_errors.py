"""Phrases that the error messages share."""

from __future__ import annotations

import errno
import os

import pytest

from awpf_ext import errors


def test_a_close_name_is_suggested_and_otherwise_a_short_list():
    assert errors.suggestion("epoch", ["beta", "epochs"]) == "did you mean 'epochs'?"
    assert errors.suggestion("x", ["beta", "epochs"]) == "expected one of beta, epochs"
    many = errors.suggestion("x", [f"name{index}" for index in range(500)])
    assert many.startswith("expected one of name0, name1, ")
    assert many.endswith(", ...")
    assert len(many) < 250


@pytest.mark.parametrize(
    ("package", "extra"),
    [("typer", "clip"), ("open_clip.model", "clip"), ("peft", "lora"), ("tensorboard", None)],
)
def test_a_missing_package_is_named_with_its_extra(package, extra):
    name = package.split(".")[0]
    expected = f'{name} is not installed; get it with pip install "awpf_ext[{extra or name}]"'
    assert errors.not_installed(package) == expected


def test_the_reason_leaves_out_what_a_message_says_already():
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a.txt")
    assert errors.reason(missing) == os.strerror(errno.ENOENT)
    assert errors.reason(ValueError("it is empty")) == "it is empty"
    assert errors.reason(KeyboardInterrupt()) == "KeyboardInterrupt"
