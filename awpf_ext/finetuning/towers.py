"""The towers of an open_clip model as one network from images and tokens to unit vectors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize

from awpf_ext.clip.backbone import Backbone
from awpf_ext.clip.prompted import PromptedClip
from awpf_ext.errors import UserError
from awpf_ext.finetuning.trainable_config import TrainableConfig


class Towers(nn.Module):
    """Both towers; each runs only if it has an input."""

    def __init__(self, model: Any, backbone: Backbone, config: TrainableConfig) -> None:
        """model: a copy of the backbone's model, which will be modified."""
        super().__init__()
        self.model = model
        self.autocast = config.autocast == "bf16"
        self._checkpointing = config.checkpointing
        self._pixels = backbone.pixels

    def forward(
        self, images: Tensor | None, tokens: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """L2-normalised float32 embeddings of uint8 images (n, height, width, 3) and of tokens."""
        of_images = of_tokens = None
        device = (tokens if images is None else images).device.type  # type: ignore[union-attr]
        with torch.autocast(device, torch.bfloat16, enabled=self.autocast), self._attention(device):
            if images is not None:
                of_images = self.model.encode_image(self._pixels(images))
            if tokens is not None:
                of_tokens = self.model.encode_text(tokens)
        return _normalized(of_images), _normalized(of_tokens)

    def _attention(self, device: str) -> AbstractContextManager[None]:
        """On the CPU, the bfloat16 backward of PyTorch's fused attention takes longer than the rest
        of the towers; without it a step is 1.7 times as fast. Checkpointing recomputes the forward
        pass outside this context, where it has to be the same, so there the default is kept.
        """
        slow = self.autocast and device == "cpu" and torch.is_grad_enabled()
        return sdpa_kernel(SDPBackend.MATH) if slow and not self._checkpointing else nullcontext()


def _normalized(features: Tensor | None) -> Tensor | None:
    return None if features is None else normalize(features.float(), dim=-1)


def copied_model(backbone: Backbone, device: torch.device, *, share: bool) -> Any:
    """A copy of the backbone's model in float32, which may be modified.

    share: reuse the backbone's tensors if device and type fit, so that only modules are copied.
    """
    tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
    fit = all(
        tensor.device == device
        and (tensor.dtype == torch.float32 or not tensor.is_floating_point())
        for tensor in tensors
    )
    kept = {id(tensor): tensor for tensor in tensors} if share and fit else {}
    return copy.deepcopy(backbone.model, kept).to(device).float()


def used_parameters(towers: Towers, clip: PromptedClip) -> set[str]:
    """Names of the parameters that the embedding of an image or of a prompt depends on.

    Not all parameters are used: CoCa has a decoder, and PyTorch's attention bypasses some modules.
    """
    places = {id(parameter): name for name, parameter in towers.named_parameters()}
    with torch.enable_grad():
        outputs = _forward_once(towers, clip)
    leaves = (
        getattr(node, "variable", None) for output in outputs for node in _graph_nodes(output)
    )
    return {places[id(leaf)] for leaf in leaves if id(leaf) in places}


def called_layers(towers: Towers, clip: PromptedClip) -> set[str]:
    """Names of the model's modules whose `forward` runs for an image or a prompt."""
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in towers.model.named_modules()
    ]
    with torch.no_grad():
        _forward_once(towers, clip)
    for hook in hooks:
        hook.remove()
    return called


def set_checkpointing(towers: Towers, clip: PromptedClip) -> None:
    """Recompute activations in the backward pass; UserError if open_clip does not support it."""
    towers.model.set_grad_checkpointing(True)
    try:
        with torch.no_grad():
            _forward_once(towers, clip)
    except TypeError as error:  # blocks of some models do not accept open_clip's arguments
        raise UserError(
            "checkpointing is true; expected false, since open_clip cannot do it for "
            f"{clip.backbone.name} ({error})"
        ) from error


def _forward_once(towers: Towers, clip: PromptedClip) -> tuple[Tensor, Tensor]:
    """The embeddings of a black image and of the first prompt."""
    size = clip.backbone.preprocessing["size"]
    height, width = (size, size) if isinstance(size, int) else size
    device = next(towers.parameters()).device
    black = torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device)
    outputs: tuple[Tensor, Tensor] = towers(black, clip.tokens[0, :1].to(device))
    return outputs


def _graph_nodes(output: Tensor) -> Iterator[Any]:
    """The autograd graph behind a tensor."""
    waiting, seen = [output.grad_fn], {None, output.grad_fn}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        new = {following for following, _ in node.next_functions} - seen
        seen |= new
        waiting.extend(new)
