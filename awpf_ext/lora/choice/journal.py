"""The scores of an unfinished choice, kept on disk until it is finished."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from awpf_ext import io
from awpf_ext.errors import DataError, UserError, reason

_SCORES = "scores.json"
_LOCK = ".lock"


class Journal:
    """Scores by candidate, in a hidden folder beside the output."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], scores: dict[str, float]) -> None:
        self.folder = folder
        self.scores = scores
        self._identity = dict(identity)

    def kept(self, before: str) -> str:
        """What is kept, for messages, after the text `before`; nothing if nothing is."""
        count = len(self.scores)
        if not count:
            return ""
        scores = "1 score is" if count == 1 else f"{count} scores are"
        return f"{before}{scores} kept in {self.folder}, and the same command continues"

    def new_folder(self, name: str) -> Path:
        """The path of a folder to make here; what a score may have left in an earlier one goes."""
        folder = self.folder / name
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise DataError(f"cannot remove {folder}: {reason(error)}") from error
        return folder

    def add(self, key: str, score: float) -> None:
        scores = {**self.scores, key: score}
        written = {key: _in_json(score) for key, score in scores.items()}
        io.write_json(self.folder / _SCORES, {"identity": self._identity, "scores": written})
        self.scores = scores

    def discard(self) -> None:
        """Keep nothing when the search ends."""
        self.scores = {}


@contextmanager
def open_journal(out: Path, identity: Mapping[str, Any], force: bool) -> Iterator[Journal]:
    """The journal of the choice that ends in `out`; its folder goes away if the block succeeds.

    identity: what the scores depend on besides the candidate, by its name in messages. Scores with
    another identity are never used: they are an error, or with `force` removed with a warning.
    """
    folder = out.parent / f".{out.name}.choosing"
    with io.lock(folder / _LOCK, wait=False):
        path = folder / _SCORES
        scores: dict[str, float] = {}
        if path.exists():
            saved = io.read_json(path)
            try:
                known = dict(saved["identity"])
                scores = {key: float(score) for key, score in saved["scores"].items()}
            except (AttributeError, KeyError, TypeError, ValueError):
                raise DataError(f"cannot read {path}: it is no record of scores") from None
            differing = sorted(
                name
                for name in known.keys() | identity.keys()
                if known.get(name) != identity.get(name)
            )
            what = f"scores of an unfinished choice with other {' and '.join(differing)}"
            if differing and not force:
                raise UserError(
                    f"{folder} has {what}; discard them with force (--force), or choose another "
                    "name for the output"
                )
            if differing:
                warnings.warn(f"discarded {len(scores)} {what}", UserWarning, stacklevel=3)
                scores = {}
        journal = Journal(folder, identity, scores)
        try:
            yield journal
        except BaseException:
            if not journal.scores:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _in_json(score: float) -> float | str:
    """JSON has no NaN and no infinity."""
    return score if math.isfinite(score) else str(score)
