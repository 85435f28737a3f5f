"""Every private name of torch that the package uses, each with a public fallback.

The private names are fast, which matters at every call. The fallbacks are correct but
slower or more cautious, so that a torch that renames one of these costs microseconds, not results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

F = TypeVar("F", bound=Callable[..., Any])


def _unknown() -> bool:
    return True


transform_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", _unknown
)
"""Whether a transform of torch.func (vmap, ...) is running; True if torch cannot report it."""

dispatch_mode_active: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _unknown)
"""How many dispatch modes (fake tensors, ...) are active; true if torch cannot report it."""


def is_transformed(value: Tensor) -> bool:
    """Whether a transform of torch.func hides the numbers in `value`."""
    if transform_active is not _unknown:
        return transform_active()
    return torch.func.debug_unwrap(value) is not value


def has_tangent(*args: Any) -> bool:
    """Whether forward mode may be differentiating by one of these arguments."""
    level = getattr(forward_ad, "_current_level", None)
    if level is not None:
        return bool(level >= 0)
    tensors = (value for value in args if isinstance(value, Tensor))
    return any(forward_ad.unpack_dual(value).tangent is not None for value in tensors)


def assume_constant_result(function: F) -> F:
    """torch.compiler.assume_constant_result, which would import the compiler with the package.

    A torch that reads another mark traces into the function instead, and its compiler says so.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
