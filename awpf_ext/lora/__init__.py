"""Merging LoRA adapters in PEFT's format, and whole CLIP models."""

from __future__ import annotations

from awpf_ext.lora.choice import ProgramScore, choose_merge
from awpf_ext.lora.merge_methods import MERGE_METHODS
from awpf_ext.lora.merge_report import MergedLayer, MergeReport, ScoredMerge
from awpf_ext.lora.merging import merge

__all__ = [
    "MERGE_METHODS",
    "MergeReport",
    "MergedLayer",
    "ProgramScore",
    "ScoredMerge",
    "choose_merge",
    "merge",
]
