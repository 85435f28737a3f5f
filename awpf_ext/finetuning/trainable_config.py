"""Configuration of what is trained of CLIP, and of how a step is computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from awpf_ext.finetuning.roles import Role


class TrainableConfig(BaseModel):
    """Settings shared by all methods that train CLIP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Literal["full", "lora", "adapter"] = Field(
        "full",
        description="What is trained: full = both towers; lora = LoRA on both towers (PEFT); "
        "adapter = one linear map after the image features, with fixed class texts",
    )
    lora_rank: int = Field(8, ge=1, description="Rank of the LoRA factors")
    lora_alpha: float = Field(16, gt=0, description="LoRA scales B A by alpha / rank")
    lora_dropout: float = Field(
        0, ge=0, lt=1, description="Dropout on the input of the LoRA factors"
    )
    lora_targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Suffixes of the names of the layers that get LoRA factors; null = all linear "
        "layers",
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank) instead of alpha / rank"
    )
    checkpointing: Annotated[bool, Role.MACHINE] = Field(
        False, description="Recompute activations in the backward pass: less memory, more time"
    )
    autocast: Literal["none", "bf16"] = Field(
        "none", description="bf16 = matrix products of the towers in bfloat16"
    )
    micro_batch: Annotated[int | None, Role.MACHINE] = Field(
        None,
        ge=1,
        description="Maximum number of images, and of prompts, in a tower at a time, in training "
        "and after it; the gradient is still that of the whole batch; null = no limit",
    )
