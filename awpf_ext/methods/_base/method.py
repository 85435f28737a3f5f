"""The base class of methods, which learn tasks in sequence and predict the classes seen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext.data.stream import Protocol, Task
from awpf_ext.distributed import SINGLE_PROCESS, World
from awpf_ext.methods._base.class_statistics import ClassStatistics, StatisticsBlock

if TYPE_CHECKING:
    from awpf_ext.clip.prompted import PromptedClip
    from awpf_ext.lora.adapter_writer import AdapterFiles

Inputs = Literal["features", "images"]
EpochProgress = Callable[[int, int], None]  # epochs done, epochs in the task


class MethodConfig(BaseModel):
    """The settings of a method; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Method:
    """A continual learner on CLIP, independent of data sets, files and the command line.

    A subclass sets `Config` and overrides `learn` (training on a task), `embed` (the image
    embedding that is compared with the texts), and the two state methods for what it keeps.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    protocols: ClassVar[tuple[Protocol, ...]] = ("class",)
    distributed: ClassVar[bool] = False  # whether several processes can train one model together
    large_state: ClassVar[bool] = False  # a run then keeps only the states after its last two tasks
    bound: ClassVar[Literal["lower", "upper"] | None] = None  # which bound for the others it is

    def __init__(
        self,
        config: MethodConfig,
        *,
        text: Tensor,
        logit_scale: float,
        seed: int = 0,
        clip: PromptedClip | None = None,
        world: World = SINGLE_PROCESS,
    ) -> None:
        """text: (C, d), L2-normalised, the texts of all classes that will come, in stream order.

        clip: what made the texts and features, for methods that train it. world: the processes that
        make the same calls at the same time, where the method is `distributed`.
        """
        self.config = config
        self.clip = clip
        self.world = world
        self.text = text
        self.logit_scale = logit_scale
        self.seed = seed
        self.device = text.device
        self.seen = 0  # classes seen so far: stream class ids 0 to seen - 1
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.statistics: ClassStatistics | None = None  # append-only, in files of its own
        self.records: list[dict[str, Any]] = []  # facts about each task, for the report
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by stage

    def fit(self, task: Task, progress: EpochProgress | None = None) -> None:
        """Train on one task; tasks come in order, each with the next classes or with all again."""
        all_again = task.classes == range(self.seen) and "domain" in self.protocols
        if task.classes.start != self.seen and not all_again:
            raise ValueError(
                f"task {task.index} starts at class {task.classes.start}; expected {self.seen}, "
                "the number of classes seen"
            )
        self.learn(task, progress or (lambda done, epochs: None))
        self.seen = task.classes.stop

    def learn(self, task: Task, progress: EpochProgress) -> None:
        raise NotImplementedError

    @classmethod
    def trains_clip(cls, config: MethodConfig) -> bool:
        """Whether these settings train CLIP itself, so that `clip` is needed."""
        return False

    @property
    def inputs(self) -> Inputs:
        """The input of `embed` and `logits`: CLIP image features (n, d), or images prepared by the
        backbone, uint8 (n, height, width, 3).
        """
        return "features"

    def embed(self, x: Tensor) -> Tensor:
        """L2-normalised embeddings (n, d) of `inputs`."""
        return normalize(x, dim=-1)

    def texts(self, classes: int) -> Tensor:
        """The class texts (classes, d), L2-normalised, that embeddings are compared with."""
        return self.text[:classes]

    def logits(self, x: Tensor, classes: int | None = None) -> Tensor:
        """Scaled cosines (n, classes) with the first `classes` texts, by default those seen."""
        texts = self.texts(self.seen if classes is None else classes)
        return self.logit_scale * self.embed(x) @ texts.T

    def adapters(self) -> Mapping[str, AdapterFiles]:
        """LoRA adapters by name, which a run stores in PEFT's format; most methods have none."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that later tasks and predictions depend on, except the class statistics."""
        return {"seen": torch.tensor(self.seen), "generator": self.generator.get_state()}

    def task_block(self) -> dict[str, Tensor] | None:
        """What the last task added to the part of the state that only grows; one file of a run."""
        if self.statistics is None or not self.statistics.blocks:
            return None
        return self.statistics.blocks[-1].tensors()

    def append_task_block(self, block: Mapping[str, Tensor]) -> None:
        """Append a block that `task_block` returned, in this or an earlier process."""
        assert self.statistics is not None
        self.statistics.append(StatisticsBlock(**block))

    def learned_state(self) -> dict[str, Tensor]:
        """The part of the state that predictions depend on, which an export keeps.

        `load_state_dict` accepts it.
        """
        return {name: value for name, value in self.state_dict().items() if name != "generator"}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seen = int(state["seen"])
        if "generator" in state:  # what is only to predict has none
            self._restore_generator(state["generator"].cpu())

    def _restore_generator(self, state: Tensor) -> None:
        """Continue the random numbers; another kind of device starts those of a fixed seed."""
        try:
            self.generator.set_state(state)
        except RuntimeError:  # the state of another kind of device
            self.generator.manual_seed(self.generator.initial_seed() + self.seen)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to `seconds`."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start
