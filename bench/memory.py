"""Peak memory of one contender in its own process: resident bytes in addition to the inputs."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

from comparison import Work

_PRELOADED = [
    "torch",
    "torch._inductor.compile_fx",  # takes torch.compile three seconds otherwise
    "awpf_ext",
    "sklearn.discriminant_analysis",
    "sklearn.metrics.pairwise",
]


class Peak(NamedTuple):
    """Peak resident bytes in addition to the inputs, and the seconds of the measured run."""

    extra_bytes: int
    seconds: float


def start_server() -> None:
    """Import torch once, in a process that never computes; each measurement is forked from it.

    Python looks for modules first where that process starts: that must not be the checkout, whose
    `awpf_ext` has no native libraries unless it is installed as editable.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    home = Path.cwd()
    os.chdir(Path(__file__).parent)
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(home)


def can_measure() -> bool:
    """Peaks are reset and read through Linux's /proc."""
    return sys.platform == "linux" and Path("/proc/self/clear_refs").exists()


def peak(make: Callable[[], Work], name: str, warm_up: bool) -> Peak:
    """Run one contender of `make()` in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(make, name, warm_up, sender))
    process.start()
    sender.close()
    try:
        measured = receiver.recv()
    except EOFError:
        raise RuntimeError(f"{name}: the process that measures memory died") from None
    finally:
        process.join()
    if isinstance(measured, str):
        raise RuntimeError(f"{name}: failed where its memory is measured\n{measured}")
    return Peak(*measured)


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def _measure(make: Callable[[], Work], name: str, warm_up: bool, sender: Any) -> None:
    """Send what `peak` returns, or the traceback of a failure."""
    try:
        sender.send(_peak_here(make, name, warm_up))
    except Exception:
        sender.send(traceback.format_exc())


def _peak_here(make: Callable[[], Work], name: str, warm_up: bool) -> tuple[int, float]:
    import torch

    run = make().contenders[name].run
    small = torch.rand(256, 256)
    torch.linalg.qr((small @ small).exp())  # starts threads, allocates BLAS buffers
    if warm_up:
        run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    extra = max(0, _status("VmHWM") - before)
    del result
    return extra, seconds
