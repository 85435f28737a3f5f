"""Building a trainable CLIP: both towers in full, LoRA on both, or an adapter."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from awpf_ext.clip.prompted import PromptedClip
from awpf_ext.distributed import SINGLE_PROCESS, World
from awpf_ext.errors import UserError
from awpf_ext.finetuning.towers import Towers, copied_model, set_checkpointing, used_parameters
from awpf_ext.finetuning.trainable_clip import TrainableClip
from awpf_ext.finetuning.trainable_config import TrainableConfig

__all__ = ["LinearMap", "TrainableClip", "TrainableConfig", "build_trainable", "clip_state"]


def build_trainable(
    config: TrainableConfig,
    text: Tensor,
    clip: PromptedClip | None,
    world: World = SINGLE_PROCESS,
    generator: torch.Generator | None = None,
) -> TrainableClip:
    """The trainable CLIP of `config.train`, on the device of `text` (C, d).

    It starts as the frozen CLIP; the backbone is not modified. clip: the backbone and the prompts
    of the C classes; not needed for the adapter. world: processes that make the same calls, with
    the same generator state.
    """
    generator = generator or torch.Generator(text.device).manual_seed(0)
    if config.train == "adapter":
        return _adapter(config, text, world, generator)
    if clip is None:
        raise UserError(
            f"train={config.train} changes CLIP's towers, but there are only features; expected a "
            "data set of images, or train=adapter"
        )
    if config.train == "lora":
        from awpf_ext.finetuning.lora_clip import build_lora_clip

        return build_lora_clip(config, text, clip, world, generator)
    return _full(config, text, clip, world, generator)


def clip_state(trainable: TrainableClip) -> dict[str, Tensor]:
    """All tensors of a CLIP that is trained in full, by open_clip's names."""
    towers = trainable.network
    assert isinstance(towers, Towers)
    state: dict[str, Tensor] = towers.model.state_dict()
    return state


def _full(
    config: TrainableConfig,
    text: Tensor,
    clip: PromptedClip,
    world: World,
    generator: torch.Generator,
) -> TrainableClip:
    """A copy of both towers; CLIP's logit scale is not trained."""
    model = copied_model(clip.backbone, text.device, share=False)
    towers = Towers(model.requires_grad_(True), clip.backbone, config)
    trained = {name.removeprefix("model."): name for name in sorted(used_parameters(towers, clip))}
    if config.checkpointing:
        set_checkpointing(towers, clip)
    return TrainableClip(
        towers,
        trained,
        inputs="images",
        text=text,
        tokens=clip.tokens,
        world=world,
        generator=generator,
        micro_batch=config.micro_batch,
    )


def _adapter(
    config: TrainableConfig, text: Tensor, world: World, generator: torch.Generator
) -> TrainableClip:
    return TrainableClip(
        LinearMap(text.shape[1]),
        {"adapter": "weight"},
        inputs="features",
        text=text,
        tokens=None,
        world=world,
        generator=generator,
        micro_batch=config.micro_batch,
    )


class LinearMap(nn.Module):
    """n(A f) of image features f; A starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dim))

    def forward(self, features: Tensor, tokens: None) -> tuple[Tensor, None]:
        return normalize(features.float() @ self.weight.T, dim=-1), None
