"""Meta-training of the F-VAE, which includes gradient steps on the tasks' losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from awpf_ext.lora.icm.flattening import FlatLora, Layout
from awpf_ext.lora.icm.vae import FusionVae, kl_divergence, sample_latent

# The loss of a LoRA (tensors by name) on some of a task's samples; None if it has none.
TaskLoss = Callable[[int, Mapping[str, Tensor]], Tensor | None]


@dataclass(frozen=True)
class MetaSettings:
    """Settings of the meta-training; the defaults are the paper's where its abstract gives them."""

    steps: int = 100
    batch: int = 8  # LoRAs per step
    learning_rate: float = 2e-4  # Adam
    kl_weight: float = 0.005


@dataclass(frozen=True)
class InnerSteps:
    """Gradient steps on a task's loss, in the space of decoded, standardised LoRAs."""

    loss: TaskLoss
    steps: int = 5
    rate: float = 1e-3
    every: int = 10  # one LoRA of the batch takes these steps in every `every`-th meta-step


class TrainingSet(NamedTuple):
    """LoRAs of several tasks to train on."""

    layout: Layout
    flats: FlatLora  # S LoRAs
    tasks: Tensor  # (S,) int64: the task of each
    vectors: Tensor  # (tasks, d)


class MetaStep(NamedTuple):
    """The losses of one step."""

    error: float  # mean squared error over the entries
    divergence: float


def meta_train(
    vae: FusionVae,
    data: TrainingSet,
    settings: MetaSettings,
    generator: torch.Generator,
    inner: InnerSteps | None = None,
) -> list[MetaStep]:
    """Train the network on `data`, whose mean becomes its centre.

    A LoRA l with task vector v: z = enc(l, v), l0 = dec(z, v), then K times
    l' <- l' - beta grad L_task(l') from l' = l0, z' = enc(l', v), l^ = dec(z', v). Minimised is
    MSE(l, l^) + lambda KL, with the mean of the two codes' KL. It is a first-order method: the
    gradients of the inner steps are treated as constants. A task's loss costs far more than the
    network, so only one LoRA takes inner steps, in every `inner.every`-th batch; for the others z
    is decoded directly.
    """
    vae.centre.copy_(data.flats.values.mean(dim=0, dtype=torch.float32))
    optimizer = torch.optim.Adam(vae.parameters(), lr=settings.learning_rate, fused=True)
    found = []
    vae.train()
    for step, rows in enumerate(_batches(len(data.tasks), settings, generator)):
        flats = FlatLora(*(part[rows].float() for part in data.flats))
        vectors = data.vectors[data.tasks[rows]]
        optimizer.zero_grad()
        with torch.enable_grad():
            mean, log_variance = vae.encode(flats.values, vectors)
            kl = kl_divergence(mean, log_variance)
            decoded = vae.decode(sample_latent(mean, log_variance, generator), vectors)
            moved = None
            if inner is not None and inner.steps and step % inner.every == 0:
                first = FlatLora(*(part[0] for part in flats))
                task = int(data.tasks[rows[0]])
                moved = inner_steps(decoded[0], first, data.layout, task, inner)
            if moved is not None:
                again, log_var = vae.encode(moved[None], vectors[:1])
                kl = (kl + kl_divergence(again, log_var)) / 2
                renewed = vae.decode(sample_latent(again, log_var, generator), vectors[:1])
                decoded = torch.cat([renewed, decoded[1:]])
            error = mse_loss(decoded, flats.values)
            torch.autograd.backward(error + settings.kl_weight * kl)
        optimizer.step()
        found.append(MetaStep(error.item(), kl.item()))
    vae.eval()
    return found


def inner_steps(
    values: Tensor, flat: FlatLora, layout: Layout, task: int, inner: InnerSteps
) -> Tensor | None:
    """values (P,) after the inner steps, with constant gradients; None if the task has no data.

    flat: its mean and std undo the standardisation of the values.
    """
    shift = torch.zeros_like(values)
    for _ in range(inner.steps):
        with torch.enable_grad():
            point = (values.detach() + shift).requires_grad_()
            loss = inner.loss(task, layout.restore(FlatLora(point, flat.mean, flat.std)))
            if loss is None:
                return None
            (gradient,) = torch.autograd.grad(loss, point)
        shift = shift - inner.rate * gradient
    return values + shift


def _batches(count: int, settings: MetaSettings, generator: torch.Generator) -> list[Tensor]:
    """The rows of each step: all rows in one random order after another."""
    wanted = settings.steps * min(settings.batch, count)
    rounds = -(-wanted // count) if count else 0
    device = generator.device
    orders = [torch.randperm(count, generator=generator, device=device) for _ in range(rounds)]
    if not orders:
        return []
    return list(torch.cat(orders)[:wanted].split(min(settings.batch, count)))
