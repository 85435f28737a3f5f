"""One fusion of ICM-Fusion: principal components, the F-VAE, the search, and what they achieve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from awpf_ext.data.stream import Task
from awpf_ext.finetuning.buffer import Buffer
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.lora_clip import LoraClip
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.lora.icm import (
    Decoder,
    Found,
    FusionVae,
    Layout,
    Pca,
    VaeSettings,
    explained_variance,
    refined,
    searched,
    train_vae,
)
from awpf_ext.lora.icm.measures import on_plane, pca_curve, task_means
from awpf_ext.methods._base.lora_population import Members, Population
from awpf_ext.methods._base.method import MethodConfig

LOGIT_IMAGES = 64  # images on which the logits of reconstructed LoRAs are compared


class FusionSettings(MethodConfig):
    """Settings of the network and of the search."""

    components: int = Field(
        64, ge=1, description="Most principal components of the LoRAs that the F-VAE works on"
    )
    latent: int = Field(32, ge=1, description="Most latent numbers of the F-VAE")
    vae_steps: int = Field(200, ge=0, description="Training steps of the F-VAE after each task")
    vae_batch: int = Field(32, ge=1, description="LoRAs per training step of the F-VAE")
    vae_learning_rate: float = Field(3e-4, gt=0, description="Learning rate of the F-VAE's Adam")
    kl_weight: float = Field(
        1.0, ge=0, description="Weight of the KL divergence; it rises from 0 in the first half"
    )
    free_bits: float = Field(
        0.1, ge=0, description="Nats of divergence per latent number that cost nothing"
    )
    fusion_every: int = Field(
        20,
        ge=1,
        description="In one of N steps the F-VAE also learns from the tasks' losses of a fusion",
    )
    search: Literal["network", "pca", "scale", "none"] = Field(
        "network",
        description="What the fusion is searched over: codes of the F-VAE, principal components "
        "without it (both with a scale), a scale of the LoRAs' average alone, or nothing (then it "
        "starts as this average)",
    )
    search_steps: int = Field(20, ge=0, description="Steps of the search")
    search_rate: float = Field(0.1, gt=0, description="Learning rate of the search's Adam")
    tether: float = Field(
        0.01, ge=0, description="Weight of the code's squared distance from the mean of the codes"
    )
    refine_steps: int = Field(30, ge=0, description="Steps on the fused LoRA itself afterwards")
    refine_rate: float = Field(3e-3, gt=0, description="Learning rate of these steps' Adam")
    image_batch: int = Field(
        32, ge=1, description="Images of all tasks per step that uses their losses"
    )


class _Space(NamedTuple):
    """What is searched: codes, their decoder, and the code of a LoRA of a task."""

    encode: Callable[[Tensor, Tensor], Tensor]  # (n, P) and their places to (n, latent)
    decode: Callable[[Tensor], Tensor]  # (n, latent) to scores (n, k)
    size: int


class Fusing:
    """The data and the settings of one fusion."""

    def __init__(
        self,
        settings: FusionSettings,
        clip: LoraClip,
        layout: Layout,
        task: Task,
        *,
        buffer: Buffer,
        owners: Tensor,
        temperature: float,
        random: torch.Generator,
    ) -> None:
        """owners: the place of the task of each sample of the buffer; task: the latest."""
        self.settings, self.clip, self.layout = settings, clip, layout
        self.classes = range(task.classes.stop)
        self.temperature, self.random = temperature, random
        self._samples = TaskSamples(task, Buffer(0), clip.inputs)
        self._ids, self._labels, self._owners = buffer.ids, buffer.labels, owners
        self._waiting = torch.empty(0, dtype=torch.int64)

    def fused(
        self, population: Population, loras: Tensor, vectors: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Any]]:
        """The fused LoRA (P,), and facts about it. loras: (T, P); vectors: (T, d), of the tasks."""
        settings = self.settings
        average = loras.mean(dim=0)
        record: dict[str, Any] = {"search": settings.search, "loras": population.learned}
        found = None
        if settings.search == "scale":
            found = self._searched(lambda code: average, average.new_zeros(0))
            record["scale"] = found.scale
        elif settings.search != "none":
            found, facts = self._code_searched(population, loras, vectors, seed)
            record |= facts
        vector, further = refined(
            average if found is None else found.vector,
            self.loss,
            steps=settings.refine_steps,
            rate=settings.refine_rate,
        )
        losses = [] if found is None else found.losses
        return vector, {**record, "losses": losses, "refine_losses": further}

    def _searched(self, decode: Decoder, start: Tensor) -> Found:
        settings = self.settings
        return searched(
            decode,
            start,
            self.loss,
            steps=settings.search_steps,
            rate=settings.search_rate,
            tether=settings.tether,
        )

    def _code_searched(
        self, population: Population, loras: Tensor, vectors: Tensor, seed: int
    ) -> tuple[Found | None, dict[str, Any]]:
        """The result of the search, and facts about it; None if all LoRAs are alike."""
        settings, device = self.settings, loras.device
        learned, held = population.learned_from(device), population.held_out(device)
        pca = Pca.fit(learned.vectors, settings.components)
        if not len(pca.variance):
            return None, {}
        space = self._space(pca, learned, vectors, seed)
        facts = self._measured(pca, space, learned, held)
        start = space.encode(loras, torch.arange(len(loras), device=device)).mean(dim=0)
        found = self._searched(lambda code: pca.vectors(space.decode(code[None]))[0], start)
        codes = space.encode(learned.vectors, learned.places)
        spots = on_plane(pca, space.decode(torch.cat([codes, start[None], found.code[None]])))
        owners = learned.places.tolist()
        return found, {
            **facts,
            "scale": found.scale,
            "mean_code": spots[-2],
            "fused_code": spots[-1],
            "codes": [[place, *spots[row]] for row, place in enumerate(owners)],
        }

    def _space(self, pca: Pca, learned: Members, vectors: Tensor, seed: int) -> _Space:
        settings = self.settings
        if settings.search == "pca":
            size = min(settings.latent, len(pca.variance))
            return _Space(lambda x, places: pca.scores(x)[:, :size], lambda codes: codes, size)
        vae = FusionVae(pca, vectors.shape[1], settings.latent, seed).to(vectors.device)
        scores, own = pca.scores(learned.vectors), vectors[learned.places]

        def on_fusion() -> Tensor:
            """The tasks' losses of a fusion with random shares, weighted by these."""
            shares = self._dirichlet(len(vectors))
            with torch.no_grad():
                means, _ = vae.encode(scores, own)
            mixed = shares @ task_means(means, learned.places)
            return self.loss(pca.vectors(vae.decode(mixed[None]))[0], shares)

        wanted = VaeSettings(
            settings.vae_steps,
            settings.vae_batch,
            settings.vae_learning_rate,
            settings.kl_weight,
            settings.free_bits,
            settings.fusion_every,
        )
        train_vae(vae, scores, own, wanted, self.random, on_fusion)
        for parameter in vae.parameters():
            parameter.requires_grad_(False)
        return _Space(
            lambda x, places: vae.encode(pca.scores(x), vectors[places])[0],
            vae.decode,
            vae.latent,
        )

    @torch.no_grad()
    def _measured(self, pca: Pca, space: _Space, learned: Members, held: Members) -> dict[str, Any]:
        """Explained variances of the held-out LoRAs; of those learned from if there are none."""
        rows = held if len(held.places) else Members(learned.vectors.float(), learned.places)
        own = pca.vectors(space.decode(space.encode(rows.vectors, rows.places)))
        by_pca = pca.projected(rows.vectors, space.size)
        means = task_means(learned.vectors, learned.places)
        record: dict[str, Any] = {
            "held_out": len(held.places),
            "latent": space.size,
            "explained": explained_variance(rows.vectors, own, pca.mean),
            "explained_by_pca": explained_variance(rows.vectors, by_pca, pca.mean),
            "curve": pca_curve(pca, rows.vectors, rows.places, means),
        }
        if len(held.places):
            record["explained_logits"] = self._explained_logits(held.vectors, own, pca.mean)
        return record

    def _explained_logits(self, vectors: Tensor, found: Tensor, mean: Tensor) -> float | None:
        """The explained variance of the logits on images of the buffer, about the mean LoRA's."""
        rows = torch.randperm(len(self._ids), generator=self.random, device=self.random.device)
        x = next(iter(self._samples.by_id([self._ids[rows.cpu()[:LOGIT_IMAGES]]])))

        def logits(vector: Tensor) -> Tensor:
            tensors = self.layout.restore(vector)
            return self.clip.embed(x, tensors) @ self.clip.texts(self.classes, tensors).T

        true = torch.stack([logits(vector) for vector in vectors])
        return explained_variance(true, torch.stack([logits(v) for v in found]), logits(mean))

    def loss(self, vector: Tensor, shares: Tensor | None = None) -> Tensor:
        """sum_i share_i L_i over the classes seen, on the next images of the buffer.

        vector: (P,), of a LoRA. shares: (T,), of the tasks, by default alike; those of tasks
        without images in the buffer are given to the others. No graph of the towers is kept: the
        gradient with respect to `vector` is computed at once, in parts of `micro_batch`.
        """
        rows = self._next_rows()
        x = next(iter(self._samples.by_id([self._ids[rows]])))
        labels, weights = self._labels[rows], self._weights(shares)[rows]

        def weighted(images: Tensor, texts: Tensor) -> Tensor:
            logits = images @ texts.T / self.temperature
            losses = cross_entropy(logits, labels.to(logits.device), reduction="none")
            return (weights.to(logits.device) * losses).mean()

        parameters = self.clip.named_parameters()
        self.clip.load_state_dict(self.layout.restore(vector.detach()))
        for parameter in parameters.values():
            parameter.grad = None
        value = joint_backward(self.clip, x, self.classes, weighted, dropout=False)
        gradient = self.layout.flatten(
            {name: _gradient_of(parameters[name]) for name in self.layout.shapes}
        )
        # It is 0, and its gradient is that of the loss.
        return value + ((vector - vector.detach()) * gradient).sum()

    def _next_rows(self) -> Tensor:
        """Rows of the buffer, in a random order that starts again when it is used up."""
        if len(self._waiting) < min(self.settings.image_batch, len(self._ids)):
            order = torch.randperm(len(self._ids), generator=self.random, device=self.random.device)
            self._waiting = order.cpu()
        rows = self._waiting[: self.settings.image_batch]
        self._waiting = self._waiting[self.settings.image_batch :]
        return rows

    def _weights(self, shares: Tensor | None) -> Tensor:
        """Of each sample of the buffer: those of a task have a mean over all of its share."""
        counts = torch.bincount(self._owners)
        present = (counts > 0).float()
        given = present if shares is None else present * shares.cpu()[: len(counts)]
        per_sample = len(self._ids) * given / given.sum() / counts.clamp_min(1)
        return per_sample[self._owners]

    def _dirichlet(self, count: int) -> Tensor:
        """Shares that are uniform among those with sum 1."""
        drawn = torch.rand(count, generator=self.random, device=self.random.device)
        drawn = -drawn.clamp_min(1e-12).log()
        return drawn / drawn.sum()


def _gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
