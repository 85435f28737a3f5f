"""Training CLIP.

One step of AdamW on the CLIP of the demo: 128 images of 48 x 48 and one prompt for each of 80
classes, with the cross-entropy of images over texts, in float32. Our row trains both towers with
`joint_backward`. The other rows are a plain loop over open_clip's own model, and ours with
checkpointing, micro-batches, LoRA or only the adapter. A second table has ours and the plain loop
with the towers in autocast to bfloat16, beside both in float32; normalisation and loss are in
float32 throughout. A processor without instructions for bfloat16 gets an eighth of this work there,
since a step in it takes many times as long. Memory is that of one step, in addition to the model
and the state of its optimiser.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

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
PLAIN = "open_clip, plain loop"
Settings = dict[str, object]
VARIANTS: dict[str, Settings] = {
    OURS: {},
    "checkpointing": {"checkpointing": True},
    "micro-batches of 32": {"micro_batch": 32},
    "micro-batches of 16": {"micro_batch": 16},
    "both, 16": {"micro_batch": 16, "checkpointing": True},
    "LoRA": {"train": "lora"},
    "LoRA, micro-batches of 16": {"train": "lora", "micro_batch": 16},
    "adapter, from features": {"train": "adapter"},
}
APPROXIMATE = ("LoRA", "LoRA, micro-batches of 16", "adapter, from features")


def _loss(labels: Tensor, images: Tensor, texts: Tensor) -> Tensor:
    return cross_entropy(100 * images @ texts.T, labels)


def _ours(
    settings: Settings, clip: PromptedClip, text: Tensor, images: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    config = TrainableConfig.model_validate(settings)
    trainable = build_trainable(config, text, clip)
    optimizer = torch.optim.AdamW(trainable.parameter_groups(0.1), lr=1e-5, fused=True)
    x = images if trainable.inputs == "images" else torch.randn(len(images), text.shape[1])

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = joint_backward(trainable, x, range(len(text)), partial(_loss, labels))
        optimizer.step()
        return loss

    return step


def _plain(
    clip: PromptedClip, images: Tensor, labels: Tensor, *, bf16: bool
) -> Callable[[], Tensor]:
    model = copy.deepcopy(clip.backbone.model).requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.1, fused=True)
    tokens = clip.tokens[:, 0]

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            of_images = model.encode_image(clip.backbone.pixels(images))
            of_texts = model.encode_text(tokens)
        rows, texts = (normalize(part.float(), dim=-1) for part in (of_images, of_texts))
        loss = _loss(labels, rows, texts)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


class Inputs(NamedTuple):
    """The frozen CLIP with its prompts, its class texts, and a batch of random images."""

    clip: PromptedClip
    text: Tensor
    images: Tensor
    labels: Tensor

    def ours(self, settings: Settings, note: str = "") -> Contender:
        return _built(partial(_ours, settings, *self), note)

    def plain(self, *, bf16: bool, note: str = "") -> Contender:
        return _built(partial(_plain, self.clip, self.images, self.labels, bf16=bf16), note)


def _inputs(images: int, classes: int) -> Inputs:
    backbone = load_backbone("demo", "embedded")
    names = [f"class {index}" for index in range(classes)]
    templates = ("a photo of a {}.",)
    generator = torch.Generator().manual_seed(0)
    return Inputs(
        prompted_clip(backbone, names, templates),
        class_texts(backbone, names, templates),
        torch.randint(0, 256, (images, 48, 48, 3), generator=generator).byte(),
        torch.randint(0, classes, (images,), generator=generator),
    )


def _built(make: Callable[[], Callable[[], Tensor]], note: str) -> Contender:
    """A step whose model is built in the first call."""
    step: list[Callable[[], Tensor]] = []

    def once() -> Tensor:
        if not step:
            step.append(make())
            step[0]()  # creates the optimizer's state
        return step[0]()

    return Contender(once, builds=True, note=note)


def work() -> Work:
    """All forms of a step in float32."""
    inputs = _inputs(IMAGES, CLASSES)
    contenders = {
        name: replace(inputs.ours(settings), approximate=name in APPROXIMATE)
        for name, settings in VARIANTS.items()
    }
    contenders[PLAIN] = inputs.plain(bf16=False)
    return Work(f"{IMAGES} images and {CLASSES} texts, the demo's CLIP", contenders)


def work_in_bf16() -> Work:
    """A step of both towers in bfloat16, beside the plain loop and beside float32."""
    native = _multiplies_bf16()
    images, classes = (IMAGES, CLASSES) if native else (IMAGES // 8, CLASSES // 8)
    note = "" if native else "without instructions for it"
    inputs = _inputs(images, classes)
    contenders = {
        OURS: inputs.ours({"autocast": "bf16"}, note),
        f"{PLAIN} in bfloat16": inputs.plain(bf16=True, note=note),
        f"{OURS} in float32": inputs.ours({}),
        f"{PLAIN} in float32": inputs.plain(bf16=False),
    }
    return Work(f"{images} images and {classes} texts, the demo's CLIP in bfloat16", contenders)


def _multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def test_step(compare: Callable[..., Outcome]) -> None:
    pytest.importorskip("peft", reason='needs the extra "lora"')
    compare(work)


def test_step_in_bf16(compare: Callable[..., Outcome]) -> None:
    compare(work_in_bf16)
