"""Fine-tuning with a buffer and CLIP's own loss: the second control of GCL and GDRO."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.methods._base.buffered_finetuning import BufferedFineTuning, JointBatch
from awpf_ext.methods.registry import register


@register("replay_clip")
class ReplayClip(BufferedFineTuning):
    """CLIP's symmetric loss over the pairs of an image and the text of its class in the batch.

    It is not modified: two pairs of the same class are negatives of each other, which the masking
    of GCL avoids.
    """

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        logits = images @ texts[batch.labels].T / self.temperature
        own = torch.arange(len(logits), device=logits.device)
        of_images, of_texts = (
            cross_entropy(side, own, reduction="none") for side in (logits, logits.T)
        )
        return (of_images + of_texts) / 2
