"""Backbones: repeatable, frozen, preprocessed as open_clip does, offline without surprises."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from awpf_ext.clip import load_backbone, weights
from awpf_ext.errors import DataError, OfflineError, UserError


@pytest.fixture(scope="module")
def tiny():
    return load_backbone("tiny", "random:3")


def random_images(count: int) -> list[Image.Image]:
    sizes = [(40, 57), (31, 20), (32, 32)]
    return [
        Image.fromarray(np.random.randint(0, 256, (*sizes[i % 3], 3), dtype=np.uint8))
        for i in range(count)
    ]


def prepared(backbone, images):
    return torch.from_numpy(np.stack([backbone.prepare(image) for image in images]))


def test_importing_the_package_leaves_the_heavy_libraries_alone():
    script = (
        "import sys, awpf_ext.clip, awpf_ext.data; "
        "print([m for m in ('open_clip', 'torchvision', 'timm', 'huggingface_hub') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_features_equal_those_of_open_clips_own_transform(tiny):
    images = random_images(6)
    transform = open_clip.image_transform(32, is_train=False)
    expected = tiny.model.encode_image(torch.stack([transform(image) for image in images]))
    assert torch.equal(tiny.encode_images(prepared(tiny, images)), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_are_prepared(tiny, mode):
    image = random_images(1)[0].convert(mode)
    assert tiny.prepare(image).shape == (32, 32, 3)


def test_random_weights_depend_on_their_seed_alone(tiny):
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    again = load_backbone("tiny", "random:3")
    other = load_backbone("tiny", "random:4")
    assert torch.initial_seed() == 99  # the caller's generator is untouched
    torch.random.set_rng_state(state)
    assert again.weights_hash == tiny.weights_hash != other.weights_hash
    assert (
        load_backbone("tiny", None).weights_hash == load_backbone("tiny", "random:0").weights_hash
    )


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.float32)])
def test_lower_precision_is_close_and_the_same_weights(tiny, precision, dtype):
    low = load_backbone("tiny", "random:3", precision=precision)
    images = random_images(4)
    features = low.encode_images(prepared(low, images))
    reference = tiny.encode_images(prepared(tiny, images))
    assert features.dtype == dtype
    assert torch.nn.functional.cosine_similarity(features.float(), reference).min() > 0.99
    assert low.weights_hash == tiny.weights_hash
    assert low.provenance != tiny.provenance


def test_features_carry_no_gradient_but_can_be_trained_on(tiny):
    features = tiny.encode_images(prepared(tiny, random_images(2)))
    layer = torch.nn.Linear(16, 2)
    layer(features).sum().backward()
    assert not any(p.requires_grad for p in tiny.model.parameters())
    assert not tiny.model.training


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_local_checkpoint_gives_the_model_it_was_saved_from(tiny, kind, tmp_path):
    path = tmp_path / f"weights.{kind}"
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    local = load_backbone("tiny", str(path))
    assert local.weights_hash == tiny.weights_hash
    assert local.pretrained == f"weights.{kind}"  # no folder of this machine in a result


def test_a_file_that_is_no_checkpoint_is_refused(tiny, tmp_path):
    (tmp_path / "words.pt").write_text("not weights")
    with pytest.raises(DataError, match=r"words\.pt as weights of tiny"):
        load_backbone("tiny", str(tmp_path / "words.pt"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors as weights of tiny"):
        load_backbone("tiny", str(tmp_path / "other.safetensors"))


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(DataError):
        load_backbone("tiny", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B16", None), "did you mean 'ViT-B-16'"),
        (("ViT-B-16", "openay"), "did you mean 'openai'"),
        (("tiny", "openai"), "open_clip has no weights for this model"),
        (("tiny", "random:many"), "random:SEED"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(arguments, message):
    with pytest.raises(UserError, match=message):
        load_backbone(*arguments)


def test_a_cached_file_that_cannot_be_renewed_is_an_offline_error(tmp_path, monkeypatch):
    """open_clip finds the hash wrong and tries to fetch the file again."""
    tag = {"url": "http://127.0.0.1:9/openaipublic/0123/tiny.pt"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, name: tag)
    (tmp_path / "tiny.pt").write_text("cut off")
    with (
        pytest.warns(UserWarning, match="checksum does not match"),
        pytest.raises(OfflineError, match="'old' of tiny"),
    ):
        load_backbone("tiny", "old", cache_dir=tmp_path)


def test_a_model_that_cannot_be_built_is_an_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("needs transformers")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    with pytest.raises(UserError, match="cannot build tiny: needs transformers"):
        load_backbone("tiny", "random:0")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="expected one of fp32, bf16, fp16"):
        load_backbone("tiny", None, precision="int8")


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b88k"])
def test_offline_says_tag_cache_and_ways_out(tag, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError) as error:
        load_backbone("ViT-B-16", tag, cache_dir=tmp_path)
    for part in (tag, str(tmp_path), "pretrained=PATH", "features:FILE.npz"):
        assert part in str(error.value)


def test_no_connection_is_found_out_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_unreachable", lambda url: f"no connection to {url}")
    with pytest.raises(OfflineError, match="no connection to http"):
        load_backbone("ViT-B-16", "openai", cache_dir=tmp_path)
    assert weights._hub_cached("a/b/", tmp_path)[0] is None


def test_cached_weights_are_used_without_the_network(tiny, tmp_path, monkeypatch):
    """A tag's file in the hub's cache is found offline, with the tag's activation and pixels."""
    tag = {
        "hf_hub": "someone/tiny-clip/",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "quick_gelu": True,
    }
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, name: tag)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = tmp_path / "models--someone--tiny-clip"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    save_file(state, snapshot / "open_clip_model.safetensors")
    backbone = load_backbone("tiny", "some-tag", cache_dir=tmp_path)
    assert backbone.weights_hash == tiny.weights_hash
    assert backbone.provenance["quick_gelu"] is True
    assert backbone.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert backbone.preprocessing["resize_mode"] == "squash"
    images = prepared(backbone, random_images(2))
    assert not torch.equal(backbone.encode_images(images), tiny.encode_images(images))


