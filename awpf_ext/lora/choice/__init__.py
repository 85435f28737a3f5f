"""Choosing how to merge: many merges are scored, and the best one is kept."""

from __future__ import annotations

from awpf_ext.lora.choice.program import ProgramScore
from awpf_ext.lora.choice.search import choose_merge

__all__ = ["ProgramScore", "choose_merge"]
