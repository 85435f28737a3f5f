"""Merging LoRA adapters.

Eight random bfloat16 adapters of rank 16 for a model of 7B parameters: 32 layers with four
4096 x 4096 and three 11008 x 4096 projections, 224 modules, 80 MB per adapter. Reading and writing
are included. Our function is `awpf_ext.lora.merge`; methods that need every entry of every delta
run on two layers, and their time is scaled to 32. With PEFT, the adapters of two layers are loaded
on a base without weights, merged by add_weighted_adapter and saved, and the time is scaled in the
same way. If PEFT needs an SVD of every full delta, it is run only on the q_proj of the two layers
and scaled by m n min(m, n). The memory of PEFT is not scaled, although it holds all layers at once.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import memory
import pytest
import torch
from comparison import OURS, Contender, Outcome, Row, Verdict, Work
from safetensors.torch import save_file

from awpf_ext.lora import merge

LAYERS, SAMPLED_LAYERS, ADAPTERS, RANK = 32, 2, 8, 16
WIDE, HIDDEN = 4096, 11008
MODULES = {
    **{f"self_attn.{name}_proj": (WIDE, WIDE) for name in "qkvo"},
    "mlp.gate_proj": (HIDDEN, WIDE),
    "mlp.up_proj": (HIDDEN, WIDE),
    "mlp.down_proj": (WIDE, HIDDEN),
}
TARGETS = [name.rpartition(".")[2] for name in MODULES]
QUERIES = {"self_attn.q_proj": (WIDE, WIDE)}
MEGABYTE = 1 << 20

Modules = Mapping[str, tuple[int, int]]


@pytest.fixture(scope="module")
def adapters() -> Iterator[Path]:
    """Folders all/0 to all/7, and some/0 to some/7 with only the first two layers."""
    root = Path(tempfile.mkdtemp(prefix="awpf-merge-"))
    try:
        for kind, layers in (("all", LAYERS), ("some", SAMPLED_LAYERS)):
            for index in range(ADAPTERS):
                _write_adapter(root / kind / str(index), layers, index)
        yield root
    finally:
        shutil.rmtree(root)


def _write_adapter(folder: Path, layers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (m, n) in MODULES.items():
            key = f"base_model.model.layers.{layer}.{name}"
            a = torch.randn(RANK, n, generator=generator).bfloat16()
            b = torch.randn(m, RANK, generator=generator).bfloat16()
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": TARGETS}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def _ours(root: Path, kind: str, method: str, options: dict[str, Any]) -> None:
    out = root / "out"
    merge([root / kind / str(i) for i in range(ADAPTERS)], out, method=method, **options)
    shutil.rmtree(out)


def _peft(root: Path, kind: str, options: dict[str, Any], modules: Modules) -> None:
    from peft import PeftModel

    warnings.filterwarnings("ignore", "Found missing|.*unexpected keys")  # modules left out
    names = [f"adapter{index}" for index in range(ADAPTERS)]
    model = PeftModel.from_pretrained(_base(modules), root / "some" / "0", adapter_name=names[0])
    for index in range(1, ADAPTERS):
        model.load_adapter(root / "some" / str(index), adapter_name=names[index])
    model.add_weighted_adapter(
        names, [1.0] * ADAPTERS, "merged", combination_type=kind, svd_rank=RANK, **options
    )
    model.save_pretrained(root / "out", selected_adapters=["merged"])
    shutil.rmtree(root / "out")


def _base(modules: Modules) -> torch.nn.Module:
    """Two layers of linear modules whose weights are one number, expanded to a matrix."""
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(SAMPLED_LAYERS))
    for layer in model.layers:
        for name, (m, n) in modules.items():
            group, _, leaf = name.partition(".")
            if not hasattr(layer, group):
                layer.add_module(group, torch.nn.Module())
            linear = torch.nn.Linear(n, m, bias=False, device="meta")
            weight = torch.zeros(1, 1, dtype=torch.bfloat16).expand(m, n)
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.get_submodule(group).add_module(leaf, linear)
    return model


def work(root: Path, method: str, options: dict[str, Any], peft: str | None) -> Work:
    """One merge by awpf_ext and, if it has the same definition, by PEFT."""
    dense = "density" in options and method != "knots"
    factor = LAYERS / SAMPLED_LAYERS
    scaled = {"scale": factor, "note": f"{SAMPLED_LAYERS} of {LAYERS} layers, scaled"}
    contenders = {
        OURS: Contender(
            partial(_ours, root, "some" if dense else "all", method, options),
            **(scaled if dense else {}),
        )
    }
    if peft is not None:
        importlib.import_module("peft")  # before anything is timed
        their = {"density": options["density"]} if dense else {}
        decomposed = peft.endswith("svd")
        contenders[f"PEFT, {peft}"] = Contender(
            partial(_peft, root, peft, their, QUERIES if decomposed else MODULES),
            scale=factor * (_cubes(MODULES) / _cubes(QUERIES) if decomposed else 1),
            note=f"q_proj of {SAMPLED_LAYERS} layers, scaled" if decomposed else scaled["note"],
        )
    return Work(f"{method}, {ADAPTERS} adapters of a 7B model", contenders)


def _cubes(modules: Modules) -> float:
    """The cost of full SVDs of the modules, up to a factor."""
    return float(sum(m * n * min(m, n) for m, n in modules.values()))


CASES: dict[str, tuple[dict[str, Any], str | None, int]] = {  # options, PEFT's name, goal in MiB
    "stack": ({}, "cat", 256),
    "linear": ({}, None, 256),
    "svd": ({"rank": RANK}, "svd", 256),
    "knots": ({}, None, 256),
    "tsv": ({}, None, 256),
    "iso": ({}, None, 256),
    "ties": ({"density": 0.2, "rank": RANK}, "ties_svd", 1024),
    "dare_ties": ({"density": 0.2, "rank": RANK}, "dare_ties_svd", 1024),
}


@pytest.mark.parametrize("method", CASES)
def test_merge(method: str, adapters: Path, record: Callable[[Outcome], Outcome]) -> None:
    if not memory.can_measure():
        pytest.skip("memory is measured on Linux only")
    options, peft, goal = CASES[method]
    if peft is not None:
        pytest.importorskip("peft", reason='needs the extra "lora"')
    make = partial(work, adapters, method, options, peft)
    rows: list[Row] = []
    described = make()
    for name, contender in described.contenders.items():
        peak = memory.peak(make, name, warm_up=False)
        seconds = peak.seconds * contender.scale
        rows.append(
            Row(
                work=described.name,
                name=name,
                seconds=seconds,
                ratio=seconds / rows[0].seconds if rows else 1.0,
                extra_bytes=peak.extra_bytes,
                role="baseline" if rows else "ours",
                note=contender.note,
            )
        )
    used = (rows[0].extra_bytes or 0) / MEGABYTE
    verdict = Verdict(
        described.name, f"at most {goal} MiB of memory", f"{used:.0f} MiB", used <= goal
    )
    record(Outcome(rows, [verdict]))
