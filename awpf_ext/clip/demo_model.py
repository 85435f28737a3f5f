"""The demo model, a small CLIP that comes with the package: open_clip's architecture, own weights.

The folder demo/ has the files that open_clip reads: the model's configuration, the tokenizer's
merges and the weights. MODEL_CARD.md describes its training data and accuracy.
"""

from __future__ import annotations

from pathlib import Path

MODEL = "demo"
TAG = "embedded"
FOLDER = Path(__file__).parent / "demo"
WEIGHTS = FOLDER / "weights.safetensors"
MERGES = FOLDER / "merges.txt.gz"


def register() -> None:
    """Add the model to open_clip's registry."""
    import open_clip

    if MODEL not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{MODEL}.json")


def default_weights(model: str) -> str:
    """The default of `pretrained` for a model."""
    return TAG if model == MODEL else "openai"


def tokenizer_options(model: str) -> dict[str, str]:
    """Options of open_clip's tokenizer besides the model's name."""
    return {"bpe_path": str(MERGES)} if model == MODEL else {}
