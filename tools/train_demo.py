"""Trains the demo's small CLIP from scratch, on images drawn by awpf_ext.data.demo.

    python tools/train_demo.py --out FOLDER     trains, or continues an interrupted training
    python tools/publish_demo.py --run FOLDER   converts the result to the files of the package

Needs torch and the package with its `clip` extra (open_clip builds the model). Training takes about
an hour on two cores; OMP_WAIT_POLICY=PASSIVE helps if they are shared. Every batch is drawn anew,
so no image is used twice.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from demo_captions import ANY, caption, write_merges
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.scene import SIZE, paint, sample_scene
from awpf_ext.data.demo.styles import TRAINED
from awpf_ext.data.demo.words import Composition, compositions

TRAINING_KEY = (2024, 0)
MEAN, STD = (torch.tensor(x) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))


def architecture(vocabulary: int, patch: int, width: int, layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": SIZE, "patch_size": patch, "width": width, "layers": layers,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": 24, "vocab_size": vocabulary, "width": 128, "heads": 4, "layers": 3,
        },
    }  # fmt: skip


class Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch i: images, tokens and attributes, each from its own random numbers.

    The attributes of a row are those that the caption states and then those of the object.
    """

    def __init__(self, size: int, steps: int, merges: Path) -> None:
        self.size, self.steps = size, steps
        self.tokenizer = open_clip.SimpleTokenizer(str(merges), context_length=24)
        self.encode = lru_cache(1 << 16)(lambda text: self.tokenizer([text])[0])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        training = compositions().training
        worst = min(1.0, 0.3 + 3.5 * step / self.steps)  # easy images first
        images, tokens, attributes = [], [], []
        for row in range(self.size):
            numbers = Numbers(TRAINING_KEY, (0, step, row))
            clutter = numbers.uniform(0, worst)
            style = TRAINED[max(numbers.below(10) - 7, 0)]  # eight in ten are plain
            scene = sample_scene(numbers, numbers.choice(training), training, clutter)
            text, stated = caption(scene, numbers)
            images.append(paint(scene, numbers, clutter, style))
            tokens.append(self.encode(text))
            attributes.append((*stated, *scene.target))
        return torch.from_numpy(np.stack(images)), torch.stack(tokens), torch.tensor(attributes)


def pixels(images: Tensor) -> Tensor:
    scaled = images.permute(0, 3, 1, 2).float().div(255)
    mean, std = MEAN.to(scaled.device), STD.to(scaled.device)
    return scaled.sub(mean.view(3, 1, 1)).div(std.view(3, 1, 1)).contiguous()


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, attributes: Tensor) -> Tensor:
    """CLIP's loss without false negatives: pairs of an image and another image's true caption."""
    stated, targets = attributes[:, None, :3], attributes[None, :, 3:]
    also_true = ((stated == ANY) | (stated == targets)).all(-1)  # caption i, image j
    also_true.fill_diagonal_(False)
    logits = scale * text @ image.T
    logits = logits.masked_fill(also_true, -torch.inf)
    own = torch.arange(len(attributes), device=attributes.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm = min(400, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm))))


@torch.no_grad()
def zero_shot(
    model: Any, tokenizer: Any, classes: list[Composition], each: int, clutter: float, style: str
) -> float:
    """Zero-shot accuracy on new images of `classes`, with the default prompt."""
    model.eval()
    training = compositions().training
    device = model.logit_scale.device
    texts = tokenizer([f"a good photo of a {c.name}." for c in classes]).to(device)
    bank = normalize(model.encode_text(texts), dim=-1)
    right = 0
    for row, target in enumerate(classes):
        drawn = []
        for index in range(each):
            numbers = Numbers((TRAINING_KEY[0], 1), (row, index, TRAINED.index(style)))
            scene = sample_scene(numbers, target, training, clutter)
            drawn.append(paint(scene, numbers, clutter, style))
        features = model.encode_image(pixels(torch.from_numpy(np.stack(drawn)).to(device)))
        right += int(((features @ bank.T).argmax(-1) == row).sum())
    model.train()
    return right / (each * len(classes))


def evaluate(model: Any, tokenizer: Any, each: int = 4) -> dict[str, float]:
    split = compositions()
    seen = list(split.training[:: len(split.training) // 200][:200])
    found = {}
    for clutter in (0.5, 1.0):
        found[f"seen {clutter}"] = zero_shot(model, tokenizer, seen, each, clutter, "plain")
        watched = list(split.watched)
        found[f"unseen {clutter}"] = zero_shot(model, tokenizer, watched, each, clutter, "plain")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", type=int, help="stop after this step, for pilots")
    parser.add_argument("--fp32", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    merges = options.out / "merges.txt.gz"
    config = architecture(write_merges(merges), options.patch, options.width, options.layers)
    (options.out / "demo.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(options.seed)
    model = open_clip.CLIP(**config).to(device).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=options.peak, betas=(0.9, 0.98), eps=1e-6, fused=True,
    )  # fmt: skip
    batches = Batches(options.batch, options.steps, merges)
    checkpoint = options.out / "checkpoint.pt"
    start = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    with (options.out / "sessions.jsonl").open("a") as sessions:
        chosen = {name: value for name, value in vars(options).items() if name != "out"}
        print(json.dumps({"from": start, **chosen}), file=sessions)
    loader = torch.utils.data.DataLoader(
        batches, batch_size=None, sampler=range(start, options.steps), num_workers=1,
        prefetch_factor=8,
    )  # fmt: skip
    began, log = time.monotonic(), (options.out / "log.jsonl").open("a")
    running = 0.0
    for step, (images, tokens, attributes) in enumerate(loader, start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.peak)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=not options.fp32),
            # on a CPU the backward of fused attention takes half of a step
            sdpa_kernel(SDPBackend.MATH),
        ):
            image = model.encode_image(pixels(images.to(device)))
            text = model.encode_text(tokens.to(device))
        image, text = (normalize(features.float(), dim=-1) for features in (image, text))
        loss = contrastive_loss(image, text, model.logit_scale.exp(), attributes.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % 50 == 0:
            row: dict[str, Any] = {
                "step": done,
                "loss": round(running, 4),
                "seconds": round(time.monotonic() - began),
            }
            if done % 1000 == 0 or done in (500, options.stop):
                row.update(evaluate(model, batches.tokenizer))
            print(json.dumps(row), file=log, flush=True)
            print(row, flush=True)
        if done % 250 == 0 or done == options.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
        if done == options.stop:
            break


if __name__ == "__main__":
    main()
