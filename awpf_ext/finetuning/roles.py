"""The role of a configuration key, which the key carries in its declaration.

    train_limit: int | None = Field(...)                         # no role: the safe default
    threads: Annotated[int | None, Role.MACHINE] = Field(...)

Role is defined here because TrainableConfig needs it; `awpf_ext.methods` re-exports it.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Marker = TypeVar("Marker", bound=Enum)


class Role(Enum):
    """What changes when the value of a key changes.

    A key without a role has FEATURES: runs that differ in it never share features, and none of them
    is resumed as the other. A method's settings never change features, so for them FEATURES and RUN
    mean the same.
    """

    FEATURES = "changes the features and therefore the run"
    FILES = "changes the features and the run, unless the same files were only moved in between"
    RUN = "changes the run, on the same features"
    PRESET = "changes the defaults of other keys, whose values count instead"
    MACHINE = "changes only speed, memory or the last digits; a resumed run may use another value"


def marker_of(field: FieldInfo, default: Marker) -> Marker:
    """The marker of this kind in a key's declaration; `default` if there is none."""
    return next((item for item in field.metadata if isinstance(item, type(default))), default)


def keys_with(config: type[BaseModel], *roles: Role) -> tuple[str, ...]:
    """The keys of a configuration that have one of these roles, as declared."""
    fields = config.model_fields.items()
    return tuple(key for key, field in fields if marker_of(field, Role.FEATURES) in roles)
