"""The states of the parts of a method, joined into one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def joined_states(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of several parts as one, with the part's name before each key."""
    return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}


def part_of_state(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The state of one part of `joined_states`."""
    prefix = f"{part}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def without_part(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The result of `joined_states` without one part, its keys unchanged."""
    return {key: value for key, value in state.items() if not key.startswith(f"{part}.")}
