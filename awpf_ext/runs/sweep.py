"""Many runs side by side: methods, or values of settings, on several class orders and seeds.

Every run has a folder of its own below that of the sweep. An interrupted sweep therefore continues
with the same command, and one with more methods, values or seeds makes only the new runs.
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

from awpf_ext.clip.precision import AUTO
from awpf_ext.distributed import SINGLE_PROCESS
from awpf_ext.errors import UserError
from awpf_ext.methods.registry import (
    BOUND,
    check_supported,
    is_upper_bound,
    method_class,
    method_label,
)
from awpf_ext.runs.config import (
    ConfigLayer,
    RunConfig,
    parse_assignments,
    resolve_config,
)
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.result import Result
from awpf_ext.runs.run import RunProgress, SharedFeatures, run_configured, with_settled_precision

METRICS = ("average", "last", "forgetting", "worst_class")
HIGHER_IS_BETTER = ("average", "last", "worst_class")
SECONDS = "seconds_to_learn"  # of `Result`; not a metric, but it has a column in every table


class Axis(NamedTuple):
    """A key that is varied, and its values as text."""

    key: str
    values: tuple[str, ...]


class Variant(NamedTuple):
    """One configuration of a sweep: its label, and the keys in which it differs from others."""

    label: str
    keys: Mapping[str, Any]


class SweepRun(NamedTuple):
    """One run of a sweep: a variant on one order with one seed."""

    variant: str
    order: str
    seed: int
    config: RunConfig
    folder: Path


class MeanStd(NamedTuple):
    """Mean and sample standard deviation (None for a single value)."""

    mean: float
    std: float | None

    @staticmethod
    def of(values: Sequence[float]) -> MeanStd:
        std = statistics.stdev(values) if len(values) > 1 else None
        return MeanStd(statistics.mean(values), std)


class Difference(NamedTuple):
    """A variant minus the first variant, over runs with the same order and seed."""

    mean: float
    std: float | None
    higher: int  # runs in which this variant is above the first
    runs: int


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep and their results, variant by variant."""

    runs: tuple[SweepRun, ...]
    results: tuple[Result, ...]

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are defined for all runs."""
        return tuple(
            metric
            for metric in METRICS
            if not any(math.isnan(getattr(result, metric)) for result in self.results)
        )

    def values(self, variant: str, metric: str) -> list[float]:
        pairs = zip(self.runs, self.results, strict=True)
        return [float(getattr(result, metric)) for run, result in pairs if run.variant == variant]

    def mean_std(self, variant: str, metric: str) -> MeanStd:
        return MeanStd.of(self.values(variant, metric))

    def is_bound(self, variant: str) -> bool:
        """Whether the method of all runs of a variant is an upper bound."""
        return all(is_upper_bound(run.config.method) for run in self.runs if run.variant == variant)

    def label(self, variant: str) -> str:
        """The variant as tables and figures name it."""
        return f"{variant} {BOUND}" if self.is_bound(variant) else variant

    def best(self, metric: str) -> float | None:
        """The highest mean of the variants that are no bounds, neither lower nor upper.

        None if lower is better or all are equal.
        """
        bounds = {run.variant for run in self.runs if method_class(run.config.method).bound}
        variants = [variant for variant in self.variants if variant not in bounds]
        means = [self.mean_std(variant, metric).mean for variant in variants]
        if metric not in HIGHER_IS_BETTER or len(set(means)) < 2:
            return None
        return max(means)

    def paired(self, variant: str) -> list[tuple[Result, Result]]:
        """The results of `variant` and of the first variant for the same order and seed."""
        results: dict[str, dict[tuple[str, int], Result]] = {variant: {}, self.variants[0]: {}}
        for run, result in zip(self.runs, self.results, strict=True):
            if run.variant in results:
                results[run.variant][run.order, run.seed] = result
        first = results[self.variants[0]]
        return [(here, first[key]) for key, here in results[variant].items() if key in first]

    def difference(self, variant: str, metric: str) -> Difference:
        pairs = self.paired(variant)
        differences = [float(getattr(a, metric) - getattr(b, metric)) for a, b in pairs]
        higher = sum(difference > 0 for difference in differences)
        return Difference(*MeanStd.of(differences), higher, len(differences))

    def to_json(self) -> dict[str, Any]:
        variants = [
            {
                "variant": variant,
                "is_bound": self.is_bound(variant),
                **{metric: self.mean_std(variant, metric)._asdict() for metric in self.metrics},
                SECONDS: self.mean_std(variant, SECONDS)._asdict(),
                "difference_from": self.variants[0],
                "difference": {m: self.difference(variant, m)._asdict() for m in self.metrics},
            }
            for variant in self.variants
        ]
        runs = [
            {
                "variant": run.variant,
                "order": run.order,
                "seed": run.seed,
                "folder": str(run.folder),
                **{metric: getattr(result, metric) for metric in self.metrics},
                SECONDS: result.seconds_to_learn,
                "accuracy": result.to_json()["accuracy"],
                "records": result.to_json()["records"],
            }
            for run, result in zip(self.runs, self.results, strict=True)
        ]
        first, *others = (result.provenance for result in self.results)
        shared = {k: v for k, v in first.items() if all(o.get(k) == v for o in others)}
        return {"variants": variants, "runs": runs, "provenance": shared}


def variants_of(axes: Sequence[Axis]) -> list[Variant]:
    """All combinations of the axes' values; those of the last axis change fastest."""
    keys = [axis.key for axis in axes]
    variants = []
    for values in itertools.product(*(axis.values for axis in axes)):
        assigned = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        keys_of = parse_assignments(assigned).values
        variants.append(Variant(variant_label(axes, values), keys_of))
    return variants


