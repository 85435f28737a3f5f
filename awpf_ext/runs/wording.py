"""Numbers, names and values as text, for the terminal and the report alike."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from awpf_ext.runs.sweep import MeanStd


def percent(fraction: float | None) -> str:
    """A fraction in percent with one decimal; a dash if it is missing."""
    if fraction is None or math.isnan(fraction):
        return "-"
    return f"{100 * fraction:.1f}"


def seconds_text(seconds: float) -> str:
    """ "0.04", "3.1", "1,250": the number alone, for a column of seconds."""
    return f"{seconds:,.{2 if seconds < 0.95 else 1 if seconds < 99.5 else 0}f}"


def metric_label(metric: str) -> str:
    """The name of a metric in tables."""
    return metric.replace("_", " ")


def yaml_text(value: Any) -> str:
    """A value as one writes it in `--set KEY=VALUE`."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def pluralize(count: int, noun: str) -> str:
    """ "1 task", "2 tasks", "3 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def mean_std_text(value: MeanStd) -> str:
    """ "75.3 ± 0.4", in percent."""
    return percent(value.mean) + ("" if value.std is None else f" ± {percent(value.std)}")
