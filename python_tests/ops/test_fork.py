"""Processes that are forked after the kernels were used, as docs/operations.md says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SCRIPT = """
import os, sys, warnings
import torch, awpf_ext
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")  # newer releases of Python warn of fork beside threads
torch.set_num_threads(2)
x, labels = torch.randn(2000, 16), torch.arange(2000) % 5

def values(shift):
    moved = x + shift
    found = [
        awpf_ext.mmd(x, moved, bandwidth=4.0),
        awpf_ext.scatter(moved, labels).within,
        awpf_ext.low_rank_sum(x.mT[None], None, moved.mT[None]),
        awpf_ext.mmd_test(x[:100], moved[100:200], permutations=99).null,
    ]
    return torch.cat([part.flatten() for part in found])

class Shifts(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return values(float(index))

def forked(function):
    process = os.fork()
    if process == 0:
        os._exit(0 if function() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def in_one_thread():
    torch.set_num_threads(1)
    return torch.equal(values(1.0), expected[1])

def a_small_call():
    return torch.equal(awpf_ext.mmd(x[:5], x[5:9], bandwidth=4.0), small)

small = awpf_ext.mmd(x[:5], x[5:9], bandwidth=4.0)
expected = torch.stack([values(float(index)) for index in range(4)])
if sys.argv[1] == "workers":
    loader = DataLoader(Shifts(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    print(torch.equal(torch.stack(list(loader)), expected))
else:
    print(forked(globals()[sys.argv[1]]) == 0)
"""


@pytest.mark.parametrize("who", ["workers", "in_one_thread", "a_small_call"])
def test_forked_processes_compute_what_their_parent_does(who):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, who],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.stdout == "True\n", done.stderr
