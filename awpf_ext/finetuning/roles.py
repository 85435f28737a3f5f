"""The role of a configuration key, which the key carries in its declaration.

    train_limit: int | None = Field(...)                         # no role: the safe default
    threads: Annotated[int | None, Role.MACHINE] = Field(...)

It stands here because this is the lowest room that declares configuration keys; methods find `Role`
in `awpf_ext.methods`.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Marker = TypeVar("Marker", bound=Enum)


class Role(Enum):
    """What follows from another value of the key.

    A key without a role has FEATURES: runs that differ in it never share features, and none of them
    is resumed as the other. A method's settings never change features, so for them FEATURES and RUN
    mean the same.
    """

    FEATURES = "other features, and so another run"
    FILES = "other features and another run, unless the same files have moved while it was stopped"
    RUN = "another run on the same features"
    PRESET = "other defaults of other keys, which count in its place"
    MACHINE = "the same run: only speed, memory or last digits change, and a resumed run may differ"


def marker_of(field: FieldInfo, default: Marker) -> Marker:
    """The marker of this kind in a key's declaration; `default` if there is none."""
    return next((item for item in field.metadata if isinstance(item, type(default))), default)


def keys_with(config: type[BaseModel], *roles: Role) -> tuple[str, ...]:
    """The keys of a configuration that have one of these roles, as declared."""
    fields = config.model_fields.items()
    return tuple(key for key, field in fields if marker_of(field, Role.FEATURES) in roles)