def test_a_file_gets_the_settings_of_a_tag(tiny, tmp_path, monkeypatch):
    tag = {"url": "none", "mean": (0.5,) * 3, "std": (0.25,) * 3, "quick_gelu": True}
    known = {("tiny", "some-tag"): tag}
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda model, name: known.get((model, name), {})
    )
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    save_file(state, tmp_path / "tuned.safetensors")
    backbone = load_backbone("tiny", f"some-tag@{tmp_path / 'tuned.safetensors'}")
    assert backbone.weights_hash == tiny.weights_hash
    assert (backbone.pretrained, backbone.quick_gelu) == ("some-tag@tuned.safetensors", True)
    assert backbone.preprocessing["mean"] == [0.5, 0.5, 0.5]
    assert load_backbone("tiny", str(tmp_path / "tuned.safetensors")).quick_gelu is False
    for wrong in ("other@tuned.safetensors", "some-tag@none.safetensors"):
        with pytest.raises(UserError, match="is neither a file nor a tag of tiny"):
            load_backbone("tiny", wrong.replace("@t", f"@{tmp_path}/t"))


def test_weights_of_another_model_are_refused_with_a_key(tiny, tmp_path):
    state = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    del state["visual.proj"], state["ln_final.weight"]
    save_file(state, tmp_path / "less.safetensors")
    words = r"for CLIP: Missing key\(s\) in state_dict: \"visual.proj\" \(expected"
    with pytest.raises(DataError, match=words):
        load_backbone("tiny", str(tmp_path / "less.safetensors"))


def test_loading_says_nothing_on_the_root_logger(caplog):
    with caplog.at_level(logging.WARNING):
        load_backbone("tiny", "random:1")
    assert not caplog.records
    assert logging.getLogger().level <= logging.WARNING
