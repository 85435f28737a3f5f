"""The small CLIP that comes with the package: open_clip's architecture, our own weights.

Its folder holds what open_clip reads: the model's configuration, the merges of its tokenizer and
the weights; MODEL_CARD.md says what it was trained on and how well it does.
"""

from __future__ import annotations

from pathlib import Path

MODEL = "demo"
TAG = "embedded"
FOLDER = Path(__file__).parent / "demo"
WEIGHTS = FOLDER / "weights.safetensors"
MERGES = FOLDER / "merges.txt.gz"


def register() -> None:
    """Make the model known to open_clip, as its own models are."""
    import open_clip

    if MODEL not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{MODEL}.json")


def default_weights(model: str) -> str:
    """What `pretrained` is where only a model is given."""
    return TAG if model == MODEL else "openai"


def tokenizer_options(model: str) -> dict[str, str]:
    """What open_clip's tokenizer must be told beyond the model's name."""
    return {"bpe_path": str(MERGES)} if model == MODEL else {}
