"""Models from runs and from exported files, and what they say of images and features."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from awpf_ext import io
from awpf_ext.data import read_features
from awpf_ext.errors import CheckpointError, DataError, UserError
from awpf_ext.runs.export import export_run, load_exported, load_model, load_run
from awpf_ext.runs.run import run

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason='needs the extra "lora"'
)


@pytest.fixture
def image_run(image_arguments, awpf, tmp_path):
    """A run on images that was learned to the end."""
    done = awpf("run", *image_arguments, "--set", "epochs=2", "--out=run")
    assert done.code == 0, done.err
    return tmp_path / "run"


@pytest.fixture
def images(image_run, tmp_path):
    return [tmp_path / "images" / "test" / name / "0.png" for name in ("犬", "a_cat", "äpfel")]


@pytest.fixture
def images_of_test(image_arguments, tmp_path):
    from PIL import Image

    return [Image.open(path) for path in sorted((tmp_path / "images" / "test").glob("*/*.png"))]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("zero_shot", {}),
        *((name, {"epochs": 2}) for name in ("naive", "joint", "finetune", "rapf", "awpf")),
        ("calfuse", {"epochs": 2}),
        *((name, {}) for name in ("ncm", "slda")),
        *((name, {"width": 30}) for name in ("klda", "ridge", "cca")),
    ],
)
def test_an_exported_model_classifies_as_its_run(method, settings, features_file, tmp_path):
    dataset = f"features:{features_file}"
    result = run(dataset=dataset, method=method, increment=2, out=tmp_path / "run", **settings)
    export_run(tmp_path / "run", tmp_path / "model.safetensors")
    exported, learned = load_exported(tmp_path / "model.safetensors"), load_run(tmp_path / "run")
    features = read_features(features_file)
    assert torch.equal(exported.logits(features.test_x), learned.logits(features.test_x))
    order = exported.facts["class_order"]
    assert exported.class_names == tuple(f"class {label}" for label in order)
    predicted = torch.tensor(order)[exported.logits(features.test_x).argmax(1)]
    assert float((predicted == features.test_y).float().mean()) == pytest.approx(result.last)
    sums = exported.probabilities(features.test_x.half()).sum(1)
    assert sums.tolist() == pytest.approx([1.0] * len(sums))


@pytest.mark.parametrize("head", ["none", "lda"])
def test_a_model_is_used_on_another_kind_of_device(head, features_file, tmp_path):
    """Its generators' states, as long as CUDA's here, do not fit the processor's generators."""
    run(dataset=f"features:{features_file}", increment=3, epochs=1, head=head, out=tmp_path / "run")
    x = read_features(features_file).test_x
    expected = load_model(tmp_path / "run").logits(x)
    file = tmp_path / "run" / "task_0001.safetensors"
    state, metadata = io.load_tensors(file)
    generators = [name for name in state if name.split(".")[-1] == "generator"]
    assert len(generators) == 2  # the method's and its partner's
    foreign = {name: torch.zeros(16, dtype=torch.uint8) for name in generators}
    io.save_tensors(file, {**state, **foreign}, metadata)
    assert torch.equal(load_model(tmp_path / "run").logits(x), expected)


