"""The fusion itself: codes and task vectors are averaged, and the average is decoded."""

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
    shares: Sequence[float],
    *,
    inner: InnerSteps | None = None,
    rescale: bool = True,
) -> dict[str, Tensor]:
    """The tensors of l_f = dec(sum a_i mu_i, sum a_i v_i), standardisation undone.

    flats: T LoRAs, the i-th of task i with vector v_i; shares: a_i, which add up to 1. mu_i is the
    mean of the code that meta-training decodes: of the LoRA itself, or with `inner` of what its
    decoded form becomes by steps on its task's loss. The tensors get the means and deviations
    sum a_i mean_i and sum a_i std_i; rescale: the decoded ones, whose deviation is below 1 where
    LoRAs disagree, are first brought to mean 0 and deviation 1, but multiplied by sqrt(T) at most:
    that is what T unrelated LoRAs lose, and where they cancel there is nothing to bring back.
    """
    vae.eval()
    weights = torch.tensor(list(shares), device=vectors.device)
    # One at a time: an encoding's activations take far more memory than the LoRA.
    rows = range(len(vectors))
    codes = torch.cat([vae.encode(flats.values[i, None], vectors[i, None])[0] for i in rows])
    if inner is not None and inner.steps:
        for task, (code, vector) in enumerate(zip(codes, vectors, strict=True)):
            decoded = vae.decode(code[None], vector[None])[0]
            flat = FlatLora(flats.values[task], flats.mean[task], flats.std[task])
            moved = inner_steps(decoded, flat, layout, task, inner)
            if moved is not None:
                codes[task] = vae.encode(moved[None], vector[None])[0][0]
    values = vae.decode((weights @ codes)[None], (weights @ vectors)[None])[0]
    if rescale:
        values = layout.rescaled(values, most=math.sqrt(len(vectors)))
    return layout.restore(FlatLora(values, weights @ flats.mean, weights @ flats.std))
