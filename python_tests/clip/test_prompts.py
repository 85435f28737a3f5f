"""Templates and class texts."""

from __future__ import annotations

import pytest
import torch

from awpf_ext.clip import DEFAULT_PROMPT, class_texts, load_backbone, prompt_templates
from awpf_ext.errors import UserError


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", "random:0")


def test_templates_are_one_several_or_a_named_ensemble():
    assert prompt_templates() == (DEFAULT_PROMPT,)
    assert prompt_templates("a {}") == ("a {}",)
    assert prompt_templates(["a {}", "the {}"]) == ("a {}", "the {}")
    assert len(prompt_templates("openai")) == 80
    assert len(prompt_templates("simple")) == 7
    assert all(template.count("{}") == 1 for template in prompt_templates("openai"))


@pytest.mark.parametrize("bad", ["a photo", "{} and {}", "opnai", [], ["a {}", "b"]])
def test_a_template_without_one_place_for_the_name_is_refused(bad):
    with pytest.raises(UserError, match="prompt"):
        prompt_templates(bad)


def test_a_class_text_is_the_mean_of_normalised_prompts(tiny):
    templates = ("a {}.", "the {}!")
    texts = class_texts(tiny, ["cat", "dog"], templates)
    for row, name in zip(texts, ["cat", "dog"], strict=True):
        prompts = tiny.encode_texts([template.replace("{}", name) for template in templates])
        mean = torch.nn.functional.normalize(prompts, dim=-1).mean(dim=0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-6)
    assert texts.dtype == torch.float32
    assert not texts.requires_grad


def test_equal_names_are_encoded_once_and_any_name_is_fine(tiny):
    names = ["crane", "犬", "a {} brace", "crane", ""]
    counted: list[tuple[int, int]] = []
    texts = class_texts(
        tiny, names, ("a {}",), progress=lambda *now: counted.append(now), batch_size=3
    )
    assert counted == [(3, 4), (4, 4)]
    assert torch.equal(texts[0], texts[3])
    assert not torch.equal(texts[0], texts[1])
    assert torch.allclose(texts.norm(dim=1), torch.ones(5))


def test_without_classes_is_an_error(tiny):
    with pytest.raises(UserError, match="class_names is empty"):
        class_texts(tiny, [], ("a {}",))