def test_the_file_is_a_plain_safetensors_that_describes_itself(features_file, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    run(dataset=f"features:{features_file}", increment=2, epochs=1, out=tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "model.safetensors")
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    assert tensors["text"].shape == (6, 8)
    assert tensors["state.adapter"].shape == (8, 8)
    assert {"state.head.weight", "state.head.bias", "state.head.scales"} <= set(tensors)
    left_out = ("generator", "statistics", "partner", "held_out")
    assert not any(word in name for name in tensors for word in left_out)
    _, metadata = io.load_tensors(tmp_path / "model.safetensors")
    facts = json.loads(metadata["awpf_ext"])
    assert facts["method"] == "awpf"
    assert facts["settings"]["epochs"] == 1
    assert len(facts["class_names"]) == 6
    assert facts["logit_scale"] == 100
    assert facts["provenance"]["dataset"] == "features:clip.npz"


def test_an_unfinished_run_knows_the_classes_so_far(features_file, tmp_path, monkeypatch):
    def hook(name: str) -> None:
        if name == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    for stop in ("synced task_0000.json", "synced task_0002.json"):
        with pytest.raises(KeyboardInterrupt):
            run(
                dataset=f"features:{features_file}",
                increment=2,
                epochs=1,
                out=tmp_path / "run",
                resume=True,
            )
        if stop == "synced task_0000.json":
            with pytest.raises(UserError, match="has no finished task yet"):
                load_model(tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert len(model.class_names) == 4
    assert model.logits(torch.randn(3, 8)).shape == (3, 4)
    assert model.facts["tasks"] == 2


def test_files_that_are_no_export(tmp_path):
    io.save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(2)})
    with pytest.raises(DataError, match="is not a model that `awpf export` wrote"):
        load_exported(tmp_path / "other.safetensors")
    io.save_tensors(
        tmp_path / "new.safetensors", {"text": torch.zeros(2, 2)}, {"awpf_ext": '{"format": 99}'}
    )
    with pytest.raises(DataError, match="has export format 99; this version reads format 3"):
        load_exported(tmp_path / "new.safetensors")


def test_a_damaged_run_is_not_used(features_file, tmp_path):
    run(dataset=f"features:{features_file}", increment=2, epochs=1, out=tmp_path / "run")
    file = tmp_path / "run" / "class_texts.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="it is damaged"):
        load_model(tmp_path / "run")
    file.write_bytes(content)
    state = tmp_path / "run" / "task_0002.safetensors"
    state.write_bytes(state.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="damaged after 2 whole tasks"):
        load_model(tmp_path / "run")


def test_predict_says_the_same_of_a_run_and_of_its_export(image_run, images, awpf, tmp_path):
    exported = awpf("export", image_run, "model.safetensors")
    assert exported.code == 0
    assert exported.out.startswith("awpf after 2 tasks: 4 classes, accuracy ")
    by_run = awpf("predict", image_run, *images, "--json").json
    by_file = awpf("predict", "model.safetensors", *images, "--json").json
    assert by_run == by_file
    for image, prediction in zip(images, by_run["predictions"], strict=True):
        assert prediction["image"] == str(image)
        probabilities = [entry["probability"] for entry in prediction["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)  # all four classes
        labels = {c["name"]: c["label"] for c in prediction["classes"]}
        assert labels == {"Birnen": 0, "a cat": 1, "äpfel": 2, "犬": 3}


def test_predict_agrees_with_the_accuracy_of_the_run(image_run, awpf, tmp_path):
    images = sorted((tmp_path / "images" / "test").glob("*/*.png"))
    predictions = awpf("predict", image_run, *images, "--top=1", "--json").json["predictions"]
    names = [prediction["classes"][0]["name"].replace(" ", "_") for prediction in predictions]
    right = [name == image.parent.name for name, image in zip(names, images, strict=True)]
    assert np.mean(right) == io.read_json(image_run / "result.json")["last"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gcl", ["train=full"]),
        pytest.param("gcl", ["train=lora", "lora_rank=2"], marks=needs_peft),
        pytest.param("lora_merge", ["lora_rank=2"], marks=needs_peft),
    ],
)
def test_no_more_than_a_micro_batch_is_in_a_tower_from_training_to_predict(
    method, settings, image_arguments, awpf, tmp_path, monkeypatch
):
    """Evaluation and diagnostics too: they need no graph, but a tower's activations."""
    from awpf_ext.finetuning.towers import Towers

    forward, rows = Towers.forward, {"images": [], "prompts": []}

    def watched(self, images, tokens):
        for side, given in zip(rows, (images, tokens), strict=True):
            rows[side].append(0 if given is None else len(given))
        return forward(self, images, tokens)

    monkeypatch.setattr(Towers, "forward", watched)
    limited = [f"--set={setting}" for setting in (*settings, "epochs=1", "micro_batch=3")]
    prompts = ["--prompt=a {}", "--prompt=the {}"]
    done = awpf("run", *image_arguments, *prompts, f"--method={method}", *limited, "--out=run")
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "diagnostics.safetensors").exists()
    assert [max(side) for side in rows.values()] == [3, 3]
    before = len(rows["images"])
    images = sorted((tmp_path / "images" / "test").glob("*/*.png"))
    assert awpf("predict", "run", *images).code == 0
    assert [max(side[before:]) for side in rows.values()] == [3, 3]


