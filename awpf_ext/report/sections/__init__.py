"""The sections of a report on one run, in their order; those on several runs are in `comparison/`.

A new section is a file with a function `section` and an entry in SECTIONS. The function takes the
run (or the comparison) and returns a `Section`, or None if there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable

from awpf_ext.report.blocks import Section
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.sections import (
    accuracy,
    accuracy_heatmap,
    balance,
    class_weights,
    confusion,
    feature_map,
    lora_fusion,
    provenance,
    summary,
    timing,
    visual_head,
)

SECTIONS: tuple[Callable[[FinishedRun], Section | None], ...] = (
    summary.section,
    accuracy.section,
    accuracy_heatmap.section,
    balance.section,
    visual_head.section,
    lora_fusion.section,
    class_weights.section,
    feature_map.section,
    confusion.section,
    timing.section,
    provenance.section,
)
