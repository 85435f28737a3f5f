"""Which part of CLIP is trained, and how its steps are computed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from awpf_ext.finetuning.roles import Role


class TrainableConfig(BaseModel):
    """Settings that all methods share which train CLIP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Literal["full", "lora", "adapter"] = Field(
        "full",
        description="full: both towers; lora: low-rank changes of both, by PEFT; adapter: one "
        "linear map after the image features, the texts stay",
    )
    lora_rank: int = Field(8, ge=1)
    lora_alpha: float = Field(16, gt=0, description="B A is multiplied by alpha / rank")
    lora_dropout: float = Field(0, ge=0, lt=1, description="of what LoRA's factors are given")
    lora_targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="the ends of layers' names that get factors; null: all linear layers",
    )
    use_rslora: bool = Field(False, description="alpha / sqrt(rank) in place of alpha / rank")
    checkpointing: Annotated[bool, Role.MACHINE] = Field(
        False, description="compute activations again for gradients: less memory, more time"
    )
    autocast: Literal["none", "bf16"] = Field(
        "none", description="bf16: the towers' products in bfloat16"
    )
    micro_batch: Annotated[int | None, Role.MACHINE] = Field(
        None,
        ge=1,
        description="most images, and most prompts, that are in a tower at once; the gradient "
        "stays that of the whole batch. null: all",
    )
