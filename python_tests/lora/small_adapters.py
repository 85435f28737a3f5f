"""What small adapters say in numbers, read without PEFT."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file


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
            found[module] = alpha / divisor * (b.flatten(1) @ a.flatten(1))
    return found


def distance(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest relative error of a layer, in the Frobenius norm."""
    assert found.keys() == expected.keys()
    return max(float((found[k] - expected[k]).norm() / expected[k].norm()) for k in expected)