def test_predict_prints_blocks_or_lines(image_run, images, awpf):
    blocks = awpf("predict", image_run, *images, "--top=2").out.splitlines()
    assert len(blocks) == 9
    assert blocks[0] == str(images[0])
    lines = awpf("predict", image_run, *images, "-k", 1).out.splitlines()
    assert [line.split()[0] for line in lines] == [str(image) for image in images]


def test_predict_names_images_it_cannot_read_and_goes_on(image_run, images, awpf, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    done = awpf("predict", image_run, "broken.png", images[0], "none.png", "--json")
    assert done.code == 3
    assert [("error" in prediction) for prediction in done.json["predictions"]] == [
        True,
        False,
        True,
    ]
    assert "error: cannot read broken.png: cannot identify image file" in done.err
    assert "error: cannot read none.png: No such file or directory" in done.err


def test_predict_refuses_another_backbone(image_run, images, awpf):
    done = awpf("predict", image_run, images[0], "--pretrained=random:1")
    assert done.code == 3
    assert "is not the backbone that this model was trained on: its weights_hash" in done.err


def test_predict_refuses_a_run_on_ready_made_features(features_file, awpf, quick_arguments):
    assert awpf("run", *quick_arguments, "--out=run").code == 0
    done = awpf("predict", "run", "a.png")
    assert done.code == 2
    assert "trained on features:clip.npz: the backbone of those features is not known" in done.err


def test_a_fine_tuned_clip_is_a_checkpoint_that_classifies_as_its_run(
    image_arguments, images_of_test, awpf, tmp_path
):
    from awpf_ext.clip import class_texts, load_backbone

    training = ["--method=replay_ce", "--set", "epochs=2", "--set", "learning_rate=0.01"]
    assert awpf("run", *image_arguments, *training, "--out=tuned").code == 0
    done = awpf("export", "tuned", "clip.safetensors", "--open-clip")
    assert done.code == 0, done.err
    learned = load_run("tuned")
    prepared = learned.method.clip.backbone.prepare
    x = torch.from_numpy(np.stack([prepared(image) for image in images_of_test]))
    backbone = load_backbone("tiny", "clip.safetensors")
    texts = class_texts(backbone, learned.class_names, learned.facts["provenance"]["prompt"])
    features = torch.nn.functional.normalize(backbone.encode_images(x), dim=-1)
    logits = learned.facts["logit_scale"] * features @ texts.T
    torch.testing.assert_close(logits, learned.logits(x), rtol=1e-4, atol=1e-4)
    changed = awpf("merge", "clip.safetensors", "clip.safetensors", "--base=clip.safetensors",
                   "--method=tsv", "-o", "merged", "--json")  # fmt: skip
    assert changed.code == 0, changed.err
    merged = load_backbone("tiny", "merged/open_clip_model.safetensors")
    assert merged.weights_hash == backbone.weights_hash
    assert awpf("export", "tuned", "model.safetensors").code == 0
    refused = awpf("merge", "model.safetensors", "--base=clip.safetensors", "-o", "no")
    assert refused.code == 2
    assert "export the CLIP in it with --open-clip" in refused.err


def test_a_frozen_clip_is_not_exported(image_run, awpf):
    done = awpf("export", image_run, "clip.safetensors", "--open-clip")
    assert done.code == 2
    assert "a run of awpf that leaves the towers of CLIP as they were; expected a run" in done.err
