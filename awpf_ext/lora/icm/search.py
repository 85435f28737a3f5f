"""Fusion by search: a code, then the LoRA itself, that lowers the tasks' losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Decoder = Callable[[Tensor], Tensor]  # a code (latent,) to a LoRA (P,)
Loss = Callable[[Tensor], Tensor]  # the mean of the tasks' losses of a LoRA (P,), on some images


class Found(NamedTuple):
    code: Tensor  # (latent,)
    scale: float  # of the decoded LoRA
    vector: Tensor  # (P,)
    losses: list[float]  # before each step


def searched(
    decode: Decoder, start: Tensor, loss: Loss, *, steps: int, rate: float, tether: float
) -> Found:
    """argmin over z and s of loss(s D(z)) + tether |z - start|^2, by Adam from z = start, s = 1.

    The scale is searched for beside the code, since a mean of LoRAs is shorter than each of them,
    and the components of their deviations from it do not contain it. A code without numbers leaves
    the scale alone.
    """
    code = start.detach().clone().requires_grad_()
    log_scale = torch.zeros((), device=start.device, requires_grad=True)
    optimizer = torch.optim.Adam([code, log_scale], lr=rate)
    losses = []
    for _ in range(steps):
        with torch.enable_grad():
            value = loss(log_scale.exp() * decode(code))
            whole = value + tether * (code - start).square().sum()
            optimizer.zero_grad()
            torch.autograd.backward(whole, inputs=[code, log_scale])
        optimizer.step()
        losses.append(float(value.detach()))
    with torch.no_grad():
        scale = float(log_scale.exp())
        return Found(code.detach(), scale, scale * decode(code.detach()), losses)


def refined(vector: Tensor, loss: Loss, *, steps: int, rate: float) -> tuple[Tensor, list[float]]:
    """The LoRA after steps of Adam on its entries, and the losses before each."""
    current = vector.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([current], lr=rate)
    losses = []
    for _ in range(steps):
        with torch.enable_grad():
            value = loss(current)
            optimizer.zero_grad()
            torch.autograd.backward(value, inputs=[current])
        optimizer.step()
        losses.append(float(value.detach()))
    return current.detach(), losses
