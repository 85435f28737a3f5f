"""LoRA on the towers: every factor works, and PEFT reads the adapter back."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

pytest.importorskip("open_clip", reason='needs the extra "clip"')
pytest.importorskip("peft", reason='needs the extra "lora"')

import open_clip
import peft
from joint_steps import batch, contrastive, with_factors

from awpf_ext.clip import class_texts, load_backbone, prompted_clip
from awpf_ext.errors import UserError
from awpf_ext.finetuning.build import build_trainable
from awpf_ext.finetuning.joint_backward import joint_backward
from awpf_ext.finetuning.trainable_config import TrainableConfig
from awpf_ext.lora import merge
from awpf_ext.lora.adapter_writer import write_adapter


def made(tiny, seed=0, **settings):
    clip, text = tiny
    generator = torch.Generator().manual_seed(seed)
    return build_trainable(
        TrainableConfig(train="lora", **settings), text, clip, generator=generator
    )


def frozen_rows(clip, x, model=None):
    """Embeddings of images and of each first prompt, by open_clip alone."""
    model = clip.backbone.model if model is None else model
    with torch.no_grad():
        images = model.encode_image(clip.backbone.pixels(x))
        return normalize(images, dim=-1), normalize(model.encode_text(clip.tokens[:, 0]), dim=-1)


def test_it_starts_as_the_frozen_clip(tiny):
    trainable, (_, text) = made(tiny), tiny
    x, _ = batch("images")
    torch.testing.assert_close(trainable.embed(x), frozen_rows(tiny[0], x)[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(trainable.texts(range(4)), text, rtol=0, atol=1e-6)


def test_every_factor_has_a_gradient_and_changes_the_output(tiny):
    trainable = with_factors(made(tiny))
    x, labels = batch("images")
    joint_backward(trainable, x, range(4), contrastive(labels))
    before = trainable.embed(x), trainable.texts(range(4))
    assert len(trainable.parameters()) == 2 * 2 * 3  # A and B, c_fc and c_proj, three blocks
    for name, parameter in trainable.named_parameters().items():
        assert parameter.grad.abs().max() > 1e-6, name
        shift = 0.1 * torch.randn_like(parameter)
        with torch.no_grad():
            parameter += shift
            changed = trainable.embed(x) if "visual" in name else trainable.texts(range(4))
            parameter -= shift
        assert (changed - before["visual" not in name]).abs().max() > 1e-4, name


def test_another_seed_starts_from_other_factors(tiny):
    first, second, third = (made(tiny, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], third[name]) for name in first if "lora_A" in name)


def test_models_share_the_frozen_tensors_and_leave_them_alone(tiny):
    """Runs of a sweep share one backbone."""
    clip = tiny[0]
    before = copy.deepcopy(clip.backbone.model.state_dict())
    trainable = with_factors(made(tiny))
    own = {value.data_ptr() for value in trainable.network.parameters() if not value.requires_grad}
    assert own == {value.data_ptr() for value in clip.backbone.model.parameters()}
    x, labels = batch("images")
    joint_backward(trainable, x, range(4), contrastive(labels))
    after = clip.backbone.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_peft_it_says_so(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'train=lora needs PEFT.*pip install "awpf_ext\[lora\]"'):
        made(tiny)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_rank": 3, "lora_alpha": 5, "use_rslora": True},
        {"lora_targets": ("conv1", "token_embedding", "c_fc")},
    ],
)
def test_peft_reads_the_adapter_back(settings, tiny, tmp_path):
    clip = tiny[0]
    trainable = with_factors(made(tiny, **settings))
    write_adapter(tmp_path / "adapter", trainable.to_adapter())
    model = peft.PeftModel.from_pretrained(copy.deepcopy(clip.backbone.model), tmp_path / "adapter")
    x, _ = batch("images")
    images, prompts = frozen_rows(clip, x, model.base_model.model)
    assert (images - frozen_rows(clip, x)[0]).abs().max() > 1e-2
    torch.testing.assert_close(trainable.embed(x), images, rtol=0, atol=1e-6)
    _, found = trainable.network(None, clip.tokens[:, 0])
    torch.testing.assert_close(found, prompts, rtol=0, atol=1e-6)


def test_our_merge_reads_it_and_knows_another_backbone(tiny, tmp_path):
    write_adapter(tmp_path / "one", with_factors(made(tiny)).to_adapter())
    other = with_factors(made(tiny), seed=2).to_adapter()
    write_adapter(tmp_path / "two", other)
    merged = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "merged", method="stack")
    assert {layer.rank for layer in merged.layers} == {16}
    assert merged.base_model == "open_clip:tiny:random:3"
    write_adapter(tmp_path / "else", other._replace(config={**other.config, "revision": "0"}))
    with pytest.raises(UserError, match="differ in revision"):
        merge([tmp_path / "one", tmp_path / "else"], tmp_path / "wrong")


def test_a_state_and_given_tensors_have_the_names_of_the_file(tiny):
    trainable, other = made(tiny), with_factors(made(tiny))
    x, labels = batch("images")
    assert trainable.state_dict().keys() == other.to_adapter().tensors.keys()
    given = {name: value.requires_grad_() for name, value in other.state_dict().items()}
    images, texts = trainable.embed(x, given), trainable.texts(range(4), given)
    assert torch.equal(images, other.embed(x))
    contrastive(labels)(images, texts).backward()
    joint_backward(other, x, range(4), contrastive(labels))
    for name, parameter in other.named_parameters().items():
        torch.testing.assert_close(given[name].grad, parameter.grad, rtol=1e-4, atol=1e-5)
    trainable.load_state_dict(other.state_dict())
    assert torch.equal(trainable.embed(x), other.embed(x))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_some_layers_of_one_tower_alone(micro_batch, tiny):
    targets = ("resblocks.1.mlp.c_fc",)
    trainable = with_factors(made(tiny, lora_targets=targets, micro_batch=micro_batch))
    assert sorted(trainable.state_dict()) == [
        f"base_model.model.visual.transformer.resblocks.1.mlp.c_fc.lora_{side}.weight"
        for side in "AB"
    ]
    x, labels = batch("images")
    joint_backward(trainable, x, range(4), contrastive(labels))
    assert all(parameter.grad.any() for parameter in trainable.parameters())


@pytest.mark.parametrize("target", ["attn", "out_proj"])
def test_factors_that_would_not_do_what_they_say_are_refused(target, tiny):
    with pytest.raises(UserError, match=r"attn.*belongs to torch's MultiheadAttention"):
        made(tiny, lora_targets=(target,))


def other_clip(tmp_path, name, vision):
    """A model of open_clip's other architectures, prompted for two classes."""
    config = json.loads((Path(__file__).parents[1] / "clip" / "tiny.json").read_text())
    (tmp_path / f"{name}.json").write_text(json.dumps({**config, "vision_cfg": vision}))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    backbone = load_backbone(name, "random:0")
    clip = prompted_clip(backbone, ["cat", "dog"], ["a {}"])
    return clip, class_texts(backbone, ["cat", "dog"], ["a {}"])


