"""The settings of the adapter methods' training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from awpf_ext.methods._base.method import MethodConfig


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
    head: Literal["none", "lda"] = Field(
        "none",
        description="Visual head beside the texts: lda = linear discriminant analysis, with a "
        "share chosen on held-out training rows; none = texts alone",
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
