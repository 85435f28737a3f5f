"""A warm process that runs the command line in children and kills them, for test_kill.py.

Each line of its input is a request: {"arguments": [...], "after": seconds, "at": n}. The child is
killed after the given seconds, or kills itself at the n-th moment of io.fault_point; null: never.
The answer is a line: {"status": exit code, or minus the signal, "seconds": ..., "errors": stderr}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import open_clip
import torch

from awpf_ext import io
from awpf_ext.cli.commands import app
from awpf_ext.cli.main import main
from awpf_ext.data import store
from awpf_ext.report import compose  # noqa: F401 (before the first child too)

store.SHARD = 4
torch.set_num_threads(1)  # threads would not survive the fork
open_clip.add_model_config(Path(__file__).parents[1] / "clip" / "tiny.json")
assert app  # imported before the first child, not in each


def kill_at(moment: int) -> None:
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    io.atomic.FAULT_HOOK = hook


def child(arguments: list[str], moment: int | None, errors: int) -> None:
    """What the forked process does; it never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors, 2)
        if moment is not None:
            kill_at(moment)
        main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os._exit(code)


def answer(request: dict) -> dict:
    with tempfile.TemporaryFile() as errors:
        start = time.monotonic()
        process = os.fork()
        if process == 0:
            child(request["arguments"], request["at"], errors.fileno())
        if request["after"] is not None:
            time.sleep(request["after"])
            os.kill(process, signal.SIGKILL)  # not reaped yet, so it is still this process
        _, status = os.waitpid(process, 0)
        seconds = time.monotonic() - start
        errors.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return {"status": code, "seconds": seconds, "errors": errors.read().decode()}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
