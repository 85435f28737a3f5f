"""LoRAs per task: trained alone, merged or fused, kept as adapters, taken from another run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("peft", reason='needs the extra "lora"')

from lora_runs import BOTH, differing, run, settings_of
from tiny_images import tiny_features, tiny_stream

from awpf_ext.data import task_stream
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora import merge
from awpf_ext.lora.adapter_reader import open_adapter
from awpf_ext.methods import create_method
from awpf_ext.runs.trainer import train


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def features():
    return tiny_features()


@pytest.fixture(scope="module")
def kept(features, tmp_path_factory):
    """The folder of a finished run, and its method."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("kept") / "run"
    return folder, run("lora_merge", tiny_stream(features), folder=folder)[1]


def test_a_lora_learns_its_own_classes(features):
    stream = tiny_stream(features)
    settings = {"epochs": 15, "learning_rate": 5e-3, "fusion": "linear"}
    learned, _ = run("lora_merge", stream, settings)
    zero_shot = train(stream, create_method("zero_shot", stream))
    assert learned.accuracy_matrix[0][0] > zero_shot.accuracy_matrix[0][0] + 0.2


def test_loras_do_not_depend_on_the_fusion_or_on_tasks_before(features):
    stream = tiny_stream(features)
    first, second = (run(name, stream)[1] for name in BOTH)
    assert first.loras.keys() == second.loras.keys() == {0, 1}
    for task in (0, 1):
        assert differing(first.loras[task], second.loras[task]) == []
    alone = create_method("lora_merge", stream, settings_of("lora_merge"), seed=3)
    alone.seen = 2
    alone.fit(stream[1])
    assert differing(alone.loras[1], first.loras[1]) == []
    other = run("lora_merge", stream, seed=4)[1]
    assert differing(other.loras[1], first.loras[1])


@pytest.mark.parametrize("protocol", ["class", "domain"])
@pytest.mark.parametrize("name", BOTH)
def test_one_lora_is_its_own_fusion(name, protocol, features):
    stream = tiny_stream(features, protocol)
    method = create_method(name, stream, settings_of(name), seed=3)
    method.fit(stream[0])
    x = stream.test_images(0)[:]
    own = method.trainable.embed(x, method.loras[0])
    torch.testing.assert_close(method.embed(x), own.detach())
    method.fit(stream[1])
    assert not torch.allclose(method.embed(x), own)


def test_sums_agree_whichever_way_they_are_merged(features, kept):
    """linear and stack are one function, and svd and ties too where nothing is cut or trimmed."""
    stream = tiny_stream(features)
    x = stream.test_images(1)[:]

    def embedded(**settings):
        settings = {"adapters": str(kept[0]), **settings}
        return run("lora_merge", stream, settings)[1].embed(x)

    linear = embedded(fusion="linear")
    for others in ({"fusion": "stack"}, {"fusion": "svd", "rank": 4}):
        torch.testing.assert_close(embedded(**others), linear, atol=1e-5, rtol=0)
    average = embedded(fusion="average")
    assert (average - linear).norm() > 1e-3
    torch.testing.assert_close(embedded(fusion="linear", weight=0.5), average, atol=1e-5, rtol=0)


def test_all_fusions_work_and_differ(features, kept):
    stream = tiny_stream(features)
    fields = type(kept[1].config).model_fields["fusion"].annotation
    found = []
    for fusion in fields.__args__:
        density = (
            {"density": 0.5} if fusion in ("dare_linear", "dare_ties", "magnitude_prune") else {}
        )
        settings = {"adapters": str(kept[0]), "fusion": fusion, **density}
        method = run("lora_merge", stream, settings)[1]
        found.append(method.embed(stream.test_images(1)[:1]))
        assert bool(found[-1].isfinite().all())
    same = [torch.allclose(found[0], other, atol=1e-6) for other in found[1:]]
    assert not any(same)


@pytest.mark.parametrize("name", BOTH)
def test_a_resumed_run_equals_an_uninterrupted_one(name, features, tmp_path):
    stream = task_stream(features, increment=1, order="seed:1")
    assert len(stream) == 4
    result, method = run(name, stream, folder=tmp_path / "run")
    (tmp_path / "run" / "task_0003.json").unlink()
    again, other = run(name, stream, folder=tmp_path / "run", resume=True)
    assert result.accuracy_matrix == again.accuracy_matrix
    assert differing(method.state_dict(), other.state_dict()) == []


