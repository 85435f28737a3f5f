"""Checks of the arguments of `merge`, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from awpf_ext.errors import UserError, suggestion
from awpf_ext.lora.adapter_config import check_agreement
from awpf_ext.lora.adapter_reader import LoraAdapter
from awpf_ext.lora.checkpoint_reader import OPEN_CLIP
from awpf_ext.lora.merge_methods import MERGE_METHODS, MergeMethod, MergeSettings

_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "rank": ("a whole number of at least 1", lambda v: isinstance(v, int) and v >= 1),
    "density": ("a number above 0, at most 1", lambda v: isinstance(v, int | float) and 0 < v <= 1),
    "merge_space": ("delta or factors", lambda v: v in ("delta", "factors")),
    "common_fraction": (
        "a number from 0 to 1",
        lambda v: isinstance(v, int | float) and 0 <= v <= 1,
    ),
    "seed": ("a whole number of at least 0", lambda v: isinstance(v, int) and v >= 0),
}


def checked_method(name: str) -> MergeMethod:
    if name not in MERGE_METHODS:
        raise UserError(f"there is no merge method {name!r}; {suggestion(name, MERGE_METHODS)}")
    return MERGE_METHODS[name]


def checked_settings(name: str, method: MergeMethod, given: dict[str, Any]) -> MergeSettings:
    for key, value in given.items():
        if key not in method.takes:
            takes = f"it takes {' and '.join(method.takes)}" if method.takes else "it takes none"
            raise UserError(f"{key} is no setting of {name}; {takes}")
        expected, right = _EXPECTED[key]
        if isinstance(value, bool) or not right(value):
            raise UserError(f"{key} is {value!r}; expected {expected}")
    if "density" in method.takes and "density" not in given:
        if method.density is None:
            raise UserError(f"{name} needs density (--density), the fraction of entries kept")
        given = {**given, "density": method.density}
    return MergeSettings(**given)


def check_merges_checkpoints(name: str, method: MergeMethod, settings: MergeSettings) -> None:
    if method.merge_dense is None:
        raise UserError(f"{name} merges adapters only; for checkpoints choose another method")
    if settings.merge_space != "delta":
        raise UserError(
            f"merge_space is {settings.merge_space!r}; expected delta, since checkpoints have no "
            "factors"
        )


def checked_sources(
    sources: Sequence[str | Path], out: Path, base: str | Path | None
) -> list[Path]:
    """The sources' paths; neither they nor the base are replaced by the result."""
    if isinstance(sources, str | Path) or not sources:
        raise UserError(f"sources is {sources!r}; expected a list of paths")
    paths = [Path(source).expanduser() for source in sources]
    begun = [] if base is None or str(base).startswith(OPEN_CLIP) else [Path(base).expanduser()]
    for path in (*paths, *begun):
        if out.resolve() in (path.resolve(), path.resolve().parent):
            what = "one of the sources" if path in paths else "the base"
            raise UserError(f"{out} is or holds {what}; the result needs a folder of its own")
    return paths


def checked_dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in _TYPES:
        raise UserError(f"dtype is {name!r}; expected one of {', '.join(_TYPES)}")
    return None if name is None else _TYPES[name]


def checked_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    try:
        given = [float(weight) for weight in weights]
    except (TypeError, ValueError):
        raise UserError(f"weights has {weights!r}; expected a list of numbers") from None
    if len(given) != count:
        raise UserError(f"there are {len(given)} weights for {count} sources; expected one each")
    for weight in given:
        if not math.isfinite(weight):
            raise UserError(f"a weight is {weight}; expected finite numbers")
    return given


def check_alike(adapters: Sequence[LoraAdapter], base_model: str | None) -> None:
    names = [adapter.name for adapter in adapters]
    check_agreement([adapter.config for adapter in adapters], names, base_model)
    first = adapters[0]
    for other in adapters[1:]:
        for mine, theirs in ((first.layers, other.layers), (first.others, other.others)):
            for alone, keys in (
                (first, mine.keys() - theirs.keys()),
                (other, theirs.keys() - mine.keys()),
            ):
                if keys:
                    raise UserError(
                        f"the adapters do not have the same modules: only {alone.name} has "
                        f"{some_names(keys)}"
                    )
        for name, layer in first.layers.items():
            theirs_ = other.layers[name]
            if layer.shape != theirs_.shape:
                raise UserError(
                    f"the adapters differ in the shape of {name}: A {layer.a_shape} and B "
                    f"{layer.b_shape} in {first.name}, A {theirs_.a_shape} and B "
                    f"{theirs_.b_shape} in {other.name}"
                )


def some_names(keys: set[str]) -> str:
    """A few of the names, in words."""
    shown = sorted(keys)[:4]
    return ", ".join(shown) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
