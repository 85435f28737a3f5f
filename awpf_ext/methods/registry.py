"""Methods by name: a class decorated with `@register("name")` is all a method needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from awpf_ext.data.stream import Protocol, TaskStream
from awpf_ext.distributed import SINGLE_PROCESS, World
from awpf_ext.errors import UserError, first_validation_error, suggestion
from awpf_ext.methods._base.method import Method, MethodConfig
from awpf_ext.methods._base.presets import preset_settings

BOUND = "(bound)"  # after the name of an upper bound
METHODS: dict[str, type[Method]] = {}
MethodType = TypeVar("MethodType", bound=type[Method])


def register(name: str) -> Callable[[MethodType], MethodType]:
    """Register a method class as `name`."""

    def add(method: MethodType) -> MethodType:
        known = METHODS.get(name)
        if known is not None and known.__qualname__ != method.__qualname__:
            raise ValueError(f"name {name!r} already belongs to {known.__qualname__}")
        method.name = name
        METHODS[name] = method
        return method

    return add


def method_class(name: str) -> type[Method]:
    """The class registered as `name`; UserError with the nearest name if there is none."""
    if name not in METHODS:
        raise UserError(f"method is {name!r}; {suggestion(name, METHODS)}")
    return METHODS[name]


def is_upper_bound(name: str) -> bool:
    """Whether a method may do more than a continual method, so that it bounds the others."""
    return method_class(name).bound == "upper"


def method_label(name: str) -> str:
    """The name of a method in tables and figures; an upper bound is marked."""
    return f"{name} {BOUND}" if is_upper_bound(name) else name


def method_config(
    name: str, settings: Mapping[str, Any] | None = None, preset: str | None = None
) -> MethodConfig:
    """The configuration of method `name`: its defaults, then the preset, then `settings`."""
    config = method_class(name).Config
    settings = settings or {}
    for key in settings:
        if key not in config.model_fields:
            hint = suggestion(key, config.model_fields)
            raise UserError(f"{name} has no setting {key!r}; {hint}")
    published = preset_settings(preset, config) if preset is not None else {}
    try:
        return config(**{**published, **settings})
    except ValidationError as error:
        raise UserError(f"{name}: {first_validation_error(error)}") from None


def create_method(
    name: str,
    stream: TaskStream,
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    seed: int = 0,
) -> Method:
    """A new method for the classes of a stream, on the stream's device."""
    return method_for(stream, name, method_config(name, settings, preset), seed=seed)


def method_for(
    stream: TaskStream, name: str, config: MethodConfig, *, seed: int, world: World = SINGLE_PROCESS
) -> Method:
    """A new method with a given configuration."""
    check_supported(name, stream.protocol, world)
    chosen = method_class(name)
    if chosen.trains_clip(config) and stream.clip is None:
        raise UserError(
            f"{name} with these settings trains CLIP itself, on images, but "
            f"{stream.provenance.get('dataset')} has precomputed features"
        )
    return chosen(
        config,
        text=stream.text,
        logit_scale=stream.logit_scale,
        seed=seed,
        clip=stream.clip,
        world=world,
    )


def check_supported(name: str, protocol: Protocol, world: World) -> None:
    """UserError if the method does not support a protocol, or several processes."""
    method = method_class(name)
    if protocol not in method.protocols:
        able = [known for known, other in METHODS.items() if protocol in other.protocols]
        raise UserError(
            f"method {name!r} does not support the {protocol} protocol; "
            f"expected {' or '.join(sorted(able))}"
        )
    if world.size > 1 and not method.distributed:
        raise UserError(
            f"{name} runs in a single process; use torchrun only to share the encoding, with "
            "`awpf features`, and then run it without torchrun"
        )
