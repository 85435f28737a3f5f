"""The accuracy of a merged CLIP on validation images, by which `choose_merge` can choose."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from awpf_ext.clip import DEFAULT_PROMPT, Backbone, class_texts, load_backbone, prompt_templates
from awpf_ext.data.prepared_images import PreparedImages
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora.adapter_reader import open_adapter
from awpf_ext.lora.applied import add_adapter
from awpf_ext.lora.checkpoint_reader import OPEN_CLIP, weights_file
from awpf_ext.runs.run import encoder_device
from awpf_ext.runs.validation_images import LIMIT, validation_images

_AT_ONCE = 64
_DEVIATIONS = 1.959964  # of a normal variable, at 95 %


class ClipSource(NamedTuple):
    """The CLIP that adapters belong to, or the model that checkpoints are weights of."""

    model: str | None = None  # open_clip's name; None = as the adapter or the base says
    pretrained: str | None = None  # the weights, if they have moved
    device: str = "auto"
    cache_dir: Path | None = None


class ImageScore:
    """The accuracy of zero-shot classification by a merged adapter or checkpoint."""

    def __init__(
        self,
        spec: str,
        *,
        clip: ClipSource | None = None,
        base: str | Path | None = None,
        prompt: str | Sequence[str] = DEFAULT_PROMPT,
        class_names: str | Path | None = None,
        train_limit: int | None = None,
        imbalance: float | None = None,
        limit: int | None = LIMIT,
        sources: Sequence[str | Path] = (),
    ) -> None:
        """spec, class_names, train_limit, imbalance, limit, sources: see `validation_images`.

        base: that of checkpoints; open_clip:MODEL:TAG also names their model.
        """
        self.name = spec
        self._clip = clip or ClipSource()
        self._base = base
        self._templates = prompt_templates(prompt)
        if base is not None:
            known = str(base).removeprefix(OPEN_CLIP).partition(":")
            self._model = self._clip.model or _model_of(str(base))
            # A merge has the activation and the preprocessing of the tag that all began with.
            same = str(base).startswith(OPEN_CLIP) and self._model == known[0]
            self._tag = f"{known[2]}@" if same else ""
            self._checkpoint(weights_file(base))  # another model is found before the first merge
        self._images, self._class_names = validation_images(
            spec, class_names, train_limit, limit, imbalance=imbalance, sources=sources
        )
        self._frozen: Backbone | None = None
        self._prepared: PreparedImages | None = None

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self._images.labels)

    @property
    def classes(self) -> int:
        return len(self._class_names)

    @cached_property
    def version(self) -> str:
        """A hash of what the accuracy depends on besides the merge."""
        labels = self._images.labels.numpy().tobytes()
        facts = (self._class_names, self._templates, self._clip[:2], str(self._base))
        pixels = self._images.fingerprint(0, self.count)
        return hashlib.sha256(f"{facts} {pixels}".encode() + labels).hexdigest()

    def interval(self, accuracy: float) -> tuple[float, float]:
        """Wilson's interval, at 95 %, of an accuracy on so many images."""
        share = _DEVIATIONS**2 / self.count
        middle = (accuracy + share / 2) / (1 + share)
        half = math.sqrt(share * (accuracy * (1 - accuracy) + share / 4)) / (1 + share)
        return middle - half, middle + half

    @torch.no_grad()
    def __call__(self, path: Path) -> float:
        backbone = self._with_adapter(path) if self._base is None else self._checkpoint(path)
        if self._prepared is None:
            self._prepared = PreparedImages(self._images, backbone.prepare)
        texts = class_texts(backbone, self._class_names, self._templates)
        right = 0
        for start in range(0, self.count, _AT_ONCE):
            rows = slice(start, min(start + _AT_ONCE, self.count))
            features = normalize(backbone.encode_images(self._prepared[rows]).float(), dim=-1)
            right += int(((features @ texts.T).argmax(1) == self._images.labels[rows]).sum())
        return right / self.count

    def _checkpoint(self, path: Path) -> Backbone:
        return self._loaded(self._model, f"{self._tag}{path}")

    def _with_adapter(self, folder: Path) -> Backbone:
        with open_adapter(folder) as adapter:
            if self._frozen is None:
                self._frozen = self._base_of(
                    adapter.config.base_model, adapter.config.raw.get("revision")
                )
            model = copy.deepcopy(self._frozen.model)
            add_adapter(model, adapter)
        return replace(self._frozen, model=model)

    def _base_of(self, name: str | None, revision: str | None) -> Backbone:
        """The CLIP that an adapter names, as LoRAs of runs do: open_clip:MODEL:WEIGHTS."""
        model, pretrained = self._clip.model, self._clip.pretrained
        if name is not None and name.startswith(OPEN_CLIP):
            known, _, weights = name.removeprefix(OPEN_CLIP).partition(":")
            model, pretrained = model or known, pretrained or weights
        if model is None or pretrained is None:
            raise UserError(
                f"the adapters belong to {name!r}; expected a CLIP of open_clip "
                "(open_clip:MODEL:WEIGHTS), or model and pretrained (--model, --pretrained); "
                "adapters of other models are scored by a program"
            )
        frozen = self._loaded(model, pretrained)
        if revision not in (None, frozen.weights_hash):
            raise DataError(
                f"{model} {pretrained} has the weights {frozen.weights_hash}, but the adapters "
                f"were trained on {revision}"
            )
        return frozen

    def _loaded(self, model: str, pretrained: str) -> Backbone:
        device = encoder_device(self._clip.device)
        return load_backbone(model, pretrained, device=device, cache_dir=self._clip.cache_dir)


def _model_of(base: str) -> str:
    if not base.startswith(OPEN_CLIP):
        raise UserError(
            f"base is {base}, which does not say what model it is; expected model (--model), its "
            "name in open_clip"
        )
    return base.removeprefix(OPEN_CLIP).partition(":")[0]
