"""Finding the weights of a backbone: the package, an open_clip tag, a checkpoint or a seed."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from awpf_ext.clip import demo_model
from awpf_ext.errors import OfflineError, UserError, reason, suggestion

PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class WeightSource:
    """Resolved weights: a file, or a seed for random weights, and the settings of their tag."""

    label: str  # for provenance: tag, file name or random:SEED
    file: Path | None = None
    seed: int | None = None
    quick_gelu: bool = False  # weights trained with QuickGELU, for which open_clip only warns
    preprocessing: Mapping[str, Any] | None = None


def resolve_weights(model: str, pretrained: str | None, cache_dir: Path | None) -> WeightSource:
    """Find the weights `pretrained` of an open_clip model, and download them if necessary.

    None or "random:SEED": seeded random weights; an open_clip tag ("embedded" for the model
    "demo"); the path of a checkpoint; or TAG@PATH, a checkpoint with the activation and the
    preprocessing of a tag, which is what was fine-tuned from the tag's weights.
    """
    import open_clip

    demo_model.register()
    known = open_clip.list_models()
    if model not in known:
        raise UserError(f"model {model!r} is not known to open_clip; {suggestion(model, known)}")
    if pretrained is None or pretrained.startswith("random:"):
        return _random_weights(pretrained or "random:0")
    if (model, pretrained) == (demo_model.MODEL, demo_model.TAG):
        return WeightSource(label=pretrained, file=demo_model.WEIGHTS)
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if tag:
        return _with_settings(tag, pretrained, _tagged_file(model, pretrained, tag, cache_dir))
    path = Path(pretrained).expanduser()
    if path.is_file():
        return WeightSource(label=path.name, file=path)
    name, at, where = pretrained.partition("@")
    path = Path(where).expanduser()
    if at and path.is_file():
        label = f"{name}@{path.name}"
        if (model, name) == (demo_model.MODEL, demo_model.TAG):
            return WeightSource(label=label, file=path)
        if tag := open_clip.get_pretrained_cfg(model, name):
            return _with_settings(tag, label, path)
        pretrained = name
    tags = open_clip.list_pretrained_tags_by_model(model)
    if model == demo_model.MODEL:
        tags = [demo_model.TAG]
    raise UserError(
        f"pretrained {pretrained!r} is neither a file nor a tag of {model}; "
        + (suggestion(pretrained, tags) if tags else "open_clip has no weights for this model")
    )


def _with_settings(tag: Mapping[str, Any], label: str, file: Path) -> WeightSource:
    return WeightSource(
        label=label,
        file=file,
        quick_gelu=bool(tag.get("quick_gelu", False)),
        preprocessing={name: tag[name] for name in PREPROCESSING if name in tag},
    )


def _random_weights(label: str) -> WeightSource:
    seed = label.removeprefix("random:")
    if not (seed.isascii() and seed.isdigit() and int(seed) < 2**63):
        raise UserError(f"pretrained {label!r}; expected random:SEED with a whole number")
    return WeightSource(label=label, seed=int(seed))


def _tagged_file(model: str, tag_name: str, tag: Mapping[str, Any], cache_dir: Path | None) -> Path:
    """The tag's file, from the cache without network access, or downloaded."""
    import open_clip
    from huggingface_hub import constants

    if tag.get("hf_hub"):
        cached, cache, source = _hub_cached(tag["hf_hub"], cache_dir)
        source = f"{constants.ENDPOINT}/{source}"
        if cached is not None:
            return cached
        failure = _unreachable(source)
    else:
        cache = cache_dir or Path("~/.cache/clip").expanduser()
        source = tag["url"]
        present = (cache / Path(source).name).is_file()  # open_clip checks its hash before use
        failure = None if present else _unreachable(source)
    if failure is None:
        try:
            location = None if cache_dir is None else str(cache_dir)
            return Path(open_clip.download_pretrained(tag, cache_dir=location))
        except Exception as error:  # open_clip and its downloaders raise many types
            failure = str(error).split("\n", 1)[0]
    raise OfflineError(
        f"the weights {tag_name!r} of {model} are not in the cache {cache} and cannot be fetched "
        f"({failure}). Three ways out: pretrained=PATH, a checkpoint file you copied here; "
        f"features:FILE.npz as the data set, with features computed elsewhere; or the model "
        f"{demo_model.MODEL!r}, whose weights come with the package"
    )


def _hub_cached(hub_entry: str, cache_dir: Path | None) -> tuple[Path | None, Path, str]:
    """The cached file of a Hugging Face entry "org/name/file" (file may be empty), cache, repo."""
    from huggingface_hub import constants, try_to_load_from_cache

    cache = cache_dir or Path(constants.HF_HUB_CACHE)
    repository, _, file = hub_entry.rpartition("/")
    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    names = [str(Path(name).with_suffix(".safetensors")) for name in names] + names
    for name in dict.fromkeys(names):
        found = try_to_load_from_cache(repository, name, cache_dir=cache)
        if isinstance(found, str):
            return Path(found), cache, repository
    return None, cache, repository


def _unreachable(url: str, timeout: float = 10.0) -> str | None:
    """Why the server of `url` cannot be reached, or None; downloaders would retry for a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        return None  # the server answers; the downloader handles its answer
    except (OSError, ValueError) as error:
        return f"no connection: {reason(getattr(error, 'reason', error))}"
    return None
