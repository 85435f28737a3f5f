"""Published settings by name: a table for the command line, without special cases in the methods.

The table is RAPF's. AWPF and CalFuse use the same training, so each takes the settings that its own
configuration has. `replay_per_epoch` follows from the published number k of replayed classes per
batch on the respective data set. Two presets belong to no data set: `paper` is AWPF as far as its
abstract tells, without what is ours (the visual head, and a weight for each direction), and
`text-only` leaves out the visual head alone. The presets of data sets include `paper`.
"""

from __future__ import annotations

from typing import Any

from awpf_ext.errors import UserError
from awpf_ext.methods._base.method import MethodConfig

PAPER: dict[str, Any] = {"head": "none", "weights": "tau"}


def _row(
    batch_size: int,
    replay_per_epoch: int,
    beta: float,
    mask_bias: float,
    hinge_threshold: float,
    shrinkage: bool,
) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "replay_per_epoch": replay_per_epoch,
        "beta": beta,
        "mask_bias": mask_bias,
        "hinge_threshold": hinge_threshold,
        "shrinkage": shrinkage,
        "init": "uniform",
        **PAPER,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "cifar100-b0-inc10": _row(100, 2000, 2, 0.6, 0.55, False),
    "cifar100-b50-inc10": _row(100, 2000, 2, 0.6, 0.55, False),
    "cifar100-b50-inc5": _row(50, 4000, 2, 0.6, 0.55, False),
    "imagenet100-b0-inc5": _row(128, 1020, 1, 0.5, 0.65, False),
    "imagenet100-b0-inc10": _row(128, 2040, 1, 0.5, 0.65, False),
    "imagenet100-b0-inc20": _row(128, 2040, 0.5, 0.5, 0.65, False),
    "imagenet100-b50-inc5": _row(128, 1020, 1, 0.5, 0.65, False),
    "imagenet100-b50-inc10": _row(128, 2040, 1, 0.5, 0.65, False),
    "imagenet-r-b0-inc10": _row(60, 2000, 2, 0.7, 0.60, True),
    "imagenet-r-b0-inc20": _row(64, 1900, 1, 0.7, 0.65, True),
    "imagenet-r-b0-inc40": _row(64, 1875, 0.5, 0.7, 0.60, True),
    "imagenet-r-b100-inc10": _row(64, 1900, 2, 0.7, 0.65, True),
    "imagenet-r-b100-inc20": _row(64, 1900, 1, 0.7, 0.65, True),
    "cub200-b0-inc20": _row(32, 1900, 1, 0.8, 0.65, True),
    "paper": PAPER,
    "text-only": {"head": "none"},
}


def preset_settings(name: str, config: type[MethodConfig]) -> dict[str, Any]:
    """The settings of preset `name` that `config` has."""
    if name not in PRESETS:
        raise UserError(f"preset is {name!r}; expected one of {', '.join(PRESETS)}")
    return {key: value for key, value in PRESETS[name].items() if key in config.model_fields}
