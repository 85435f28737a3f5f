"""The options of `awpf_ext.run` and their types, for type checkers and completion.

Type checkers do not execute Python, so that the keys are written here a second time. A test
compares them with `RunConfig` and with the settings of all methods, and prints the lines to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict


class RunOptions(TypedDict, total=False):
    """Keys of `RunConfig`, settings of the methods, and settings for one method by its name."""

    dataset: str
    class_names: str | Path | None
    train_limit: int | None
    test_limit: int | None
    imbalance: float | None
    on_unreadable: Literal["stop", "skip"]
    protocol: Literal["class", "domain"]
    base: int
    increment: int
    order: str
    method: str
    preset: str | None
    seed: int
    model: str
    pretrained: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    prompt: str | Sequence[str]
    device: str
    threads: int | None
    workers: int | None
    encode_batch: int
    store: str | Path
    cache_dir: str | Path | None
    init: Literal["identity", "uniform"]
    epochs: int
    batch_size: int
    learning_rate: float | None
    milestones: Sequence[int]
    decay: float
    replay_per_epoch: int
    beta: float
    class_balance: bool
    added_variance: float
    shrinkage: bool
    max_rank: int | None
    head: Literal["none", "lda"]
    compile: bool
    hinge: bool
    hinge_threshold: float
    hinge_margin: float
    hinge_draws: int
    weights: Literal["direction", "tau", "constant"]
    weight_prior: float
    constant_weight: float
    balance: Literal["weight", "loss", "both"]
    balance_loss: float
    balance_scale: float
    balance_rows: int
    normalisation: Literal["running_max", "bounded", "both_running_max"]
    stacking: Literal["delta", "literal"]
    rank: int | None
    mask_bias: float
    calibration: float | None
    distillation: float
    temperature: float | None
    train: Literal["full", "lora", "adapter"]
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_targets: Sequence[str] | None
    use_rslora: bool
    checkpointing: bool
    autocast: Literal["none", "bf16"]
    micro_batch: int | None
    weight_decay: float
    buffer: int
    buffer_format: Literal["references", "png", "jpeg"]
    jpeg_quality: int
    augmentation: Literal["none", "buffer", "all"]
    gamma: float
    gamma_epochs: int
    eps: float
    objective: Literal["gcl", "ce"]
    effective_classes: float
    dro_lambda: float | None
    group_adjustment: float
    class_losses: Literal["running", "exact"] | None
    weight_momentum: float
    adapters: str | None
    freeze_a: bool
    population: int
    checkpoints: int
    components: int
    latent: int
    vae_steps: int
    vae_batch: int
    vae_learning_rate: float
    kl_weight: float
    free_bits: float
    fusion_every: int
    search: Literal["network", "pca", "scale", "none"]
    search_steps: int
    search_rate: float
    tether: float
    refine_steps: int
    refine_rate: float
    image_batch: int
    fusion: Literal[
        "average",
        "average_sqrt",
        "linear",
        "stack",
        "svd",
        "ties",
        "dare_linear",
        "dare_ties",
        "magnitude_prune",
        "knots",
        "tsv",
        "iso",
        "icm",
    ]
    weight: float
    density: float | None
    width: int | None
    bandwidth: float
    eta: float
    penalty: float | None
    prior: Literal["none", "text"]
    awpf: Mapping[str, Any]
    calfuse: Mapping[str, Any]
    cca: Mapping[str, Any]
    finetune: Mapping[str, Any]
    gcl: Mapping[str, Any]
    gdro: Mapping[str, Any]
    icm_fusion: Mapping[str, Any]
    joint: Mapping[str, Any]
    klda: Mapping[str, Any]
    lora_merge: Mapping[str, Any]
    naive: Mapping[str, Any]
    ncm: Mapping[str, Any]
    rapf: Mapping[str, Any]
    replay_ce: Mapping[str, Any]
    replay_clip: Mapping[str, Any]
    ridge: Mapping[str, Any]
    slda: Mapping[str, Any]
    zero_shot: Mapping[str, Any]
