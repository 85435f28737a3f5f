"""A learned model apart from its training data: from a run's folder, or one file of its own.

An exported file is a safetensors with `text` (the class texts, in the order learned) and
`state.NAME` for every tensor of the method's state; its metadata has under "awpf_ext" a JSON object
with the method and its settings, class names, logit scale, and what encodes images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from awpf_ext import io
from awpf_ext.clip import Backbone, load_backbone, prompted_clip
from awpf_ext.errors import CheckpointError, DataError, UserError
from awpf_ext.methods import Method, method_class, method_config
from awpf_ext.runs.checkpoint import RunFolder
from awpf_ext.runs.folder import saved_config

FORMAT = 1


@dataclass(frozen=True)
class Place:
    """Where a model's backbone is found, and where it shall work."""

    pretrained: str | None = None  # where the weights are now, if not where they were
    cache_dir: str | Path | None = None
    device: torch.device | str = "cpu"


HERE = Place()


@dataclass(frozen=True, eq=False)
class LearnedModel:
    """What classifies images, or their features; made by `load_run` or `load_exported`."""

    method: Method
    class_names: tuple[str, ...]  # of the classes seen, in the order of the logits
    facts: Mapping[str, Any]  # what is kept beside the tensors; `provenance` names the backbone

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(n, classes) for (n, d) image features of the backbone, normalised or not.

        Where `method.inputs` is "images", for (n, height, width, 3) bytes as the backbone's
        `prepare` makes them.
        """
        images = self.method.inputs == "images"
        return self.method.logits(x if images else x.to(self.method.device, torch.float32))

    def probabilities(self, x: Tensor) -> Tensor:
        return self.logits(x).softmax(dim=1)


def load_model(path: str | Path, place: Place = HERE) -> LearnedModel:
    """The model in a run's folder or in an exported file.

    place: of the backbone, which is loaded where the method changes CLIP itself.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}; expected a run's folder or an exported file")
    return load_run(path, place) if path.is_dir() else load_exported(path, place)


def backbone_of(facts: Mapping[str, Any], place: Place = HERE) -> Backbone:
    """The backbone that a model was learned on; DataError where its weights are others."""
    known = facts["provenance"]
    if "model" not in known:
        raise UserError(
            f"this model was learned on {known['dataset']}: the backbone of those features is not "
            "known, so images cannot be encoded (features can be classified: "
            "awpf_ext.runs.export.load_model(PATH).logits(features))"
        )
    backbone = load_backbone(
        known["model"],
        place.pretrained or facts["pretrained"],
        precision=known["precision"],
        device=place.device,
        cache_dir=place.cache_dir,
    )
    for key in ("weights_hash", "preprocessing_hash"):
        here = backbone.provenance[key]
        if here != known[key]:
            raise DataError(
                f"{backbone.name} {backbone.pretrained} is not the backbone that this model was "
                f"learned on: its {key} is {here}, expected {known[key]}"
            )
    return backbone


def load_run(folder: str | Path, place: Place = HERE) -> LearnedModel:
    """The model after the last task that is done in a run's folder."""
    folder = Path(folder).expanduser()
    config = saved_config(folder)
    if not (folder / "run.json").exists():
        raise UserError(f"{folder} has no finished task yet")
    marker = io.read_json(folder / "run.json")
    saved = RunFolder(folder).begin(marker["identity"], marker["environment"], resume=True)
    if saved.state is None:
        raise UserError(f"{folder} has no finished task yet")
    try:
        tensors, metadata = io.load_tensors(folder / "bank.safetensors")
        bank = json.loads(metadata["awpf_ext"])
    except (DataError, KeyError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    facts = {
        "method": config.method,
        "settings": config.settings.model_dump(mode="json"),
        "seed": config.seed,
        "tasks": len(saved.results),
        "accuracy": saved.results[-1]["accuracy"],
        "pretrained": config.pretrained,
        **bank,
        "provenance": {**bank["provenance"], **marker["environment"]},
    }
    return _model(facts, tensors["text"], saved.state, place)


def export_run(folder: str | Path, out: str | Path) -> LearnedModel:
    """Write the model of a run's folder as one file; `load_exported` reads it."""
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"{out} is not a name for the export; expected FILE.safetensors")
    model = load_run(folder)
    state = {f"state.{name}": tensor for name, tensor in model.method.learned_state().items()}
    described = json.dumps({"format": FORMAT, **model.facts}, ensure_ascii=False)
    io.save_tensors(out, {"text": model.method.text, **state}, {"awpf_ext": described})
    return model


def load_exported(path: str | Path, place: Place = HERE) -> LearnedModel:
    """The model in a file that `export_run` wrote."""
    tensors, metadata = io.load_tensors(path)
    try:
        facts = json.loads(metadata["awpf_ext"])
        found, text = facts.pop("format"), tensors.pop("text")
    except (KeyError, ValueError, TypeError):
        raise DataError(f"{path} is not a model that `awpf export` wrote") from None
    if found != FORMAT:
        raise DataError(f"{path} has export format {found}; this version reads format {FORMAT}")
    state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
    return _model(facts, text, state, place)


def _model(
    facts: Mapping[str, Any], text: Tensor, state: Mapping[str, Tensor], place: Place
) -> LearnedModel:
    chosen = method_class(facts["method"])
    config = method_config(facts["method"], facts["settings"])
    clip = None
    if chosen.trains_clip(config):
        backbone = backbone_of(facts, place)
        clip = prompted_clip(backbone, facts["class_names"], facts["provenance"]["prompt"])
        text = text.to(backbone.device)
    method = chosen(
        config, text=text, logit_scale=facts["logit_scale"], seed=facts["seed"], clip=clip
    )
    # A generator's state is that of its device; what is learned may be used on another.
    method.load_state_dict({**state, "generator": method.generator.get_state()})
    return LearnedModel(method, tuple(facts["class_names"][: method.seen]), facts)
