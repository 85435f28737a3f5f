"""MMD as a drift monitor: detect when a stream of embeddings leaves a reference distribution.

Every window of the stream is compared with new rows of the reference pool by a permutation test,
and p <= alpha raises an alarm. The test is exact: without drift the probability of a false alarm is
at most alpha, for every distribution, dimension and window size. At alpha = 0.01 one window in a
hundred is a false alarm on average. For fewer false alarms use a smaller alpha and more
permutations (p is never below 1 / (1 + permutations)).

No row of the reference is used twice. If windows share their reference, each p-value is still
exact, but a reference that is unusual by chance causes many false alarms at once, and their rate
over one stream is not alpha.

    python examples/drift_monitor.py
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import awpf_ext

WINDOW, REFERENCE, DIM = 100, 200, 64
ALPHA, PERMUTATIONS = 0.01, 499
QUIET = 1000  # windows without drift, to count false alarms
DRIFT_STARTS = 20  # window of the stream in which the drift begins


class Summary(NamedTuple):
    """The result of the monitor."""

    false_alarm_rate: float
    alarms: list[int]  # windows of the stream


def embeddings(windows: int, rows: int) -> Tensor:
    """(windows, rows, DIM): two clusters, like embeddings of two kinds of documents."""
    kind = torch.randint(0, 2, (windows, rows, 1)).float()
    return torch.randn(windows, rows, DIM) + 3 * kind / DIM**0.5


def drifted(windows: Tensor, strength: Tensor) -> Tensor:
    """The windows with every eighth coordinate shifted by `strength` (one number per window)."""
    shift = torch.zeros(DIM)
    shift[::8] = 1.0
    return windows + strength[:, None, None] * shift


def p_values(windows: Tensor) -> Tensor:
    """p-values of all windows in one call, each with its own reference rows."""
    reference = embeddings(len(windows), REFERENCE)
    return awpf_ext.mmd_test(windows, reference, permutations=PERMUTATIONS).p_value


def main() -> Summary:
    torch.manual_seed(0)
    quiet = p_values(embeddings(QUIET, WINDOW))
    rate = float((quiet <= ALPHA).float().mean())
    print(f"false alarms on {QUIET} windows without drift: {rate:.1%} (alpha = {ALPHA:.0%})")

    strength = 0.05 * (torch.arange(40) - DRIFT_STARTS + 1).clamp_min(0)
    found = p_values(drifted(embeddings(40, WINDOW), strength))
    alarms = (found <= ALPHA).nonzero().flatten().tolist()
    for number in range(DRIFT_STARTS - 4, DRIFT_STARTS + 12):
        mark = "  alarm" if number in alarms else ""
        print(f"window {number:2d}  drift {strength[number]:.2f}  p = {found[number]:.3f}{mark}")
    late = next((n for n in alarms if n >= DRIFT_STARTS), None)
    if late is None:
        print("the drift was not detected")
    else:
        print(f"drift began in window {DRIFT_STARTS}; first alarm after it in window {late}")
    return Summary(rate, alarms)


if __name__ == "__main__":
    main()
