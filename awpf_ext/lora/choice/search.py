"""Scoring merges one after another, and writing the best."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from awpf_ext import io
from awpf_ext._library import __version__
from awpf_ext.errors import AwpfError, DataError, UserError
from awpf_ext.lora.adapter_reader import open_adapter
from awpf_ext.lora.adapter_writer import MERGE_REPORT, check_free, new_folder
from awpf_ext.lora.checkpoint_reader import open_checkpoint, weights_file
from awpf_ext.lora.checks import checked_dtype, checked_sources
from awpf_ext.lora.choice.candidates import Candidate, checked_grid
from awpf_ext.lora.choice.journal import Journal, open_journal
from awpf_ext.lora.merge_methods import ImpossibleMergeError
from awpf_ext.lora.merge_report import MergeReport, ScoredMerge
from awpf_ext.lora.merging import merge

Score = Callable[[Path], float]
_SETTINGS = ("rank", "density", "merge_space", "common_fraction", "seed")


def choose_merge(
    sources: Sequence[str | Path],
    out: str | Path,
    score: Score,
    *,
    base: str | Path | None = None,
    methods: Sequence[str] | None = None,
    weights: Sequence[Sequence[float]] | None = None,
    scales: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | None = None,
    merge_space: str | None = None,
    common_fraction: float | None = None,
    seed: int | None = None,
    dtype: str | None = None,
    base_model: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Merge in many ways, score each merge, and write the best one to the folder `out`.

    All methods are tried with equal weights at several scales, and each source alone; then, for the
    three best, weights in which one source counts double. If the search is interrupted, its scores
    are kept beside `out`, and the same call continues.

    Args:
        sources: as in `merge`.
        out: the folder to write.
        score: called with the path of a merge (an adapter's folder, a checkpoint's file); a higher
            number is better, and NaN or an infinity is none. `score.name`, if there is one, says in
            the record what it is.
        base: as in `merge`.
        methods: those to try; default: all but `stack`, and with `rank` those that keep it.
        weights: the only ones to try, each multiplied by all scales (default then: 1).
        scales: the factors on the weights; default: 1 / T of T sources, 0.3, 0.5, 0.75, 1, 1.5, 2.
        rank, density, merge_space, common_fraction, seed: for the methods that take them. The
            density of methods without a default is 0.5.
        dtype, base_model, force: as in `merge`.
        progress: progress(done, merges) is called after each merge.

    Returns:
        The report of the best merge, with the ranking of all.
    """
    out = Path(out).expanduser()
    paths = checked_sources(sources, out, base)
    given = dict(zip(_SETTINGS, (rank, density, merge_space, common_fraction, seed), strict=True))
    grid = checked_grid(
        len(paths),
        whole=base is not None,
        methods=methods,
        weights=weights,
        scales=scales,
        settings={key: value for key, value in given.items() if value is not None},
    )
    checked_dtype(dtype)
    check_free(out, force)
    name = str(getattr(score, "name", getattr(score, "__qualname__", type(score).__name__)))
    identity = {
        "sources": _hashes(paths, base),
        "score": name,
        "files of the score": str(getattr(score, "version", "")),
        "dtype": dtype,
        "base_model": base_model,
        "versions of awpf_ext or torch": [__version__, torch.__version__],
    }
    merge_as = partial(merge, paths, base=base, dtype=dtype, base_model=base_model)
    with open_journal(out, identity, force) as journal, _told_what_is_kept(journal):
        search = _Search(journal, score, merge_as)
        first = grid.first()
        total = len(first) + len(grid.second(first))
        search.run(first, total, progress)
        second = grid.second([one for one, scored in search.ranked() if scored.error is None])
        search.run(second, len(first) + len(second), progress)
        ranked = search.ranked()
        best = ranked[0][0]
        if ranked[0][1].error is not None:
            journal.discard()  # the same call would end in the same way
            raise search.failure or DataError(f"no merge has a score: {ranked[0][1].error}")
        folder = journal.new_folder("best")
        report = replace(
            merge_as(folder, method=best.method, weights=best.weights, **best.settings),
            out=out,
            validation=name,
            ranking=tuple(scored for _, scored in ranked),
        )
        with new_folder(out, force) as new:
            for path in sorted(folder.iterdir()):
                path.rename(new / path.name)
            io.write_json(new / MERGE_REPORT, report.record())
    return report


@contextmanager
def _told_what_is_kept(journal: Journal) -> Iterator[None]:
    """Whatever ends the search early also says what is kept of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(journal.kept(": ")) from None
    except AwpfError as error:
        raise type(error)(f"{error}{journal.kept('; ')}") from error.__cause__


class _Search:
    """Merges and scores candidates."""

    def __init__(
        self, journal: Journal, score: Score, merge_as: Callable[..., MergeReport]
    ) -> None:
        self.failure: ImpossibleMergeError | None = None  # why the first merge failed that did
        self._journal = journal
        self._score = score
        self._merge_as = merge_as
        self._scored: list[tuple[Candidate, ScoredMerge]] = []

    def run(
        self,
        candidates: Sequence[Candidate],
        total: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        for candidate in candidates:
            score, error = self._journal.scores.get(candidate.key), None
            if score is None:
                score, error = self._tried(candidate)
            if score is not None and not math.isfinite(score):
                score, error = None, f"the score was {score}"
            facts = (candidate.method, dict(candidate.settings), candidate.weights)
            self._scored.append((candidate, ScoredMerge(*facts, score, error)))
            if progress is not None:
                progress(len(self._scored), total)

    def ranked(self) -> list[tuple[Candidate, ScoredMerge]]:
        """The best first; of equal scores the one that was tried first; those without one last."""
        return sorted(
            self._scored, key=lambda pair: -math.inf if pair[1].score is None else pair[1].score,
            reverse=True,
        )  # fmt: skip

    def _tried(self, candidate: Candidate) -> tuple[float | None, str | None]:
        """The score, or why this merge is impossible."""
        try:
            report = self._merge_as(
                self._journal.new_folder("tried"),
                method=candidate.method,
                weights=candidate.weights,
                **candidate.settings,
            )
        except ImpossibleMergeError as error:
            self.failure = self.failure or error
            return None, str(error)
        score = _checked(self._score(report.written))
        self._journal.add(candidate.key, score)
        return score, None


def _checked(score: Any) -> float:
    try:
        return float(score) + 0.0  # -0.0 becomes 0.0
    except (TypeError, ValueError):
        raise UserError(f"score returned {score!r}; expected a number") from None


def _hashes(paths: Sequence[Path], base: str | Path | None) -> list[str]:
    """The content of everything that is merged."""
    with ExitStack() as stack:
        if base is None:
            opened = [stack.enter_context(open_adapter(path)) for path in paths]
            return [f"{one.sha256} {json.dumps(one.config.raw, sort_keys=True)}" for one in opened]
        every = [weights_file(base), *paths]
        return [stack.enter_context(open_checkpoint(path)).sha256 for path in every]
