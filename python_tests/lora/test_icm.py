"""ICM-Fusion's parts: LoRAs as vectors, the F-VAE, its meta-training, the fusion, the merge."""

from __future__ import annotations

import pytest
import torch

from awpf_ext.lora.icm import (
    FlatLora,
    FusionVae,
    InnerSteps,
    Layout,
    MetaSettings,
    TrainingSet,
    count_sketch,
    fuse_loras,
    meta_train,
    stack_loras,
)
from awpf_ext.lora.icm.meta_training import inner_steps
from awpf_ext.lora.icm.vae import WIDEST, kl_divergence


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "layer.a": 3 + 2 * torch.randn(4, 9),
        "layer.b": 1e-4 * torch.randn(7, 4),
        "zero.b": torch.zeros(5, 2),
        "constant.b": torch.full((3, 2), 0.1),
    }


def trained(flats, vectors, layout, steps=40, inner=None, seed=0, rate=1e-3):
    """A small F-VAE that has learned one LoRA of each task."""
    vae = FusionVae(layout.size, vectors.shape[1], latent=8, seed=seed)
    data = TrainingSet(layout, flats, torch.arange(len(vectors)), vectors)
    generator = torch.Generator().manual_seed(seed)
    settings = MetaSettings(steps=steps, learning_rate=rate)
    return vae, meta_train(vae, data, settings, generator, inner)


class TestFlattening:
    def test_a_round_trip_gives_the_tensors(self, tensors):
        layout = Layout.of(tensors)
        again = layout.restore(layout.flatten(tensors))
        assert again.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.allclose(again[name], tensor, rtol=1e-5, atol=1e-9)

    def test_each_tensor_has_mean_0_and_deviation_1(self, tensors):
        layout = Layout.of(tensors)
        parts = dict(
            zip(layout.shapes, layout.flatten(tensors).values.split(layout.sizes), strict=True)
        )
        for name in ("layer.a", "layer.b"):
            assert parts[name].mean().abs() < 1e-5
            assert parts[name].std(correction=0) == pytest.approx(1, abs=1e-4)
        assert not parts["zero.b"].any()
        assert not parts["constant.b"].any()

    def test_other_tensors_are_refused(self, tensors):
        layout = Layout.of(tensors)
        with pytest.raises(ValueError, match=r"layer.a has shape \(4, 8\); expected \(4, 9\)"):
            layout.flatten({**tensors, "layer.a": torch.zeros(4, 8)})

    def test_the_gradient_reaches_the_values(self, tensors):
        layout = Layout.of(tensors)
        flat = layout.flatten(tensors)
        values = flat.values.clone().requires_grad_()
        layout.restore(flat._replace(values=values))["layer.b"].sum().backward()
        expected = dict(zip(layout.shapes, values.grad.split(layout.sizes), strict=True))
        deviation = tensors["layer.b"].std(correction=0)
        assert torch.allclose(expected["layer.b"], deviation.expand(28))
        assert not expected["layer.a"].any()

    def test_a_sketch_keeps_cosines(self):
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(2, 20_000, generator=generator)
        mixed = x + y
        cosine = torch.nn.functional.cosine_similarity(x, mixed, dim=0)
        assert count_sketch(x, 256).norm() == pytest.approx(1, abs=1e-5)
        assert count_sketch(x, 256) @ count_sketch(mixed, 256) == pytest.approx(
            float(cosine), abs=0.2
        )
        assert abs(count_sketch(x, 256) @ count_sketch(y, 256)) < 0.25


class TestVae:
    @pytest.mark.parametrize("size", [1, 17, 1000, 40_001])
    def test_any_length_goes_in_and_comes_out(self, size):
        vae = FusionVae(size, 6, latent=4)
        torch.nn.init.normal_(vae.last.weight)
        values, vectors = torch.randn(2, size), torch.randn(2, 6)
        mean, log_variance = vae.encode(values, vectors)
        assert mean.shape == log_variance.shape == (2, 4)
        decoded = vae.decode(mean, vectors)
        assert decoded.shape == (2, size)
        assert bool(decoded.isfinite().all())

    def test_parameters_are_bounded_whatever_the_length(self):
        counts = []
        for size in (1 << 18, 1 << 20, 1 << 22):
            with torch.device("meta"):
                vae = FusionVae(size, 512)
            counts.append(sum(parameter.numel() for parameter in vae.parameters()))
        assert max(counts) < 1.2 * WIDEST * (3 * 256 + 2 * 512)

    def test_the_task_vector_matters_to_both_sides(self):
        vae = FusionVae(100, 6, latent=4)
        torch.nn.init.normal_(vae.last.weight)
        values, vectors = torch.randn(1, 100), torch.randn(2, 6)
        codes = [vae.encode(values, vector[None])[0] for vector in vectors]
        assert not torch.allclose(*codes)
        decoded = [vae.decode(codes[0], vector[None]) for vector in vectors]
        assert not torch.allclose(*decoded)

    def test_the_divergence_is_that_of_normal_distributions(self):
        mean, log_variance = torch.randn(2, 3, 5, dtype=torch.float64)
        of_code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        expected = torch.distributions.kl_divergence(of_code, prior).sum(dim=1).mean()
        assert torch.allclose(kl_divergence(mean, log_variance), expected)

    def test_it_starts_as_the_centre_and_learns_to_tell_loras_apart(self):
        generator = torch.Generator().manual_seed(0)
        layout = Layout({"a": (64,)})
        flats = stack_loras(
            [layout.standardised(torch.randn(64, generator=generator)) for _ in "xy"]
        )
        _, steps = trained(flats, torch.eye(2), layout, steps=100, rate=1e-2)
        spread = flats.values.var(dim=0, correction=0).mean()
        assert steps[0].error == pytest.approx(float(spread), rel=1e-4)
        assert steps[-1].error < 0.3 * spread


