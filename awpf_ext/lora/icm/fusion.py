"""The fusion: latent codes and task vectors are averaged, and the average is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from awpf_ext.lora.icm.flattening import FlatLora, Layout
from awpf_ext.lora.icm.meta_training import InnerSteps, inner_steps
from awpf_ext.lora.icm.vae import FusionVae


@torch.no_grad()
def fuse_loras(
    vae: FusionVae,
    layout: Layout,
    flats: FlatLora,
    vectors: Tensor,
    weights: Sequence[float],
    *,
    inner: InnerSteps | None = None,
    rescale: bool = True,
) -> dict[str, Tensor]:
    """The tensors of l_f = dec(sum a_i mu_i, sum a_i v_i), with the standardisation undone.

    flats: T LoRAs, the i-th of task i with task vector v_i. weights: a_i, with sum 1. mu_i is the
    mean of the latent code: of the LoRA itself, or with `inner` of its decoded form after gradient
    steps on its task's loss. The tensors get the means sum a_i mean_i and the standard deviations
    sum a_i std_i. rescale: decoded tensors have a standard deviation below 1 if the LoRAs disagree,
    so they are first standardised, by a factor of at most sqrt(T): this is what T unrelated LoRAs
    lose, and LoRAs that cancel cannot be restored.
    """
    vae.eval()
    mix = torch.tensor(list(weights), device=vectors.device)
    # One at a time, as the activations take far more memory than the LoRA.
    rows = range(len(vectors))
    codes = torch.cat([vae.encode(flats.values[i, None], vectors[i, None])[0] for i in rows])
    if inner is not None and inner.steps:
        for task, (code, vector) in enumerate(zip(codes, vectors, strict=True)):
            decoded = vae.decode(code[None], vector[None])[0]
            flat = FlatLora(flats.values[task], flats.mean[task], flats.std[task])
            moved = inner_steps(decoded, flat, layout, task, inner)
            if moved is not None:
                codes[task] = vae.encode(moved[None], vector[None])[0][0]
    values = vae.decode((mix @ codes)[None], (mix @ vectors)[None])[0]
    if rescale:
        values = layout.rescaled(values, most=math.sqrt(len(vectors)))
    return layout.restore(FlatLora(values, mix @ flats.mean, mix @ flats.std))
