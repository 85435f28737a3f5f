"""The number formats of a backbone, and which of them suits a processor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

AUTO = "auto"
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_CPU_FLAGS = Path("/proc/cpuinfo")


def suited_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 on CUDA and on processors that multiply it in tiles (AMX), fp32 on all others.

    Processors whose only instructions for bf16 are those of AVX-512 also use fp32.
    """
    return "bf16" if device.type == "cuda" or _has_amx_bf16() else "fp32"


def _has_amx_bf16() -> bool:
    """Whether Linux lists AMX for bf16 among the features of the processor."""
    try:
        lines = _CPU_FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))
