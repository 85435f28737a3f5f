"""ICM-Fusion as a method: population, fusion, records, and LoRAs from another run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("peft", reason='needs the extra "lora"')

from lora_runs import BOTH, differing, run, settings_of
from tiny_images import tiny_features, tiny_stream

from awpf_ext import io
from awpf_ext.errors import DataError, UserError
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


@pytest.fixture(scope="module")
def kept_population(features, tmp_path_factory):
    """The folder of a finished run of icm_fusion."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("population") / "run"
    run("icm_fusion", tiny_stream(features), folder=folder)
    return folder


class TestIcmFusion:
    def record(self, result):
        (record,) = [r for r in result.records if r["kind"] == "icm_fusion"]
        return record

    def test_all_loras_of_a_run_have_one_a(self, features):
        for name in BOTH:
            method = run(name, tiny_stream(features))[1]
            for lora in method.loras.values():
                for key, tensor in lora.items():
                    assert torch.equal(tensor, method.start[key]) == ("lora_A" in key), key
        free = run("lora_merge", tiny_stream(features), {"freeze_a": False})[1]
        assert differing(free.loras[0], free.start) == list(free.start)

    def test_it_records_what_network_and_components_explain_of_held_out_loras(self, features):
        result, _ = run("icm_fusion", tiny_stream(features), {"latent": 3})
        record = self.record(result)
        assert (record["task"], record["tasks"], record["held_out"]) == (1, [0, 1], 2)
        assert record["latent"] == 3
        assert record["loras"] == len(record["codes"]) == 2 * 2 * 3  # tasks, LoRAs, states
        assert record["explained_logits"] is not None
        assert record["curve"][1]["components"] == 2
        assert len(record["losses"]) == 3
        assert len(record["refine_losses"]) == 2
        assert json.loads(json.dumps(result.tasks[1].to_json(), allow_nan=False))

    def test_a_population_is_trained_on_other_images_from_one_start(self, features):
        method = run("icm_fusion", tiny_stream(features))[1]
        loras = method.population.by_task[1].float()
        assert loras.shape == (3, 3, method.layout.size)
        own = method.layout.flatten(method.loras[1])
        torch.testing.assert_close(loras[0, -1], own, atol=1e-3, rtol=1e-2)
        last = loras[:, -1]
        assert torch.pdist(last).min() > 0.01 * last.norm(dim=1).min()
        between_states = (loras[:, 1:] - loras[:, :-1]).norm(dim=2)
        assert between_states.max() < torch.pdist(last).min()

    def test_loras_that_are_all_alike_are_fused(self, features):
        result, method = run("icm_fusion", tiny_stream(features), {"epochs": 0, "refine_steps": 0})
        assert self.record(result)["loras"] == 12
        assert json.loads(json.dumps(result.tasks[1].to_json(), allow_nan=False))
        assert differing(method.fused, method.start) == []

    def test_the_fusion_is_found_on_the_images_of_the_buffer(self, features, monkeypatch):
        stream = tiny_stream(features)
        method = create_method("icm_fusion", stream, settings_of("icm_fusion", {"buffer": 4}))
        method.fit(stream[0])
        method.collect(stream[1], lambda done, epochs: None)
        assert len(method.buffer) == 4
        read = set()
        images = type(stream[1].images)
        batches = images.batches

        def watched(self, parts, ahead=0):
            parts = list(parts)
            read.update(row for part in parts for row in part.tolist())
            return batches(self, parts, ahead)

        monkeypatch.setattr(images, "batches", watched)
        method.fuse(stream[1])
        assert read == set(method.buffer.ids.tolist())
        assert {method.task_of[one] for one in read} == {0, 1}

    def test_the_search_lowers_the_loss(self, features, kept_population):
        """All images are in every batch, so that losses can be compared."""
        settings = {"adapters": str(kept_population), "search_steps": 40, "image_batch": 50}
        settings |= {"tether": 0.0, "search_rate": 0.03}
        for space in ("network", "pca"):
            settings["search"] = space
            result, _ = run("icm_fusion", tiny_stream(features), settings)
            losses = self.record(result)["losses"]
            assert losses[-1] < losses[0] - 0.003

    def test_without_search_and_steps_it_is_the_average(self, features, kept):
        settings = {"adapters": str(kept[0]), "search": "none", "refine_steps": 0}
        stream = tiny_stream(features)
        found = run("icm_fusion", stream, settings)[1]
        average = run("lora_merge", stream, {"adapters": str(kept[0])})[1]
        x = stream.test_images(1)[:]
        torch.testing.assert_close(found.embed(x), average.embed(x), atol=1e-5, rtol=0)

    def test_a_population_on_disk_gives_the_same_result(self, features, tmp_path, monkeypatch):
        stream = tiny_stream(features)
        method = run("icm_fusion", stream, folder=tmp_path / "run")[1]
        settings = {"adapters": str(tmp_path / "run")}
        again = create_method("icm_fusion", stream, settings_of("icm_fusion", settings), seed=3)
        monkeypatch.setattr(again, "train", None)
        train(stream, again)
        assert differing(again.fused, method.fused) == []
        other = run("icm_fusion", stream, settings, seed=4)[1]
        assert differing(other.fused, method.fused)

    @pytest.mark.parametrize(
        "change",
        [
            {"search": "pca"},
            {"vae_steps": 0},
            {"tether": 10.0},
            {"refine_steps": 0},
            {"buffer": 2},
            {"components": 1},
        ],
    )
    def test_settings_change_the_fusion(self, change, features, kept_population):
        stream = tiny_stream(features)
        base = {"adapters": str(kept_population), "vae_learning_rate": 1e-2}
        usual, changed = (
            run("icm_fusion", stream, {**base, **given})[1].fused for given in ({}, change)
        )
        assert any(not torch.allclose(usual[key], changed[key], rtol=1e-4) for key in usual)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda loras: {"other": loras}, r"of shape None; expected \(LoRAs, states, \d+\)"),
            (lambda loras: {"population": loras[..., :-5]}, r"expected \(LoRAs, states, \d+\)"),
            (lambda loras: {"population": loras[0]}, r"expected \(LoRAs, states, \d+\)"),
            (lambda loras: {"population": loras.flip(-1)}, "first LoRA is not the one in its"),
            (lambda loras: {"population": loras / 0}, "numbers that are not finite"),
        ],
    )
    def test_a_population_that_does_not_fit_is_refused(
        self, change, message, features, kept_population, tmp_path
    ):
        shutil.copytree(kept_population, tmp_path / "run")
        file = tmp_path / "run" / "adapters" / "task_0001" / "population.safetensors"
        changed = change(io.load_tensors(file)[0]["population"])
        io.save_tensors(file, {name: one.contiguous() for name, one in changed.items()}, {})
        with pytest.raises(DataError, match=message):
            run("icm_fusion", tiny_stream(features), {"adapters": str(tmp_path / "run")})

    def test_a_task_without_images_adds_no_loras_to_the_run(self, features):
        stream = tiny_stream(features)
        method = create_method("icm_fusion", stream, settings_of("icm_fusion", {"epochs": 1}))
        method.fit(stream[0])
        assert set(method.task_block()) == {"task", "population"}
        assert list(method.adapters()) == ["task_0000"]
        empty = replace(stream[1], **{
            name: getattr(stream[1], name)[:0] for name in ("train_x", "train_y", "train_ids")
        })  # fmt: skip
        method.fit(empty)
        assert method.task_block() == {"task": torch.tensor(1)}
        assert method.adapters() == {}

    def test_loras_with_an_a_each_are_refused(self, features, tmp_path):
        run("lora_merge", tiny_stream(features), {"freeze_a": False}, folder=tmp_path / "free")
        with pytest.raises(
            UserError, match=r"LoRAs differ in .*lora_A.*expected a run with freeze_a"
        ):
            run("icm_fusion", tiny_stream(features), {"adapters": str(tmp_path / "free")})
