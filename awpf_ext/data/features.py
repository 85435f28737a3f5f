"""Image and text features of one data set under one backbone."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from awpf_ext.errors import DataError

if TYPE_CHECKING:
    from awpf_ext.clip.prompted import PromptedClip
    from awpf_ext.data.prepared_images import PreparedImages

# From a row of test_x to the name of its image and the image.
ReadTestImage = Callable[[int], tuple[str, Image.Image]]
DEFAULT_LOGIT_SCALE = 100.0  # that of trained CLIP models; used if a file has none


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Image features and text features of one data set under one backbone.

    Labels are 0..C-1 in the data set's own numbering; class names may repeat; a class may have no
    training or no test images.
    """

    train_x: Tensor  # (n, d) float32 or float16, not normalised; may be mapped from a file
    train_y: Tensor  # (n,) int64
    test_x: Tensor
    test_y: Tensor
    text: Tensor  # (C, d) float32, L2-normalised
    class_names: tuple[str, ...]
    logit_scale: float  # exp(logit_scale) of the backbone; 100.0 if unknown
    provenance: Mapping[str, Any]
    read_test_image: ReadTestImage | None = None  # None if there are no images
    train_images: PreparedImages | None = None  # the images of the rows of train_x
    test_images: PreparedImages | None = None
    domain_names: tuple[str, ...] = ()  # empty if there are no domains
    train_domain: Tensor | None = None  # (n,) int64, if there are domains
    test_domain: Tensor | None = None
    clip: PromptedClip | None = None  # the model; None for precomputed features

    def __post_init__(self) -> None:
        """DataError if shapes, types or labels contradict each other."""
        if self.text.dim() != 2 or len(self.class_names) != self.text.shape[0]:
            raise DataError(
                f"text has shape {tuple(self.text.shape)} for {len(self.class_names)} class names; "
                "expected one row for each name"
            )
        for split in ("train", "test"):
            _check_split(split, getattr(self, f"{split}_x"), getattr(self, f"{split}_y"), self.text)
            self._check_domains(split)

    @property
    def dim(self) -> int:
        return self.text.shape[1]

    @property
    def num_classes(self) -> int:
        return self.text.shape[0]

    def check_finite(self) -> None:
        """DataError that lists rows with NaN or infinity."""
        for name in ("train_x", "test_x", "text"):
            rows = nonfinite_rows(getattr(self, name))
            if rows:
                raise DataError(f"{name} holds NaN or infinity in {_listed(rows)}")

    def _check_domains(self, split: str) -> None:
        domain, count = getattr(self, f"{split}_domain"), len(self.domain_names)
        labels = getattr(self, f"{split}_y")
        if not count and domain is not None:
            raise DataError(f"there is {split}_domain, but no domain names")
        if domain is None:
            if count:
                raise DataError(f"there are {count} domain names, but no {split}_domain")
            return
        if domain.dtype != torch.int64 or domain.shape != labels.shape:
            raise DataError(
                f"{split}_domain has type {domain.dtype} and shape {tuple(domain.shape)}; "
                f"expected int64 and ({len(labels)},) as {split}_y"
            )
        if len(domain) and not 0 <= int(domain.min()) <= int(domain.max()) < count:
            raise DataError(f"{split}_domain has values outside 0..{count - 1}")


def read_features(path: str | Path) -> FeatureSet:
    """Precomputed features from an npz file.

    Keys: train_x, train_y, test_x, test_y, text (one row per class), classnames, and optionally
    logit_scale, and train_domain, test_domain and domainnames. Nothing is unpickled.
    """
    path = Path(path)
    try:
        content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read features from {path}: {error} (expected an npz file without pickled "
            "objects; class names are an array of strings)"
        ) from error
    required = ("train_x", "train_y", "test_x", "test_y", "text", "classnames")
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(arrays)) or 'nothing'}"
        )
    try:
        return FeatureSet(
            train_x=_image_features(arrays["train_x"]),
            train_y=_labels("train_y", arrays["train_y"]),
            test_x=_image_features(arrays["test_x"]),
            test_y=_labels("test_y", arrays["test_y"]),
            text=torch.nn.functional.normalize(torch.from_numpy(arrays["text"]).float(), dim=-1),
            class_names=tuple(str(name) for name in arrays["classnames"]),
            logit_scale=float(arrays.get("logit_scale", DEFAULT_LOGIT_SCALE)),
            domain_names=tuple(str(name) for name in arrays.get("domainnames", ())),
            train_domain=_domains("train_domain", arrays),
            test_domain=_domains("test_domain", arrays),
            provenance={
                "dataset": f"features:{path.name}",
                "content_hash": content_hash[:16],
                "train_images": len(arrays["train_y"]),
                "test_images": len(arrays["test_y"]),
            },
        )
    except (DataError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error


def nonfinite_rows(x: Tensor, chunk: int = 8192) -> list[int]:
    """Indices of the rows with NaN or infinity, reading one chunk at a time."""
    rows: list[int] = []
    for start in range(0, len(x), chunk):
        bad = ~torch.isfinite(x[start : start + chunk]).all(dim=1)
        rows += (bad.nonzero().flatten() + start).tolist()
    return rows


def _image_features(array: np.ndarray[Any, Any]) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == torch.float16 else tensor.float()


def _labels(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name} has type {array.dtype}; expected integers")
    return torch.from_numpy(array.astype(np.int64))


def _domains(name: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Tensor | None:
    return _labels(name, arrays[name]) if name in arrays else None


def _check_split(split: str, x: Tensor, y: Tensor, text: Tensor) -> None:
    if x.dim() != 2 or x.shape[1] != text.shape[1]:
        raise DataError(
            f"{split}_x has shape {tuple(x.shape)}; expected (n, {text.shape[1]}) as text has"
        )
    if x.dtype not in (torch.float16, torch.float32):
        raise DataError(f"{split}_x has type {x.dtype}; expected float16 or float32")
    if y.dtype != torch.int64 or y.shape != x.shape[:1]:
        raise DataError(
            f"{split}_y has type {y.dtype} and shape {tuple(y.shape)}; "
            f"expected int64 and ({x.shape[0]},) as {split}_x has rows"
        )
    outside = ((y < 0) | (y >= text.shape[0])).nonzero().flatten().tolist()
    if outside:
        raise DataError(
            f"{split}_y has labels outside 0..{text.shape[0] - 1} (one text row per class) in "
            f"{_listed(outside)}, the first being {int(y[outside[0]])}"
        )


def _listed(rows: list[int], limit: int = 10) -> str:
    shown = ", ".join(str(row) for row in rows[:limit])
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
