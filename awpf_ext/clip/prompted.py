"""A backbone together with the prompts of a data set's classes, for training its towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from awpf_ext.clip.backbone import Backbone


@dataclass(frozen=True, eq=False)
class PromptedClip:
    """A frozen backbone, which several runs may share, and the prompts of each class."""

    backbone: Backbone
    prompts: tuple[tuple[str, ...], ...]  # by class, the same number for each

    def reordered(self, order: Sequence[int]) -> PromptedClip:
        """A copy with class `order[k]` at position k."""
        return PromptedClip(self.backbone, tuple(self.prompts[label] for label in order))

    @cached_property
    def tokens(self) -> Tensor:
        """The tokenized prompts, int64 (C, P, context).

        Computed on first use, as eighty prompts for a thousand classes take seconds.
        """
        flat = [prompt for of_class in self.prompts for prompt in of_class]
        tokens = torch.as_tensor(self.backbone.tokenizer(flat)).long()
        return tokens.reshape(len(self.prompts), -1, tokens.shape[-1])


def prompted_clip(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[str]
) -> PromptedClip:
    """`backbone` with the prompts from all templates and class names."""
    filled = [tuple(t.replace("{}", name) for t in templates) for name in class_names]
    return PromptedClip(backbone, tuple(filled))
