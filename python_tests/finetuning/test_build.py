"""What can be trained: it starts as the frozen CLIP, moves alone, and comes back from its state."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

pytest.importorskip("open_clip", reason='needs the extra "clip"')
from joint_steps import batch, contrastive

from awpf_ext.clip import class_texts, load_backbone, prompted_clip
from awpf_ext.errors import UserError
from awpf_ext.finetuning.build import build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.trainable_config import TrainableConfig


def made(tiny, **settings):
    clip, text = tiny
    return build_trainable(TrainableConfig(**settings), text, clip)


def step(trainable, rate=0.1):
    x, labels = batch(trainable.inputs)
    joint_backward(trainable, x, range(4), contrastive(labels))
    torch.optim.SGD(trainable.parameters(), lr=rate).step()


def test_the_whole_clip_starts_as_the_frozen_one(tiny):
    trainable, (clip, text) = made(tiny), tiny
    x, _ = batch("images")
    frozen = normalize(clip.backbone.encode_images(x), dim=-1)
    torch.testing.assert_close(trainable.embed(x), frozen, rtol=0, atol=1e-6)
    torch.testing.assert_close(trainable.texts(range(4)), text, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        trainable.texts(torch.tensor([2, 0])), text[[2, 0]], rtol=0, atol=1e-6
    )


def test_the_adapter_starts_as_the_identity_and_keeps_the_texts(tiny):
    _, text = tiny
    trainable = build_trainable(TrainableConfig(train="adapter"), text, None)
    features, _ = batch("features")
    assert trainable.inputs == "features"
    torch.testing.assert_close(trainable.embed(features), normalize(features, dim=-1))
    assert trainable.embed(features.half()).dtype == torch.float32  # as some features are stored
    step(trainable)
    assert not torch.allclose(trainable.embed(features), normalize(features, dim=-1), atol=1e-3)
    assert torch.equal(trainable.texts(range(1, 3)), text[1:3])


def test_training_leaves_the_backbone_as_it_is(tiny):
    clip, text = tiny
    before = {name: value.clone() for name, value in clip.backbone.model.state_dict().items()}
    trainable = made(tiny)
    step(trainable)
    assert not torch.allclose(trainable.texts(range(4)), text, atol=1e-3)
    after = clip.backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in clip.backbone.model.parameters())


def test_all_of_the_whole_clip_is_trained_but_its_logit_scale(tiny):
    names = {name for name, _ in tiny[0].backbone.model.named_parameters()}
    trainable = made(tiny)
    assert trainable.named_parameters().keys() == names - {"logit_scale"}
    step(trainable)
    assert all(parameter.grad is not None for parameter in trainable.parameters())


def test_biases_norms_and_positions_are_not_decayed(tiny):
    trainable = made(tiny)
    decayed, others = trainable.parameter_groups(0.2)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(trainable.parameters())
    names = {id(value): name for name, value in trainable.named_parameters().items()}
    matrices = {names[id(value)] for value in decayed["params"]}
    assert "visual.transformer.resblocks.0.mlp.c_fc.weight" in matrices
    assert "token_embedding.weight" in matrices
    assert not any("bias" in name or "ln_" in name or "position" in name for name in matrices)


@pytest.mark.parametrize("train", ["full", "adapter"])
def test_a_state_holds_what_was_trained(train, tiny):
    first, second = made(tiny, train=train), made(tiny, train=train)
    step(first)
    state = first.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    step(first)
    assert all(torch.equal(state[name], kept[name]) for name in state)  # a copy, not a view
    second.load_state_dict(state)
    assert all(torch.equal(value, kept[name]) for name, value in second.state_dict().items())
    with pytest.raises(ValueError, match=r"expected the \d+ trained ones"):
        second.load_state_dict({**state, "another": torch.zeros(1)})
    name = next(iter(state))
    with pytest.raises(ValueError, match=f"state has {name} with shape"):
        second.load_state_dict({**state, name: torch.zeros(1)})


@pytest.mark.parametrize("train", ["full", "adapter"])
def test_given_tensors_take_the_place_of_the_trained_ones(train, tiny):
    """And get the gradient that the trained ones would get."""
    trainable, other = made(tiny, train=train), made(tiny, train=train)
    step(other, rate=0.3)
    x, labels = batch(trainable.inputs)
    given = {name: value.requires_grad_() for name, value in other.state_dict().items()}
    images, texts = trainable.embed(x, given), trainable.texts(range(4), given)
    assert torch.equal(images, other.embed(x))
    assert torch.equal(texts, other.texts(range(4)))
    contrastive(labels)(images, texts).backward()
    for parameter in other.parameters():
        parameter.grad = None
    joint_backward(other, x, range(4), contrastive(labels))
    for name, parameter in other.named_parameters().items():
        torch.testing.assert_close(given[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in trainable.parameters())


@pytest.mark.parametrize("train", ["full", "adapter"])
def test_embeddings_do_not_depend_on_the_rows_at_a_time(train, tiny):
    whole, parts = made(tiny, train=train), made(tiny, train=train, micro_batch=3)
    x, _ = batch(whole.inputs)
    torch.testing.assert_close(parts.embed(x), whole.embed(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.texts(range(4)), whole.texts(range(4)), rtol=0, atol=1e-6)


def test_bfloat16_gives_float32_rows_near_the_exact_ones(tiny):
    exact, rough = made(tiny), made(tiny, autocast="bf16")
    x, _ = batch("images")
    for found, expected in (
        (rough.embed(x), exact.embed(x)),
        (rough.texts(range(4)), exact.texts(range(4))),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
        assert 1e-5 < (found - expected).abs().max() < 3e-2
    step(rough)
    assert all(parameter.grad.dtype == torch.float32 for parameter in rough.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_backbone_in_low_precision_is_trained_in_float32(precision):
    backbone = load_backbone("tiny", "random:3", precision=precision)
    names = ["cat", "dog", "owl", "fox"]
    clip, text = prompted_clip(backbone, names, ["a {}"]), class_texts(backbone, names, ["a {}"])
    trainable = build_trainable(TrainableConfig(), text, clip)
    assert {parameter.dtype for parameter in trainable.parameters()} == {torch.float32}
    torch.testing.assert_close(trainable.texts(range(4)), text, rtol=0, atol=2e-2)
    assert backbone.model.visual.conv1.weight.dtype != torch.float32


@pytest.mark.parametrize("train", ["full", "lora"])
def test_towers_need_images(train, tiny):
    with pytest.raises(UserError, match="a data set of images, or train=adapter"):
        build_trainable(TrainableConfig(train=train), tiny[1], None)
