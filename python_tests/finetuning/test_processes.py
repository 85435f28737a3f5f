"""Two processes with a batch between them do what one does with all of it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("open_clip", reason='needs the extra "clip"')
from joint_steps import CASES, three_steps

CASES_HERE = [
    case for case in CASES if "lora" not in case or importlib.util.find_spec("peft") is not None
]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What both processes of one torchrun have after all cases."""
    out = tmp_path_factory.mktemp("world") / "found"
    program = Path(__file__).with_name("joint_steps.py")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         program, out, *CASES_HERE],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
        timeout=300,
    )  # fmt: skip
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]


def joined(tensors):
    return torch.cat([tensor.flatten().double() for tensor in tensors.values()])


@pytest.mark.parametrize("case", CASES_HERE)
def test_two_processes_train_what_one_does(case, of_two, tiny):
    """Uneven shares, a process without rows, prompts that do not divide, one part or several."""
    losses, gradients, trained = three_steps(case, *tiny)
    first, second = (found[case] for found in of_two)
    assert all(torch.equal(first[2][name], second[2][name]) for name in trained)
    torch.testing.assert_close(first[0], losses, rtol=1e-5, atol=1e-6)
    assert first[1].keys() == gradients.keys()
    for ours, theirs in (
        (joined(gradients), joined(first[1])),
        (joined(trained), joined(first[2])),
    ):
        assert (ours - theirs).norm() < 2e-6 * ours.norm()
