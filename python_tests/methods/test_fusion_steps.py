"""What the steps of ICM-Fusion minimise, where its search starts, and what measures it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

pytest.importorskip("open_clip", reason="needs open_clip_torch")
pytest.importorskip("peft", reason='needs the extra "lora"')

from lora_runs import run, settings_of
from tiny_images import tiny_features, tiny_stream

from awpf_ext.methods import create_method
from awpf_ext.methods._base.lora_fusion import Fusing
from awpf_ext.methods._base.lora_population import Population


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


class TestHeldOut:
    def test_no_state_of_a_held_out_lora_is_learned_from(self):
        population = Population()
        numbers = torch.arange(2 * 3 * 2).view(2, 3, 2, 1).float()  # tasks, LoRAs, states
        population.add(0, numbers[0])
        population.add(2, numbers[1])
        learned, held = (part(torch.device("cpu")) for part in (
            population.learned_from, population.held_out,
        ))  # fmt: skip
        assert learned.vectors.flatten().tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
        assert learned.places.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert held.vectors.flatten().tolist() == [5, 11]
        assert held.places.tolist() == [0, 1]

    def test_of_two_loras_none_is_held_out(self):
        population = Population()
        population.add(0, torch.ones(2, 3, 5))
        assert len(population.learned_from(torch.device("cpu")).vectors) == 6
        assert population.held_out(torch.device("cpu")).vectors.shape == (0, 5)

    def test_their_explained_variance_is_that_of_a_singular_value_decomposition(self, stream):
        settings = {"search": "pca", "latent": 2, "search_steps": 0, "refine_steps": 0}
        result, method = run("icm_fusion", stream, settings)
        (record,) = [each for each in result.records if each["kind"] == "icm_fusion"]
        mean, directions = directions_of(method)
        held = torch.stack([each[-1, -1] for each in method.population.by_task.values()]).double()
        errors = held - mean - (held - mean) @ directions[:2].T @ directions[:2]
        expected = 1 - float(errors.square().sum() / (held - mean).square().sum())
        assert expected < 0.99
        assert record["explained_by_pca"] == pytest.approx(expected, abs=1e-4)
        assert record["explained"] == pytest.approx(expected, abs=1e-4)


class TestTrainingOnFusions:
    def test_a_fusion_with_random_shares_is_weighed_by_them(self, stream, monkeypatch):
        """At the first step the network is PCA, so its fusion is that of the tasks' means."""
        asked = []
        own_loss = Fusing.loss

        def watched(self, vector, shares=None):
            if shares is not None:
                asked.append((vector.detach().double(), shares.double()))
            return own_loss(self, vector, shares)

        monkeypatch.setattr(Fusing, "loss", watched)
        _, method = run("icm_fusion", stream, {"latent": 2, "vae_steps": 6, "fusion_every": 2})
        assert len(asked) == 3
        shares = torch.stack([drawn for _, drawn in asked])
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(3).double(), rtol=0, atol=1e-6)
        assert torch.pdist(shares).min() > 0.01
        mean, directions = directions_of(method)
        by_task = torch.stack(
            [each[:-1].double().mean(dim=(0, 1)) for each in method.population.by_task.values()]
        )
        mixed = shares[0] @ by_task
        expected = mean + (mixed - mean) @ directions[:2].T @ directions[:2]
        assert float((asked[0][0] - expected).norm() / expected.norm()) < 1e-3


class TestStart:
    @pytest.mark.parametrize("search", ["pca", "network"])
    def test_the_search_starts_at_the_mean_of_the_tasks_codes(self, search, stream):
        """A network without training is PCA: the fusion is the mean LoRA's nearest one there."""
        settings = {"search": search, "latent": 2, "vae_steps": 0}
        settings |= {"search_steps": 0, "refine_steps": 0}
        _, method = run("icm_fusion", stream, settings)
        mean, directions = directions_of(method)
        average = sum(method.layout.flatten(lora).double() for lora in method.loras.values()) / 2
        expected = mean + (average - mean) @ directions[:2].T @ directions[:2]
        found = method.layout.flatten(method.fused).double()
        assert float((found - expected).norm() / expected.norm()) < 1e-3
        first = method.layout.flatten(method.loras[0]).double()
        assert float((first - expected).norm() / expected.norm()) > 0.1

    def test_a_search_over_the_scale_alone_finds_the_best_multiple_of_the_average(self, stream):
        settings = {"search": "scale", "refine_steps": 0, "image_batch": 50, "search_steps": 60}
        result, method = run("icm_fusion", stream, settings | {"search_rate": 0.03})
        (record,) = [each for each in result.records if each["kind"] == "icm_fusion"]
        average = sum(method.layout.flatten(lora) for lora in method.loras.values()) / 2
        found = method.layout.flatten(method.fused)
        torch.testing.assert_close(found, record["scale"] * average, rtol=1e-4, atol=1e-6)
        assert record["scale"] != pytest.approx(1, abs=0.1)
        assert record["losses"][-1] < record["losses"][0]
        losses = []
        for factor in (0.7, 1.0, 1.4):
            method.fused = method.layout.restore(factor * found)
            method._class_texts = None
            logits = [
                method.embed(next(iter(task.images.batches([task.train_ids], 0))))
                @ method.texts(4).T
                for task in stream
            ]
            labels = torch.cat([task.train_y for task in stream])
            losses.append(cross_entropy(torch.cat(logits) / method.temperature, labels).item())
        assert losses[1] == min(losses)


def directions_of(method):
    """Mean and principal directions of the LoRAs that are not the last of their task."""
    learned = torch.cat([each[:-1].flatten(0, 1) for each in method.population.by_task.values()])
    mean = learned.double().mean(dim=0)
    return mean, torch.linalg.svd(learned.double() - mean, full_matrices=False).Vh
