"""Ctrl-C and other signals end a long kernel, and harm nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import awpf_ext
from awpf_ext._library import _facts

pytestmark = [
    pytest.mark.skipif(_facts() is None, reason="needs the native module _C"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers"),
]

SCRIPT = """
import os, signal, sys, threading, time
import torch, awpf_ext

torch.set_num_threads(2)
eight = [3.0**k for k in range(8)]
double = dict(dtype=torch.float64)
def kernel_sums():
    z, gamma = torch.randn(400_000, 2), torch.tensor([eight], **double)
    torch.ops.awpf.rbf_sums(z, torch.tensor([[[0, 400_000]]]), None, gamma, None, False)
def mmd():
    x = torch.randn(200_000, 2)
    awpf_ext.mmd(x, x, bandwidth=1.0, scales=eight)
def mmd_matrix():
    x = torch.randn(400_000, 2)
    awpf_ext.mmd_matrix(x, torch.arange(400_000) % 100, bandwidth=1.0, scales=eight)
def mmd_test():
    x = torch.randn(8_000, 4)
    awpf_ext.mmd_test(x[:4_000], x[4_000:], permutations=200_000, bandwidth=1.0)
def gradient():
    x = torch.randn(300_000, 2, requires_grad=True)
    awpf_ext.mmd(x, x.detach(), bandwidth=1.0, scales=eight).backward()
def median_bandwidth():
    awpf_ext.median_bandwidth(torch.randn(1, 1024, 16).expand(20_000, -1, -1))
def scatter():
    x = torch.zeros(200_000, 4096, dtype=torch.float16)
    awpf_ext.scatter(x, torch.arange(200_000) % 3)
def low_rank_sum():
    u = torch.randn(1, 1, 4_000, 4_000, **double).expand(12, -1, -1, -1)
    awpf_ext.low_rank_sum(u, None, u)

def interrupt():
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    globals()[sys.argv[1]]()
except KeyboardInterrupt as error:
    assert error.__context__ is None
    print("interrupted", float(awpf_ext.mmd(torch.ones(2, 1), torch.zeros(2, 1), bandwidth=9e9)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel",
    [
        "kernel_sums",
        "mmd",
        "mmd_matrix",
        "mmd_test",
        "gradient",
        "median_bandwidth",
        "scatter",
        "low_rank_sum",
    ],
)
def test_ctrl_c_ends_a_kernel_of_minutes(kernel):
    command = [sys.executable, "-c", SCRIPT, kernel]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.startswith("interrupted 0.0"), found.stderr
    assert found.stderr == ""


@contextmanager
def alarms(handler) -> Iterator[None]:
    """SIGALRM every 50 ms."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


X = torch.randn(12_000, 64)


def long_call():
    """Half a second or more on any processor."""
    return awpf_ext.mmd(X, X[:6_000], bandwidth=8.0, scales=[3.0**k for k in range(8)])


def again_and_again(call):
    for _ in range(100):
        call()


def test_a_handler_that_returns_runs_during_the_call_and_changes_nothing():
    expected, calls = long_call(), []
    with alarms(lambda *_: calls.append(1)):
        assert torch.equal(long_call(), expected)
    assert len(calls) > 1  # one pending signal only could wait for the end of the call


def test_what_a_handler_raises_comes_out_as_it_is():
    class EnoughError(Exception):
        pass

    raised = EnoughError("of this")

    def give_up(*_):
        raise raised

    with pytest.raises(EnoughError) as caught, alarms(give_up):
        again_and_again(long_call)
    assert caught.value is raised
    x = torch.randn(6_000, 64, requires_grad=True)
    value = awpf_ext.mmd_matrix(x, torch.arange(6_000) % 2, bandwidth=8.0).sum()
    with pytest.raises(EnoughError), alarms(give_up):
        again_and_again(lambda: value.backward(retain_graph=True))


@pytest.mark.parametrize("kind", [TypeError, ValueError, RuntimeError])
def test_what_a_handler_raises_in_a_large_batch_is_not_taken_for_an_error_of_it(kind):
    class EnoughError(kind):  # type: ignore[misc, valid-type]
        pass

    x = torch.randn(200, 64, 512)

    def give_up(*_):
        raise EnoughError

    with pytest.raises(EnoughError), alarms(give_up):
        again_and_again(lambda: awpf_ext.mmd(x, x, bandwidth=1.0))


def test_calls_of_other_threads_go_on():
    expected, found = long_call(), []
    other = threading.Thread(target=lambda: found.append(long_call()))

    def give_up(*_):
        raise TimeoutError

    other.start()
    with pytest.raises(TimeoutError), alarms(give_up):
        again_and_again(long_call)
    other.join()
    assert torch.equal(found[0], expected)
