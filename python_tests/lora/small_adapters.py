"""What small adapters say in numbers, read without PEFT, and what rounding may change of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from error_bounds import backward_error
from safetensors.torch import load_file

ROUNDING = backward_error(torch.float32, 1, 30)
"""Relative size of what factorizations in float32 may do to matrices of this size."""
_noise: list[torch.Generator] = []


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Meanwhile `rounded` changes what it is given as rounding in float32 may."""
    _noise.append(torch.Generator().manual_seed(seed))
    yield
    _noise.clear()


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    if not _noise:
        return matrix
    change = torch.randn(matrix.shape, generator=_noise[0], dtype=matrix.dtype)
    return matrix + ROUNDING * float(matrix.norm() / change.norm()) * change


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    """scaling * B A of every layer, in double, by the rules of PEFT's documentation."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {
        key.removeprefix("base_model.model."): tensor.double()
        for key, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    found = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            b, rank = tensors[f"{module}.lora_B.weight"], a.shape[0]
            alpha = config["lora_alpha"]
            for pattern, value in (config.get("alpha_pattern") or {}).items():
                if pattern in (module, f"^{module.replace('.', chr(92) + '.')}$"):
                    alpha = value
            divisor = math.sqrt(rank) if config.get("use_rslora") else rank
            found[module] = alpha / divisor * (rounded(b.flatten(1)) @ rounded(a.flatten(1)))
    return found


def distance(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest relative error of a layer, in the Frobenius norm."""
    assert found.keys() == expected.keys()
    return max(float((found[k] - expected[k]).norm() / expected[k].norm()) for k in expected)


class Closeness:
    """The nearer to a given merge, the better."""

    name = "closeness"

    def __init__(self, target):
        self.target = deltas(target)
        self.seen = []

    def __call__(self, path):
        self.seen.append(path)
        return -distance(deltas(path), self.target)
