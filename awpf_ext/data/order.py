"""The order in which classes, or domains, are learned."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from awpf_ext.errors import DataError, UserError


def class_order(spec: str, count: int, kind: str = "class") -> tuple[int, ...]:
    """The data set's labels in the order of learning; domains with `kind` "domain".

    natural: in the data set's order. seed:N: numpy.random.RandomState(N).permutation, the
    convention of published class-incremental code (seed:1993). file:PATH: integers, as a JSON list
    or separated by white space.
    """
    rule, _, argument = spec.partition(":")
    if spec == "natural":
        return tuple(range(count))
    if rule == "seed" and argument.isascii() and argument.isdigit() and int(argument) < 2**32:
        return tuple(np.random.RandomState(int(argument)).permutation(count).tolist())
    if rule == "file" and argument:
        return _order_from_file(Path(argument).expanduser(), count, kind)
    raise UserError(
        f"order is {spec!r}; expected natural, seed:N with N in 0..{2**32 - 1}, or file:PATH"
    )


def order_hash(order: Sequence[int]) -> str:
    """A short hash of a class order, to distinguish results on different orders."""
    return hashlib.sha256(json.dumps(list(order)).encode()).hexdigest()[:16]


def _order_from_file(path: Path, count: int, kind: str) -> tuple[int, ...]:
    try:
        text = path.read_text(encoding="utf-8")
        numbers = json.loads(text) if text.lstrip().startswith("[") else text.split()
        order = tuple(int(str(number)) for number in numbers)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read a {kind} order from {path}: {error}") from error
    repeated = sorted(label for label, times in Counter(order).items() if times > 1)
    if repeated:
        raise DataError(f"{path}: {kind} {repeated[0]} appears more than once in the order")
    if sorted(order) != list(range(count)):
        wrong = sorted(set(order) ^ set(range(count)))
        kinds = {"class": "classes"}.get(kind, f"{kind}s")
        raise DataError(
            f"{path}: the order has {len(order)} {kinds}, expected each of 0..{count - 1} "
            f"once; {wrong[0]} is {'foreign' if wrong[0] in order else 'missing'}"
        )
    return order
