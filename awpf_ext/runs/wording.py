"""Numbers, names and values as text, the same in the terminal and in the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awpf_ext.runs.sweep import MeanStd


def percent(fraction: float | None) -> str:
    """In percent with one decimal; a dash where there is no number."""
    if fraction is None or math.isnan(fraction):
        return "-"
    return f"{100 * fraction:.1f}"


def metric_label(metric: str) -> str:
    """A metric's name in tables."""
    return metric.replace("_", " ")


def yaml_text(value: Any) -> str:
    """A value as it is written in `--set KEY=VALUE`."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def pluralize(count: int, noun: str) -> str:
    """ "1 task", "2 tasks", "3 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def mean_std_text(value: MeanStd) -> str:
    """ "75.3 ± 0.4", in percent."""
    return percent(value.mean) + ("" if value.std is None else f" ± {percent(value.std)}")
