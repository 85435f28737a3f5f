"""ICM-Fusion's parts: LoRAs as vectors, principal components, the F-VAE, the search."""

from __future__ import annotations

import pytest
import torch

from awpf_ext.lora.icm import (
    FusionVae,
    Layout,
    Pca,
    VaeSettings,
    explained_variance,
    refined,
    searched,
    train_vae,
)
from awpf_ext.lora.icm.measures import on_plane, pca_curve, task_means
from awpf_ext.lora.icm.vae import kl_divergence

SIZE = 200


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loras():
    """Three tasks of eight vectors each: the tasks apart, and a curved spread in each."""
    directions = drawn(6, SIZE, seed=1)
    angle = 3 * drawn(24, seed=2)
    places = torch.arange(3).repeat_interleave(8)
    own = torch.stack([angle.cos(), angle.sin(), angle / 3], dim=1)
    return 2 * directions[places] + own @ directions[3:] + 0.1 * drawn(24, SIZE, seed=3), places


class TestLayout:
    def test_a_round_trip_gives_the_tensors_and_the_gradient_reaches_b_alone(self):
        tensors = {
            "base.q.lora_A.weight": drawn(2, 9),
            "base.q.lora_B.weight": drawn(7, 2),
            "base.e.lora_embedding_A": drawn(2, 5),
            "base.e.lora_embedding_B": drawn(4, 2),
        }
        layout = Layout.of(tensors)
        assert layout.size == 14 + 8
        vector = layout.flatten(tensors).requires_grad_()
        again = layout.restore(vector)
        assert again.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(again[name], tensor)
            assert again[name].requires_grad == name.endswith(("lora_B.weight", "embedding_B"))


class TestPca:
    def test_it_is_the_singular_value_decomposition(self, loras):
        vectors, _ = loras
        pca = Pca.fit(vectors, 5)
        u, s, vh = torch.linalg.svd((vectors - vectors.mean(0)).double(), full_matrices=False)
        torch.testing.assert_close(pca.variance.double(), s[:5] ** 2 / 24, rtol=1e-5, atol=0)
        expected = vectors.mean(0) + ((u * s)[:, :5] @ vh[:5]).float()
        torch.testing.assert_close(pca.projected(vectors, 5), expected, rtol=0, atol=1e-4)
        assert pca.rest == 23 - 5
        assert pca.noise(5) == pytest.approx(float((s[5:23] ** 2).sum()) / 24 / 18, rel=1e-5)

    def test_the_order_of_the_loras_changes_nothing(self, loras):
        vectors, _ = loras
        order = torch.randperm(24, generator=torch.Generator().manual_seed(5))
        first, other = Pca.fit(vectors, 5), Pca.fit(vectors[order], 5)
        torch.testing.assert_close(other.basis, first.basis, rtol=0, atol=1e-4)
        torch.testing.assert_close(other.scores(vectors), first.scores(vectors), rtol=0, atol=1e-3)

    def test_vectors_of_several_parts_in_half_precision_are_those_in_single(self):
        vectors = drawn(4, (1 << 17) + 5).half()
        pca = Pca.fit(vectors, 2)
        u, s, vh = torch.linalg.svd(
            vectors.double() - vectors.double().mean(0), full_matrices=False
        )
        expected = vectors.double().mean(0) + (u * s)[:, :2] @ vh[:2]
        found = pca.vectors(pca.scores(vectors))
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)

    def test_the_curve_has_both_parts_of_the_variance(self, loras):
        vectors, places = loras
        learned = torch.arange(24) % 8 < 6
        pca = Pca.fit(vectors[learned], 64)
        means = task_means(vectors[learned], places[learned])
        rows = pca_curve(pca, vectors[~learned], places[~learned], means)
        assert [row["components"] for row in rows] == [1, 2, 4, 8, 16, 17]
        assert rows[-1]["between"] == pytest.approx(1, abs=1e-4)
        for row in rows:
            assert row["within"] <= row["both"] <= row["between"] + 1e-6
        assert [row["both"] for row in rows] == sorted(row["both"] for row in rows)
        expected = explained_variance(
            vectors[~learned], pca.projected(vectors[~learned], 4), pca.mean
        )
        assert rows[2]["both"] == pytest.approx(expected, abs=1e-5)

    def test_equal_loras_have_no_component(self):
        pca = Pca.fit(drawn(1, SIZE).expand(4, -1), 5)
        assert len(pca.variance) == 0
        assert explained_variance(pca.mean[None], pca.mean[None], pca.mean) is None

    def test_distances_on_the_plane_are_those_of_the_loras(self):
        vectors = drawn(6, 2) @ drawn(2, SIZE)
        pca = Pca.fit(vectors, 5)
        spots = torch.tensor(on_plane(pca, pca.scores(vectors)))
        torch.testing.assert_close(torch.pdist(spots), torch.pdist(vectors), rtol=1e-2, atol=0.01)


