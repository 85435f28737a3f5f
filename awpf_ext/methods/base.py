"""What a method is: it learns tasks one after another and gives logits over the classes seen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext.data.stream import Task
from awpf_ext.statistics import ClassStatistics

EpochProgress = Callable[[int, int], None]  # epochs done, epochs in the task


class MethodConfig(BaseModel):
    """A method's settings; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method:
    """A continual learner on frozen CLIP features. It knows no data set, file or command line.

    A subclass sets `Config` and overrides `learn` (what a task changes), `embed` (how an image
    feature enters the comparison with the texts), and the two state methods for what it keeps.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(
        self, config: MethodConfig, *, text: Tensor, logit_scale: float, seed: int = 0
    ) -> None:
        """text: (C, d), L2-normalised, the texts of all classes that will come, in stream order."""
        self.config = config
        self.text = text
        self.logit_scale = logit_scale
        self.seed = seed
        self.device = text.device
        self.seen = 0  # classes seen so far: stream class ids 0 to seen - 1
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.statistics: ClassStatistics | None = None  # append-only, stored beside the state
        self.records: list[dict[str, Any]] = []  # facts about each task, for reports
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by stage

    def fit(self, task: Task, progress: EpochProgress | None = None) -> None:
        """Learn one task; tasks come in order, and their classes follow those already seen."""
        if task.classes.start != self.seen:
            raise ValueError(
                f"task {task.index} starts at class {task.classes.start}; expected {self.seen}, "
                "the number of classes seen"
            )
        self.learn(task, progress or (lambda done, epochs: None))
        self.seen = task.classes.stop

    def learn(self, task: Task, progress: EpochProgress) -> None:
        raise NotImplementedError

    def embed(self, features: Tensor) -> Tensor:
        """L2-normalised embedding of CLIP image features (n, d)."""
        return normalize(features, dim=-1)

    def logits(self, features: Tensor, classes: int | None = None) -> Tensor:
        """(n, classes): scaled cosines with the first `classes` texts, by default those seen."""
        texts = self.text[: self.seen if classes is None else classes]
        return self.logit_scale * self.embed(features) @ texts.T

    def state_dict(self) -> dict[str, Tensor]:
        """All that later tasks and predictions depend on, apart from the class statistics."""
        return {"seen": torch.tensor(self.seen), "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seen = int(state["seen"])
        self.generator.set_state(state["generator"].cpu())

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to `seconds`."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start
