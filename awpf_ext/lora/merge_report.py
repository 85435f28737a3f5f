"""The report of a merge, and the record of it that is stored beside the merged adapter."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from awpf_ext._library import __version__


class MergedLayer(NamedTuple):
    """One layer of a merge: its ranks, and the fraction of its energy that was kept."""

    name: str
    ranks: tuple[int, ...]  # of the adapters
    rank: int  # of the result
    energy_kept: float


@dataclass(frozen=True)
class MergeReport:
    """The result of a merge. Energies are squared Frobenius norms of the merged deltas."""

    out: Path
    method: str
    settings: dict[str, Any]
    weights: tuple[float, ...]
    sources: tuple[dict[str, str], ...]
    base_model: str | None
    layers: tuple[MergedLayer, ...]
    energy_kept: float  # fraction of the energy kept by the cut to a rank, over all layers
    seconds: float
    peak_memory: int | None  # bytes, of the whole process since it started

    def record(self) -> dict[str, Any]:
        """The record stored beside the merged adapter."""
        return {
            "awpf_ext": __version__,
            "torch": torch.__version__,
            "method": self.method,
            "settings": self.settings,
            "weights": list(self.weights),
            "sources": list(self.sources),
            "base_model": self.base_model,
            "energy_kept": self.energy_kept,
            "layers": [layer._asdict() for layer in self.layers],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            **self.record(),
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
        }


def peak_memory() -> int | None:
    """The peak memory of this process in bytes, if the platform reports it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
