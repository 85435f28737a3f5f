"""Errors that the user can act on, and the phrases that their messages share.

The command line prints such an error as one sentence and ends with its exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

# Optional packages, each with the extra of awpf_ext that installs it.
EXTRAS = {
    "open_clip_torch": "clip",
    "torchvision": "clip",
    "jinja2": "clip",
    "matplotlib": "clip",
    "pydantic": "clip",
    "pyyaml": "clip",
    "rich": "clip",
    "safetensors": "clip",
    "typer": "clip",
    "peft": "lora",
    "tensorboard": "tensorboard",
    "scikit-learn": "tsne",
}
_LISTED = 20  # a message lists at most this many names


class AwpfError(Exception):
    """An error that the user can act on; the command line prints it without a traceback."""

    exit_code = 1


class UserError(AwpfError):
    """A bad argument or configuration."""

    exit_code = 2


class DataError(AwpfError):
    """Data that cannot be read or written, or is inconsistent."""

    exit_code = 3


class CheckpointError(AwpfError):
    """A checkpoint that is damaged or belongs to another run."""

    exit_code = 4


class OfflineError(AwpfError):
    """Weights or data that are missing and cannot be downloaded."""

    exit_code = 5


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that is closest to `name`; if none is close, the names to choose from."""
    known = list(known)
    if not known:
        return "there is none"
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = ", ..." if len(known) > _LISTED else ""
    return f"expected one of {', '.join(known[:_LISTED])}{more}"


def install_command(package: str) -> str:
    """The command that installs an optional package, by its name on PyPI or in Python."""
    return f'pip install "awpf_ext[{EXTRAS.get(package, "clip")}]"'


def not_installed(package: str | None) -> str:
    """The message for an optional package that is missing."""
    name = (package or "a package").split(".")[0]
    return f"{name} is not installed; get it with {install_command(name)}"


def reason(error: BaseException) -> str:
    """Why an operation failed, without the file name that the operating system repeats."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_validation_error(error: ValidationError) -> str:
    """The first of pydantic's complaints, in the words of our other messages."""
    first = error.errors()[0]
    key, *inside = first["loc"] or ("the configuration",)
    where = ".".join([str(key), *(str(part) for part in inside if isinstance(part, int))])
    expected = first["msg"].replace("Input should be", "expected")
    return f"{where} is {first['input']!r}; {expected.replace('String should', 'it should')}"
