"""The configuration of a run: the same keys in Python, on the command line and in a YAML file.

A key is a field of `RunConfig` or a setting of the method. Later layers override earlier ones:
defaults, preset, file, options, --set. The name of a method is also a key: it holds settings for
that method alone, so that one file can configure a comparison of several methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
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

from awpf_ext.clip import demo_model
from awpf_ext.clip.precision import AUTO, Precision
from awpf_ext.clip.prompts import DEFAULT_PROMPT
from awpf_ext.data.datasets import absolute
from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.data.stream import Protocol
from awpf_ext.errors import UserError, first_validation_error, reason, suggestion
from awpf_ext.finetuning.roles import Role, keys_with, marker_of
from awpf_ext.methods import METHODS, MethodConfig, method_class, method_config


class Panel(Enum):
    """Where help shows a key's option; a key that names no panel is in DATA."""

    DATA = "Data"
    METHOD = "Method"
    MODEL = "Model"
    MACHINE = "Machine"


class AppliesTo(Enum):
    """The runs in which a key has an effect; in others it is ignored."""

    ALL = "all runs"
    IMAGES = "runs that encode images"
    CLASS_PROTOCOL = "runs under the class protocol"


class RunConfig(BaseModel):
    """Everything that a run depends on; `settings` are the method's.

    A new key needs one declaration here. Options, help and identities follow from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Annotated[str, Role.FILES] = Field(
        "demo",
        description="Data set, as NAME or NAME:PATH: demo, cifar100, folder:DIR, features:FILE.npz",
    )
    class_names: Annotated[Path | None, Role.FILES, AppliesTo.IMAGES] = Field(
        None, description="JSON or TXT file with the class names; null = the data set's own"
    )
    train_limit: int | None = Field(
        None,
        ge=1,
        description="Maximum number of training images per class (and domain); null = no limit "
        f"(demo: {demo_data.TRAIN_LIMIT} of {demo_data.TRAIN_EACH})",
    )
    test_limit: int | None = Field(
        None,
        ge=1,
        description="Maximum number of test images per class (and domain); null = no limit "
        f"(demo: {demo_data.TEST_LIMIT} of {demo_data.TEST_EACH})",
    )
    imbalance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Long tail: ratio of training images, rarest class to most frequent class",
    )
    on_unreadable: Annotated[Literal["stop", "skip"], AppliesTo.IMAGES] = Field(
        "stop", description="What to do when images cannot be read: stop, or skip them"
    )
    protocol: Annotated[Protocol, Role.RUN] = Field(
        "class", description="Type of task: new classes (class) or a new domain (domain)"
    )
    base: Annotated[int, Role.RUN, AppliesTo.CLASS_PROTOCOL] = Field(
        0, ge=0, description="Number of classes in the first task; 0 = as in the other tasks"
    )
    increment: Annotated[int, Role.RUN, AppliesTo.CLASS_PROTOCOL] = Field(
        10, ge=1, description="Number of classes in each further task"
    )
    order: Annotated[str, Role.RUN] = Field(
        "seed:1993", description="Order of the classes (or domains): natural, seed:N or file:PATH"
    )
    method: Annotated[str, Role.RUN, Panel.METHOD] = Field(
        "awpf", description="Method to train; `awpf methods` lists all"
    )
    preset: Annotated[str | None, Role.PRESET, Panel.METHOD] = Field(
        None, description="Published settings to start from, such as cifar100-b0-inc10"
    )
    seed: Annotated[int, Role.RUN, Panel.METHOD] = Field(
        0, ge=0, lt=2**63, description="Seed for all randomness in the method"
    )
    model: Annotated[str, Panel.MODEL, AppliesTo.IMAGES] = Field(
        "ViT-B-16",
        description="CLIP backbone, by its open_clip name (for the data set demo: demo)",
    )
    pretrained: Annotated[str, Role.FILES, Panel.MODEL, AppliesTo.IMAGES] = Field(
        "openai",
        description="Weights of the backbone: an open_clip tag, a checkpoint file (TAG@FILE with "
        "the activation and preprocessing of a tag), or random:SEED "
        f"(for the model demo: {demo_model.TAG})",
    )
    precision: Annotated[Precision, Panel.MODEL, AppliesTo.IMAGES] = Field(
        "fp32",
        description="Number format of the backbone: fp32, bf16, fp16, or auto (bf16 on CUDA and on "
        "a processor with AMX, fp32 on others; the default of the demo)",
    )
    prompt: Annotated[
        str | Annotated[tuple[str, ...], Field(min_length=1)], Panel.MODEL, AppliesTo.IMAGES
    ] = Field(
        DEFAULT_PROMPT,
        description="Template of a class's text, with {} for its name; several are averaged",
    )
    device: Annotated[str, Role.MACHINE, Panel.MACHINE] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device: auto, cpu, cuda or cuda:N",
    )
    threads: Annotated[int | None, Role.MACHINE, Panel.MACHINE] = Field(
        None, ge=1, description="CPU threads for computation; null = PyTorch's choice"
    )
    workers: Annotated[int | None, Role.MACHINE, Panel.MACHINE] = Field(
        None, ge=1, description="Threads that read images; null = one per core, at most 16"
    )
    encode_batch: Annotated[int, Role.MACHINE, Panel.MACHINE] = Field(
        64, ge=1, description="Number of images that are encoded at a time"
    )
    store: Annotated[Path, Role.MACHINE, Panel.MACHINE] = Field(
        Path("~/.cache/awpf_ext/features"), description="Folder of the feature store"
    )
    cache_dir: Annotated[Path | None, Role.MACHINE, Panel.MACHINE] = Field(
        None, description="Folder for downloaded weights; null = open_clip's cache"
    )
    settings: Annotated[SerializeAsAny[MethodConfig], Role.RUN]

    @model_validator(mode="before")
    @classmethod
    def _demo_by_default(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Defaults of the data set demo: its own model, in the precision that suits the processor,
        and fewer images than it has.
        """
        chosen = {name: cls.model_fields[name].default for name in ("dataset", "model")} | given
        if str(chosen["dataset"]).partition(":")[0] == "demo":
            if "model" not in given:
                chosen["model"] = demo_model.MODEL
            if chosen["model"] == demo_model.MODEL:
                chosen.setdefault("precision", AUTO)
            for key, limit in demo_data.LIMITS.items():
                if chosen.get(key) is None:
                    chosen[key] = limit
        return {"pretrained": demo_model.default_weights(str(chosen["model"])), **chosen}

    def to_yaml(self) -> str:
        """A file that makes this run again when it is given as `--config`."""
        own = self.model_dump(mode="json", exclude={"settings"})
        keys = {**own, self.method: self.settings.model_dump(mode="json")}
        return yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """The keys and values that make this run this run, as far as they show without its data."""
        cls = type(self)
        keys = keys_with(cls, Role.FEATURES, Role.FILES, Role.RUN)
        effective = {AppliesTo.ALL}
        effective |= set() if self.dataset.startswith("features:") else {AppliesTo.IMAGES}
        effective |= {AppliesTo.CLASS_PROTOCOL} if self.protocol == "class" else set()
        used = {k for k in keys if marker_of(cls.model_fields[k], AppliesTo.ALL) in effective}
        dumped = self.model_dump(mode="json", include=used)
        settings = dumped.pop("settings")
        for key in keys_with(type(self.settings), Role.MACHINE):
            del settings[key]
        named = {f"{self.method}.{key}": value for key, value in settings.items()}
        return {**dumped, "dataset": absolute(self.dataset), **named}

    def features_identity(self) -> dict[str, Any]:
        """The keys and values that the features depend on; runs that agree here share features."""
        return self.model_dump(include=set(keys_with(type(self), Role.FEATURES, Role.FILES)))


