"""Captions of the training images of the demo model, and its vocabulary."""

from __future__ import annotations

import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

import open_clip

from awpf_ext.data.demo.numbers import Numbers
from awpf_ext.data.demo.scene import GROUNDS, Scene
from awpf_ext.data.demo.words import COLORS, PATTERNS, SHAPES, Composition

# Half the captions follow the templates that CLIP models are prompted with.
PROMPTED = tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
WRITTEN = (
    "a {}", "a {}.", "{}", "the {}", "a picture of a {}", "a picture of a {}.",
    "an image of a {}", "a drawing of one {}", "this is a {}.", "there is a {} in the picture",
    "we see a {}",
    "a {} in the middle", "one {}", "look, a {}!", "a good picture of a {}",
    "a good photo of a {}.",
    "a photo of a {}", "a photo of a {}.", "an icon of a {}", "a sign with a {}",
    "a sketch of a {}",
    "a {} and nothing else", "a dark photo of a {}.", "a faded photo of a {}.",
)  # fmt: skip
ANY = -1  # an attribute that a caption does not state


def caption(scene: Scene, numbers: Numbers) -> tuple[str, Composition]:
    """A caption, and the target attributes that it states; ANY for the others."""
    stated = scene.target
    if numbers.uniform() < 0.1:  # "a star", "a striped star": true of many images
        stated = stated._replace(color=ANY, pattern=numbers.choice((ANY, stated.pattern)))
    template = numbers.choice(numbers.choice((PROMPTED, WRITTEN)))
    text = template.replace("{}", _phrase(stated, numbers))
    if numbers.uniform() < 0.35:
        text = text.rstrip(".!") + numbers.choice((_backdrop, _beside))(scene)
    return text.replace("a orange", "an orange"), stated


def _phrase(stated: Composition, numbers: Numbers) -> str:
    words = [] if stated.color == ANY else [COLORS[stated.color]]
    if stated.pattern != ANY and not (stated.pattern == 0 and words and numbers.uniform() < 0.3):
        words.insert(0 if numbers.uniform() < 0.15 else len(words), PATTERNS[stated.pattern])
    return " ".join((*words, SHAPES[stated.shape]))


def _backdrop(scene: Scene) -> str:
    kind = f"{scene.ground} " if scene.ground != "plain" else ""
    return f" on a {kind}{COLORS[scene.backdrop]} background"


def _beside(scene: Scene) -> str:
    return f" next to a small {scene.beside.name}" if scene.beside else ""


def write_merges(path: Path) -> int:
    """Write a merge file of open_clip's SimpleTokenizer in which every word above is one token.

    Returns the size of the vocabulary: 256 bytes, 256 bytes that end a word, the merges, and the
    start and end tokens.
    """
    texts = [*PROMPTED, *WRITTEN, *SHAPES, *PATTERNS, *COLORS, *GROUNDS]
    texts += ["on background next to small an orange"]
    words = sorted({word for text in texts for word in _words(text)})
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for split in pieces.values() for pair in pairwise(split))
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(split, best) for word, split in pieces.items()}
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return 256 * 2 + len(merges) + 2


def _words(text: str) -> list[str]:
    return "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()


def _merged(split: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for piece in split:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return tuple(merged)
