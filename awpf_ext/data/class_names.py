"""Names of classes for prompts: from folders, from a file, or from ImageNet's own list."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from awpf_ext.errors import DataError, UserError

_WORDNET_ID = re.compile(r"n\d{8}")


def names_from_keys(class_keys: Sequence[str]) -> tuple[str, ...]:
    """Readable names for folder names or labels.

    WordNet ids (n01440764) become ImageNet's names. Otherwise underscores become spaces, and a
    leading number as in 001.Black_footed_Albatross is removed.
    """
    if class_keys and all(_WORDNET_ID.fullmatch(key) for key in class_keys):
        return _imagenet_names(class_keys)
    return tuple(re.sub(r"^\d+\.(?=.)", "", key).replace("_", " ") for key in class_keys)


def names_from_file(path: Path, class_keys: Sequence[str]) -> tuple[str, ...]:
    """Names from a JSON or TXT file.

    JSON: a list in class order, or an object from the data set's own key (folder, label) to name.
    TXT: one name per line, in class order.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read class names from {path}: {error}") from error
    if isinstance(listed, Mapping):
        missing = [key for key in class_keys if key not in listed]
        if missing:
            raise DataError(
                f"{path} has no name for {len(missing)} of {len(class_keys)} classes, the first "
                f"being {missing[0]!r}"
            )
        listed = [listed[key] for key in class_keys]
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise DataError(f"{path}: expected a list of names or an object from class to name")
    names = [name.strip() for name in listed]
    while names and not names[-1] and len(names) > len(class_keys):
        names.pop()  # blank lines at the end
    if len(names) != len(class_keys):
        raise DataError(f"{path} has {len(names)} names for {len(class_keys)} classes")
    if "" in names:
        raise DataError(f"{path}: name {names.index('') + 1} is empty")
    return tuple(names)


def _imagenet_names(wordnet_ids: Sequence[str]) -> tuple[str, ...]:
    """The names CLIP's authors use for ImageNet-1k's classes."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo()
    by_id = dict(zip(info.label_names(), IMAGENET_CLASSNAMES, strict=True))
    unknown = [key for key in wordnet_ids if key not in by_id]
    if unknown:
        raise UserError(
            f"{unknown[0]} is not among ImageNet-1k's classes, so its name is not known; give the "
            "class names in a JSON file from folder to name"
        )
    return tuple(by_id[key] for key in wordnet_ids)
