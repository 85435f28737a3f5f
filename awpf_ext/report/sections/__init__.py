"""The sections of a report, in their order.

A new one is a file with a function of the run (or of the group of runs) that returns a `Section`,
or None where the run has nothing to tell of it, and a place in one of these lists.
"""

from __future__ import annotations

from collections.abc import Callable

from awpf_ext.report.blocks import Section
from awpf_ext.report.load import FinishedRun, RunGroup
from awpf_ext.report.sections.accuracy import accuracy
from awpf_ext.report.sections.balance import balance
from awpf_ext.report.sections.class_weights import class_weights
from awpf_ext.report.sections.comparison.accuracy import group_accuracy
from awpf_ext.report.sections.comparison.balance import group_balance
from awpf_ext.report.sections.comparison.combinations import group_combinations
from awpf_ext.report.sections.comparison.provenance import group_provenance
from awpf_ext.report.sections.comparison.runs import group_runs
from awpf_ext.report.sections.comparison.summary import group_summary
from awpf_ext.report.sections.comparison.sweep import group_sweep
from awpf_ext.report.sections.confusion import confusion
from awpf_ext.report.sections.feature_map import feature_map
from awpf_ext.report.sections.matrix import matrix
from awpf_ext.report.sections.provenance import provenance
from awpf_ext.report.sections.summary import summary
from awpf_ext.report.sections.timing import timing

OF_A_RUN: tuple[Callable[[FinishedRun], Section | None], ...] = (
    summary,
    accuracy,
    matrix,
    balance,
    class_weights,
    feature_map,
    confusion,
    timing,
    provenance,
)
OF_A_GROUP: tuple[Callable[[RunGroup], Section | None], ...] = (
    group_summary,
    group_combinations,
    group_accuracy,
    group_sweep,
    group_balance,
    group_runs,
    group_provenance,
)
