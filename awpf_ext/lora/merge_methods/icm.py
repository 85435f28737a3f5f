"""ICM-Fusion of adapters without any task data, so the VAE is trained without inner steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from awpf_ext.errors import UserError
from awpf_ext.lora.icm import (
    FusionVae,
    Layout,
    MetaSettings,
    TrainingSet,
    count_sketch,
    fuse_loras,
    meta_train,
    stack_loras,
)
from awpf_ext.lora.merge_methods.base import Merged, MergeSettings, Term, signed_root

STEPS = 100
ADAPTERS_PER_STEP = 2  # adapters per step: their activations take most of the memory
TASK_VECTOR = 256  # length of a task vector


def icm(layer: str, terms: Sequence[Term], settings: MergeSettings) -> Merged:
    """ICM-Fusion (arXiv 2508.04153, reconstructed from its abstract) on the factors of all layers.

    l_t: all sqrt(s_t) B_t and sqrt(s_t) A_t in one vector, each tensor standardised; v_t: its count
    sketch in 256 numbers. A convolutional VAE, conditioned on v_t, is trained on the l_t, two at a
    time, for 100 steps from weights of the seed. With a_t = w_t / sum of w,
    l = dec(sum a_t mu_t, sum a_t v_t); its tensors get the deviations sum a_t std_t (brought up by
    sqrt(T) at most) and the means sum a_t mean_t.

    The adapters must have the same rank, and no weight may be negative; only the ratios of the
    weights matter. Output rank: that of the adapters. Needs memory for all adapters and the
    network.
    """
    return icm_layers({layer: terms}, settings)[layer]


def icm_layers(layers: Mapping[str, Sequence[Term]], settings: MergeSettings) -> dict[str, Merged]:
    """`icm` for all layers together."""
    weights = _normalized_weights(next(iter(layers.values())))
    tensors = [_tensors(layers, place) for place in range(len(weights))]
    layout = Layout.of(tensors[0])
    flats = stack_loras([layout.flatten(each) for each in tensors])
    parts = zip(*flats, strict=True)
    vectors = torch.stack(
        [count_sketch(layout.entries(type(flats)(*part)), TASK_VECTOR) for part in parts]
    )
    vae = FusionVae(layout.size, TASK_VECTOR, seed=settings.seed)
    data = TrainingSet(layout, flats, torch.arange(len(weights)), vectors)
    generator = torch.Generator().manual_seed(settings.seed)
    meta_train(vae, data, MetaSettings(steps=STEPS, batch=ADAPTERS_PER_STEP), generator)
    result = fuse_loras(vae, layout, flats, vectors, weights)
    return {name: Merged(result[f"{name}.b"], result[f"{name}.a"]) for name in layers}


def _normalized_weights(terms: Sequence[Term]) -> list[float]:
    weights = [term.weight for term in terms]
    if min(weights) < 0 or sum(weights) <= 0:
        raise UserError(
            f"icm averages codes, so no weight may be negative and not all may be 0; got {weights}"
        )
    return [weight / sum(weights) for weight in weights]


def _tensors(layers: Mapping[str, Sequence[Term]], place: int) -> dict[str, Tensor]:
    """One adapter's factors, each multiplied by the square root of the scaling."""
    found = {}
    for name, terms in layers.items():
        ranks = {term.rank for term in terms}
        if len(ranks) > 1:
            raise UserError(f"icm needs adapters of one rank, but {name} has {sorted(ranks)}")
        term = terms[place]
        left, right = signed_root(term.scaling)
        found[f"{name}.b"], found[f"{name}.a"] = left * term.b, right * term.a
    return found
