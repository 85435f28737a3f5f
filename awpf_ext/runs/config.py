"""What a run is: one set of keys, the same in Python, on the command line and in a YAML file.

A key is one of `RunConfig`'s or a setting of the method. Layers are laid over one another: defaults
< preset < file < options < --set. A method's own name as a key holds settings for it alone, so that
one file serves a comparison of several methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from awpf_ext.clip import embedded
from awpf_ext.clip.prompts import DEFAULT_PROMPT
from awpf_ext.data.datasets import absolute
from awpf_ext.data.stream import Protocol
from awpf_ext.errors import UserError, first_validation_error, reason, suggestion
from awpf_ext.methods import METHODS, MethodConfig, method_class, method_config


class RunConfig(BaseModel):
    """All that a run depends on; `settings` are the method's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(
        "demo", description="NAME or NAME:PATH: demo, cifar100, folder:DIR, features:FILE.npz"
    )
    class_names: Path | None = Field(None, description="JSON or TXT file with the classes' names")
    train_limit: int | None = Field(
        None, ge=1, description="most training images of a class (and domain); null: all"
    )
    test_limit: int | None = Field(None, ge=1, description="the same of test images")
    imbalance: float | None = Field(
        None, gt=0, le=1, description="long tail: training images of the rarest class by the most"
    )
    protocol: Protocol = Field(
        "class", description="what a task brings: class, new classes; domain, a new domain"
    )
    base: int = Field(0, ge=0, description="classes of the first task; 0: as many as the others")
    increment: int = Field(10, ge=1, description="classes of each further task")
    order: str = Field(
        "seed:1993", description="of the classes (or domains): natural, seed:N or file:PATH"
    )
    method: str = Field("awpf", description="see `awpf methods`")
    preset: str | None = Field(None, description="published settings, as cifar100-b0-inc10")
    seed: int = Field(0, ge=0, lt=2**63, description="of everything random in the method")
    model: str = Field(
        "ViT-B-16", description="open_clip's name of the backbone; with the data set demo, demo"
    )
    pretrained: str = Field(
        "openai",
        description="its weights: a tag of open_clip, a checkpoint file, or random:SEED; of the "
        f"model demo, {embedded.TAG}",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the backbone")
    prompt: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        DEFAULT_PROMPT, description="template with {} for the name; several: their mean"
    )
    on_unreadable: Literal["stop", "skip"] = Field("stop", description="images that cannot be read")
    encode_batch: int = Field(128, ge=1, description="images encoded at a time")
    workers: int | None = Field(None, ge=1, description="threads that read images")
    store: Path = Field(Path("~/.cache/awpf_ext/features"), description="folder of the features")
    cache_dir: Path | None = Field(None, description="folder of downloaded weights")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    threads: int | None = Field(None, ge=1, description="threads of the arithmetic")
    settings: SerializeAsAny[MethodConfig]

    @model_validator(mode="before")
    @classmethod
    def _demo_by_default(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The drawn pictures go with the model that comes with the package."""
        chosen = {name: cls.model_fields[name].default for name in ("dataset", "model")} | given
        if "model" not in given and str(chosen["dataset"]).partition(":")[0] == "demo":
            chosen["model"] = embedded.MODEL
        return {"pretrained": embedded.default_weights(str(chosen["model"])), **chosen}

    def to_yaml(self) -> str:
        """A file that, given as `--config`, makes this run again."""
        own = self.model_dump(mode="json", exclude={"settings"})
        keys = {**own, self.method: self.settings.model_dump(mode="json")}
        return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What a result follows from, and that can be told without reading any data."""
        names = ["dataset", "protocol", "order", "method", "seed"]
        names += ["base", "increment"] if self.protocol == "class" else []
        names += [name for name in LIMITS if getattr(self, name) is not None]
        if not self.dataset.startswith("features:"):
            names += ["class_names", "model", "pretrained", "precision", "prompt", "on_unreadable"]
        dumped = self.model_dump(mode="json")
        kept = {name: dumped[name] for name in names}
        kept["dataset"] = absolute(self.dataset)
        incidental = method_class(self.method).incidental
        settings = {k: v for k, v in dumped["settings"].items() if k not in incidental}
        return {**kept, **{f"{self.method}.{key}": value for key, value in settings.items()}}


LIMITS = ("train_limit", "test_limit", "imbalance")
RUN_KEYS = tuple(key for key in RunConfig.model_fields if key != "settings")


class ConfigLayer(NamedTuple):
    """Keys and where they come from, for messages."""

    source: str
    values: Mapping[str, Any]


class ResolvedConfig(NamedTuple):
    config: RunConfig
    unused: tuple[str, ...]  # settings that the method does not have, though another one does


def resolve_config(layers: Sequence[ConfigLayer]) -> ResolvedConfig:
    """The configuration that the layers come to, later ones over earlier ones."""
    method = next(
        (layer.values["method"] for layer in reversed(layers) if "method" in layer.values),
        RunConfig.model_fields["method"].default,
    )
    method = str(method)
    fields = method_class(method).Config.model_fields
    own: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    unused: list[str] = []
    for layer in layers:
        for key in layer.values:
            _check_key(key, layer, fields)
        own.update({key: value for key, value in layer.values.items() if key in RUN_KEYS})
        shared = [key for key in layer.values if key not in RUN_KEYS and key not in METHODS]
        settings.update({key: layer.values[key] for key in shared if key in fields})
        settings.update(layer.values.get(method) or {})
        unused += [key for key in shared if key not in fields]
    if not own.get("dataset", "demo"):
        raise UserError(
            "there is no data set: give --dataset NAME or NAME:PATH, as demo, cifar100, folder:DIR "
            "with train/ and test/, or features:FILE.npz"
        )
    chosen = method_config(method, settings, own.get("preset"))
    try:
        config = RunConfig(**own, settings=chosen)
    except ValidationError as error:
        raise UserError(first_validation_error(error)) from None
    return ResolvedConfig(config, tuple(dict.fromkeys(unused)))


def read_config_file(path: Path) -> ConfigLayer:
    """The keys of a YAML file."""
    try:
        values = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {reason(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; expected keys and values")
    return ConfigLayer(str(path), {str(key): value for key, value in values.items()})


def parse_assignments(assignments: Iterable[str]) -> ConfigLayer:
    """The keys of `key=value` arguments; METHOD.key=value is a setting of that method alone.

    Values are read as in YAML (null, true, 0.5, [4, 10]); what is not YAML is text.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise UserError(f"--set {assignment!r}: expected key=value")
        method, dot, setting = key.partition(".")
        if dot and method in METHODS:
            values.setdefault(method, {})[setting] = parse_value(text)
        else:
            values[key] = parse_value(text)
    return ConfigLayer("--set", values)


def parse_value(text: str) -> Any:
    """A value as YAML reads it; text where it is not YAML, or a mapping such as {}."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict) else value


def _check_key(key: str, layer: ConfigLayer, chosen: Mapping[str, Any]) -> None:
    """UserError where `key` is nobody's, with what was probably meant; `chosen`: the method's."""
    if key in METHODS:
        below = layer.values[key] or {}
        if not isinstance(below, Mapping):
            raise UserError(f"{layer.source}: {key} is {below!r}; expected settings of that method")
        wrong = [name for name in below if name not in METHODS[key].Config.model_fields]
        if wrong:
            hint = suggestion(wrong[0], METHODS[key].Config.model_fields)
            raise UserError(f"{layer.source}: {key} has no setting {wrong[0]!r}; {hint}")
    elif key not in RUN_KEYS and not any(key in m.Config.model_fields for m in METHODS.values()):
        hint = suggestion(key, [*RUN_KEYS, *chosen, *METHODS])
        raise UserError(f"{layer.source}: there is no key {key!r}; {hint}")
