"""The fine-tuning methods: what they learn, keep and resume."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("open_clip", reason="needs open_clip_torch")

from finetuning_runs import QUICK, run
from tiny_images import tiny_features, tiny_stream

from awpf_ext import io
from awpf_ext.errors import UserError
from awpf_ext.finetuning.task_samples import TaskSamples
from awpf_ext.methods import METHODS, create_method
from awpf_ext.runs.trainer import train

FINETUNING = ["replay_ce", "replay_clip", "gcl", "gdro"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors as small as these are done before a second thread has woken up."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def features():
    return tiny_features()


def assert_same(first, second):
    """Bit for bit: results and states."""
    (result, method), (other_result, other) = first, second
    assert result.accuracy_matrix == other_result.accuracy_matrix
    state, other_state = method.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert [key for key in state if not torch.equal(state[key], other_state[key])] == []


@pytest.mark.parametrize("name", FINETUNING)
def test_learning_beats_zero_shot_on_shifted_classes(name, make_stream):
    """The adapter form, on features alone; of so few dimensions that much is left to learn."""
    stream = make_stream(train=20, test=20, classes=20, increment=5, dim=10)
    settings = {"train": "adapter", "epochs": 15, "buffer": 400, "learning_rate": 5e-3}
    learned, _ = run(name, stream, {**settings, "batch_size": 64})
    zero_shot = train(stream, create_method("zero_shot", stream))
    assert learned.last > zero_shot.last


@pytest.mark.parametrize(
    ("name", "protocol"), [*((name, "class") for name in FINETUNING), ("gdro", "domain")]
)
def test_the_whole_clip_learns_images(name, protocol, features):
    """Colours tell the classes apart: two tasks suffice, and the first is not forgotten."""
    stream = tiny_stream(features, protocol)
    settings = {"epochs": 12, "buffer": 20, "learning_rate": 5e-4}
    result, method = run(name, stream, settings)
    zero_shot = train(stream, create_method("zero_shot", stream))
    assert method.inputs == "images"
    assert result.last > 0.45 > zero_shot.last + 0.2
    assert (method.texts(4) - stream.text).norm() > 0.01  # the text tower moved too


def test_a_buffer_keeps_what_would_be_forgotten(make_stream):
    stream = make_stream(train=20, test=20, classes=12, increment=3, dim=8)
    settings = {"train": "adapter", "epochs": 30, "batch_size": 32, "learning_rate": 1e-2}
    without, with_buffer = (
        run("replay_ce", stream, {**settings, "buffer": size})[0] for size in (0, 120)
    )
    assert with_buffer.last > without.last
    assert with_buffer.forgetting < without.forgetting
    assert [r["samples"] for r in with_buffer.records] == [60, 120, 117, 120]
    assert not without.records


@pytest.mark.parametrize("form", ["references", "png"])
@pytest.mark.parametrize("name", FINETUNING)
def test_a_resumed_run_equals_an_uninterrupted_one(name, form, features, tmp_path):
    stream = tiny_stream(features)
    settings = {"buffer_format": form, **({"gamma_epochs": 0} if name in ("gcl", "gdro") else {})}
    whole = run(name, stream, settings, tmp_path / "run")
    (tmp_path / "run" / "task_0001.json").unlink()
    assert_same(run(name, stream, settings, tmp_path / "run", resume=True), whole)


def test_a_run_that_is_out_of_memory_goes_on_with_smaller_parts(features, tmp_path):
    stream = tiny_stream(features)
    whole = run("gcl", stream, {"micro_batch": 6}, tmp_path / "run")
    (tmp_path / "run" / "task_0001.json").unlink()
    with pytest.warns(UserWarning, match="started with micro_batch 6 and continues with 2"):
        parts = run("gcl", stream, {"micro_batch": 2}, tmp_path / "run", resume=True)
    x = stream.test_images(1)[:]
    torch.testing.assert_close(parts[1].embed(x), whole[1].embed(x), atol=1e-3, rtol=0)


def test_lossless_copies_equal_references(features):
    stream = tiny_stream(features, "domain")
    references, copies = (
        run("gcl", stream, {"buffer_format": form}) for form in ("references", "png")
    )
    assert references[0].accuracy_matrix == copies[0].accuracy_matrix
    ours, others = references[1].trainable.state_dict(), copies[1].trainable.state_dict()
    assert all(torch.equal(ours[key], others[key]) for key in ours)
    assert copies[1].buffer.bytes > 0 == references[1].buffer.bytes


def test_copies_are_not_read_from_the_data_again(features, monkeypatch):
    """The second task must not touch the first one's images."""
    stream = tiny_stream(features)
    method = create_method("replay_ce", stream, {**QUICK, "buffer_format": "png"})
    method.fit(stream[0])
    asked = []
    by_id = TaskSamples.by_id

    def watched(self, parts):
        asked.extend(parts := list(parts))
        return by_id(self, parts)

    monkeypatch.setattr(TaskSamples, "by_id", watched)
    method.fit(stream[1])
    assert set(torch.cat(asked).tolist()) == set(stream[1].train_ids.tolist())


