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
from awpf_ext.data import load_dataset
from awpf_ext.data.class_names import names_from_file, names_from_keys
from awpf_ext.data.datasets import DATASETS
from awpf_ext.data.demo import dataset as demo_data
from awpf_ext.data.folders import subfolders
from awpf_ext.data.images import ImageDataset, ImageSplit, file_split, folder_files
from awpf_ext.data.limits import Limits, subset
from awpf_ext.data.prepared_images import PreparedImages
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora.adapter_reader import open_adapter
from awpf_ext.lora.applied import add_adapter
from awpf_ext.lora.checkpoint_reader import OPEN_CLIP
from awpf_ext.runs.run import encoder_device

LIMIT = 20  # validation images per class
_AT_ONCE = 64


class ValidationImages(NamedTuple):
    """Images with the names of all classes."""

    images: ImageSplit
    class_names: tuple[str, ...]


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
        limit: int | None = LIMIT,
    ) -> None:
        """spec, class_names, train_limit, limit: see `validation_images`.

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
        found = validation_images(spec, class_names, train_limit, limit)
        self._images, self._class_names = found
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

    def standard_error(self, accuracy: float) -> float:
        """That of an accuracy on so many images."""
        return math.sqrt(accuracy * (1 - accuracy) / self.count)

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


def is_dataset(spec: str) -> bool:
    """Whether a validation is a data set, as opposed to a program."""
    return spec.partition(":")[0] in DATASETS


def validation_images(
    spec: str,
    class_names: str | Path | None = None,
    train_limit: int | None = None,
    limit: int | None = LIMIT,
) -> ValidationImages:
    """The images of a data set to choose by, at most `limit` per class, and never test images.

    All images of folder:DIR if the classes' folders are in DIR itself; otherwise the training
    images that `--train-limit` N left over. For the demo, N is by default as in `awpf run`.
    """
    for key, value in (("train_limit", train_limit), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{key} is {value}; expected at least 1")
    name, _, where = spec.partition(":")
    root = Path(where).expanduser()
    if name == "folder" and root.is_dir() and not (root / "train").is_dir():
        keys = subfolders(root)
        images: ImageSplit = file_split(root, folder_files(root, keys))
        own_names = class_names and names_from_file(Path(class_names).expanduser(), keys)
        names = own_names or names_from_keys(keys)
    else:
        loaded = load_dataset(spec, class_names=class_names)
        if not isinstance(loaded, ImageDataset):
            raise UserError(f"{spec} has features; expected images, which a merge encodes anew")
        names = loaded.class_names
        usual = demo_data.TRAIN_LIMIT if name == "demo" else None
        images = _left_over(spec, loaded, train_limit or usual)
    rows = Limits(train=limit).rows(images.labels, None, len(names), training=True)
    images = images if rows is None else subset(images, rows)
    if not len(images.labels):
        raise DataError(f"{spec} has no images to validate on")
    return ValidationImages(images, names)


def _left_over(spec: str, data: ImageDataset, train_limit: int | None) -> ImageSplit:
    """The training images that a run with this limit did not see."""
    if train_limit is None:
        raise UserError(
            f"{spec} has training and test images; expected a folder whose subfolders are classes "
            "with validation images (folder:DIR), or the train_limit (--train-limit) with which "
            "the sources were trained, so that the other training images can be taken"
        )
    labels = data.train.labels
    limits = Limits(train=train_limit)
    seen = limits.rows(labels, data.train_domain, len(data.class_keys), training=True)
    assert seen is not None
    left = torch.ones(len(labels), dtype=torch.bool)
    left[seen] = False
    if not bool(left.any()):
        raise UserError(
            f"{spec} has no training images besides those that train_limit={train_limit} takes; "
            "expected a folder of validation images"
        )
    return subset(data.train, left.nonzero().flatten())


def _model_of(base: str) -> str:
    if not base.startswith(OPEN_CLIP):
        raise UserError(
            f"base is {base}, which does not say what model it is; expected model (--model), its "
            "name in open_clip"
        )
    return base.removeprefix(OPEN_CLIP).partition(":")[0]
