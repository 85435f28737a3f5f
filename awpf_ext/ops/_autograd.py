"""How the operations of this package take part in autograd.

Raw operations (``torch.ops.awpf.*``) do not know autograd, because the LibTorch stable ABI has
none. Each is wrapped in an ``autograd.Function`` with ``setup_context`` and
``generate_vmap_rule``. ``torch.library.register_autograd`` is not used: with it ``vmap(grad)``
raises and forward mode returns zeros. No ``jvp`` is defined, so that torch itself raises a clear
error in forward mode. Second derivatives are right if the backward consists of differentiable
operations (scatter, low_rank_sum), and raise an error if it is a kernel (mmd).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from awpf_ext.ops._torch_private import has_tangent, transform_active


class ReverseMode(torch.autograd.Function):
    """Base of the differentiable operations: reverse mode, under any nesting of vmap and
    compile."""

    generate_vmap_rule = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # torch inspects the signature at every call, which takes longer than a small kernel.
        # Stored here, it is found at once.
        if "forward" in vars(cls):
            vars(cls)["forward"].__func__.__signature__ = inspect.signature(cls.forward)


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply`, or only `function.forward` if no gradient can be required: autograd's
    preparations take longer than a small kernel."""
    return function.apply(*args) if may_be_differentiated(*args) else function.forward(*args)


def may_be_differentiated(*args: Any) -> bool:
    """Whether a gradient with respect to these arguments may be required."""
    if torch.compiler.is_compiling() or transform_active() or has_tangent(*args):
        return True
    return torch.is_grad_enabled() and any(
        isinstance(value, Tensor) and value.requires_grad for value in args
    )


class FirstDerivative(ReverseMode):
    """Base of a backward that is itself a kernel and has no derivative."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "awpf_ext.mmd and its relatives have no second derivative "
            "(create_graph=True, hessian); differentiate once"
        )


_MARK = "awpf_ext: "
_NO_MEMORY = "not enough memory"  # common/allocate.h


def run(operation: Callable[..., Any], *args: Any) -> Any:
    """Call a raw operation; raise ValueError for what it finds wrong with the values, and
    MemoryError for a result that memory cannot hold."""
    if torch.compiler.is_compiling():
        return operation(*args)
    try:
        return operation(*args)
    except RuntimeError as error:
        message = str(error)
        if not message.startswith(_MARK):
            raise
        message = message.removeprefix(_MARK)
        kind = MemoryError if message.startswith(_NO_MEMORY) else ValueError
        raise kind(message) from None
