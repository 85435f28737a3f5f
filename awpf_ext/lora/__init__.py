"""Merging LoRA adapters in PEFT's format."""

from __future__ import annotations

from awpf_ext.lora.merge_methods import MERGE_METHODS
from awpf_ext.lora.merge_report import MergedLayer, MergeReport
from awpf_ext.lora.merging import merge

__all__ = ["MERGE_METHODS", "MergeReport", "MergedLayer", "merge"]