def test_a_tower_of_convolutions_needs_targets(tmp_path):
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    clip = other_clip(tmp_path, "tiny-resnet", vision)
    with pytest.raises(UserError, match="tower of tiny-resnet has no linear layers"):
        made(clip)
    trainable = made(clip, lora_targets=("conv2", "c_fc"))
    assert any(name.startswith("base_model.model.visual.layer4") for name in trainable.state_dict())


def test_blocks_that_open_clip_cannot_checkpoint_are_refused(tmp_path):
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    clip = other_clip(tmp_path, "tiny-custom", {**vision, "qk_norm": True})
    for train in ("lora", "full"):
        with pytest.raises(UserError, match="open_clip cannot do it for tiny-custom"):
            build_trainable(TrainableConfig(train=train, checkpointing=True), clip[1], clip[0])


def test_linear_attention_layers_have_factors_too(tmp_path):
    """Of open_clip's own attention, which calls its output layer, but not of torch's beside it."""
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    trainable = made(other_clip(tmp_path, "tiny-custom", {**vision, "qk_norm": True}))
    layers = {name.split(".lora_")[0].split("resblocks.")[1] for name in trainable.state_dict()}
    assert layers == {"0.attn.out_proj", "0.mlp.c_fc", "0.mlp.c_proj"}
    assert not any("out_proj" in name and "visual" not in name for name in trainable.state_dict())


@pytest.mark.parametrize("target", ["c_cf", "ln_1"])
def test_targets_that_are_no_layers_are_refused(target, tiny):
    with pytest.raises(UserError, match=rf"lora_targets is \['{target}'\]"):
        made(tiny, lora_targets=(target,))


def test_the_adapters_config_is_json(tiny):
    config = made(tiny).to_adapter().config
    assert json.loads(json.dumps(config)) == config
    assert config["target_modules"] == ["c_fc", "c_proj"]
