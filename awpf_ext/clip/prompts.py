"""Prompt templates, and the text features of classes that classify images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from awpf_ext.errors import UserError

if TYPE_CHECKING:
    from awpf_ext.clip.backbone import Backbone

DEFAULT_PROMPT = "a good photo of a {}."  # used by RAPF's published results
NAMED_ENSEMBLES = {
    "openai": "OPENAI_IMAGENET_TEMPLATES",  # 80 templates
    "simple": "SIMPLE_IMAGENET_TEMPLATES",  # 7 templates
}


def prompt_templates(prompt: str | Sequence[str] = DEFAULT_PROMPT) -> tuple[str, ...]:
    """The templates of a prompt setting.

    The setting is one template or several, each with one {} for the class name, or the name of an
    ensemble of CLIP's authors: "openai" (80 templates) or "simple" (7).
    """
    if isinstance(prompt, str) and prompt in NAMED_ENSEMBLES:
        import open_clip

        makers = getattr(open_clip, NAMED_ENSEMBLES[prompt])
        return tuple(maker("{}") for maker in makers)
    templates = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if not templates:
        raise UserError("prompt is an empty list; expected at least one template")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(
                f"prompt {template!r} has {template.count('{}')} places for the class name; "
                f"expected one {{}}, or the name of an ensemble ({', '.join(NAMED_ENSEMBLES)})"
            )
    return templates


def class_texts(
    backbone: Backbone,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 256,
) -> Tensor:
    """One L2-normalised float32 row per class: the mean of its normalised prompt features.

    `progress(done, total)` counts prompts. Repeated names are encoded once.
    """
    if not class_names:
        raise UserError("class_names is empty; expected at least one class")
    unique = list(dict.fromkeys(class_names))
    prompts = [template.replace("{}", name) for name in unique for template in templates]
    encoded = []
    for start in range(0, len(prompts), batch_size):
        features = backbone.encode_texts(prompts[start : start + batch_size]).float()
        encoded.append(torch.nn.functional.normalize(features, dim=-1))
        if progress is not None:
            progress(min(start + batch_size, len(prompts)), len(prompts))
    by_name = torch.cat(encoded).reshape(len(unique), len(templates), -1).mean(dim=1)
    by_name = torch.nn.functional.normalize(by_name, dim=-1)
    position = {name: row for row, name in enumerate(unique)}
    return by_name[[position[name] for name in class_names]]
