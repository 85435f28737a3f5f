"""Three steps of AdamW on a small CLIP; as a program, by all processes that torchrun starts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from awpf_ext.clip import class_texts, load_backbone, prompted_clip
from awpf_ext.clip.prompted import PromptedClip
from awpf_ext.distributed import SINGLE_PROCESS, World, init_distributed
from awpf_ext.finetuning.build import TrainableClip, build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.trainable_config import TrainableConfig

NAMES = ("cat", "dog", "owl", "red car")
TEMPLATES = ("a photo of a {}.", "one {} here.")
CASES = {
    "full": {"train": "full"},
    "full in parts": {"train": "full", "micro_batch": 2},
    "lora in parts": {"train": "lora", "micro_batch": 3, "checkpointing": True},
    "adapter": {"train": "adapter"},
}
# Rows of the joint batch that each of two processes has, step by step.
SHARES = ((5, 2), (7, 0), (3, 4))
ROWS = 7


def tiny_clip() -> tuple[PromptedClip, Tensor]:
    import open_clip

    open_clip.add_model_config(Path(__file__).parents[1] / "clip" / "tiny.json")
    backbone = load_backbone("tiny", "random:3")
    return prompted_clip(backbone, NAMES, TEMPLATES), class_texts(backbone, NAMES, TEMPLATES)


def batch(inputs: str, step: int = 0, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    labels = torch.randint(0, len(NAMES), (rows,), generator=generator)
    if inputs == "features":
        return torch.randn(rows, 16, generator=generator), labels
    images = torch.randint(0, 256, (rows, 32, 32, 3), generator=generator)
    return images.byte(), labels


def contrastive(labels: Tensor):
    """Each image against all texts, all images of other classes, and each text against images."""

    def loss(images: Tensor, texts: Tensor) -> Tensor:
        logits = 10 * images @ texts.T
        others = (10 * images @ images.T).masked_fill(labels[:, None] == labels, -torch.inf)
        to_texts = torch.nn.functional.cross_entropy(logits, labels)
        to_images = others.logsumexp(dim=1).clamp_min(-100).mean()
        return to_texts + to_images + logits.logsumexp(dim=0).mean()

    return loss


def with_factors(trainable: TrainableClip, seed: int = 1) -> TrainableClip:
    """Away from the start, where half of LoRA's factors have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        if "lora_" in name
        else value
        for name, value in trainable.state_dict().items()
    }
    trainable.load_state_dict(state)
    return trainable


def three_steps(case: str, clip: PromptedClip, text: Tensor, world: World = SINGLE_PROCESS):
    """The losses, each step's gradients, and what was trained."""
    config = TrainableConfig(**CASES[case])
    trainable = with_factors(build_trainable(config, text, clip, world))
    # Attention does not depend on the biases of its keys: their gradients are rounding errors,
    # which AdamW's usual eps of 1e-8 would blow up to steps.
    optimizer = torch.optim.AdamW(trainable.parameter_groups(0.1), lr=1e-3, eps=1e-3, fused=True)
    losses, gradients = [], {}
    for step, shares in enumerate(SHARES):
        x, labels = batch(trainable.inputs, step)
        if world.size > 1:
            x = x.split(list(shares))[world.rank]
        optimizer.zero_grad()
        loss = joint_backward(
            trainable,
            x,
            range(3 if step == 0 else 4),  # six prompts, then eight
            contrastive(labels.clamp_max(2) if step == 0 else labels),
            world=world,
        )
        losses.append(loss)
        for name, parameter in trainable.named_parameters().items():
            gradients[f"{step} {name}"] = parameter.grad.clone()
        optimizer.step()
    return torch.stack(losses), gradients, trainable.state_dict()


if __name__ == "__main__":
    with init_distributed() as world:
        found = {case: three_steps(case, *tiny_clip(), world) for case in sys.argv[2:]}
        torch.save(found, f"{sys.argv[1]}.{world.rank}")
