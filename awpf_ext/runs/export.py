"""Models for prediction, loaded from the folder of a run or from an exported file.

An exported file is a safetensors file with `text` (the class texts in the order of learning) and
`state.NAME` for every tensor of the method's state. Its metadata has under "awpf_ext" a JSON object
with the method, its settings, the class names, the logit scale and the backbone.
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
from awpf_ext.errors import DataError, UserError
from awpf_ext.finetuning.build import clip_state
from awpf_ext.methods import Method, method_class, method_config
from awpf_ext.runs.checkpoint import Checkpoint
from awpf_ext.runs.folder import RunFolder

FORMAT = 3  # of exported files


@dataclass(frozen=True)
class BackboneSource:
    """Where the backbone of a model is loaded from, and the device that it runs on."""

    pretrained: str | None = None  # where the weights are now, if they have moved
    cache_dir: str | Path | None = None
    device: torch.device | str = "cpu"


DEFAULT_SOURCE = BackboneSource()


@dataclass(frozen=True, eq=False)
class LearnedModel:
    """A model that classifies images or their features; `load_model` loads one."""

    method: Method
    class_names: tuple[str, ...]  # of the classes seen, in the order of the logits
    facts: Mapping[str, Any]  # see `awpf export`; `provenance` names the backbone

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of image features (n, d) of the backbone, normalised or not.

        If `method.inputs` is "images", x is uint8 of shape (n, height, width, 3), as the backbone's
        `prepare` returns it.
        """
        images = self.method.inputs == "images"
        return self.method.logits(x if images else x.to(self.method.device, torch.float32))

    def probabilities(self, x: Tensor) -> Tensor:
        return self.logits(x).softmax(dim=1)


def load_model(path: str | Path, source: BackboneSource = DEFAULT_SOURCE) -> LearnedModel:
    """The model in the folder of a run or in an exported file.

    source: of the backbone, which is loaded only for methods that train CLIP itself.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}; expected a run's folder or an exported file")
    return load_run(path, source) if path.is_dir() else load_exported(path, source)


def backbone_of(facts: Mapping[str, Any], source: BackboneSource = DEFAULT_SOURCE) -> Backbone:
    """The backbone that a model was trained on; DataError if its weights are not the same."""
    known = facts["provenance"]
    if "model" not in known:
        raise UserError(
            f"this model was trained on {known['dataset']}: the backbone of those features is not "
            "known, so images cannot be encoded (features can be classified: "
            "awpf_ext.load_model(PATH).logits(features))"
        )
    backbone = load_backbone(
        known["model"],
        source.pretrained or facts["pretrained"],
        precision=known["precision"],
        device=source.device,
        cache_dir=source.cache_dir,
    )
    for key in ("weights_hash", "preprocessing_hash"):
        here = backbone.provenance[key]
        if here != known[key]:
            raise DataError(
                f"{backbone.name} {backbone.pretrained} is not the backbone that this model was "
                f"trained on: its {key} is {here}, expected {known[key]}"
            )
    return backbone


def load_run(folder: str | Path, source: BackboneSource = DEFAULT_SOURCE) -> LearnedModel:
    """The model after the last finished task of the run in a folder."""
    run = RunFolder(folder)
    config, identity = run.config(), run.identity()
    saved = Checkpoint(run).load()
    if identity is None or saved.state is None:
        raise UserError(f"{run} has no finished task yet")
    texts = run.class_texts()
    facts = {
        "method": config.method,
        "settings": config.settings.model_dump(mode="json"),
        "seed": config.seed,
        "tasks": len(saved.results),
        "accuracy": saved.results[-1]["accuracy"],
        "pretrained": config.pretrained,
        "class_names": texts.class_names,
        "class_order": texts.class_order,
        "logit_scale": texts.logit_scale,
        "provenance": {**texts.provenance, **identity.environment},
    }
    return _model(facts, texts.text, saved.state, source)


def export_run(
    folder: str | Path, out: str | Path, source: BackboneSource = DEFAULT_SOURCE
) -> LearnedModel:
    """Write the model of a run as one file; `load_exported` reads it."""
    out = _safetensors(out)
    model = load_run(folder, source)
    state = {f"state.{name}": tensor for name, tensor in model.method.learned_state().items()}
    described = json.dumps({"format": FORMAT, **model.facts}, ensure_ascii=False)
    io.save_tensors(out, {"text": model.method.text, **state}, {"awpf_ext": described})
    return model


def export_clip(
    folder: str | Path, out: str | Path, source: BackboneSource = DEFAULT_SOURCE
) -> LearnedModel:
    """Write the CLIP that a run has fine-tuned completely as a checkpoint of open_clip."""
    out = _safetensors(out)
    model = load_run(folder, source)
    trainable = getattr(model.method, "trainable", None)
    if trainable is None or getattr(model.method.config, "train", None) != "full":
        raise UserError(
            f"{folder} is a run of {model.facts['method']} that leaves the towers of CLIP as they "
            "were; expected a run with train=full"
        )
    io.save_tensors(out, clip_state(trainable), {"format": "pt"})
    return model


def load_exported(path: str | Path, source: BackboneSource = DEFAULT_SOURCE) -> LearnedModel:
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
    return _model(facts, text, state, source)


def _safetensors(out: str | Path) -> Path:
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"out is {out}; expected a name ending in .safetensors")
    return out


def _model(
    facts: Mapping[str, Any], text: Tensor, state: Mapping[str, Tensor], source: BackboneSource
) -> LearnedModel:
    chosen = method_class(facts["method"])
    config = method_config(facts["method"], facts["settings"])
    clip = None
    if chosen.trains_clip(config):
        backbone = backbone_of(facts, source)
        clip = prompted_clip(backbone, facts["class_names"], facts["provenance"]["prompt"])
        text = text.to(backbone.device)
    method = chosen(
        config, text=text, logit_scale=facts["logit_scale"], seed=facts["seed"], clip=clip
    )
    # The state of a random generator fits one kind of device; the model may be used on another.
    fitting = {name: x for name, x in state.items() if name.split(".")[-1] != "generator"}
    method.load_state_dict(fitting)
    return LearnedModel(method, tuple(facts["class_names"][: method.seen]), facts)
