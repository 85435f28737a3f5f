"""A backbone with the prompts of a data set's classes: what training its towers needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awpf_ext.clip.backbone import Backbone


@dataclass(frozen=True, eq=False)
class PromptedClip:
    """The frozen backbone, which runs may share, and each class's prompts as its text tower reads
    them.
    """

    backbone: Backbone
    tokens: Tensor  # (C, P, context) int64: P prompts of each class

    def reordered(self, order: Sequence[int]) -> PromptedClip:
        """The same with class `order[k]` in place k."""
        return PromptedClip(self.backbone, self.tokens[list(order)])


def prompted_clip(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> PromptedClip:
    """`backbone` with every template filled with every class's name."""
    prompts = [template.replace("{}", name) for name in class_names for template in templates]
    tokens = torch.as_tensor(backbone.tokenizer(prompts)).long()
    return PromptedClip(backbone, tokens.reshape(len(class_names), len(templates), -1))