def test_only_the_averages_of_buffered_samples_are_kept(features):
    _, method = run("gcl", tiny_stream(features))
    kept = method.state_dict()["gcl.ids"]
    assert kept.tolist() == method.buffer.ids.sort().values.tolist()


def test_averages_of_earlier_tasks_count_where_gamma_does_not_start_at_one(features):
    """With gamma_epochs=0 a buffered sample goes on from its estimate."""
    stream = tiny_stream(features)
    method = create_method("gcl", stream, {**QUICK, "gamma_epochs": 0})
    method.fit(stream[0])
    forgetful = create_method("gcl", stream, {**QUICK, "gamma_epochs": 0})
    forgetful.load_state_dict(method.state_dict())
    forgetful.averages.keep(torch.empty(0, dtype=torch.int64))
    for learner in (method, forgetful):
        learner.fit(stream[1])
    ours, others = method.trainable.state_dict(), forgetful.trainable.state_dict()
    assert any(not torch.equal(ours[key], others[key]) for key in ours)


@pytest.mark.parametrize("name", ["replay_ce", "replay_clip", "gcl"])
def test_class_balance_changes_nothing_where_classes_are_balanced(name, features):
    stream = tiny_stream(features, "domain")
    settings = {"batch_size": 1000, "buffer": 20}
    plain, balanced = (
        run(name, stream, {**settings, "class_balance": value})[1].trainable.state_dict()
        for value in (False, True)
    )
    for key, tensor in plain.items():
        torch.testing.assert_close(balanced[key], tensor, rtol=1e-3, atol=1e-4)


def test_batches_have_equal_sizes(features, monkeypatch):
    stream = tiny_stream(features)  # 20 samples in the first task
    sizes = []
    method = create_method("replay_ce", stream, {**QUICK, "epochs": 1, "batch_size": 9})
    plain = type(method).sample_losses

    def watched(self, images, texts, batch):
        sizes.append(len(images))
        return plain(self, images, texts, batch)

    monkeypatch.setattr(type(method), "sample_losses", watched)
    method.fit(stream[0])
    assert sizes == [7, 7, 6]


@pytest.mark.parametrize("which", ["buffer", "all"])
def test_augmented_images_are_those_of_the_buffer_or_all(which, features, monkeypatch):
    stream = tiny_stream(features)
    method = create_method("replay_ce", stream, {**QUICK, "augmentation": which})
    method.fit(stream[0])
    moved = []
    monkeypatch.setattr(
        "awpf_ext.finetuning.augmentation.augmented",
        lambda images, drawn: moved.append(len(images)) or images,
    )
    method.fit(stream[1])
    buffered, new = 6, len(stream[1])
    assert sum(moved) == QUICK["epochs"] * (buffered + (new if which == "all" else 0))


def test_augmentation_needs_images():
    with pytest.raises(ValueError, match="augmentation is buffer; expected none with train=adapt"):
        METHODS["gcl"].Config(train="adapter", augmentation="buffer")


def test_texts_of_classes_to_come_are_at_hand(features):
    stream = tiny_stream(features)
    method = create_method("replay_ce", stream, QUICK)
    method.fit(stream[0])
    x = stream.test_images(0)[:]
    torch.testing.assert_close(method.logits(x, 4)[:, :2], method.logits(x, 2))
    assert not method.logits(x).requires_grad


@pytest.mark.parametrize("name", FINETUNING)
def test_what_an_export_keeps_predicts_the_same(name, features):
    stream = tiny_stream(features)
    _, method = run(name, stream)
    x = stream.test_images(1)[:]
    kept = method.learned_state()
    assert {key.split(".")[0] for key in kept} == {"seen", "trainable"}
    again = create_method(name, stream, QUICK)
    again.load_state_dict(kept)
    torch.testing.assert_close(again.logits(x), method.logits(x), rtol=0, atol=0)


def test_a_lora_is_kept_after_each_task(features, tmp_path):
    pytest.importorskip("peft", reason='needs the extra "lora"')
    settings = {"train": "lora", "lora_rank": 2}
    _, method = run("gcl", tiny_stream(features), settings, tmp_path)
    names = ["after_task_0000", "after_task_0001"]
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == names
    kept, _ = io.load_tensors(tmp_path / "adapters" / names[1] / "adapter_model.safetensors")
    for key, tensor in method.trainable.state_dict().items():
        assert torch.equal(kept[key], tensor)


def test_a_run_keeps_two_states(make_stream, tmp_path):
    run("replay_ce", make_stream(), {"train": "adapter"}, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run").glob("task_*.safetensors"))
    assert kept == ["task_0002.safetensors", "task_0003.safetensors"]


def test_features_alone_do_not_train_a_tower(make_stream):
    with pytest.raises(UserError, match="trains CLIP itself"):
        create_method("gcl", make_stream())
