"""Zero-shot CLIP (Continual-CLIP): nothing is trained, each task only adds its class names."""

from __future__ import annotations

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.method import EpochProgress, Method
from awpf_ext.methods.registry import register


@register("zero_shot")
class ZeroShot(Method):
    """logits = s n(f) . t_c over the classes seen."""

    protocols = ("class", "domain")

    def learn(self, task: Task, progress: EpochProgress) -> None:
        """Nothing to train: CLIP compares images with texts as it is."""
