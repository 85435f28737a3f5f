"""The one way operations of this package take part in autograd.

Raw operations (``torch.ops.awpf.*``) know nothing of autograd: the LibTorch stable ABI has none.
Around each stands an ``autograd.Function`` with ``setup_context`` and ``generate_vmap_rule``, and
each raw operation has a fake and a batching rule. ``torch.library.register_autograd`` is not used:
with it ``vmap(grad)`` raises and forward mode returns zeros. Forward mode is refused by torch
itself, in a clear sentence, because no ``jvp`` is defined; second derivatives are right where the
backward is made of differentiable operations (scatter, low_rank_sum) and refused where it is a
kernel (mmd).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from awpf_ext._library import MISSING_CPU

F = TypeVar("F", bound=Callable[..., Any])


class ReverseMode(torch.autograd.Function):
    """Base of every differentiable operation: reverse mode under any nesting of vmap and
    compile."""

    generate_vmap_rule = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # torch asks for it at every call, which takes longer than a small kernel; kept here, it is
        # found at once.
        if "forward" in vars(cls):
            vars(cls)["forward"].__func__.__signature__ = inspect.signature(cls.forward)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply`, which torch leaves untyped; the forward alone where nobody will ever ask
    for a derivative: autograd's preparations take longer than a small kernel."""
    return function.apply(*args) if may_be_differentiated(*args) else function.forward(*args)


def may_be_differentiated(*args: Any) -> bool:
    """Whether anybody could ask for a derivative by these arguments; yes where that is unknown."""
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return True
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in args
    )


class FirstDerivative(ReverseMode):
    """Base of a backward that is itself a kernel: its own derivative is refused."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "awpf_ext.mmd and its relatives have no second derivative "
            "(create_graph=True, hessian); differentiate once"
        )


_MARK = "awpf_ext: "


def run(operation: Callable[..., Any], *args: Any) -> Any:
    """Call a raw operation; what it finds wrong with the values is a ValueError."""
    if torch.compiler.is_compiling():
        return operation(*args)
    try:
        return operation(*args)
    except RuntimeError as error:
        message = str(error)
        if not message.startswith(_MARK):
            raise
        raise ValueError(message.removeprefix(_MARK)) from None


def fake(name: str) -> Callable[[F], F]:
    """Register what the operation's outputs look like, for torch.compile and export."""
    if MISSING_CPU is not None:
        return lambda function: function
    return cast(Callable[[F], F], torch.library.register_fake(f"awpf::{name}"))


def batching_rule(name: str) -> Callable[[F], F]:
    """Register how the operation runs under vmap: `function(info, in_dims, *args)`."""
    if MISSING_CPU is not None:
        return lambda function: function
    return cast(Callable[[F], F], torch.library.register_vmap(f"awpf::{name}"))


def batch_first(value: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch dimension in front, made by expansion where the argument has none."""
    return value.movedim(dim, 0) if dim is not None else value.expand(size, *value.shape)


def folded(value: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch dimension merged into the leading one, contiguous."""
    moved = batch_first(value, dim, size)
    return moved.reshape(size * moved.shape[1], *moved.shape[2:]).contiguous()


def unfolded(value: Tensor, size: int) -> Tensor:
    """The reverse of `folded`, for results."""
    return value.reshape(size, value.shape[0] // size, *value.shape[1:])
