"""The sections of a report on several runs side by side, in their order; see `report.sections`."""

from __future__ import annotations

from collections.abc import Callable

from awpf_ext.report.blocks import Section
from awpf_ext.report.load import Comparison
from awpf_ext.report.sections.comparison import (
    accuracy,
    balance,
    combinations,
    provenance,
    runs,
    summary,
    sweep,
)

SECTIONS: tuple[Callable[[Comparison], Section | None], ...] = (
    summary.section,
    combinations.section,
    accuracy.section,
    sweep.section,
    balance.section,
    runs.section,
    provenance.section,
)
