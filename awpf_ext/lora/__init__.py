"""Merging LoRA adapters that PEFT has written, or PEFT shall read."""

from __future__ import annotations

from awpf_ext.lora.merging import MergedLayer, MergeReport, merge
from awpf_ext.lora.methods import METHODS

__all__ = ["METHODS", "MergeReport", "MergedLayer", "merge"]
