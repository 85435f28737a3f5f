"""F-VAE: a variational autoencoder of LoRAs that starts as probabilistic PCA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from awpf_ext.lora.icm.pca import Pca

HIDDEN = 64  # width of the residual networks
LEAST_SHARE = 0.01  # of a component's variance that is taken for signal

# The loss of some LoRA that is decoded, in the same units as a log-likelihood.
FusionLoss = Callable[[], Tensor]


@dataclass(frozen=True)
class VaeSettings:
    """Settings of the training."""

    steps: int = 200
    batch: int = 32  # LoRAs per step
    learning_rate: float = 3e-4  # Adam
    kl_weight: float = 1.0  # beta, after the first half of the steps, in which it rises from 0
    free_bits: float = 0.1  # nats of divergence per latent number that cost nothing
    fusion_every: int = 20  # one step in so many is also on a fusion


class FusionVae(nn.Module):
    """Encodes whitened scores (N, K) with task vectors (N, d), and decodes codes (N, latent).

    Encoder and decoder are the closed-form solution of probabilistic PCA, with the decoder that
    reconstructs best from the mean of a code (Tipping and Bishop), so that at first the network is
    PCA; a small network that starts at 0 stands beside each. Only the encoder sees task vectors.
    """

    spread: Tensor  # (K,): the variances of the components
    gain: Tensor  # (latent,): code per score
    log_variance: Tensor  # (latent,)

    def __init__(self, pca: Pca, task_size: int, latent: int, seed: int) -> None:
        super().__init__()
        self.latent = min(latent, len(pca.variance))
        self.noise = pca.noise(self.latent)
        width = len(pca.variance)
        own = pca.variance[: self.latent]
        signal = (1 - self.noise / own).clamp_min(LEAST_SHARE)
        self.register_buffer("spread", pca.variance.clone())
        self.register_buffer("gain", signal.sqrt())
        self.register_buffer("log_variance", (self.noise / own).clamp_max(1).log())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone
            self.encoder = _residual(width + task_size, 2 * self.latent)
            self.decoder = _residual(self.latent, width)

    def encode(self, scores: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (N, latent) of the codes."""
        change, log_change = self.encoder(torch.cat([scores, vectors], dim=1)).chunk(2, dim=1)
        mean = self.gain * scores[:, : self.latent] + change
        return mean, self.log_variance + log_change

    def decode(self, codes: Tensor) -> Tensor:
        """Scores (N, K)."""
        linear = nn.functional.pad(codes / self.gain, (0, len(self.spread) - self.latent))
        change: Tensor = self.decoder(codes)
        return linear + change


def train_vae(
    vae: FusionVae,
    scores: Tensor,
    vectors: Tensor,
    settings: VaeSettings,
    generator: torch.Generator,
    fusion: FusionLoss | None = None,
) -> None:
    """Minimise sum_j (x_j - x^_j)^2 / (2 sigma^2) + beta KL over scores (N, K).

    The sum over the P entries of x is one over the components, up to a constant. fusion: the
    decoder also learns from this loss, in one of `fusion_every` steps.
    """
    optimizer = torch.optim.Adam(vae.parameters(), lr=settings.learning_rate)
    warm = max(settings.steps // 2, 1)
    for step in range(settings.steps):
        order = torch.randperm(len(scores), generator=generator, device=generator.device)
        rows = order[: settings.batch]
        with torch.enable_grad():
            mean, log_variance = vae.encode(scores[rows], vectors[rows])
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            decoded = vae.decode(mean + (0.5 * log_variance).exp() * noise)
            error = ((scores[rows] - decoded).square() * vae.spread).sum(dim=1).mean()
            divergence = kl_divergence(mean, log_variance).clamp_min(settings.free_bits).sum()
            beta = settings.kl_weight * min(step / warm, 1.0)
            loss = error / (2 * vae.noise) + beta * divergence
            if fusion is not None and step % settings.fusion_every == 0:
                loss = loss + fusion()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        optimizer.step()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats of each latent number, mean over the rows."""
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.mean(dim=0)


def _residual(inputs: int, outputs: int) -> nn.Sequential:
    """A network of one hidden layer whose output is 0 at first."""
    last = nn.Linear(HIDDEN, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.SiLU(), last)
