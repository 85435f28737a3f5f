"""`awpf doctor`: what is installed, what works, what is missing and how to install it.

It imports only torch and the operations, so that it works when the rest does not.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from awpf_ext._library import MISSING_CUDA, build_info
from awpf_ext.errors import EXTRAS, install_command
from awpf_ext.ops.low_rank import low_rank_sum
from awpf_ext.ops.mmd import mmd
from awpf_ext.ops.scatter import scatter


def main(arguments: Sequence[str] = ()) -> int:
    """Print the report; returns 0 if all operations work."""
    unknown = [argument for argument in arguments if argument != "--json"]
    if unknown:
        asks_for_help = unknown[0] in ("-h", "--help")
        print("usage: awpf doctor [--json]", file=sys.stdout if asks_for_help else sys.stderr)
        return 0 if asks_for_help else 2
    report = examine()
    print(json.dumps(report) if arguments else "\n".join(_lines(report)))
    return 0 if report["works"] else 1


def examine() -> dict[str, Any]:
    """The report as data."""
    devices = ["cpu"]
    if torch.cuda.is_available() and MISSING_CUDA is None:
        devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    failure = next(filter(None, map(_failure, devices)), None)
    return {
        "devices": devices,
        "works": failure is None,
        "failure": failure,
        "build": build_info(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in EXTRAS},
        "folders": {name: _folder(path) for name, path in _caches().items()},
        "weights": _weights(),
    }


def _failure(device: str) -> str | None:
    """Run each operation on a device and compare its result; why one fails, or None."""
    torch.manual_seed(0)
    try:
        x, y = torch.randn(40, 8).to(device), torch.randn(30, 8).to(device) + 1
        pooled = torch.cat([x, y]).double()
        kernel = torch.exp(-torch.cdist(pooled, pooled).square() / 8)
        blocks = kernel[:40, :40].mean() + kernel[40:, 40:].mean() - 2 * kernel[:40, 40:].mean()
        labels = torch.arange(40, device=device) % 4
        means = torch.stack([x[labels == c].mean(0) for c in range(4)])
        centred = (x - means[labels]).double()
        u, s, v = (torch.randn(*shape).to(device) for shape in ((8, 3), (3,), (6, 3)))
        checks = {
            "mmd": (mmd(x, y, bandwidth=2.0), blocks),
            "scatter": (scatter(x, labels, 4).within, centred.T @ centred),
            "low_rank_sum": (low_rank_sum(u[None], s[None], v[None]), u * s @ v.T),
        }
        for name, (found, expected) in checks.items():
            if not torch.allclose(found.double(), expected.double(), 1e-4, 1e-5):
                return f"awpf_ext.{name} gives a wrong result on {device}"
    except Exception as error:  # the report should show any failure
        return f"{type(error).__name__} on {device}: {error}"
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _caches() -> dict[str, Path]:
    """Folders in which weights, data and features are cached."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    hub = os.environ.get("HF_HUB_CACHE", f"{home}/hub")
    named = {
        "features and data": "~/.cache/awpf_ext",
        "Hugging Face hub": hub,
        "OpenAI weights": "~/.cache/clip",
    }
    return {name: Path(path).expanduser() for name, path in named.items()}


def _folder(path: Path) -> dict[str, Any]:
    """The path, its size in bytes (None if it does not exist yet), and the free bytes."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    used = None
    if path.is_dir():
        files = (Path(root) / name for root, _, names in os.walk(path) for name in names)
        used = sum(file.lstat().st_size for file in files)
    return {"path": str(path), "bytes": used, "free": free}


def _weights() -> list[str]:
    """CLIP weights in the package and in the caches."""
    caches = _caches()
    embedded = Path(__file__).parents[1] / "clip" / "demo" / "weights.safetensors"
    own = [f"demo (in the package, {_size(embedded.stat().st_size)})"] if embedded.is_file() else []
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    files = [
        f for n in names for f in caches["Hugging Face hub"].glob(f"models--*/snapshots/*/{n}")
    ]
    hub = {f.parents[2].name.removeprefix("models--").replace("--", "/") for f in files}
    return own + sorted(hub) + sorted(file.name for file in caches["OpenAI weights"].glob("*.pt"))


def _lines(report: dict[str, Any]) -> list[str]:
    build, packages = report["build"], report["packages"]
    sets = build.get("instruction_sets_built", [])
    kernels = build["cpu_kernels"]
    if "instruction_set" in build:
        kernels += f", {build['instruction_set']} (built: {', '.join(sets)})"
    rejected = build.get("instruction_sets_rejected", {})
    rows = [
        ("awpf_ext", build["awpf_ext"]),
        ("python", build["python"]),
        ("torch", f"{build['torch']}, {build['threads']} threads"),
        ("CPU kernels", kernels),
        *((f"not {name}", reason) for name, reason in rejected.items()),
        ("CUDA kernels", build["cuda_kernels"]),
        ("GPU", ", ".join(report["gpus"]) or "none visible to torch"),
        ("", ""),
    ]
    for name, version in packages.items():
        rows.append((name, version or f"missing: {install_command(name)}"))
    rows.append(("", ""))
    for name, folder in report["folders"].items():
        used = "does not exist yet" if folder["bytes"] is None else _size(folder["bytes"])
        rows.append((name, f"{folder['path']} ({used}, {_size(folder['free'])} free)"))
    rows.append(("weights found", ", ".join(report["weights"]) or "none; downloaded on first use"))
    where = " and on ".join(report["devices"]).replace("cpu", "the CPU")
    works = f"all operations work on {where}"
    verdict = works if report["works"] else f"broken: {report['failure']}"
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows] + ["", verdict]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.0f} GB"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
