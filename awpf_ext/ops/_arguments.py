"""What every public operation does with its arguments: NumPy in and out, types, devices, shapes."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from awpf_ext._library import require
from awpf_ext.ops._torch_private import (
    dispatch_mode_active,
    is_transformed,
    transform_active,
)

F = TypeVar("F", bound=Callable[..., Any])

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

MOST_CLASSES = 2**24
"""The most classes, or groups of rows on several ranks, unless there are more rows."""

MOST_MEANS = 2**30
"""The most numbers that the means of all classes may hold, unless there are more rows: 8 GiB."""

MOST_FOUND_CLASSES = 2**16
"""The most that are inferred from the labels, unless there are more rows: a wrong label would take
the memory."""


def _to_tensor(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # torch can neither alias arrays with negative strides nor treat an alias as read-only.
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


def accepts_numpy(function: F) -> F:
    """Let a function of tensors take NumPy arrays, without copying them where possible.

    The result is made of arrays if no argument was a tensor.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        for value in values:  # not any(): a generator takes a tenth of a small call
            if not isinstance(value, Tensor) and _holds(value, np.ndarray):
                break
        else:
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
        return _to_numpy(result)

    return cast(F, wrapper)


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is, or a new tensor on the CPU from numbers."""
    if isinstance(value, Tensor):
        return check_dense(name, value)
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be numbers, got {shown(value)}") from None


def shown(value: Any) -> str:
    """A value as error messages print it: in one line, and not at any length."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integer of more than 4,300 digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape, as error messages print it."""
    return tuple(tensor.shape)


def check_dense(name: str, value: Tensor) -> Tensor:
    """Check that the tensor is neither sparse nor nested nor quantised."""
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {value.layout}")
    if value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one")
    if value.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got a quantised one")
    return value


def check_values(name: str, value: Tensor, like: Tensor | None = None) -> None:
    """Check that the tensor has values, unless `like` has none either."""
    if value.is_meta and not (like is not None and like.is_meta):
        raise ValueError(f"{name} must hold values, got a meta tensor")


def is_number(value: Any) -> bool:
    """Whether the value is a real number of Python or NumPy."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_integer(name: str, value: Any, most: int, reason: str = "") -> int:
    """An integer from 1 to `most`, of any integer type; torch.compile may pass a symbol."""
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if type(value) is int:
        number = value
    else:
        is_bool = isinstance(value, bool) or (
            isinstance(value, Tensor) and value.dtype == torch.bool
        )
        try:
            number = operator.index(cast(Any, None if is_bool else value))
        except (TypeError, ValueError, RuntimeError):  # the last two from tensors
            raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(number)}")
    if number > most:
        raise ValueError(f"{name} must be at most {most}{reason}, got {shown(number)}")
    return number


def check_means(num_classes: int, dim: int, batch: int = 1, rows: int = 1) -> None:
    """Check, before memory is taken, that means of that many classes can be meant."""
    if num_classes > rows and batch * num_classes * dim > MOST_MEANS:
        size = f"{num_classes} x {dim}" if batch == 1 else f"{batch} x {num_classes} x {dim}"
        raise ValueError(
            f"num_classes is too large: the class means would hold {size} numbers, more than 2^30"
        )


def check_points(function: str, name: str, value: Any, *, allow_empty: bool = False) -> Tensor:
    """Check that `value` is points (..., n, d) of a supported type on a supported device.

    n and d must be at least 1; with `allow_empty`, n may be 0.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or a numpy.ndarray, got {type(value).__name__}"
        )
    check_dense(name, value)
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
    """Check that all tensors have one dtype and are on one device."""
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
    check_dense(name, value)
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} must have an integer dtype, got {value.dtype}")
    if value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like x, got {value.device}")
    return value.to(torch.int64)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that `value` is one of a few words."""
    if not isinstance(value, str) or value not in choices:
        wanted = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {wanted}, got {shown(value)}")


def is_traced() -> bool:
    """Whether a call may be traced: under torch.compile, torch.export and torch.func."""
    return torch.compiler.is_compiling() or transform_active()


def has_hidden_values(value: Tensor) -> bool:
    """Whether the values of a tensor cannot be read, because the call is traced or it is fake."""
    if type(value) is not Tensor and type(value) is not Parameter and dispatch_mode_active():
        return True
    return torch.compiler.is_compiling() or is_transformed(value)


def is_captured(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, where nothing can wait for the device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def can_inspect(value: Tensor, validate: bool) -> bool:
    """Whether a function reads a tensor's values to check them.

    It does so on the CPU, and on a GPU, where that waits for the device, with ``validate=True``;
    never while traced, and never on the meta device.
    """
    device = value.device.type
    return (device == "cpu" or (validate and device != "meta")) and not has_hidden_values(value)


def check_count(name: str, labels: Tensor) -> None:
    """Raise where `name` was not given and the labels, from which it follows, cannot be read."""
    if has_hidden_values(labels) or labels.is_meta or is_captured(labels.device):
        raise ValueError(
            f"{name} must be given under torch.compile and torch.func, in CUDA graphs, and for "
            "meta tensors"
        )


def check_finite(**named: Tensor) -> None:
    """Check for NaN and infinity, on devices whose kernels do not."""
    for name, value in named.items():
        good = value.detach().isfinite().all(-1).flatten()
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            raise ValueError(f"{name}: row {row} holds a NaN or an infinity")


def check_range(name: str, labels: Tensor, count: int) -> None:
    """Check that labels are 0 to count - 1."""
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= count:
        raise ValueError(f"{name} must be between 0 and {count - 1}, got {low} to {high}")


def result_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of results: float64 for float64 inputs, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
