"""Adding an adapter to the weights of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from awpf_ext.errors import DataError
from awpf_ext.lora.adapter_reader import LoraAdapter, LoraLayer


@torch.no_grad()
def add_adapter(model: nn.Module, adapter: LoraAdapter) -> None:
    """Add scaling * B A to the weight of every layer, and take over what is no factor."""
    parameters = dict(model.named_parameters())
    transposed = bool(adapter.config.raw.get("fan_in_fan_out"))
    for name, layer in adapter.layers.items():
        weight = _found(parameters, f"{name}.weight", adapter)
        change = _change(adapter, layer)
        change = change.mT if transposed or layer.embedding else change
        as_matrix = weight.flatten(1) if weight.ndim > 1 else weight
        if change.shape != as_matrix.shape:
            raise DataError(
                f"{adapter.name} changes {name} by a matrix of shape {tuple(change.shape)}; its "
                f"weight has shape {tuple(weight.shape)}"
            )
        weight.add_(change.reshape(weight.shape).to(weight))
    for name, key in adapter.others.items():
        parameter = _found(parameters, name, adapter)
        parameter.copy_(adapter.read(key))


def _change(adapter: LoraAdapter, layer: LoraLayer) -> Tensor:
    b = adapter.read(layer.b_key).float().reshape(-1, layer.rank)
    a = adapter.read(layer.a_key).float().reshape(layer.rank, -1)
    return layer.scaling * (b @ a)


def _found(parameters: dict[str, nn.Parameter], name: str, adapter: LoraAdapter) -> nn.Parameter:
    if name not in parameters:
        raise DataError(f"{adapter.name} changes {name}, which the model does not have")
    return parameters[name]
