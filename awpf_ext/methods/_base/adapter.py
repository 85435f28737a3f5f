"""The training loop of the adapter methods: one linear map after a frozen CLIP, replay, Adam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.optim.lr_scheduler import MultiStepLR

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.cosine import scaled_cosines
from awpf_ext.methods._base.hinge import hard_pairs, hinge_loss, pair_schedule
from awpf_ext.methods._base.method import EpochProgress, Method, MethodConfig
from awpf_ext.methods._base.replay import draw_batches, replay_schedule


class AdapterConfig(MethodConfig):
    """Settings of the shared loop; the defaults suit few and many images per class."""

    init: Literal["identity", "uniform"] = Field(
        "identity",
        description="Initial adapter: identity = starts as zero-shot; uniform = PyTorch's "
        "default for a linear layer",
    )
    epochs: int = Field(15, ge=0, description="Epochs per task")
    batch_size: int = Field(64, ge=1, description="Images per step")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate of Adam")
    milestones: tuple[int, ...] = Field(
        (4, 10), description="Epochs after which the learning rate decays"
    )
    decay: float = Field(0.1, gt=0, description="Factor on the learning rate at a milestone")
    replay_per_epoch: int = Field(
        2000, ge=0, description="Pseudo-features of old classes per epoch"
    )
    beta: float = Field(
        1.0,
        ge=0.1,
        description="Replay multiplier: int(10 beta) draws per replayed class and int(20 beta) per "
        "hard pair",
    )
    class_balance: bool = Field(
        True,
        description="Weight images and replay by their number of classes, so that the loss "
        "estimates that of joint training on all classes seen; false = every row counts the same",
    )
    added_variance: float = Field(1e-4, gt=0, description="Added to every variance of a class")
    shrinkage: bool = Field(
        False,
        description="Shrink class covariances: add the mean variance and mean covariance to each",
    )
    max_rank: int | None = Field(
        None, ge=1, description="Principal directions kept of a class's covariance; null = all"
    )
    compile: bool = Field(False, description="Use torch.compile for the loss: faster in long runs")
    hinge: bool = Field(False, description="RAPF's hinge loss between similar old and new classes")
    hinge_threshold: float = Field(
        0.65, gt=0, description="Text distance below which two classes are a hard pair"
    )
    hinge_margin: float = Field(0.1, ge=0, description="Margin of the hinge loss")
    hinge_draws: int = Field(
        64, ge=1, description="Maximum number of draws for hard pairs per batch"
    )


class Batch(NamedTuple):
    """The rows of one step: images of the task, replayed draws from old classes, and for the hinge
    one draw from the old class of each pair.
    """

    rows: Tensor
    labels: Tensor  # of all rows but the hinge's
    weights: Tensor  # of the labelled rows in the loss; their sum is 1
    images: int  # how many of the rows are images of the task
    pairs: Tensor  # (old, new) class ids

    @property
    def x(self) -> Tensor:
        """The rows that have labels."""
        return self.rows[: len(self.labels)]


class AdapterMethod(Method):
    """Trains A in n(A f) by cross-entropy over the classes seen; a subclass defines the fusion.

    The class statistics describe the features before the adapter, so they stay valid.
    """

    Config: ClassVar[type[MethodConfig]] = AdapterConfig
    config: AdapterConfig
    statistics: ClassStatistics

    def __init__(self, config: AdapterConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.adapter = initial_adapter(config.init, text, self.generator)
        self.statistics = ClassStatistics(
            text.shape[1],
            ridge=config.added_variance,
            shrinkage=config.shrinkage,
            max_rank=config.max_rank,
            device=self.device,
        )

    def direction(self, x: Tensor) -> Tensor:
        """The embeddings (n, d) before they are L2-normalised."""
        return x @ self.adapter.T

    def embed(self, x: Tensor) -> Tensor:
        return normalize(self.direction(x), dim=-1)

    def logits(self, x: Tensor, classes: int | None = None) -> Tensor:
        texts = self.texts(self.seen if classes is None else classes)
        return scaled_cosines(self.direction(x), texts, self.logit_scale)

    def trained_parameters(self) -> list[Tensor]:
        """The tensors that the optimizer updates."""
        return [self.adapter]

    def loss(self, batch: Batch, task: Task) -> Tensor:
        """What one step minimises; a subclass may add terms."""
        logits, hinge = self.logits_and_hinge(batch, task)
        return self.classification_loss(logits, batch) + hinge

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """The adapter after the task, from the one before it and the one trained on it."""
        return new

    def learn(self, task: Task, progress: EpochProgress) -> None:
        """Train, fuse with the adapter before the task, and add the task's class statistics."""
        if len(task.train_y):
            old = self.adapter.clone()
            with self.timed("train"):
                self.train(task, progress)
            if len(self.statistics.drawable):
                with self.timed("fuse"):
                    self.adapter = self.fuse(old, self.adapter, task)
        with self.timed("statistics"):
            self.statistics.add(task.train_x, task.train_y, task.classes)

    def train(self, task: Task, progress: EpochProgress) -> None:
        """All epochs of one task, with a new Adam optimizer."""
        config = self.config
        parameters = self.trained_parameters()
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        schedule = MultiStepLR(optimizer, list(config.milestones), gamma=config.decay)
        loss = torch.compile(self.loss, dynamic=True) if config.compile else self.loss
        pairs = self.hard_pairs(task)
        for epoch in range(config.epochs):
            for batch in self.batches(task, pairs):
                optimizer.zero_grad()
                torch.autograd.backward(loss(batch, task))
                optimizer.step()
            schedule.step()
            progress(epoch + 1, config.epochs)
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None

    def batches(self, task: Task, pairs: Tensor) -> Iterator[Batch]:
        """One epoch: the task's images in random order, each batch with its replayed features."""
        config, generator = self.config, self.generator
        shuffled = torch.randperm(len(task.train_y), generator=generator, device=self.device)
        images = torch.split(shuffled, config.batch_size)
        replayed = replay_schedule(
            self.statistics.drawable,
            len(images),
            rows=config.replay_per_epoch,
            draws=int(10 * config.beta),
            generator=generator,
        )
        paired = pair_schedule(
            pairs,
            len(images),
            draws=int(20 * config.beta),
            limit=config.hinge_draws,
            generator=generator,
        )
        old_classes = len(self.statistics.drawable) if replayed.numel() else 0
        class_counts = len(torch.unique(task.train_y)), old_classes
        replay = draw_batches(self.statistics, replayed, generator)
        hard = draw_batches(self.statistics, paired[..., 0], generator)
        for rows, old_labels, old_x, hard_x, hard_pair in zip(
            images, replayed, replay, hard, paired, strict=True
        ):
            row_counts = len(rows), len(old_x)
            yield Batch(
                rows=torch.cat([task.train_x[rows], old_x, hard_x]),
                labels=torch.cat([task.train_y[rows], old_labels]),
                weights=self.row_weights(
                    row_counts, class_counts if config.class_balance else row_counts
                ),
                images=len(rows),
                pairs=hard_pair,
            )

    def row_weights(self, rows: tuple[int, int], weights: tuple[int, int]) -> Tensor:
        """Weights of the rows of two groups in proportion to `weights` of the groups."""
        parts = [
            torch.full((count,), weight / (sum(weights) * max(count, 1)), device=self.device)
            for count, weight in zip(rows, weights, strict=True)
        ]
        return torch.cat(parts)

    def classification_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, the mean over the rows with their weights."""
        return cross_entropy(logits, batch.labels, reduction="none") @ batch.weights

    def logits_and_hinge(self, batch: Batch, task: Task) -> tuple[Tensor, Tensor | float]:
        """Of the labelled rows the logits over all classes, and the hinge loss of the others.

        Both come from one product with the adapter.
        """
        directions = self.direction(batch.rows)
        texts = self.texts(task.classes.stop)
        if not len(batch.pairs):
            return scaled_cosines(directions, texts, self.logit_scale), 0.0
        labelled, hard = directions.split([len(batch.labels), len(batch.pairs)])
        hinge = hinge_loss(hard, self.text, batch.pairs, self.config.hinge_margin)
        return scaled_cosines(labelled, texts, self.logit_scale), hinge

    def hard_pairs(self, task: Task) -> Tensor:
        """(pairs, 2) old and new classes with similar texts; empty if the hinge is off."""
        new_classes = torch.arange(task.classes.start, task.classes.stop, device=self.device)
        old_classes = self.statistics.drawable if self.config.hinge else new_classes[:0]
        return hard_pairs(self.text, old_classes, new_classes, self.config.hinge_threshold)

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), "adapter": self.adapter}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.adapter = state["adapter"].to(self.device, copy=True)


def initial_adapter(init: str, text: Tensor, generator: torch.Generator) -> Tensor:
    """(d, d): the identity, or uniform in +-1/sqrt(d) as PyTorch initialises a linear layer."""
    dim = text.shape[1]
    adapter = torch.empty(dim, dim, device=text.device)
    if init == "identity":
        return torch.nn.init.eye_(adapter)
    return adapter.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
