"""What every public operation does with its arguments: NumPy in and out, types, devices, shapes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from awpf_ext._library import require

P = ParamSpec("P")
R = TypeVar("R")

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _to_tensor(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # Torch can neither alias arrays that run backwards nor mark what it aliases as read-only.
        usable = value.flags.writeable and all(stride >= 0 for stride in value.strides)
        try:
            return torch.from_numpy(value if usable else value.copy())
        except (TypeError, ValueError):
            raise TypeError(
                f"{name} must be an array of a native floating-point or integer type, "
                f"got {value.dtype!r}"
            ) from None
    if isinstance(value, (list, tuple)):
        return [_to_tensor(name, item) for item in value]
    return value


def _to_numpy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().numpy()[()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_to_numpy(item) for item in value))
    if isinstance(value, tuple):
        return tuple(_to_numpy(item) for item in value)
    return value


def _holds(value: Any, kind: type) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(item, kind) for item in value)
    return isinstance(value, kind)


def accepts_numpy(function: Callable[P, R]) -> Callable[P, R]:
    """NumPy arrays in, without a copy where possible; NumPy out where no tensor came in."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        values = (*args, *kwargs.values())
        if not any(_holds(value, np.ndarray) for value in values):
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        arguments = {
            name: _to_tensor(name, value) if _holds(value, np.ndarray) else value
            for name, value in bound.arguments.items()
        }
        bound.arguments.update(arguments)
        result = function(*bound.args, **bound.kwargs)
        if any(_holds(value, Tensor) for value in values):
            return result
        return cast(R, _to_numpy(result))

    return wrapper


def as_tensor(name: str, value: Any) -> Tensor:
    """Numbers in whatever form they came, on the CPU where they were not a tensor."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be numbers, got {value!r}") from None


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape as errors print it."""
    return tuple(tensor.shape)


def check_points(function: str, name: str, value: Any, *, allow_empty: bool = False) -> Tensor:
    """`value` as points (..., n, d) of a supported type on a supported device, none of them
    empty (but for n, where that is allowed)."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {type(value).__name__}"
        )
    if value.dtype not in FLOATING:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")
    if value.dim() < 2:
        raise ValueError(f"{name} must have shape (..., n, d), got {shape_of(value)}")
    if value.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one feature (d >= 1), got {shape_of(value)}")
    if value.shape[-2] == 0 and not allow_empty:
        raise ValueError(f"{name} must have at least one row (n >= 1), got {shape_of(value)}")
    require(value.device, function)
    return value


def check_alike(**named: Tensor) -> None:
    """All of one type, on one device."""
    (first_name, first), *others = named.items()
    for name, other in others:
        if other.dtype != first.dtype:
            raise TypeError(
                f"{first_name} and {name} must have the same dtype, "
                f"got {first.dtype} and {other.dtype}"
            )
        if other.device != first.device:
            raise ValueError(
                f"{first_name} and {name} must be on the same device, "
                f"got {first.device} and {other.device}"
            )


def check_labels(name: str, value: Any, like: Tensor) -> Tensor:
    """Integer labels as int64, on the device of `like`."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {type(value).__name__}"
        )
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} must have an integer dtype, got {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like x, got {value.device}")
    return value.to(torch.int64)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def is_traced() -> bool:
    """Whether values must not be looked at: under torch.compile, export, vmap."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, where nothing can wait for the device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def may_look(value: Tensor, check: bool) -> bool:
    """Whether values are looked at: always on the CPU; on a GPU, where that waits for the device,
    with ``check=True``; never while traced."""
    return not is_traced() and (check or value.device.type == "cpu")


def check_count(name: str, labels: Tensor) -> None:
    """`name` was not given, so the labels must be looked at: refuse that where it cannot be."""
    if is_traced() or is_captured(labels.device):
        raise ValueError(
            f"{name} must be given under torch.compile and torch.func and in CUDA graphs"
        )


def check_finite(**named: Tensor) -> None:
    """No NaN and no infinity; for devices whose kernels do not look."""
    for name, value in named.items():
        good = value.detach().isfinite().all(-1).flatten()
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise ValueError(f"{name}: row {row} holds a NaN or an infinity")


def check_range(name: str, labels: Tensor, count: int) -> None:
    """Labels are 0 to count - 1."""
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be between 0 and {count - 1}, got {low} to {high}")


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """Sums over half-precision inputs are reported in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
