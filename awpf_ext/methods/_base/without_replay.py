"""The training loop of the adapter methods on images alone: nothing is replayed or fused."""

from __future__ import annotations

from typing import Any, ClassVar

from awpf_ext.data.stream import Task
from awpf_ext.methods._base.adapter import AdapterMethod
from awpf_ext.methods._base.adapter_config import AdapterConfig
from awpf_ext.methods._base.method import EpochProgress, MethodConfig


class WithoutReplayConfig(AdapterConfig):
    """Settings of the shared loop, without those that concern old classes."""

    replay_per_epoch: ClassVar[int] = 0  # type: ignore[misc]
    beta: ClassVar[float] = 1.0  # type: ignore[misc]
    head: ClassVar[Any] = "none"  # type: ignore[misc]
    class_balance: ClassVar[bool] = False  # type: ignore[misc]
    added_variance: ClassVar[float] = 1e-4  # type: ignore[misc]
    shrinkage: ClassVar[bool] = False  # type: ignore[misc]
    max_rank: ClassVar[Any] = None  # type: ignore[misc]
    hinge: ClassVar[bool] = False  # type: ignore[misc]
    hinge_threshold: ClassVar[float] = 0.65  # type: ignore[misc]
    hinge_margin: ClassVar[float] = 0.1  # type: ignore[misc]
    hinge_draws: ClassVar[int] = 64  # type: ignore[misc]


class WithoutReplay(AdapterMethod):
    """Trains the adapter on given images; its class statistics stay empty."""

    Config: ClassVar[type[MethodConfig]] = WithoutReplayConfig
    config: WithoutReplayConfig
    protocols = ("class", "domain")

    def learn(self, task: Task, progress: EpochProgress) -> None:
        if len(task.train_y):
            with self.timed("train"):
                self.train(task, progress)
