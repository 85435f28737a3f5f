"""What the steps of ICM-Fusion minimise."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("peft", reason='needs the extra "lora"')

from lora_runs import settings_of
from tiny_images import tiny_features, tiny_stream

from awpf_ext.methods import create_method
from awpf_ext.methods._base.lora_fusion import Fusing


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stream():
    return tiny_stream(tiny_features())


ROWS = (slice(0, 1), slice(2, 8))  # of the tasks' images: one and six


def fusing_of(stream, tasks=(0, 1), **settings):
    """A fusion in which every step is on all images: some of each of these tasks."""
    method = create_method("icm_fusion", stream, settings_of("icm_fusion", settings), seed=3)
    ids, labels = (
        torch.cat([getattr(stream[task], name)[ROWS[task]] for task in tasks])
        for name in ("train_ids", "train_y")
    )
    owners = torch.tensor([task for task in tasks for _ in stream[task].train_ids[ROWS[task]]])
    fusing = Fusing(
        method.config.model_copy(update={"image_batch": 50}),
        method.trainable,
        method.layout,
        stream[1],
        buffer=SimpleNamespace(ids=ids, labels=labels),
        owners=owners,
        temperature=0.1,
        random=torch.Generator().manual_seed(0),
    )
    drawn = torch.randn(method.layout.size, generator=torch.Generator().manual_seed(1))
    return fusing, (0.2 * drawn).requires_grad_()


def loss_of_task(fusing, stream, task, vector):
    """The mean loss over the task's images, by one backward pass through everything."""
    own = stream[task]
    x = next(iter(own.images.batches([own.train_ids[ROWS[task]]], 0)))
    tensors = fusing.layout.restore(vector)
    images = fusing.clip.embed(x, tensors)
    texts = fusing.clip.texts(range(4), tensors)
    return cross_entropy(images @ texts.T / 0.1, own.train_y[ROWS[task]])


class TestLoss:
    @pytest.mark.parametrize("shares", [None, (0.9, 0.1)])
    def test_tasks_count_by_their_shares_and_not_by_their_images(self, shares, stream):
        fusing, vector = fusing_of(stream)
        given = None if shares is None else torch.tensor(shares)
        by_task = [loss_of_task(fusing, stream, task, vector).item() for task in (0, 1)]
        assert abs(by_task[0] - by_task[1]) > 0.1  # else shares would not matter
        expected = sum(s * loss for s, loss in zip(shares or (0.5, 0.5), by_task, strict=True))
        assert fusing.loss(vector, given).item() == pytest.approx(expected, rel=1e-5)

    def test_a_share_of_a_task_without_images_is_given_to_the_others(self, stream):
        fusing, vector = fusing_of(stream, tasks=(1,))
        expected = loss_of_task(fusing, stream, 1, vector).item()
        for shares in (None, torch.tensor([0.9, 0.1])):
            assert fusing.loss(vector, shares).item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(
        "settings",
        [{}, {"micro_batch": 2}, {"checkpointing": True}, {"lora_dropout": 0.5}],
        ids=str,
    )
    def test_its_gradient_is_that_of_one_backward_pass(self, settings, stream):
        fusing, vector = fusing_of(stream, **settings)
        (found,) = torch.autograd.grad(3 * fusing.loss(vector), vector)
        plain, vector = fusing_of(stream)
        value = sum(loss_of_task(plain, stream, task, vector) for task in (0, 1)) / 2
        (expected,) = torch.autograd.grad(3 * value, vector)
        assert float((found - expected).norm() / expected.norm()) < 1e-4

    def test_micro_batch_bounds_what_a_step_keeps(self, stream):
        """In bytes of the graph; seven images and eight prompts are in a step."""
        most = {}
        for micro_batch in (None, 1):
            fusing, vector = fusing_of(stream, micro_batch=micro_batch)
            kept = []

            class Kept:
                def __init__(self, tensor, kept=kept):
                    self.tensor, self.kept = tensor, kept
                    kept.append(kept[-1] + tensor.nbytes if kept else tensor.nbytes)

                def __del__(self):
                    self.kept.append(self.kept[-1] - self.tensor.nbytes)

            with torch.autograd.graph.saved_tensors_hooks(Kept, lambda found: found.tensor):
                value = fusing.loss(vector)
            most[micro_batch] = max(kept)
            torch.autograd.backward(value)
        assert most[1] < 0.4 * most[None]
