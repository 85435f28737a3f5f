"""Reading and checking an adapter_config.json, and the configuration of a merged adapter."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awpf_ext.errors import DataError, UserError, reason

CONFIG = "adapter_config.json"
_LARGEST = 1 << 20  # bytes; real ones have a few thousand

# If one of these is set, the adapter does not simply add B A to its layer.
_OTHER_LAYERS = {
    "use_dora": "weight-decomposed LoRA (DoRA)",
    "lora_bias": "biases of LoRA factors",
    "use_qalora": "quantisation-aware LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "target_parameters": "LoRA of bare parameters",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "routed LoRA",
    "kasa_config": "KaSA's diagonal",
    "monteclora_config": "sampled LoRA",
}
# These initialisations change the base weights, so that B A belongs to another base model.
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Adapters that differ in one of these do not belong to the same model.
_AGREE = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "layer_replication")


@dataclass(frozen=True)
class LoraConfig:
    """A checked adapter_config.json; `raw` is all of it."""

    raw: Mapping[str, Any]
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    @property
    def base_model(self) -> str | None:
        name = self.raw.get("base_model_name_or_path")
        return name or None

    def scaling(self, module: str, rank: int) -> float:
        """The factor on B A of a module: alpha / r, or alpha / sqrt(r) with rsLoRA."""
        alpha = float(_matched(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.raw.get("use_rslora") else rank)

    def expected_rank(self, module: str) -> int:
        return int(_matched(self.rank_pattern, module, self.rank))


def read_config(folder: Path) -> LoraConfig:
    """The configuration in an adapter's folder; DataError or UserError if it cannot be merged."""
    path = folder / CONFIG
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise DataError(f"cannot read {path}: it has {size:,} bytes, far more than a config")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise DataError(f"cannot read {path}: its JSON is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    if not isinstance(raw, dict):
        raise DataError(f"cannot read {path}: it holds a {type(raw).__name__}, not a JSON object")
    _check_kind(path, raw)
    return LoraConfig(
        raw=raw,
        rank=_number(path, "r", raw.get("r"), whole=True),
        alpha=_number(path, "lora_alpha", raw.get("lora_alpha")),
        rank_pattern=_pattern(path, "rank_pattern", raw, whole=True),
        alpha_pattern=_pattern(path, "alpha_pattern", raw),
    )


def check_agreement(
    configs: Sequence[LoraConfig], names: Sequence[str], base_model: str | None
) -> None:
    """Refuse adapters of different models; `base_model` lets their base models' names differ."""
    for key in _AGREE:
        if key == "base_model_name_or_path" and base_model is not None:
            continue
        values = [config.raw.get(key) or None for config in configs]
        if key == "revision":
            values = [value or "main" for value in values]
        for name, value in zip(names[1:], values[1:], strict=True):
            if value != values[0]:
                hint = (
                    "; if both name the same model, say so with base_model (--base-model)"
                    if key == "base_model_name_or_path"
                    else ""
                )
                raise UserError(
                    f"the adapters differ in {key}: {values[0]!r} in {names[0]}, {value!r} in "
                    f"{name}{hint}"
                )


def merged_config(
    first: LoraConfig, ranks: Mapping[str, int], base_model: str | None
) -> dict[str, Any]:
    """The first adapter's configuration with the ranks of the result; every scaling is 1."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {f"^{re.escape(name)}$": rank for name, rank in ranks.items() if rank != usual}
    changed: dict[str, Any] = {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    for start in ("eva_config", "loftq_config"):  # how the training began
        if start in first.raw:
            changed[start] = {} if start == "loftq_config" else None
    return {**renamed(first, base_model), **changed}


def renamed(config: LoraConfig, base_model: str | None) -> dict[str, Any]:
    """A configuration with another name of the base model, if one is given."""
    if base_model is None:
        return dict(config.raw)
    return {**config.raw, "base_model_name_or_path": base_model}


def _check_kind(path: Path, raw: Mapping[str, Any]) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path} has peft_type {kind!r}; only LORA adapters can be merged")
    for key, what in _OTHER_LAYERS.items():
        if raw.get(key):
            raise UserError(f"{path} has {key}: {what} cannot be merged")
    start = raw.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OTHER_BASES):
        raise UserError(
            f"{path} has init_lora_weights {start!r}, which changes the base model; convert the "
            "adapter first: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )


def _number(path: Path, key: str, value: Any, whole: bool = False) -> Any:
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or (whole and value < 1):
        expected = "a whole number of at least 1" if whole else "a finite number"
        raise DataError(f"{path}: {key} is {value!r}; expected {expected}")
    return value


def _pattern(path: Path, key: str, raw: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
    found = raw.get(key) or {}
    if not isinstance(found, dict):
        raise DataError(f"{path}: {key} is a {type(found).__name__}; expected an object")
    for name, value in found.items():
        _number(path, f"{key}[{name!r}]", value, whole)
        try:
            re.compile(name)
        except (re.error, RecursionError, OverflowError) as error:
            raise DataError(f"{path}: {key} has the pattern {name!r}: {error}") from None
    return found


def _matched(pattern: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """PEFT's rule: the first pattern that matches the module's name from a dot to the end."""
    for name, value in pattern.items():
        if re.match(rf"(.*\.)?({name})$", module):
            return value
    return otherwise
