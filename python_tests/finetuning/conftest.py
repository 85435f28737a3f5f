"""A CLIP of a few thousand weights with prompts; tests of losses and buffers need neither."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # `from joint_steps import ...`


@pytest.fixture(scope="session")
def tiny():
    """A `PromptedClip` of four classes with two prompts each, and its class texts."""
    pytest.importorskip("open_clip", reason='needs the extra "clip"')
    from joint_steps import tiny_clip

    return tiny_clip()
