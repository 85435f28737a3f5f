"""Types of the public signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from typing_extensions import TypeVar

NDArray = np.ndarray[Any, np.dtype[Any]]

TensorOrArray = TypeVar("TensorOrArray", Tensor, NDArray, default=Tensor)
"""Tensors in, tensors out; NumPy arrays in, NumPy arrays out."""

Bandwidth = float | Sequence[float] | Tensor | NDArray | Literal["median"]
Scales = float | Sequence[float]
Offsets = Sequence[int] | Tensor | NDArray
Estimator = Literal["biased", "unbiased"]
Criterion = Literal["trace", "fisher"]
