"""The buffer: how much of what it keeps, at random, and through a saved state."""

from __future__ import annotations

import itertools

import pytest
import torch

from awpf_ext import io
from awpf_ext.errors import DataError
from awpf_ext.finetuning.buffer import Buffer

PIXELS = torch.randint(0, 256, (400, 6, 5, 3), generator=torch.Generator().manual_seed(1)).byte()


def filled(size, tasks, form="references", seed=0, read=PIXELS.__getitem__, after=None):
    """A buffer after tasks of (labels, classes seen); ids count on through the tasks."""
    buffer = Buffer(size, form)
    fill(buffer, tasks, torch.Generator().manual_seed(seed), 0, read, after)
    return buffer


def fill(buffer, tasks, generator, start, read=PIXELS.__getitem__, after=None):
    for labels, classes in tasks:
        ids = torch.arange(start, start + len(labels))
        buffer.update(ids, torch.tensor(labels, dtype=torch.int64), classes, generator, read)
        start += len(labels)
        if after is not None:
            after(buffer)


def by_task(per_class, tasks, classes=2):
    """Class-incremental: `classes` new ones a task."""
    return [
        (
            [c for c in range(t * classes, (t + 1) * classes) for _ in range(per_class)],
            (t + 1) * classes,
        )
        for t in range(tasks)
    ]


def test_every_class_has_the_same_share_and_only_shrinks():
    history = []

    def look(buffer):
        counts = torch.bincount(buffer.labels).tolist()
        history.append((counts, set(buffer.ids.tolist())))

    filled(22, by_task(10, 4), after=look)
    assert [counts for counts, _ in history] == [[10] * 2, [5] * 4, [3] * 6, [2] * 8]
    first = range(20)  # the ids of the first task
    for (_, before), (_, now) in itertools.pairwise(history):
        assert {i for i in now if i in first} <= before


def test_labels_stay_with_their_ids():
    tasks = by_task(10, 3)
    truth = torch.tensor([label for labels, _ in tasks for label in labels])
    buffer = filled(14, tasks)
    assert torch.equal(buffer.labels, truth[buffer.ids])


def test_fewer_places_than_classes_leave_classes_out_at_random():
    kept = torch.zeros(8)
    for seed in range(200):
        buffer = filled(3, by_task(4, 4), seed=seed)
        assert len(buffer) == 3 == len(buffer.labels.unique())
        kept[buffer.labels] += 1
    assert (kept / 200 - 3 / 8).abs().max() < 0.12  # 3.5 standard deviations


def test_a_share_is_spread_evenly_over_domains():
    domains = [(list(range(3)) * 10, 3)] * 4
    buffer = filled(36, domains)
    task_of = buffer.ids // 30
    for label in range(3):
        assert torch.bincount(task_of[buffer.labels == label], minlength=4).tolist() == [3] * 4


def test_a_share_smaller_than_the_domains_gives_each_the_same_chance():
    kept = torch.zeros(4)
    for seed in range(100):
        buffer = filled(6, [(list(range(6)) * 3, 6)] * 4, seed=seed)
        assert torch.bincount(buffer.labels).tolist() == [1] * 6
        kept += torch.bincount(buffer.ids // 18, minlength=4)
    assert (kept / 600 - 1 / 4).abs().max() < 0.06  # 3.4 standard deviations


def test_a_domain_that_lacks_samples_leaves_its_share_to_the_others():
    buffer = filled(8, [([0] * 2, 1), ([0] * 20, 1)])
    assert (buffer.ids < 2).sum() == 2
    assert len(buffer) == 8


def test_every_sample_of_a_class_is_as_likely():
    kept = torch.zeros(10)
    for seed in range(300):
        kept[filled(3, [([0] * 10, 1)], seed=seed).ids] += 1
    assert (kept / 300 - 0.3).abs().max() < 0.1


def test_no_size_and_no_samples_keep_nothing():
    assert len(filled(0, by_task(3, 2))) == 0
    assert len(filled(5, [([], 3)])) == 0


def test_images_are_copied_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("awpf_ext.finetuning.buffer.READ_AT_ONCE", 4)
    asked = []

    def read(ids):
        asked.append(len(ids))
        return PIXELS[ids]

    buffer = filled(9, by_task(6, 3), "png", read=read)
    assert max(asked) == 4
    assert torch.equal(buffer.read(torch.arange(len(buffer))), PIXELS[buffer.ids])


@pytest.mark.parametrize("form", ["references", "png", "jpeg"])
def test_a_restored_buffer_goes_on_as_if_nothing_had_happened(form, tmp_path):
    tasks = by_task(6, 3)
    whole = filled(9, tasks, form)
    generator = torch.Generator().manual_seed(0)
    half, again = Buffer(9, form), Buffer(9, form)
    fill(half, tasks[:2], generator, 0)
    io.save_tensors(tmp_path / "b.safetensors", half.state_dict(), {})
    again.load_state_dict(io.load_tensors(tmp_path / "b.safetensors")[0])
    fill(again, tasks[2:], generator, 24)
    assert again.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_pngs_are_lossless_and_jpegs_close():
    smooth = torch.arange(8).view(1, 8, 1, 1).expand(36, 8, 8, 3).mul(20).byte().contiguous()
    tasks = by_task(6, 3)
    for pixels, form, most in ((PIXELS, "png", 0), (smooth, "jpeg", 6)):
        buffer = filled(9, tasks, form, read=pixels.__getitem__)
        positions = torch.tensor([4, 0, 4])
        difference = buffer.read(positions).int() - pixels[buffer.ids[positions]].int()
        assert difference.abs().max() <= most
        assert 0 < buffer.bytes == len(buffer.state_dict()["files"])


def test_copied_features_are_rows():
    features = torch.randn(400, 7)
    buffer = filled(9, by_task(6, 3), "png", read=features.__getitem__)
    assert torch.equal(buffer.read(torch.arange(len(buffer))), features[buffer.ids])
    assert buffer.bytes == len(buffer) * 28


def test_damaged_copies_are_told():
    state = filled(4, by_task(6, 1), "png").state_dict()
    with pytest.raises(DataError, match="their ends do not fit"):
        Buffer(4, "png").load_state_dict({**state, "ends": state["ends"] + 1})
    files = state["files"].clone()
    files[:20] = 0
    broken = Buffer(4, "png")
    broken.load_state_dict({**state, "files": files})
    with pytest.raises(DataError, match="cannot be read"):
        broken.read(torch.tensor([0]))
