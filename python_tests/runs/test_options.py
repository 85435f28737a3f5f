"""`RunOptions`, the types of run()'s options, has the keys of RunConfig and of every method."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

pytest.importorskip("pydantic", reason='needs the extra "clip"')

from awpf_ext.methods import METHODS
from awpf_ext.runs.config import RunConfig
from awpf_ext.runs.options import RunOptions


def words(annotation: Any) -> Iterator[str]:
    """The members of a type as Python writes them; wider where a caller may pass more."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from words(arguments[0])
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from words(argument)
    elif origin is Literal:
        yield from (f'"{word}"' for word in arguments)
    elif origin in (tuple, list, Sequence):
        yield f"Sequence[{spelled(words(arguments[0]))}]"
    elif annotation in (None, type(None)):
        yield "None"
    elif annotation is Path:
        yield from ("str", "Path")
    elif isinstance(annotation, type) and not issubclass(annotation, Enum):
        yield annotation.__name__
    else:
        raise TypeError(f"say here how {annotation!r} is written")


def spelled(members: Iterable[str]) -> str:
    """One type of several members: literal words together, None last."""
    members = list(dict.fromkeys(members))
    literal = [member for member in members if member.startswith('"')]
    kinds = [member for member in members if member != "None" and member not in literal]
    kinds += [f"Literal[{', '.join(literal)}]"] if literal else []
    return " | ".join([*kinds, *(["None"] if "None" in members else [])])


def expected_keys() -> dict[str, str]:
    """Every key with its type: those of RunConfig, of the methods, and the methods' names."""
    found: dict[str, list[str]] = {}
    models = [RunConfig, *(method.Config for method in METHODS.values())]
    for model in models:
        for key, field in model.model_fields.items():
            if model is RunConfig and key == "settings":
                continue  # those of the methods, which are keys of their own
            found.setdefault(key, []).extend(words(field.annotation))
    keys = {key: spelled(members) for key, members in found.items()}
    return {**keys, **dict.fromkeys(METHODS, "Mapping[str, Any]")}


def normalised(source: str) -> str:
    return ast.unparse(ast.parse(source))


def test_every_key_has_its_type():
    written = {
        key: normalised(getattr(kind, "__forward_arg__", kind))
        for key, kind in RunOptions.__annotations__.items()
    }
    expected = expected_keys()
    lines = [
        f"    {key}: {kind}"
        for key, kind in expected.items()
        if written.get(key) != normalised(kind)
    ]
    assert not lines, "write in awpf_ext/runs/options.py:\n" + "\n".join(lines)
    assert not written.keys() - expected.keys(), "remove these from awpf_ext/runs/options.py"


def test_no_method_has_the_name_of_a_key():
    """A method's name is a key too: of its own settings."""
    models = [RunConfig, *(method.Config for method in METHODS.values())]
    assert not METHODS.keys() & {key for model in models for key in model.model_fields}
