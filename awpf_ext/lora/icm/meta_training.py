"""Meta-training of the F-VAE: to encode a LoRA after steps that its task's loss asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from awpf_ext.lora.icm.flattening import FlatLora, Layout
from awpf_ext.lora.icm.vae import FusionVae, kl_divergence, sample_latent

# The loss of a LoRA (tensors by name) on some of a task's samples; None: there are none.
TaskLoss = Callable[[int, Mapping[str, Tensor]], Tensor | None]


@dataclass(frozen=True)
class MetaSettings:
    """How it is trained; the defaults are the paper's where it is known to say."""

    steps: int = 100
    batch: int = 8  # LoRAs a step
    learning_rate: float = 2e-4  # Adam
    kl_weight: float = 0.005


@dataclass(frozen=True)
class InnerSteps:
    """Steps on a task's loss, in the space of the decoded, standardised LoRA."""

    loss: TaskLoss
    steps: int = 5
    rate: float = 1e-3
    every: int = 10  # meta-steps; in one of so many, one LoRA of the batch takes them


class TrainingSet(NamedTuple):
    """LoRAs to learn from, of several tasks."""

    layout: Layout
    flats: FlatLora  # S of them
    tasks: Tensor  # (S,) int64: which task each is of
    vectors: Tensor  # (tasks, d)


class MetaStep(NamedTuple):
    """What one step has found."""

    error: float  # mean square over the entries
    divergence: float


def meta_train(
    vae: FusionVae,
    data: TrainingSet,
    settings: MetaSettings,
    generator: torch.Generator,
    inner: InnerSteps | None = None,
) -> list[MetaStep]:
    """Fit the network to `data`, whose mean becomes its centre.

    A LoRA l with task vector v: z = enc(l, v), l0 = dec(z, v), then K times
    l' <- l' - beta grad L_task(l') from l' = l0, z' = enc(l', v), l^ = dec(z', v). Minimised is
    MSE(l, l^) + lambda KL, with the mean of the two codes' KL. First order: the steps' gradients
    are constants, so that the network learns through l' = l0 - (a constant). A task's loss costs
    far more than the network, so one LoRA of a batch takes these steps, in every `inner.every`-th
    batch; of the others z is decoded itself.
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
                again, spread = vae.encode(moved[None], vectors[:1])
                kl = (kl + kl_divergence(again, spread)) / 2
                renewed = vae.decode(sample_latent(again, spread, generator), vectors[:1])
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
    """values (P,) after the steps, whose gradients are constants; None where the task has no data.

    flat: its mean and std say which LoRA the standardised values stand for.
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
    """Rows of each step: all of them in a random order, then in another, and so on."""
    wanted = settings.steps * min(settings.batch, count)
    rounds = -(-wanted // count) if count else 0
    device = generator.device
    orders = [torch.randperm(count, generator=generator, device=device) for _ in range(rounds)]
    if not orders:
        return []
    return list(torch.cat(orders)[:wanted].split(min(settings.batch, count)))
