"""`awpf merge --method icm`: the direction whose smallest cosine with the adapters is largest."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_adapters import deltas, distance

from awpf_ext.errors import UserError
from awpf_ext.lora import merge
from awpf_ext.lora.icm.least_cosine import least_cosine_weights, shortest_of_hull


def vector(folder):
    """An adapter's deltas of all layers as one vector."""
    return torch.cat([delta.flatten() for _, delta in sorted(deltas(folder).items())])


def cosines(x, rows):
    return torch.stack([torch.nn.functional.cosine_similarity(x, row, dim=0) for row in rows])


def drawn(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=generator, dtype=torch.float64)


class TestDirection:
    @pytest.mark.parametrize("seed", range(4))
    def test_no_subset_has_a_shorter_vector(self, seed):
        """The optimum is that of some subset whose other vectors have weight 0: try them all."""
        rows = drawn(5, 6, seed)
        mix = shortest_of_hull(rows @ rows.T)
        assert mix.sum() == pytest.approx(1, abs=1e-12)
        assert bool((mix >= 0).all())
        shortest = float("inf")
        for count in range(1, 6):
            for chosen in itertools.combinations(range(5), count):
                own = rows[list(chosen)]
                weights = torch.linalg.pinv(own @ own.T) @ torch.ones(count, dtype=torch.float64)
                weights = weights / weights.sum()
                if bool((weights >= 0).all()):
                    shortest = min(shortest, float((weights @ own).norm()))
        assert float((mix @ rows).norm()) == pytest.approx(shortest, rel=1e-9, abs=1e-12)

    def test_the_smallest_cosine_beats_that_of_every_other_mix(self):
        rows = drawn(6, 40) * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None]
        rows[1:4] += rows[5] / 4  # some are alike
        found = torch.tensor(least_cosine_weights(rows @ rows.T, [1] * 6), dtype=torch.float64)
        least = cosines(found @ rows, rows).min()
        units = torch.nn.functional.normalize(rows, dim=1)
        for other in (rows.mean(0), units.mean(0), *(found @ rows + 0.1 * drawn(20, 40, seed=2))):
            assert cosines(other, rows).min() < least
        assert (found @ rows).norm() == pytest.approx(float(rows.norm(dim=1).mean()))

    def test_a_weight_is_a_share_of_the_cosine(self):
        rows = drawn(3, 50)
        found = torch.tensor(least_cosine_weights(rows @ rows.T, [4, 5, 6]), dtype=torch.float64)
        near = cosines(found @ rows, rows)
        torch.testing.assert_close(near / near[0], torch.tensor([1, 1.25, 1.5]).double())

    def test_copies_and_zeros_change_nothing(self):
        rows = drawn(3, 20)
        more = torch.cat([rows, rows[:1], torch.zeros(1, 20, dtype=torch.float64)])
        plain, padded = (
            torch.tensor(least_cosine_weights(x @ x.T, [1] * len(x)), dtype=torch.float64) @ x
            for x in (rows, more)
        )
        torch.testing.assert_close(cosines(padded, plain[None])[0].item(), 1.0)
        assert least_cosine_weights(torch.zeros(2, 2), [1, 1]) == [0, 0]

    def test_vectors_that_cancel_are_refused_however_they_are_turned(self):
        """The square of their sum's length is 0, or what rounding makes of it, on either side."""
        angles = torch.arange(3, dtype=torch.float64) * 2 * torch.pi / 3
        for turn in torch.linspace(0, 2, 40, dtype=torch.float64):
            rows = torch.stack([(angles + turn).cos(), (angles + turn).sin()], dim=1)
            with pytest.raises(UserError, match="the adapters cancel: no direction"):
                least_cosine_weights(rows @ rows.T, [1, 1, 1])


class TestMerge:
    @pytest.fixture
    def three(self, write):
        return [write("a", 4), write("b", 2, lora_alpha=9), write("c", 3, use_rslora=True)]

    def test_the_smallest_cosine_is_at_least_that_of_the_mean(self, three, tmp_path):
        rows = torch.stack([vector(folder) for folder in three])
        found = vector(merge(three, tmp_path / "out", method="icm").out)
        mean = vector(merge(three, tmp_path / "mean", method="linear").out)
        assert cosines(found, rows).min() > cosines(mean, rows).min()
        assert found.norm() == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-5)

    def test_the_order_of_the_adapters_changes_nothing(self, three, tmp_path):
        first = merge(three, tmp_path / "first", method="icm", weights=[1, 2, 3])
        other = merge(three[::-1], tmp_path / "other", method="icm", weights=[3, 2, 1])
        assert distance(deltas(first.out), deltas(other.out)) < 1e-5

    def test_equal_adapters_give_that_adapter_whatever_the_weights(self, write, tmp_path):
        one = write("one", 4, lora_alpha=6)
        report = merge([one, one], tmp_path / "out", method="icm", weights=[1, 1])
        assert distance(deltas(report.out), deltas(one)) < 1e-5
        assert {layer.rank for layer in report.layers} == {4}

    def test_only_ratios_of_weights_count(self, three, tmp_path):
        found = [
            deltas(merge(three, tmp_path / f"{f}", method="icm", weights=[f, f, 3 * f]).out)
            for f in (1, 2)
        ]
        assert distance(*found) < 1e-5

    @pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0]])
    def test_weights_without_a_direction_are_refused(self, weights, three, tmp_path):
        with pytest.raises(UserError, match="no weight may be negative"):
            merge(three, tmp_path / "out", method="icm", weights=weights)
        assert not (tmp_path / "out").exists()

    def test_adapters_that_cancel_are_refused(self, write, tmp_path):
        one = write("one", 4)
        opposed = write("one2", 4, lora_alpha=-8)
        (opposed / "adapter_model.safetensors").write_bytes(
            (one / "adapter_model.safetensors").read_bytes()
        )
        with pytest.raises(UserError, match="the adapters cancel: no direction"):
            merge([one, opposed], tmp_path / "out", method="icm")
