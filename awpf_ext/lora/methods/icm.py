"""ICM-Fusion of adapters alone: no task's data, so a VAE without its inner steps."""

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
    fused,
    meta_train,
    sketch,
    stacked,
)
from awpf_ext.lora.methods.base import Merged, Settings, Term, signed_root

STEPS = 100
BATCH = 2  # adapters a step: their activations are most of the memory
TASK_VECTOR = 256  # numbers in a task vector


def icm(layer: str, terms: Sequence[Term], settings: Settings) -> Merged:
    """ICM-Fusion (arXiv 2508.04153, from its abstract) of the factors of all layers given.

    l_t: all sqrt(s_t) B_t and sqrt(s_t) A_t in one vector, each tensor standardised; v_t: its count
    sketch in 256 numbers. A convolutional VAE, conditioned on v_t, is trained on the l_t, two at a
    time, for 100 steps from weights of the seed. With a_t = w_t / sum of w,
    l = dec(sum a_t mu_t, sum a_t v_t); its tensors get the deviations sum a_t std_t (brought up by
    sqrt(T) at most) and the means sum a_t mean_t.

    The adapters must have one rank, and the weights must not be negative; only their ratios count.
    Output rank: theirs. Memory is that of all adapters together, and the network's.
    """
    return icm_layers({layer: terms}, settings)[layer]


def icm_layers(layers: Mapping[str, Sequence[Term]], settings: Settings) -> dict[str, Merged]:
    """`icm` of all layers together."""
    shares = _shares(next(iter(layers.values())))
    tensors = [_tensors(layers, place) for place in range(len(shares))]
    layout = Layout.of(tensors[0])
    flats = stacked([layout.flatten(each) for each in tensors])
    parts = zip(*flats, strict=True)
    vectors = torch.stack(
        [sketch(layout.entries(type(flats)(*part)), TASK_VECTOR) for part in parts]
    )
    vae = FusionVae(layout.size, TASK_VECTOR, seed=settings.seed)
    data = TrainingSet(layout, flats, torch.arange(len(shares)), vectors)
    generator = torch.Generator().manual_seed(settings.seed)
    meta_train(vae, data, MetaSettings(steps=STEPS, batch=BATCH), generator)
    result = fused(vae, layout, flats, vectors, shares)
    return {name: Merged(result[f"{name}.b"], result[f"{name}.a"]) for name in layers}


def _shares(terms: Sequence[Term]) -> list[float]:
    weights = [term.weight for term in terms]
    if min(weights) < 0 or sum(weights) <= 0:
        raise UserError(
            f"icm averages codes, so its weights must not be negative, nor all 0; got {weights}"
        )
    return [weight / sum(weights) for weight in weights]


def _tensors(layers: Mapping[str, Sequence[Term]], place: int) -> dict[str, Tensor]:
    """An adapter's factors, each with the root of the scaling."""
    found = {}
    for name, terms in layers.items():
        ranks = {term.rank for term in terms}
        if len(ranks) > 1:
            raise UserError(f"icm needs adapters of one rank, but {name} has {sorted(ranks)}")
        term = terms[place]
        left, right = signed_root(term.scaling)
        found[f"{name}.b"], found[f"{name}.a"] = left * term.b, right * term.a
    return found
