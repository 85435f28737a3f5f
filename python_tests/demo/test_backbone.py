"""The small CLIP that comes with the package."""

from __future__ import annotations

import socket

import pytest
import torch
from torch.nn.functional import normalize

from awpf_ext.clip import class_texts, demo_model
from awpf_ext.clip.prompts import DEFAULT_PROMPT, prompt_templates
from awpf_ext.data import load_dataset
from awpf_ext.errors import UserError

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from awpf_ext.clip import load_backbone


@pytest.fixture(scope="module")
def backbone():
    def unplugged(*_):
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", unplugged)
        return load_backbone("demo", "embedded")


def test_it_knows_the_demos_classes_but_not_all_of_them(backbone):
    """Zero-shot on a fixed sample of the test pictures; 5,000 of them: see MODEL_CARD.md."""
    data = load_dataset("demo")
    rows = range(0, len(data.test.labels), 10)
    pictures = torch.stack([torch.tensor(backbone.prepare(data.test.read(i))) for i in rows])
    texts = class_texts(backbone, data.class_names, prompt_templates(DEFAULT_PROMPT))
    guessed = (normalize(backbone.encode_images(pictures), dim=-1) @ texts.T).argmax(-1)
    right = (guessed == data.test.labels[::10]).double().mean()
    assert 0.40 < right < 0.75


def test_it_is_small_and_its_card_is_its_own(backbone):
    files = list(demo_model.FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) < 8e6
    assert backbone.weights_hash in (demo_model.FOLDER / "MODEL_CARD.md").read_text()
    assert backbone.provenance["pretrained"] == "embedded"
    assert backbone.preprocessing["size"] == [48, 48]


def test_its_tokenizer_has_a_token_a_word(backbone):
    tokens = backbone.tokenizer(["a good photo of a purple checkered mushroom."])[0]
    assert tokens.shape == (24,)
    assert int((tokens > 0).sum()) == 1 + 8 + 1 + 1  # start, words, full stop, end
    strange = backbone.tokenizer(["ein grüner Würfel"])[0]  # in pieces, but not refused
    assert int(strange.max()) < backbone.model.vocab_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "openai"), "neither a file nor a tag of demo; expected one of embedded"),
        (("demo", "embeded"), "did you mean 'embedded'"),
        (("RN50", "embedded"), "neither a file nor a tag of RN50"),
        (("dmo", "embedded"), "did you mean 'demo'"),
    ],
)
def test_other_weights_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        load_backbone(*arguments)