class TestInnerSteps:
    """On the loss |l - target|^2 of the restored tensor."""

    target = torch.linspace(-1, 1, 32)

    def loss(self, task, tensors):
        return (tensors["a"] - self.target).square().sum()

    def test_they_lower_the_tasks_loss(self):
        layout = Layout({"a": (32,)})
        flat = layout.standardised(torch.randn(32, generator=torch.Generator().manual_seed(0)))
        losses = []
        for count in (0, 1, 5, 20):
            moved = inner_steps(flat.values, flat, layout, 0, InnerSteps(self.loss, count, 0.05))
            losses.append(float(self.loss(0, layout.restore(flat._replace(values=moved)))))
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.2 * losses[0]

    def test_they_are_first_order(self):
        """l' = l0 - (a constant): the gradient passes unchanged."""
        layout = Layout({"a": (32,)})
        flat = layout.standardised(torch.randn(32))
        start = flat.values.clone().requires_grad_()
        moved = inner_steps(start, flat, layout, 0, InnerSteps(self.loss, 3, 0.05))
        moved.sum().backward()
        assert torch.equal(start.grad, torch.ones(32))

    def test_meta_training_takes_them_and_learns_through_both_passes(self):
        layout = Layout({"a": (32,)})
        flats = stack_loras([layout.standardised(torch.randn(32)) for _ in range(3)])
        asked = []

        def loss(task, tensors):
            asked.append(task)
            return self.loss(task, tensors) if task else None  # task 0 has no data

        vae, steps = trained(flats, torch.eye(3), layout, 12, InnerSteps(loss, steps=4, every=2))
        assert len(steps) == 12
        assert 0 < len(asked) <= 6 * 4
        assert set(asked) > {0}
        assert all(parameter.grad is not None for parameter in vae.parameters())
        assert all(bool(parameter.isfinite().all()) for parameter in vae.parameters())


class TestFusion:
    def flats(self, count, layout, seed=0):
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(layout.size, generator=generator) for _ in range(count)]
        return stack_loras([layout.standardised(each) for each in drawn])

    def test_equal_loras_give_that_lora(self):
        layout = Layout({"a": (16, 2), "b": (5,)})
        one = layout.standardised(3 + torch.randn(37))
        vectors = torch.eye(3)
        vae, _ = trained(stack_loras([one] * 3), vectors, layout)
        result = fuse_loras(vae, layout, stack_loras([one] * 3), vectors, [0.2, 0.3, 0.5])
        for name, tensor in layout.restore(one).items():
            assert torch.allclose(result[name], tensor, atol=0.05)

    def test_rescaling_gives_back_what_averaging_loses_and_no_more(self):
        layout = Layout({"a": (500,)})
        flats = self.flats(4, layout)
        vae, _ = trained(flats, torch.eye(4), layout, steps=1)
        plain = fuse_loras(vae, layout, flats, torch.eye(4), [0.25] * 4, rescale=False)["a"]
        scaled = fuse_loras(vae, layout, flats, torch.eye(4), [0.25] * 4)["a"]
        assert plain.std() == pytest.approx(0.5, rel=0.1)
        assert scaled.std() == pytest.approx(float(flats.std.mean()), rel=0.1)
        opposed = FlatLora(*(torch.stack([part[0], part[0]]) for part in flats))
        opposed.values[1].neg_()
        vae, _ = trained(opposed, torch.eye(2), layout, steps=1)
        assert fuse_loras(vae, layout, opposed, torch.eye(2), [0.5] * 2)["a"].std() < 0.1

    def test_the_seed_decides_all(self):
        layout = Layout({"a": (64,)})
        flats, vectors = self.flats(3, layout), torch.eye(3)

        def result(seed):
            vae, _ = trained(flats, vectors, layout, steps=10, seed=seed, rate=1e-2)
            return fuse_loras(vae, layout, flats, vectors, [1 / 3] * 3)["a"]

        torch.manual_seed(5)  # the global state is neither used nor changed
        first, before = result(1), torch.random.get_rng_state()
        assert torch.equal(first, result(1))
        assert torch.equal(before, torch.random.get_rng_state())
        assert not torch.equal(first, result(2))
