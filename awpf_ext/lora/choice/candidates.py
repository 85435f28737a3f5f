"""The merges that are tried: methods, weights and scales."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from awpf_ext.errors import UserError
from awpf_ext.lora.checks import (
    check_merges_checkpoints,
    checked_method,
    checked_settings,
    checked_weights,
)
from awpf_ext.lora.merge_methods import MERGE_METHODS, MergeSettings

SCALES = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0)  # and 1 / T, with which linear is the average
DENSITY = 0.5  # for methods without a default
FINALISTS = 3  # the merges for which other weights are tried, too
_SAME_AS_LINEAR = "stack"  # the same sum in another form
_PLAIN = ("linear", "svd")  # with one of them, a source alone is merged


@dataclass(frozen=True)
class Candidate:
    """One way to merge: what `merge` is called with."""

    method: str
    settings: Mapping[str, Any]
    weights: tuple[float, ...]

    @property
    def key(self) -> str:
        """The same for equal candidates."""
        return json.dumps([self.method, dict(self.settings), self.weights], sort_keys=True)


@dataclass(frozen=True)
class Grid:
    """Checked restrictions of what is tried.

    weights: None = equal ones, each source alone, and for the best merges those in which one source
    counts double.
    """

    methods: tuple[str, ...]
    settings: Mapping[str, Any]
    scales: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...] | None
    count: int  # of sources

    def first(self) -> list[Candidate]:
        """The candidates that are tried in any case, simple methods first."""
        alone = [] if self.weights is not None else list(self._each_alone())
        given = self.weights or ((1.0,) * self.count,)
        every = (
            self._candidate(method, [scale * weight for weight in weights])
            for method in self.methods
            for weights in given
            for scale in _scales(method, self.scales)
        )
        return _unique([*alone, *every])

    def second(self, best: Iterable[Candidate]) -> list[Candidate]:
        """Other weights for the best candidates so far; their sum stays."""
        if self.weights is not None or self.count == 1:
            return []
        equal = [one for one in best if len(set(one.weights)) == 1]
        share = 1 / (self.count + 1)
        return _unique(
            self._candidate(one.method, [w * self.count * share * (1 + (t == place))
                                         for t, w in enumerate(one.weights)])
            for one in equal[:FINALISTS]
            for place in range(self.count)
        )  # fmt: skip

    def _each_alone(self) -> Iterator[Candidate]:
        method = next((name for name in _PLAIN if name in self.methods), None)
        if method is not None and self.count > 1:
            for place in range(self.count):
                yield self._candidate(method, [float(t == place) for t in range(self.count)])

    def _candidate(self, method: str, weights: Sequence[float]) -> Candidate:
        takes = MERGE_METHODS[method].takes
        settings = {key: value for key, value in self.settings.items() if key in takes}
        if "density" in takes:
            settings.setdefault("density", MERGE_METHODS[method].density or DENSITY)
        return Candidate(method, settings, tuple(float(f"{weight:.6g}") for weight in weights))


def checked_grid(
    count: int,
    *,
    whole: bool,
    methods: Sequence[str] | None,
    weights: Sequence[Sequence[float]] | None,
    scales: Sequence[float] | None,
    settings: Mapping[str, Any],
) -> Grid:
    """whole: the sources are checkpoints. settings: given ones, for the methods that take them."""
    rank = settings.get("rank")
    if methods is None:
        methods = [
            name
            for name, method in MERGE_METHODS.items()
            if name != _SAME_AS_LINEAR
            and (not whole or method.merge_dense)
            and (rank is None or "rank" in method.takes)
        ]
    if not methods:
        raise UserError("methods is empty; expected at least one")
    if whole and rank is None and "linear" in methods:  # svd is linear, cut to a rank
        methods = [name for name in methods if name != "svd"]
    chosen = [checked_method(name) for name in methods]
    for key, value in settings.items():
        takers = [(n, m) for n, m in zip(methods, chosen, strict=True) if key in m.takes]
        if not takers:
            raise UserError(f"{key} is a setting of none of the methods {', '.join(methods)}")
        checked_settings(*takers[0], {"density": DENSITY, key: value} if "density" in
                         takers[0][1].takes else {key: value})  # fmt: skip
    for name, method in zip(methods, chosen, strict=True):
        if rank is not None and "rank" not in method.takes:
            raise UserError(
                f"rank is {rank}, which {name} does not keep; leave it out (svd is the best "
                "approximation of linear)"
            )
    if whole:
        space = MergeSettings(merge_space=settings.get("merge_space", "delta"))
        for name, method in zip(methods, chosen, strict=True):
            check_merges_checkpoints(name, method, space)
    given = None if weights is None else [tuple(checked_weights(one, count)) for one in weights]
    if scales is None:
        scales = sorted({*SCALES, float(f"{1 / count:.6g}")}) if given is None else (1.0,)
    if not scales or not all(math.isfinite(scale) and scale != 0 for scale in scales):
        raise UserError(f"scales is {list(scales)}; expected numbers other than 0")
    return Grid(
        tuple(dict.fromkeys(methods)),
        dict(settings),
        tuple(map(float, scales)),
        None if given is None else tuple(given),
        count,
    )


def _scales(method: str, scales: tuple[float, ...]) -> tuple[float, ...]:
    """A method that computes weights itself looks at the ratios of the given ones only."""
    return scales if MERGE_METHODS[method].weigh is None else (1.0,)


def _unique(candidates: Iterable[Candidate]) -> list[Candidate]:
    return list({candidate.key: candidate for candidate in candidates}.values())
