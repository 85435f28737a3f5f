"""The report of a merge, and the record of it that is stored beside the result."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from awpf_ext._library import __version__
from awpf_ext.lora.checkpoint_reader import CHECKPOINT
from awpf_ext.lora.merge_methods import MergeMethod, MergeSettings


class MergedLayer(NamedTuple):
    """One layer of a merge: its ranks, and the fraction of its energy that was kept."""

    name: str
    ranks: tuple[int, ...]  # of the sources
    rank: int  # of the result
    energy_kept: float


class ScoredMerge(NamedTuple):
    """A merge that was tried; without a score, `error` says why there is none."""

    method: str
    settings: dict[str, Any]
    weights: tuple[float, ...]
    score: float | None
    error: str | None


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
    base: dict[str, str] | None = None  # of checkpoints: that they were fine-tuned from
    others: int = 0  # of checkpoints: parameters that are no layers (vectors, embeddings, ...)
    validation: str | None = None  # what it was chosen by, if it was
    ranking: tuple[ScoredMerge, ...] = ()  # everything it was chosen among, best first

    @property
    def written(self) -> Path:
        """What other programs load: the adapter's folder, or the checkpoint's file."""
        return self.out if self.base is None else self.out / CHECKPOINT

    def record(self) -> dict[str, Any]:
        """The record stored beside the result."""
        more: dict[str, Any] = {}
        if self.base is not None:
            more |= {"base": self.base, "other_parameters": self.others}
        if self.ranking:
            more["validation"] = self.validation
            more["ranking"] = [scored._asdict() for scored in self.ranking]
        return {
            "awpf_ext": __version__,
            "torch": torch.__version__,
            "method": self.method,
            "settings": self.settings,
            "weights": list(self.weights),
            "sources": list(self.sources),
            "base_model": self.base_model,
            "energy_kept": self.energy_kept,
            **more,
            "layers": [layer._asdict() for layer in self.layers],
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            **self.record(),
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
        }


def settings_taken(method: MergeMethod, settings: MergeSettings) -> dict[str, Any]:
    """The settings that a method takes, with their values."""
    every = ("rank", "density", "merge_space", "common_fraction", "seed")
    return {key: getattr(settings, key) for key in every if key in method.takes}


def peak_memory() -> int | None:
    """The peak memory of this process in bytes, if the platform reports it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
