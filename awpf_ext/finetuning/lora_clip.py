"""CLIP with LoRA on both towers (PEFT), and its adapter in PEFT's format."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from awpf_ext.clip.prompted import PromptedClip
from awpf_ext.distributed import World
from awpf_ext.errors import UserError, install_command
from awpf_ext.finetuning.towers import (
    Towers,
    called_layers,
    copied_model,
    set_checkpointing,
    used_parameters,
)
from awpf_ext.finetuning.trainable_clip import TrainableClip, seeded
from awpf_ext.finetuning.trainable_config import TrainableConfig
from awpf_ext.lora.adapter_reader import PREFIX
from awpf_ext.lora.adapter_writer import AdapterFiles

_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Embedding, nn.MultiheadAttention)


class LoraClip(TrainableClip):
    """Both towers with LoRA factors at linear layers; B starts at 0, so CLIP is unchanged at first.

    The trained tensors have the names of PEFT's files.
    """

    def __init__(self, network: Towers, peft_config: dict[str, Any], **given: Any) -> None:
        trained = {
            PREFIX + name.removeprefix("model.").replace(".default", ""): name
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        dropouts = [
            module
            for name, module in network.named_modules()
            if ".lora_dropout." in name and isinstance(module, nn.Dropout)
        ]
        super().__init__(network, trained, inputs="images", dropouts=dropouts, **given)
        self._peft_config = peft_config

    def to_adapter(self) -> AdapterFiles:
        """The adapter for `write_adapter`; `awpf merge` and PEFT can read it."""
        tensors = {name: tensor.cpu() for name, tensor in self.state_dict().items()}
        return AdapterFiles(tensors=tensors, config=self._peft_config)


def build_lora_clip(
    config: TrainableConfig,
    text: Tensor,
    clip: PromptedClip,
    world: World,
    generator: torch.Generator,
) -> LoraClip:
    """CLIP with LoRA; UserError if PEFT is missing, or a target does not exist or has no effect.

    A layer of PyTorch's MultiheadAttention cannot be a target: the attention reads
    `out_proj.weight` directly and bypasses a module in its place, and PEFT's own wrapper (0.21)
    applies the change of `out_proj` twice.
    """
    peft = _peft()
    backbone = clip.backbone
    model = copied_model(backbone, text.device, share=True)
    towers = Towers(model, backbone, config)
    targets = sorted(
        _linear_layers(towers, clip) if config.lora_targets is None else config.lora_targets
    )
    peft_config = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=targets,
        base_model_name_or_path=f"open_clip:{backbone.name}:{backbone.pretrained}",
        revision=backbone.weights_hash,
    )
    drawn = torch.randint(1 << 40, (1,), generator=generator, device=generator.device)
    with seeded(int(drawn), text.device):
        try:
            peft.inject_adapter_in_model(peft_config, model)
        except ValueError as error:  # a target that does not exist, or that PEFT does not support
            raise UserError(f"lora_targets is {targets}: {error}") from None
    _check_effective(towers, clip, targets)
    if config.checkpointing:
        set_checkpointing(towers, clip)
    return LoraClip(
        towers,
        _as_written(peft_config, targets),
        text=text,
        tokens=clip.tokens,
        world=world,
        generator=generator,
        micro_batch=config.micro_batch,
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"train=lora needs PEFT, which cannot be imported ({error}); get it with "
            f"{install_command('peft')}"
        ) from None
    return peft


def _linear_layers(towers: Towers, clip: PromptedClip) -> set[str]:
    """Names of the linear layers that the towers call; only their suffixes if those are unique."""
    model = towers.model
    layers = {name for name in called_layers(towers, clip) if _is_linear(model, name)}
    if not any(name.startswith("visual.") for name in layers):
        raise UserError(
            f"the image tower of {clip.backbone.name} has no linear layers for LoRA; expected "
            "lora_targets, the names of its convolutions, or train=full"
        )
    suffixes = {_suffix(name) for name in layers}
    meant = {
        name
        for name, module in model.named_modules()
        if _suffix(name) in suffixes and isinstance(module, _ADAPTABLE)
    }
    return suffixes if meant == layers else layers


def _is_linear(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Linear)


def _suffix(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _check_effective(towers: Towers, clip: PromptedClip, targets: list[str]) -> None:
    from peft.tuners.lora.layer import MultiheadAttention

    attention = [
        name.removeprefix("model.")
        for name, module in towers.named_modules()
        if isinstance(module, MultiheadAttention)
    ]
    trained = {name for name, value in towers.named_parameters() if value.requires_grad}
    idle = sorted(trained - used_parameters(towers, clip))
    if attention or idle:
        name = attention[0] if attention else idle[0].removeprefix("model.").split(".lora_")[0]
        raise UserError(
            f"lora_targets is {targets}: {name} belongs to torch's MultiheadAttention or is not "
            "used, so that factors there would not do what they say; expected linear layers of "
            "the towers (null: all of them)"
        )


def _as_written(peft_config: Any, targets: list[str]) -> dict[str, Any]:
    """The config as a JSON object."""
    fields = {**peft_config.to_dict(), "target_modules": targets, "inference_mode": True}
    written: dict[str, Any] = json.loads(json.dumps(fields, default=sorted))
    return written
