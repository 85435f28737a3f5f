"""Bad input gets one clear sentence: the argument, what came, what was expected."""

from __future__ import annotations

import bad_calls_of_groups
import bad_calls_of_mmd
import bad_calls_of_others
import pytest
import torch

import awpf_ext

TABLES = [bad_calls_of_mmd.CASES, bad_calls_of_groups.CASES, bad_calls_of_others.CASES]
CASES = {name: case for table in TABLES for name, case in table.items()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_explained(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 250


def test_the_table_is_long_enough():
    assert len(CASES) >= 40
    assert len(CASES) == sum(map(len, TABLES))


def test_cuda_is_refused_in_words_where_there_are_no_kernels():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    if not awpf_ext.build_info()["cuda_kernels"].startswith("not built"):
        pytest.skip("the CUDA kernels are built")
    x = torch.randn(6, 3)
    with pytest.raises(NotImplementedError, match=r"\.cpu\(\)"):
        awpf_ext.mmd(x.cuda(), x.cuda())
    with pytest.raises(ValueError, match="same device"):
        awpf_ext.mmd(x, x.cuda())
