"""Finetune: the shared recipe without fusion, the control that shows what fusing is worth."""

from __future__ import annotations

from awpf_ext.methods._base.adapter import AdapterMethod
from awpf_ext.methods.registry import register


@register("finetune")
class Finetune(AdapterMethod):
    """Each task moves the adapter on by cross-entropy over the classes seen, with replay."""
