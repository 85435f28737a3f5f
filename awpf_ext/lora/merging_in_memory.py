"""Merging LoRAs in memory that have the same configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from awpf_ext.lora.adapter_config import LoraConfig
from awpf_ext.lora.adapter_reader import PREFIX
from awpf_ext.lora.merge_methods import MergeMethod, MergeSettings, Term

_SIDES = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


def merge_tensors(
    loras: Sequence[Mapping[str, Tensor]],
    config: LoraConfig,
    method: MergeMethod,
    weights: Sequence[float],
    settings: MergeSettings,
) -> dict[str, Tensor]:
    """Merge several LoRAs, given by PEFT's names; ranks may differ from those of `config`.

    The factors are such that `config`'s scaling of their layer, for its own rank, holds for them.
    """
    result: dict[str, Tensor] = {}
    if method.weigh is not None and len(loras) > 1:
        weights = method.weigh(
            _terms(loras, pair, config, weights) for pair in factor_pairs(loras[0])
        )
    for module, a_name, b_name in factor_pairs(loras[0]):
        a_shape, b_shape = loras[0][a_name].shape, loras[0][b_name].shape
        scaling = config.scaling(module, a_shape[0])
        terms = _terms(loras, (module, a_name, b_name), config, weights)
        merged = method.merge(module, terms, settings)
        rank = merged.a.shape[0]
        result[a_name] = merged.a.reshape(rank, *a_shape[1:])
        result[b_name] = (merged.b / scaling).reshape(b_shape[0], rank, *b_shape[2:])
    return result


def _terms(
    loras: Sequence[Mapping[str, Tensor]],
    pair: tuple[str, str, str],
    config: LoraConfig,
    weights: Sequence[float],
) -> list[Term]:
    module, a_name, b_name = pair
    scaling = config.scaling(module, loras[0][a_name].shape[0])
    terms = []
    for place, (lora, weight) in enumerate(zip(loras, weights, strict=True)):
        b, a = lora[b_name], lora[a_name]
        rank = a.shape[0]
        factors = b.reshape(-1, rank).float(), a.reshape(rank, -1).float()
        terms.append(Term(*factors, scaling, weight, str(place)))
    return terms


def factor_pairs(names: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """The module of every layer with the names of its A and its B."""
    for name in names:
        for side, other in _SIDES:
            before, found, after = name.partition(f".{side}")
            if found and (not after or after.startswith(".")):
                yield before.removeprefix(PREFIX), name, f"{before}.{other}{after}"
