"""Methods that are solved instead of trained: sums over images, then one linear system per task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.feature_sums import FeatureSums, Lift
from awpf_ext.methods._base.lda import LinearClassifier, lda_of
from awpf_ext.methods._base.method import EpochProgress, Method, MethodConfig
from awpf_ext.methods._base.pooled_covariance import shrunk_covariance
from awpf_ext.methods._base.random_features import unit
from awpf_ext.methods._base.states import joined_states, part_of_state, without_part


class ClosedForm(Method):
    """Adds the images of a task to sums and solves for a linear classifier of lifted features.

    A subclass defines `solve`, and `make_lift` if it lifts the features. Classes without images are
    not predicted. An export keeps the classifier and not the sums.
    """

    protocols = ("class", "domain")
    with_gram: ClassVar[bool] = True

    def __init__(self, config: MethodConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        self.lift, width = self.make_lift(text.shape[1])
        self.sums = FeatureSums(width, with_gram=self.with_gram, device=self.device)
        self.classifier = LinearClassifier(
            torch.zeros(0, width, device=self.device), torch.zeros(0, device=self.device)
        )

    def make_lift(self, dim: int) -> tuple[Lift, int]:
        """The map from image features (n, dim) to the rows of the sums, and its width."""
        return unit, dim

    def solve(self, task: Task) -> LinearClassifier:
        """The classifier of all classes in the sums."""
        raise NotImplementedError

    def learn(self, task: Task, progress: EpochProgress) -> None:
        with self.timed("statistics"):
            self.sums.add(self.lift, task.train_x, task.train_y, task.classes.stop)
        with self.timed("solve"):
            self.classifier = self.solve(task)
        progress(1, 1)

    def logits(self, x: Tensor, classes: int | None = None) -> Tensor:
        """(n, classes); -inf for a class without images, unless no class has any."""
        count = self.seen if classes is None else classes
        if not self.classifier.known.any():
            return torch.zeros(len(x), count, device=self.device)
        scores = self.classifier.scores(self.lift(x))[:, :count]
        return pad(scores, (0, count - scores.shape[1]), value=-torch.inf)

    def state_dict(self) -> dict[str, Tensor]:
        sums = joined_states({"sums": self.sums.state_dict()})
        return {**super().state_dict(), **self.classifier._asdict(), **sums}

    def learned_state(self) -> dict[str, Tensor]:
        return without_part(super().learned_state(), "sums")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.classifier = LinearClassifier(
            state["weight"].to(self.device, copy=True), state["bias"].to(self.device, copy=True)
        )
        self.sums.load_state_dict(part_of_state(state, "sums"))


class DiscriminantAnalysis(ClosedForm):
    """LDA of the lifted features, with one shrunk covariance for all classes."""

    def learn(self, task: Task, progress: EpochProgress) -> None:
        with self.timed("statistics"):
            self.sums.add_quartic(self.lift, task.train_x, task.train_y)
        super().learn(task, progress)

    def solve(self, task: Task) -> LinearClassifier:
        sums = self.sums
        shrunk = shrunk_covariance(
            sums.scatter(), sums.quartic, means=sums.means, counts=sums.counts
        )
        self.records.append({"task": task.index, "covariance_shrinkage": shrunk.shrinkage})
        return lda_of(sums.means, sums.counts, shrunk.covariance)
