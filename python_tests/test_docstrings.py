"""The examples in the docstrings of all public names run, and print what they say."""

from __future__ import annotations

import doctest

import pytest
import torch

import awpf_ext

EXAMPLES = {
    test.name: test
    for name in awpf_ext.__all__
    for test in doctest.DocTestFinder().find(getattr(awpf_ext, name), name, module=False)
    if test.examples
}


def test_every_public_function_has_an_example():
    plain = {"BuildInfo", "LowRank", "MMDTest", "Scatter"}  # results of functions
    assert set(EXAMPLES) == set(awpf_ext.__all__) - plain


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    EXAMPLES[name].globs = {"awpf_ext": awpf_ext, "torch": torch}
    printed: list[str] = []
    found = doctest.DocTestRunner().run(EXAMPLES[name], out=printed.append)
    assert not found.failed, "".join(printed)
