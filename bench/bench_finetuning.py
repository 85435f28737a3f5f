"""Training CLIP.

One step of AdamW on the CLIP of the demo: 128 images of 48 x 48 and one prompt for each of 80
classes, with the cross-entropy of images over texts, in float32 unless stated otherwise. Our row
trains both towers with `joint_backward`. The other rows are a plain loop over open_clip's own
model, and ours with checkpointing, micro-batches, bfloat16, LoRA or only the adapter. Memory is
that of one step, in addition to the model and the state of its optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from comparison import OURS, Contender, Outcome, Work
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.clip import class_texts, load_backbone, prompted_clip
from awpf_ext.clip.prompted import PromptedClip
from awpf_ext.finetuning.build import build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.trainable_config import TrainableConfig

IMAGES, CLASSES = 128, 80
VARIANTS: dict[str, dict[str, object]] = {
    OURS: {},
    "checkpointing": {"checkpointing": True},
    "micro-batches of 32": {"micro_batch": 32},
    "micro-batches of 16": {"micro_batch": 16},
    "both, 16": {"micro_batch": 16, "checkpointing": True},
    "bf16": {"autocast": "bf16"},
    "LoRA": {"train": "lora"},
    "LoRA, micro-batches of 16": {"train": "lora", "micro_batch": 16},
    "adapter, from features": {"train": "adapter"},
}
APPROXIMATE = ("bf16", "LoRA", "LoRA, micro-batches of 16", "adapter, from features")


def _loss(labels: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    return cross_entropy(100 * images @ texts.T, labels)


def _ours(
    settings: dict[str, object], clip: PromptedClip, text: Tensor, images: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    config = TrainableConfig.model_validate(settings)
    trainable = build_trainable(config, text, clip)
    optimizer = torch.optim.AdamW(trainable.parameter_groups(0.1), lr=1e-5, fused=True)
    x = images if trainable.inputs == "images" else torch.randn(IMAGES, text.shape[1])

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = joint_backward(trainable, x, range(CLASSES), partial(_loss, labels))
        optimizer.step()
        return loss

    return step


def _plain(clip: PromptedClip, images: Tensor, labels: Tensor) -> Callable[[], Tensor]:
    model = copy.deepcopy(clip.backbone.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1, fused=True)
    tokens = clip.tokens[:, 0]

    def step() -> Tensor:
        optimizer.zero_grad()
        embedded = normalize(model.encode_image(clip.backbone.pixels(images)), dim=-1)
        loss = _loss(labels, embedded, normalize(model.encode_text(tokens), dim=-1))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def work() -> Work:
    """All contenders; each builds its own model in its first call."""
    backbone = load_backbone("demo", "embedded")
    names = [f"class {index}" for index in range(CLASSES)]
    templates = ("a photo of a {}.",)
    clip = prompted_clip(backbone, names, templates)
    text = class_texts(backbone, names, templates)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 48, 48, 3), generator=generator).byte()
    labels = torch.randint(0, CLASSES, (IMAGES,), generator=generator)

    def run(make: Callable[[], Callable[[], Tensor]]) -> Callable[[], Tensor]:
        step: list[Callable[[], Tensor]] = []

        def once() -> Tensor:
            if not step:
                step.append(make())
                step[0]()  # creates the optimizer's state
            return step[0]()

        return once

    contenders = {
        name: Contender(
            run(partial(_ours, settings, clip, text, images, labels)),
            builds=True,  # its first call builds the model
            approximate=name in APPROXIMATE,
        )
        for name, settings in VARIANTS.items()
    }
    contenders["open_clip, plain loop"] = Contender(
        run(partial(_plain, clip, images, labels)), builds=True
    )
    return Work(f"{IMAGES} images and {CLASSES} texts, the demo's CLIP", contenders)


def test_step(compare: Callable[..., Outcome]) -> None:
    pytest.importorskip("peft", reason='needs the extra "lora"')
    compare(work)
