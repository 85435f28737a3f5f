"""A CLIP of a few thousand weights, under the name "tiny"."""

from __future__ import annotations

from pathlib import Path

import pytest

open_clip = pytest.importorskip("open_clip", reason="needs open_clip_torch")
open_clip.add_model_config(Path(__file__).with_name("tiny.json"))