RUN_KEYS = tuple(key for key in RunConfig.model_fields if key != "settings")


class ConfigLayer(NamedTuple):
    """Keys from one source; messages name the source."""

    source: str
    values: Mapping[str, Any]


class ResolvedConfig(NamedTuple):
    """The configuration that several layers result in."""

    config: RunConfig
    unused: tuple[str, ...]  # settings that other methods have, but this one does not


def resolve_config(layers: Sequence[ConfigLayer]) -> ResolvedConfig:
    """Combine layers into a configuration; later layers override earlier ones."""
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
            "there is no data set: give --dataset NAME or NAME:PATH, such as demo, cifar100, "
            "folder:DIR with train/ and test/, or features:FILE.npz"
        )
    chosen = method_config(method, settings, own.get("preset"))
    try:
        config = RunConfig(**own, settings=chosen)
    except ValidationError as error:
        raise UserError(first_validation_error(error)) from None
    return ResolvedConfig(config, tuple(dict.fromkeys(unused)))


def read_config_file(path: Path) -> ConfigLayer:
    """Read the keys of a YAML file."""
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
    """Parse `key=value` arguments; METHOD.key=value is a setting for that method alone.

    Values are read as YAML (null, true, 0.5, [4, 10]), and as text if they are not valid YAML.
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
    """Read a value as YAML; a mapping such as {}, or invalid YAML, is text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, dict) else value


def _check_key(key: str, layer: ConfigLayer, chosen: Mapping[str, Any]) -> None:
    """Raise UserError with a suggestion if no method and no run has `key`.

    chosen: the settings of the chosen method, for the suggestion.
    """
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
