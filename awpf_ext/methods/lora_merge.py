"""One LoRA per task, merged by the methods of `awpf merge`: the controls of icm_fusion."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from awpf_ext.data.stream import Task
from awpf_ext.lora.adapter_config import LoraConfig
from awpf_ext.lora.checks import checked_settings
from awpf_ext.lora.merge_methods import MERGE_METHODS
from awpf_ext.lora.merging_in_memory import merge_tensors
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.task_loras import TaskLoras, TaskLorasConfig
from awpf_ext.methods.registry import register

_NO_LIMIT = 1 << 30  # above the rank of any layer
_AVERAGES = {"average": 1.0, "average_sqrt": 0.5}  # the power of T that divides the sum


class LoraMergeConfig(TaskLorasConfig):
    fusion: Literal[
        "average",
        "average_sqrt",
        "linear",
        "stack",
        "svd",
        "ties",
        "dare_linear",
        "dare_ties",
        "magnitude_prune",
        "knots",
        "tsv",
        "iso",
        "icm",
    ] = Field(
        "average",
        description="average = linear with weights 1 / T; average_sqrt = 1 / sqrt(T); others as in "
        "`awpf merge`",
    )
    weight: float = Field(1.0, gt=0, description="Weight of every LoRA, before it is averaged")
    rank: int | None = Field(
        None,
        ge=1,
        description="Rank of the result; null = for svd that of the LoRAs, else no limit",
    )
    density: float | None = Field(
        None, gt=0, le=1, description="Fraction of entries kept; null = the method's default"
    )


@register("lora_merge")
class LoraMerge(TaskLoras):
    """After each task, merges all LoRAs so far into one, layer by layer."""

    Config: ClassVar[type[MethodConfig]] = LoraMergeConfig
    config: LoraMergeConfig

    def __init__(self, config: LoraMergeConfig, **given: Any) -> None:
        super().__init__(config, **given)
        name = "linear" if config.fusion in _AVERAGES else config.fusion
        self.merging = MERGE_METHODS[name]
        chosen = {"rank": config.rank, "density": config.density}
        if config.rank is None and "density" in self.merging.takes:
            chosen["rank"] = _NO_LIMIT  # pruned entries make a matrix of full rank
        if "seed" in self.merging.takes:
            chosen["seed"] = self.seed
        present = {key: value for key, value in chosen.items() if value is not None}
        self.settings = checked_settings(config.fusion, self.merging, present)
        peft = self.trainable.to_adapter().config
        self.scale = LoraConfig(peft, peft["r"], peft["lora_alpha"], {}, {})

    def fuse(self, task: Task) -> dict[str, Tensor]:
        loras = list(self.loras.values())
        power = _AVERAGES.get(self.config.fusion, 0.0)
        weights = [self.config.weight / len(loras) ** power] * len(loras)
        return merge_tensors(loras, self.scale, self.merging, weights, self.settings)
