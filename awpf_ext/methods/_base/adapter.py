"""The training loop of the adapter methods: one linear map after a frozen CLIP, replay, Adam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.adam import Adam
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.cosine import scaled_cosines
from awpf_ext.methods._base.hinge import hard_pairs, hinge_loss, pair_schedule
from awpf_ext.methods._base.holdout import Holdout
from awpf_ext.methods._base.method import EpochProgress, Method, MethodConfig
from awpf_ext.methods._base.replay import draw_batches, replay_schedule
from awpf_ext.methods._base.states import joined_states, part_of_state, without_part
from awpf_ext.methods._base.visual_head import VisualHead, VisualScores, fit_scales


class Batch(NamedTuple):
    """The rows of one step: images of the task, replayed draws from old classes, and for the hinge
    loss one draw from the old class of each pair.
    """

    rows: Tensor
    labels: Tensor  # of all rows except those for the hinge loss
    weights: Tensor  # of the labelled rows in the loss; their sum is 1
    images: int  # how many of the rows are images of the task
    pairs: Tensor  # (old, new) class ids

    @property
    def x(self) -> Tensor:
        """The rows that have labels."""
        return self.rows[: len(self.labels)]


class AdapterMethod(Method):
    """Trains A in n(A f) by cross-entropy over the classes seen; a subclass defines the fusion.

    The class statistics describe the features before the adapter, so they stay valid. Where
    something is chosen on held-out rows, a partner of the same class learns all other rows beside
    it, which is a second pass over four fifths of the training rows, or more of them where classes
    have over 80 images.
    """

    Config: ClassVar[type[MethodConfig]] = AdapterConfig
    config: AdapterConfig
    statistics: ClassStatistics

    def __init__(
        self, config: AdapterConfig, *, text: Tensor, is_partner: bool = False, **given: Any
    ) -> None:
        super().__init__(config, text=text, **given)
        load_optimizer()
        self.adapter = initial_adapter(config.init, text, self.generator)
        self.before = self.adapter  # before the task that is being learned
        self.statistics = ClassStatistics(
            text.shape[1],
            added_variance=config.added_variance,
            shrinkage=config.shrinkage,
            max_rank=config.max_rank,
            device=self.device,
        )
        self.head: VisualHead | None = None
        self.holdout: Holdout[AdapterMethod] | None = None
        if self.holds_out(config) and not is_partner:
            self.holdout = Holdout(type(self)(config, text=text, is_partner=True, **given))

    @classmethod
    def holds_out(cls, config: AdapterConfig) -> bool:
        """Whether these settings choose anything on held-out rows."""
        return config.head != "none"

    def direction(self, x: Tensor) -> Tensor:
        """The embeddings (n, d) before they are L2-normalised."""
        return x @ self.adapter.T

    def embed(self, x: Tensor) -> Tensor:
        return normalize(self.direction(x), dim=-1)

    def trained_parameters(self) -> list[Tensor]:
        """The tensors that the optimizer updates."""
        return [self.adapter]

    def text_logits(self, x: Tensor, classes: int) -> Tensor:
        """Scaled cosines with the texts, which training uses; `logits` may add the visual head."""
        return scaled_cosines(self.direction(x), self.texts(classes), self.logit_scale)

    def logits(self, x: Tensor, classes: int | None = None) -> Tensor:
        """Logits of the first `classes` classes, by default those seen. The visual head takes part
        if it was fitted for exactly these classes.
        """
        count = self.seen if classes is None else classes
        compared = self.text_logits(x, count)
        if self.head is None or self.head.classes != count:
            return compared
        return self.head.logits(compared, x)

    def loss(self, batch: Batch, task: Task) -> Tensor:
        """What one step minimises; a subclass may add terms."""
        logits, hinge = self.logits_and_hinge(batch, task)
        return self.classification_loss(logits, batch) + hinge

    def fuse(self, old: Tensor, new: Tensor, task: Task) -> Tensor:
        """The adapter after the task, from the one before it and the one trained on it."""
        return new

    def fuse_partner(self, partner: AdapterMethod, new: Tensor, task: Task) -> Tensor:
        """The partner's adapter after the task, once this learner's own is fused."""
        return partner.fuse(partner.before, new, task)

    def learn(self, task: Task, progress: EpochProgress) -> None:
        """Train, fuse with the adapter before the task, and add the task's class statistics."""
        learners, tasks = [self], [task]
        if self.holdout is not None:
            learners.append(self.holdout.partner)
            tasks.append(self.holdout.split(task))
        self.train_all(learners, tasks, progress)
        if len(task.train_y) and len(self.statistics.drawable):
            with self.timed("fuse"):
                self.adapter = self.fuse(self.before, self.adapter, task)
                for partner, rest in zip(learners[1:], tasks[1:], strict=True):
                    partner.adapter = self.fuse_partner(partner, partner.adapter, rest)
        with self.timed("statistics"):
            for learner, rows in zip(learners, tasks, strict=True):
                learner.statistics.add(rows.train_x, rows.train_y, task.classes)
                learner.seen = task.classes.stop
        if self.config.head == "lda":
            with self.timed("head"):
                self.head = self.fitted_head(task)

    def train_all(
        self, learners: list[AdapterMethod], tasks: list[Task], progress: EpochProgress
    ) -> None:
        """Train each learner on its rows; `before` is then its adapter before the task."""
        epochs = self.config.epochs

        def epoch_done(turn: int) -> EpochProgress:
            return lambda done, _: progress(turn * epochs + done, len(learners) * epochs)

        for turn, (learner, rows) in enumerate(zip(learners, tasks, strict=True)):
            learner.before = learner.adapter.clone()
            if len(rows.train_y):
                with self.timed("train" if learner is self else "train the partner"):
                    learner.train(rows, epoch_done(turn))

    def fitted_head(self, task: Task) -> VisualHead | None:
        """LDA of all classes seen, with the scales that suit the held-out rows; and its record."""
        assert self.holdout is not None
        if not len(self.statistics.drawable):
            return None
        partner, (x, labels) = self.holdout.partner, self.holdout.judges()
        scores = VisualScores.of(partner.statistics)(x)
        scales = fit_scales(partner.text_logits(x, task.classes.stop), scores, labels)
        self.record(task, head_share=scales.share)
        return VisualHead(VisualScores.of(self.statistics), scales)

    def record(self, task: Task, **facts: Any) -> None:
        """Add facts about a task to its record."""
        if not self.records or self.records[-1]["task"] != task.index:
            self.records.append({"task": task.index})
        self.records[-1].update(facts)

    def train(self, task: Task, progress: EpochProgress) -> None:
        """All epochs of one task, with a new Adam optimizer."""
        config = self.config
        parameters = self.trained_parameters()
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = Adam(parameters)
        loss = torch.compile(self.loss, dynamic=True) if config.compile else self.loss
        pairs = self.hard_pairs(task)
        for epoch in range(config.epochs):
            decays = sum(milestone <= epoch for milestone in config.milestones)
            learning_rate = config.learning_rate * config.decay**decays
            for batch in self.batches(task, pairs):
                gradients = torch.autograd.grad(loss(batch, task), parameters)
                optimizer.step(gradients, learning_rate)
            progress(epoch + 1, config.epochs)
        for parameter in parameters:
            parameter.requires_grad_(False)

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
        weights: dict[tuple[int, int], Tensor] = {}  # of the rows of a batch, by its sizes
        for rows, old_labels, old_x, hard_x, hard_pair in zip(
            images, replayed, replay, hard, paired, strict=True
        ):
            sizes = len(rows), len(old_x)
            if sizes not in weights:
                shares = class_counts if config.class_balance else sizes
                weights[sizes] = self.row_weights(sizes, shares)
            yield Batch(
                rows=torch.cat([task.train_x.index_select(0, rows), old_x, hard_x]),
                labels=torch.cat([task.train_y[rows], old_labels]),
                weights=weights[sizes],
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
        """The logits of the labelled rows over all classes, and the hinge loss of the other rows.

        Both use one product with the adapter.
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
        parts = {} if self.head is None else {"head": self.head.state_dict()}
        if self.holdout is not None:
            parts["partner"] = self.holdout.partner.state_dict()
        return {**super().state_dict(), "adapter": self.adapter, **joined_states(parts)}

    def learned_state(self) -> dict[str, Tensor]:
        return without_part(super().learned_state(), "partner")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.adapter = state["adapter"].to(self.device, copy=True)
        head, partner = part_of_state(state, "head"), part_of_state(state, "partner")
        self.head = VisualHead.of_state(head, self.device) if head else None
        if self.holdout is not None and partner:  # an export has none
            self.holdout.partner.load_state_dict(partner)

    def task_block(self) -> dict[str, Tensor] | None:
        block = super().task_block()
        if block is None or self.holdout is None:
            return block
        return {**block, **joined_states({"held_out": self.holdout.block()})}

    def append_task_block(self, block: Mapping[str, Tensor]) -> None:
        super().append_task_block(without_part(block, "held_out"))
        if self.holdout is not None:
            self.holdout.append(part_of_state(block, "held_out"))


def initial_adapter(init: str, text: Tensor, generator: torch.Generator) -> Tensor:
    """(d, d): the identity, or uniform in +-1/sqrt(d) as PyTorch initialises a linear layer."""
    dim = text.shape[1]
    adapter = torch.empty(dim, dim, device=text.device)
    if init == "identity":
        return torch.nn.init.eye_(adapter)
    return adapter.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)


@cache
def load_optimizer() -> None:
    """The first step of an optimizer in a process takes a second, which belongs to no task."""
    Adam([torch.zeros(1)]).step([torch.zeros(1)], 1e-3)
