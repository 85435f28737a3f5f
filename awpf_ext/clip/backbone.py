"""A frozen CLIP model from open_clip, with its preprocessing and provenance."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from awpf_ext.clip import demo_model
from awpf_ext.clip.precision import PRECISIONS
from awpf_ext.clip.weights import PREPROCESSING, WeightSource, resolve_weights
from awpf_ext.errors import DataError, OfflineError, UserError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP: `prepare` an image on any thread, `encode` batches on the device."""

    name: str  # open_clip's model name
    pretrained: str  # tag, checkpoint file name, or random:SEED
    precision: str
    device: torch.device
    weights_hash: str
    quick_gelu: bool
    preprocessing: dict[str, Any]  # size, mean, std, interpolation, resize_mode
    logit_scale: float
    model: Any
    tokenizer: Callable[[Sequence[str]], Tensor]
    resize: Callable[[Image.Image], Image.Image]

    def prepare(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image, resized and cropped, as uint8 of shape (height, width, 3)."""
        return np.array(self.resize(image).convert("RGB"), dtype=np.uint8)

    def pixels(self, prepared: Tensor) -> Tensor:
        """Network input, float32 (n, 3, height, width), from uint8 (n, height, width, 3).

        Scaled and normalised on the device of the images, with the arithmetic of torchvision's
        ToTensor and Normalize.
        """
        scaled = prepared.permute(0, 3, 1, 2).float().div(255)
        mean, std = (
            torch.tensor(self.preprocessing[name], device=prepared.device).view(3, 1, 1)
            for name in ("mean", "std")
        )
        return scaled.sub(mean).div(std).contiguous()

    @torch.no_grad()
    def encode_images(self, prepared: Tensor) -> Tensor:
        """Features of uint8 images (n, height, width, 3), not normalised, on the CPU.

        float16 for an fp16 backbone, otherwise float32.
        """
        pixels = self.pixels(prepared.to(self.device)).to(PRECISIONS[self.precision])
        features: Tensor = self.model.encode_image(pixels)
        return features.to("cpu", torch.float16 if self.precision == "fp16" else torch.float32)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Features of the texts, not normalised, float32 on the CPU."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        features: Tensor = self.model.encode_text(tokens)
        return features.to("cpu", torch.float32)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Everything that identifies the features of this backbone."""
        described = json.dumps(self.preprocessing, sort_keys=True)
        return {
            "model": self.name,
            "pretrained": self.pretrained,
            "weights_hash": self.weights_hash,
            "quick_gelu": self.quick_gelu,
            "precision": self.precision,
            "preprocessing": self.preprocessing,
            "preprocessing_hash": hashlib.sha256(described.encode()).hexdigest()[:16],
        }


def load_backbone(
    model: str = "ViT-B-16",
    pretrained: str | None = "openai",
    *,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    cache_dir: str | Path | None = None,
) -> Backbone:
    """An open_clip model in evaluation mode.

    pretrained: an open_clip tag of the model ("embedded" for "demo", the small CLIP of this
    package), the path of a checkpoint, or None or "random:SEED" for random weights. QuickGELU is
    used if the tag requires it; for a local checkpoint choose it by the model's name
    (ViT-B-16-quickgelu), or with TAG@PATH take the activation and the preprocessing of a tag.
    cache_dir: folder of downloads, by default that of the Hugging Face hub
    and of open_clip.
    """
    import open_clip

    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    weights = resolve_weights(model, pretrained, None if cache_dir is None else Path(cache_dir))
    network = _build(model, weights).eval().requires_grad_(False)
    weights_hash = _weights_hash(network)  # before the precision changes them
    settings = open_clip.get_model_preprocess_cfg(network)
    if precision != "fp32":
        _lower_precision(network, PRECISIONS[precision])
    return Backbone(
        name=model,
        pretrained=weights.label,
        precision=precision,
        device=torch.device(device),
        weights_hash=weights_hash,
        quick_gelu=any(type(part).__name__ == "QuickGELU" for part in network.modules()),
        preprocessing=_as_json({name: settings[name] for name in ("size", *PREPROCESSING)}),
        logit_scale=float(network.logit_scale.exp()),
        model=network.to(device),
        tokenizer=_tokenizer(model, cache_dir),
        resize=_resize(settings),
    )


def _build(model: str, weights: WeightSource) -> Any:
    import open_clip

    with torch.random.fork_rng(devices=[]), _quiet_root_logger():
        torch.default_generator.manual_seed(weights.seed or 0)  # the CPU's alone
        try:
            return open_clip.create_model(
                model,
                pretrained=None if weights.file is None else str(weights.file),
                force_quick_gelu=weights.quick_gelu,
                force_preprocess_cfg=dict(weights.preprocessing or {}),
                pretrained_image=False,
                require_pretrained=weights.file is not None,
            )
        except Exception as error:  # unpickling, missing keys, a text file: many types
            reason = _first_complaint(error)
            if weights.file is None:
                raise UserError(f"cannot build {model}: {reason}") from error
            raise DataError(
                f"cannot load {weights.file} as weights of {model}: {reason} (expected a "
                "safetensors file or a state_dict saved by torch.save; TorchScript archives are "
                "not read)"
            ) from error


def _first_complaint(error: Exception) -> str:
    """The first line; where that only announces keys or shapes, also the first of these."""
    lines = str(error).split("\n")
    if not lines[0].endswith(":") or len(lines) == 1:
        return lines[0]
    return f"{lines[0]} {lines[1].strip().split(', ')[0].rstrip('.')}"


def _lower_precision(network: Any, dtype: torch.dtype) -> None:
    """As open_clip does for its own models; others (timm towers) are converted completely."""
    import open_clip

    if isinstance(network, open_clip.CLIP):
        open_clip.convert_weights_to_lp(network, dtype=dtype)
    else:
        network.to(dtype)


def _tokenizer(model: str, cache_dir: str | Path | None) -> Callable[[Sequence[str]], Tensor]:
    import open_clip

    try:
        location = None if cache_dir is None else str(cache_dir)
        tokenizer: Callable[[Sequence[str]], Tensor] = open_clip.get_tokenizer(
            model, cache_dir=location, **demo_model.tokenizer_options(model)
        )
    except OSError as error:
        reason = str(error).split("\n", 1)[0]
        raise OfflineError(
            f"the tokenizer of {model} is not in the Hugging Face cache and cannot be fetched: "
            f"{reason}"
        ) from error
    return tokenizer


def _resize(settings: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """The steps of open_clip's evaluation transform that work on images, not on tensors."""
    import open_clip
    from torchvision.transforms import Compose, Normalize, ToTensor

    wanted = {name: settings[name] for name in (*PREPROCESSING, "fill_color")}
    steps = open_clip.image_transform(settings["size"], is_train=False, **wanted).transforms
    on_images = [step for step in steps if not isinstance(step, ToTensor | Normalize)]
    if len(steps) - len(on_images) != 2:
        raise RuntimeError(f"open_clip {open_clip.__version__} has another transform: {steps}")
    composed: Callable[[Image.Image], Image.Image] = Compose(on_images)
    return composed


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with lists instead of tuples, as they are when read from a JSON file."""
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _weights_hash(network: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Silences open_clip, which logs every step and warns about requested random weights."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
