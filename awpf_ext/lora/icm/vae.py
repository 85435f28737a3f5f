"""F-VAE: a variational autoencoder of flattened LoRAs, conditioned on task vectors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CHANNELS = (4, 8, 16, 32)  # channels after each halving; 32 after all further ones
SHALLOWEST = 4  # minimum number of halvings
WIDEST = 1 << 14  # maximum width between convolutions and latent space: bounds the parameters


class FusionVae(nn.Module):
    """Encodes vectors (N, P) with task vectors (N, d) to `latent` numbers, and decodes them.

    Encoder and decoder are convolutions along the vector with group norms. Each halves or doubles
    the length, and there are as many as needed to reduce P to at most 16,384 numbers over all
    channels. So the number of parameters is at most about 16,384 (3 latent + d) for any P, while
    the memory of a pass is proportional to P. Input and output are deviations from the vector
    `centre`; at first the output is 0.
    """

    centre: Tensor

    def __init__(self, size: int, task_size: int, latent: int = 256, seed: int = 0) -> None:
        super().__init__()
        self.size, self.task_size, self.latent = size, task_size, latent
        channels = _channels(size)
        self._padded = _padded(size, len(channels) - 1)
        self._bottom = (channels[-1], self._padded >> (len(channels) - 1))
        width = self._bottom[0] * self._bottom[1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone
            self.encoder = nn.Sequential(*(_down(a, b) for a, b in pairwise(channels)))
            self.to_latent = nn.Linear(width + task_size, 2 * latent)
            self.from_latent = nn.Linear(latent + task_size, width)
            ups = list(pairwise(reversed(channels)))
            self.decoder = nn.Sequential(*(_up(a, b) for a, b in ups[:-1]))
            self.last = nn.ConvTranspose1d(*ups[-1], kernel_size=4, stride=2, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.register_buffer("centre", torch.zeros(size))

    def encode(self, values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (N, latent) of the latent codes of (N, P)."""
        deviations = nn.functional.pad(values - self.centre, (0, self._padded - self.size))
        hidden = self.encoder(deviations[:, None]).flatten(1)
        mean, log_variance = self.to_latent(torch.cat([hidden, vectors], dim=1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: Tensor, vectors: Tensor) -> Tensor:
        """(N, P) from codes (N, latent)."""
        hidden = self.from_latent(torch.cat([codes, vectors], dim=1))
        hidden = self.decoder(hidden.view(-1, *self._bottom))
        deviations: Tensor = self.last(hidden)[:, 0, : self.size]
        return self.centre + deviations


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the latent numbers, mean over rows."""
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.sum(dim=1).mean()


def sample_latent(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of N(mean, variance), differentiable with respect to both."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (0.5 * log_variance).exp() * noise


def _channels(size: int) -> list[int]:
    """The number of channels before and after each halving."""
    channels = [1]
    while True:
        halvings = len(channels) - 1
        if halvings >= SHALLOWEST:
            length = _padded(size, halvings) >> halvings
            if channels[-1] * length <= WIDEST:
                return channels
        channels.append(CHANNELS[min(halvings, len(CHANNELS) - 1)])


def _padded(size: int, halvings: int) -> int:
    """The smallest length from `size` that can be halved that often."""
    return -(-size >> halvings) << halvings


def _down(before: int, after: int) -> nn.Module:
    convolution = nn.Conv1d(before, after, kernel_size=4, stride=2, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(after // 4, after), nn.SiLU())


def _up(before: int, after: int) -> nn.Module:
    convolution = nn.ConvTranspose1d(before, after, kernel_size=4, stride=2, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(after // 4, after), nn.SiLU())
