"""NCM: the nearest class mean, by cosine.

    logits_c = s n(f) . n(mu_c),   mu_c = mean of n(f) over the images of class c.

Its only sums are those of the classes, so it suits classes and domains alike.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.closed_form import ClosedForm
from awpf_ext.methods._base.lda import LinearClassifier
from awpf_ext.methods.registry import register


@register("ncm")
class NearestClassMean(ClosedForm):
    """The nearest class mean, by cosine; nothing is trained."""

    with_gram = False

    def solve(self, task: Task) -> LinearClassifier:
        weight = self.logit_scale * normalize(self.sums.totals, dim=1)
        known = self.sums.counts > 0
        bias = torch.zeros(len(known), device=self.device).masked_fill(~known, -torch.inf)
        return LinearClassifier(weight.float(), bias)
