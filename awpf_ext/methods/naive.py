"""Naive: the adapter is trained on each task's images alone, without replay and without fusion.

It shows how much is forgotten if nothing is done about it: the lower bound for the other methods.
"""

from __future__ import annotations

from awpf_ext.methods._base.without_replay import WithoutReplay
from awpf_ext.methods.registry import register


@register("naive")
class Naive(WithoutReplay):
    """Trains the adapter on one task after the other, without replay or fusion."""

    bound = "lower"
