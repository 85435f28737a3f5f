"""Finetune: the adapter training loop without fusion, the control for methods that fuse."""

from __future__ import annotations

from awpf_ext.methods._base.adapter import AdapterMethod
from awpf_ext.methods.registry import register


@register("finetune")
class Finetune(AdapterMethod):
    """Each task trains the adapter further, by cross-entropy over the classes seen and replay."""