class TestVae:
    def made(self, vectors, latent=4, most=64):
        pca = Pca.fit(vectors, most)
        return pca, FusionVae(pca, 3, latent, seed=0)

    def test_it_starts_as_the_closed_form_of_probabilistic_pca(self, loras):
        """Tipping and Bishop: W = U (L - s I)^1/2, M = W'W + s I; mean M^-1 W' x, variance s M^-1,
        and the best reconstruction W (W'W)^-1 M of the mean.
        """
        vectors, places = loras
        pca, vae = self.made(vectors)
        basis, variance, noise = pca.basis[:4], pca.variance[:4], pca.noise(4)
        w = basis.T * (variance - noise).sqrt()
        m = w.T @ w + noise * torch.eye(4)
        deviations = vectors - pca.mean
        expected = torch.linalg.solve(m, (deviations @ w).T).T
        mean, log_variance = vae.encode(pca.scores(vectors), torch.eye(3)[places])
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-3)
        diagonal = (noise * torch.linalg.inv(m)).diagonal()
        torch.testing.assert_close(log_variance.exp(), diagonal.expand(24, -1), rtol=1e-3, atol=0)
        best = pca.mean + (w @ torch.linalg.solve(w.T @ w, m @ expected.T)).T
        torch.testing.assert_close(
            pca.vectors(vae.decode(mean)), best, rtol=0, atol=1e-3, check_stride=False
        )

    def test_at_first_it_explains_what_pca_explains_and_then_more(self, loras):
        vectors, places = loras
        pca, vae = self.made(vectors)
        tasks = torch.eye(3)[places]

        def explained():
            codes, _ = vae.encode(pca.scores(vectors), tasks)
            found = pca.vectors(vae.decode(codes)).detach()
            return explained_variance(vectors, found, pca.mean)

        by_pca = explained_variance(vectors, pca.projected(vectors, 4), pca.mean)
        assert explained() == pytest.approx(by_pca, abs=1e-4)
        generator = torch.Generator().manual_seed(0)
        settings = VaeSettings(steps=400, batch=24, kl_weight=0.1)
        train_vae(vae, pca.scores(vectors), tasks, settings, generator)
        assert explained() > by_pca + 0.002

    def test_only_the_encoder_sees_the_task(self, loras):
        vectors, places = loras
        pca, vae = self.made(vectors)
        torch.nn.init.normal_(vae.encoder[-1].weight)
        codes = [
            vae.encode(pca.scores(vectors), torch.eye(3)[shift])[0]
            for shift in (places, (places + 1) % 3)
        ]
        assert not torch.allclose(*codes)

    def test_the_divergence_is_that_of_normal_distributions(self):
        mean, log_variance = drawn(2, 3, 5).double()
        of_code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        expected = torch.distributions.kl_divergence(of_code, prior).mean(dim=0)
        assert torch.allclose(kl_divergence(mean, log_variance), expected)

    def test_it_learns_from_fusions_too(self, loras):
        vectors, places = loras
        pca, vae = self.made(vectors)
        asked = []

        def wanted():
            asked.append(1)
            codes = vae.encode(pca.scores(vectors), torch.eye(3)[places])[0].detach()
            return 1e4 * (vae.decode(codes.mean(0)[None]) - 1).square().mean()

        settings = VaeSettings(steps=60, batch=24, learning_rate=1e-3, fusion_every=2)
        generator = torch.Generator().manual_seed(0)
        before = wanted().item()
        train_vae(vae, pca.scores(vectors), torch.eye(3)[places], settings, generator, wanted)
        assert len(asked) == 1 + 30
        after = wanted().item()
        assert after < before / 2

    def test_the_seed_decides_all(self, loras):
        vectors, places = loras

        def result(seed):
            pca = Pca.fit(vectors, 64)
            vae = FusionVae(pca, 3, 4, seed)
            generator = torch.Generator().manual_seed(seed)
            scores, tasks = pca.scores(vectors), torch.eye(3)[places]
            train_vae(vae, scores, tasks, VaeSettings(steps=5), generator)
            return vae.decode(vae.encode(scores, tasks)[0])

        torch.manual_seed(5)  # the global state is neither used nor changed
        first, before = result(1), torch.random.get_rng_state()
        assert torch.equal(first, result(1))
        assert torch.equal(before, torch.random.get_rng_state())
        assert not torch.equal(first, result(2))


class TestSearch:
    target = torch.linspace(-1, 1, 8)

    def loss(self, vector):
        return (vector - 3 * self.target).square().mean()

    def test_it_finds_code_and_scale(self):
        basis = torch.stack([self.target, torch.ones(8)])
        start = torch.tensor([1.0, 0.5])
        found = searched(
            lambda code: code @ basis, start, self.loss, steps=300, rate=0.05, tether=0.0
        )
        assert self.loss(found.vector) < 1e-3 * self.loss(start @ basis)
        torch.testing.assert_close(found.vector, found.scale * (found.code @ basis))
        assert len(found.losses) == 300
        assert found.losses[-1] < found.losses[0]

    def test_the_tether_holds_the_code_and_not_the_scale(self):
        start = torch.tensor([1.0])
        found = searched(
            lambda code: code * self.target, start, self.loss, steps=300, rate=0.05, tether=1e3
        )
        torch.testing.assert_close(found.code, start, rtol=0, atol=0.02)
        assert found.scale == pytest.approx(3, rel=0.05)

    def test_refining_lowers_the_loss_of_the_lora_itself(self):
        vector, losses = refined(torch.zeros(8), self.loss, steps=100, rate=0.1)
        assert self.loss(vector) < 0.05 * losses[0]
        same, none = refined(vector, self.loss, steps=0, rate=0.1)
        assert torch.equal(same, vector)
        assert none == []
