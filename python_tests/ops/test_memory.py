"""Memory grows with the points, never with their pairs."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import resource, torch, awpf_ext
torch.manual_seed(0)
torch.set_num_threads(2)

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

def reset():
    # Without the right to do so the peak so far counts too: no more than libraries and inputs.
    try:
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass

def warm(function):
    function()
    reset()
    return peak()
"""


def run(script: str) -> float:
    """The MiB that `script` prints in the end."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.slow
def test_forward_and_backward_of_16384_points_a_side_fit_in_a_gigabyte():
    """The pairs would be 4 GiB in float32, several times over with autograd."""
    used = run("""
x, y = (torch.randn(16384, 512).requires_grad_() for _ in range(2))
small = [torch.randn(300, 512).requires_grad_() for _ in range(2)]
before = warm(lambda: awpf_ext.mmd(*small, scales=(0.25, 0.5, 1, 2, 4)).backward())
awpf_ext.mmd(x, y, scales=(0.25, 0.5, 1, 2, 4)).backward()
assert x.grad.isfinite().all() and y.grad.abs().max() > 0
print(peak() - before)
""")
    assert used < 1024
    # Two gradients of 32 MiB at least: otherwise the measurement measures nothing.
    assert used > 64


def test_the_matrix_and_the_permutation_test_never_hold_all_pairs():
    """10,000 pooled rows: the pairs would be 763 MiB in float64, 381 MiB in float32."""
    used = run("""
x, labels = torch.randn(10000, 16), torch.arange(10000) % 50
before = warm(lambda: awpf_ext.mmd_matrix(x[:500], labels[:500]))
awpf_ext.mmd_matrix(x, labels, bandwidth=4.0)
awpf_ext.mmd_test(x[:6000], x[6000:], permutations=20, bandwidth=4.0)
print(peak() - before)
""")
    assert used < 150


def test_scatter_makes_no_centred_copy():
    """200,000 x 64 in float32 are 49 MiB; a centred copy in float64 would be 98 MiB."""
    used = run("""
x, labels = torch.randn(200_000, 64), torch.arange(200_000) % 10
before = warm(lambda: awpf_ext.scatter(x[:1000], labels[:1000]))
awpf_ext.scatter(x, labels)
print(peak() - before)
""")
    assert used < 40


def test_a_batch_is_not_copied_as_a_whole():
    """400 x (64 + 64, 512) in float32 are 100 MiB."""
    used = run("""
x, y = torch.randn(2, 400, 64, 512)
before = warm(lambda: awpf_ext.mmd(x[:2], y[:2], bandwidth=30.0))
awpf_ext.mmd(x, y, bandwidth=30.0)
print(peak() - before)
""")
    assert used < 75
