"""Small adapters, written as PEFT writes them, without PEFT."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors", reason='needs the extra "clip"')

from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent))  # `from small_adapters import ...`

from small_checkpoints import random_model

SHAPES: Mapping[str, tuple[int, int]] = {
    "layers.0.q": (20, 12),
    "layers.1.q": (20, 12),
    "layers.0.up": (9, 30),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices as small as these are done before a second thread has woken up."""
    torch.set_num_threads(1)


@pytest.fixture
def write(tmp_path):
    """write(name, rank=4, tensors={...}, **config): a folder with an adapter of random factors."""

    def write_adapter(
        name: str,
        rank: int = 4,
        *,
        tensors: Mapping[str, torch.Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        shapes: Mapping[str, tuple[int, int]] = SHAPES,
        **config: object,
    ) -> Path:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        factors = {}
        for module, (m, n) in shapes.items():
            key = f"base_model.model.{module}"
            a = torch.randn(rank, n, generator=generator)
            b = torch.randn(m, rank, generator=generator)
            factors |= {f"{key}.lora_A.weight": a.to(dtype), f"{key}.lora_B.weight": b.to(dtype)}
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        save_file({**factors, **(tensors or {})}, folder / "adapter_model.safetensors")
        described = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **config}
        (folder / "adapter_config.json").write_text(json.dumps(described))
        return folder

    return write_adapter


@pytest.fixture
def two(write):
    return [write("a"), write("b")]


@pytest.fixture
def base(tmp_path):
    save_file(random_model(0), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


@pytest.fixture
def tuned(base, tmp_path):
    """Three checkpoints that were fine-tuned from the base."""
    start, paths = load_file(base), []
    for seed, name in enumerate("abc", start=1):
        change = random_model(seed, 0.1)
        paths.append(tmp_path / f"{name}.safetensors")
        save_file({key: start[key] + change[key] for key in start}, paths[-1])
    return paths
