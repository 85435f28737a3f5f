"""Fine-tuning with a buffer and cross-entropy: the first control of GCL and GDRO."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.methods._base.buffered_finetuning import BufferedFineTuning, JointBatch
from awpf_ext.methods.registry import register


@register("replay_ce")
class ReplayCrossEntropy(BufferedFineTuning):
    """Cross-entropy of each image over the texts of all classes seen."""

    def sample_losses(self, images: Tensor, texts: Tensor, batch: JointBatch) -> Tensor:
        return cross_entropy(images @ texts.T / self.temperature, batch.labels, reduction="none")