@pytest.mark.parametrize("name", BOTH)
def test_what_an_export_keeps_is_enough_to_predict(name, features):
    stream = tiny_stream(features)
    _, method = run(name, stream)
    learned = method.learned_state()
    fresh = create_method(name, stream, settings_of(name), seed=9)
    fresh.load_state_dict(learned)
    x = stream.test_images(1)[:]
    assert torch.equal(fresh.logits(x), method.logits(x))
    assert sum(value.nbytes for value in learned.values()) < 20_000
    assert not any("lora.0" in key for key in learned)


class TestAdapters:
    def test_a_run_keeps_an_adapter_a_task_that_merge_takes(self, kept, tmp_path):
        folder, method = kept
        folders = sorted((folder / "adapters").iterdir())
        assert [path.name for path in folders] == ["task_0000", "task_0001"]
        for task, path in enumerate(folders):
            with open_adapter(path) as adapter:
                for name, tensor in method.loras[task].items():
                    assert torch.equal(adapter.read(name), tensor)
        report = merge(folders, tmp_path / "out", method="icm")
        assert len(report.layers) == len(method.loras[0]) // 2

    def test_taken_adapters_give_the_same_run_without_training(self, features, kept, monkeypatch):
        folder, method = kept
        stream = tiny_stream(features)
        again = create_method(
            "lora_merge", stream, settings_of("lora_merge", {"adapters": str(folder)}), seed=8
        )
        monkeypatch.setattr(again, "train", None)
        train(stream, again)
        assert differing(again.fused, method.fused) == []
        assert again.adapters() == {}

    @pytest.mark.parametrize("name", BOTH)
    def test_what_was_made_of_them_outlives_their_folder(self, name, features, copy):
        stream = tiny_stream(features)
        method = run(name, stream, {"adapters": str(copy)})[1]
        shutil.rmtree(copy)
        fresh = create_method(name, stream, settings_of(name, {"adapters": str(copy)}), seed=3)
        learned = method.learned_state()
        fresh.load_state_dict(learned)
        x = stream.test_images(1)[:]
        assert torch.equal(fresh.logits(x), method.logits(x))

    def refused(self, features, folder, match, error=UserError, settings=None, stream=None):
        stream = stream or tiny_stream(features)
        given = settings_of("lora_merge", {"adapters": str(folder), **(settings or {})})
        with pytest.raises(error, match=match):
            train(stream, create_method("lora_merge", stream, given, seed=3))

    @pytest.fixture
    def copy(self, kept, tmp_path):
        return shutil.copytree(kept[0], tmp_path / "copy")

    def test_no_run(self, features, tmp_path):
        self.refused(features, tmp_path, "has no folder adapters; expected the folder of a run")

    def test_a_task_that_is_missing(self, features, copy):
        shutil.rmtree(copy / "adapters" / "task_0001")
        self.refused(features, copy, "there is no folder .*task_0001")

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"lora_rank": 3}, "has r 2; expected 3"),
            ({"lora_alpha": 5}, "has lora_alpha"),
            ({"lora_targets": ("c_fc",)}, "has target_modules"),
        ],
    )
    def test_loras_of_another_kind(self, settings, match, features, copy):
        self.refused(features, copy, match, settings=settings)

    def test_loras_of_other_weights(self, features, copy):
        path = copy / "adapters" / "task_0000" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "revision": "0" * 16}))
        self.refused(features, copy, "has revision '0000")

    def test_loras_of_other_tasks(self, features, copy):
        self.refused(
            features,
            copy,
            "was trained with different classes; expected a run with the same data",
            stream=tiny_stream(features, "domain"),
        )

    def test_loras_of_other_images(self, features, copy):
        path = copy / "adapters" / "task_0001" / "training.json"
        facts = json.loads(path.read_text())
        facts["mean_features"][3] += 0.01
        path.write_text(json.dumps(facts))
        self.refused(features, copy, "different mean_features; expected a run with the same data")
        path.write_text(json.dumps({**facts, "mean_features": ["x"] * len(facts["mean_features"])}))
        self.refused(features, copy, "with different mean_features")
        path.write_text("[]")
        self.refused(features, copy, "holds a list", DataError)
        path.unlink()
        self.refused(features, copy, "has no training.json")

    def test_a_file_cut_short(self, features, copy):
        path = copy / "adapters" / "task_0000" / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(features, copy, "cannot read .*adapter_model.safetensors", DataError)
