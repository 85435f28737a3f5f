"""Many runs side by side: methods, or values of a setting, on several class orders and seeds.

Each run has its own folder below the grid's, so that a grid which was stopped goes on where it was,
and one that is asked for more (another method, another seed) runs only what is new.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from awpf_ext.data import FeatureSet
from awpf_ext.errors import UserError
from awpf_ext.runs.config import (
    ConfigLayer,
    RunConfig,
    parse_assignments,
    resolve_config,
)
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.result import Result
from awpf_ext.runs.run import RunProgress, load_features, run_configured

METRICS = ("average", "last", "forgetting", "worst_class")
HIGHER_IS_BETTER = ("average", "last", "worst_class")


class Axis(NamedTuple):
    """A key that is varied, and its values as they were written."""

    key: str
    values: tuple[str, ...]


class Arm(NamedTuple):
    """One row of a grid: its name, and the keys in which it differs from the others."""

    label: str
    keys: Mapping[str, Any]


class Cell(NamedTuple):
    """One run of a grid."""

    arm: str
    order: str
    seed: int
    config: RunConfig
    folder: Path


class Spread(NamedTuple):
    """Mean and sample standard deviation (None for a single value)."""

    mean: float
    std: float | None


class Difference(NamedTuple):
    """Of runs on the same order and seed: this arm less the first."""

    mean: float
    std: float | None
    higher: int  # runs in which this arm is above the first
    runs: int


@dataclass(frozen=True)
class Grid:
    """The results, arm by arm; each arm has its runs in the same sequence of orders and seeds."""

    cells: tuple[Cell, ...]
    results: tuple[Result, ...]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that all runs have: earlier versions kept no accuracies of classes."""
        return tuple(
            metric
            for metric in METRICS
            if not any(math.isnan(getattr(result, metric)) for result in self.results)
        )

    def values(self, arm: str, metric: str) -> list[float]:
        pairs = zip(self.cells, self.results, strict=True)
        return [float(getattr(result, metric)) for cell, result in pairs if cell.arm == arm]

    def spread(self, arm: str, metric: str) -> Spread:
        return Spread(*_mean_std(self.values(arm, metric)))

    def best(self, metric: str) -> float | None:
        """The highest mean of an arm; None where low is good, or all are alike."""
        means = [self.spread(arm, metric).mean for arm in self.arms]
        alike = max(means) == min(means)
        return None if alike or metric not in HIGHER_IS_BETTER else max(means)

    def paired(self, arm: str) -> list[tuple[Result, Result]]:
        """Runs of `arm` and of the first one on the same order and seed."""
        by_arm: dict[str, dict[tuple[str, int], Result]] = {arm: {}, self.arms[0]: {}}
        for cell, result in zip(self.cells, self.results, strict=True):
            if cell.arm in by_arm:
                by_arm[cell.arm][cell.order, cell.seed] = result
        first = by_arm[self.arms[0]]
        return [(here, first[key]) for key, here in by_arm[arm].items() if key in first]

    def difference(self, arm: str, metric: str) -> Difference:
        pairs = self.paired(arm)
        differences = [float(getattr(a, metric) - getattr(b, metric)) for a, b in pairs]
        higher = sum(difference > 0 for difference in differences)
        return Difference(*_mean_std(differences), higher, len(differences))

    def to_json(self) -> dict[str, Any]:
        runs = [
            {
                "arm": cell.arm,
                "order": cell.order,
                "seed": cell.seed,
                "folder": str(cell.folder),
                **{metric: getattr(result, metric) for metric in self.metrics},
                "accuracy": result.to_json()["accuracy"],
                "records": result.to_json()["records"],
            }
            for cell, result in zip(self.cells, self.results, strict=True)
        ]
        arms = [
            {
                "arm": arm,
                **{metric: self.spread(arm, metric)._asdict() for metric in self.metrics},
                "difference_from": self.arms[0],
                "difference": {m: self.difference(arm, m)._asdict() for m in self.metrics},
            }
            for arm in self.arms
        ]
        first, *others = (result.provenance for result in self.results)
        shared = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
        return {"arms": arms, "runs": runs, "provenance": shared}


def arms_of(axes: Sequence[Axis]) -> list[Arm]:
    """Every combination of the axes' values, those of the last one changing fastest."""
    keys = [axis.key for axis in axes]
    arms = []
    for values in itertools.product(*(axis.values for axis in axes)):
        assigned = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        arms.append(Arm(arm_label(axes, values), parse_assignments(assigned).values))
    return arms


def arm_label(axes: Sequence[Axis], values: Sequence[str]) -> str:
    """The value of the only key, or A=1 B=2."""
    if len(axes) == 1:
        return values[0]
    return " ".join(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))


def plan_grid(
    arms: Sequence[Arm],
    layers: Sequence[ConfigLayer],
    *,
    orders: Sequence[str],
    seeds: Sequence[int],
    out: Path,
) -> list[Cell]:
    """Every run of the grid, all configurations checked before the first one starts."""
    if not (arms and orders and seeds):
        raise UserError("there is nothing to run: methods or values, orders and seeds, one each")
    cells: list[Cell] = []
    unused: list[set[str]] = []
    for arm in arms:
        for order in orders:
            for seed in seeds:
                own = ConfigLayer("this grid", {**arm.keys, "order": order, "seed": seed})
                configured = resolve_config([*layers, own])
                unused.append(set(configured.unused))
                name = f"{arm.label}_order-{order.replace('seed:', '')}_seed-{seed}"
                folder = out / re.sub(r"[^\w.=+-]+", "-", name)
                cells.append(Cell(arm.label, order, seed, configured.config, folder))
    nobodys = set.intersection(*unused)
    if nobodys:
        raise UserError(f"no method here has a setting {', '.join(sorted(nobodys))}")
    folders = [cell.folder for cell in cells]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"two runs of this grid would be kept in {twice}; give each value once")
    return cells


def run_grid(
    cells: Sequence[Cell],
    *,
    progress: RunProgress | None = None,
    starting: Callable[[int, Cell], None] = lambda index, cell: None,
) -> Grid:
    """Run what is not finished yet; `starting` is told of each run before it begins."""
    source = _LatestFeatures()
    results = []
    for index, cell in enumerate(cells):
        starting(index, cell)
        results.append(
            run_configured(
                cell.config, RunFolder(cell.folder), resume=True, progress=progress, load=source
            ).result
        )
    return Grid(tuple(cells), tuple(results))


class _LatestFeatures:
    """Features are read once for runs that share them."""

    def __init__(self) -> None:
        self._key: dict[str, Any] | None = None
        self._features: FeatureSet | None = None

    def __call__(self, config: RunConfig, progress: RunProgress | None) -> FeatureSet:
        key = config.features_identity()
        if self._features is None or key != self._key:
            self._features, self._key = load_features(config, progress), key
        return self._features


def _mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