def variant_label(axes: Sequence[Axis], values: Sequence[str]) -> str:
    """The value if only one key is varied, else A=1 B=2."""
    if len(axes) == 1:
        return values[0]
    return " ".join(f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))


def value_label(axis: Axis, value: str) -> str:
    """A value of an axis as tables name it: a method that is an upper bound is marked."""
    return method_label(value) if axis.key == "method" else value


def plan_sweep(
    variants: Sequence[Variant],
    layers: Sequence[ConfigLayer],
    *,
    orders: Sequence[str],
    seeds: Sequence[int],
    out: Path,
) -> list[SweepRun]:
    """All runs of a sweep; their configurations are checked before the first run starts."""
    if not (variants and orders and seeds):
        raise UserError(
            "there is nothing to run; expected at least one method or value, one order and one seed"
        )
    runs: list[SweepRun] = []
    unused: list[set[str]] = []
    for variant, order, seed in itertools.product(variants, orders, seeds):
        own = ConfigLayer("this sweep", {**variant.keys, "order": order, "seed": seed})
        configured = resolve_config([*layers, own])
        unused.append(set(configured.unused))
        check_supported(configured.config.method, configured.config.protocol, SINGLE_PROCESS)
        name = f"{variant.label}_order-{order.replace('seed:', '')}_seed-{seed}"
        folder = out / re.sub(r"[^\w.=+-]+", "-", name)
        runs.append(SweepRun(variant.label, order, seed, configured.config, folder))
    unknown = set.intersection(*unused)
    if unknown:
        raise UserError(f"no method here has a setting {', '.join(sorted(unknown))}")
    folders = [run.folder for run in runs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"two runs of this sweep would be kept in {twice}; give each value once")
    return runs


def run_sweep(
    runs: Sequence[SweepRun],
    *,
    progress: RunProgress | None = None,
    starting: Callable[[int, SweepRun], None] = lambda index, run: None,
) -> SweepResult:
    """Make the runs that are not finished yet; `starting` is called before each of them.

    Runs whose precision is auto have that of the first of them that was begun.
    """
    load = SharedFeatures()
    begun = [RunFolder(run.folder) for run in runs if run.config.precision == AUTO]
    results = []
    for index, run in enumerate(runs):
        starting(index, run)
        folder = RunFolder(run.folder)
        config = with_settled_precision(run.config, folder, *begun)
        done = run_configured(config, folder, resume=True, progress=progress, load=load)
        results.append(done.result)
    return SweepResult(tuple(runs), tuple(results))
