"""Every method gives what its definition says, computed here in double and in full size."""

from __future__ import annotations

import pytest
import torch
from dense_references import best, elected, polar, trimmed, weighted_sum
from small_adapters import ROUNDING, deltas, distance, noise

from awpf_ext.lora import MERGE_METHODS, merge
from awpf_ext.lora.merge_methods import dense_svd, entrywise
from awpf_ext.lora.merge_methods.dense_svd import truncate_dense
from awpf_ext.lora.merge_methods.entrywise import threshold

WEIGHTS = [0.7, -1.3, 0.4]


@pytest.fixture
def three(write):
    """Adapters of ranks 4, 2 and 3; alpha, rsLoRA and an alpha of one layer's own."""
    return [
        write("one", 4, lora_alpha=6),
        write("two", 2, use_rslora=True),
        write("three", 3, alpha_pattern={"layers.1.q": 11}),
    ]


@pytest.fixture
def equal(write):
    """Three adapters of rank 4."""
    return [write(name, 4, lora_alpha=alpha) for name, alpha in (("a", 4), ("b", 9), ("c", 1))]


def per_layer(folders, weights, combine):
    """combine(list of deltas, weights) for every layer."""
    found = [deltas(folder) for folder in folders]
    return {name: combine([one[name] for one in found], weights) for name in found[0]}


def agrees(out, folders, weights, combine):
    """The adapter in `out` is `combine` of the deltas in `folders`, up to rounding in float32.

    A factorization is exact for a matrix that differs by ROUNDING. How far that moves the result
    depends on gaps of singular values and the like, so `combine` itself is asked, in double.
    """
    expected = per_layer(folders, weights, combine)
    bound = 0.0
    for seed in range(4):
        with noise(seed):
            bound = max(bound, distance(per_layer(folders, weights, combine), expected))
    assert bound < 2e-3, "too ill-conditioned for a comparison in float32"
    assert distance(deltas(out), expected) <= bound
    return expected


@pytest.mark.parametrize("method", ["linear", "stack"])
def test_exact_methods_are_the_weighted_sum(method, three, tmp_path):
    report = merge(three, tmp_path / "out", method=method, weights=WEIGHTS)
    agrees(report.out, three, WEIGHTS, weighted_sum)
    assert {layer.ranks for layer in report.layers} == {(4, 2, 3)}
    assert {layer.rank for layer in report.layers} == {9}
    assert report.energy_kept == 1


def test_linear_needs_no_more_factors_than_the_sum_has(write, tmp_path):
    one = write("one", 4)
    twice = merge([one, one], tmp_path / "out", method="linear", weights=[2, 1])
    assert {layer.rank for layer in twice.layers} == {4}
    agrees(twice.out, [one], [3], weighted_sum)
    nothing = merge([one, one], tmp_path / "none", method="linear", weights=[1, -1])
    assert {layer.rank for layer in nothing.layers} == {1}  # PEFT has no rank 0
    left, whole = deltas(nothing.out), deltas(one)
    assert all(left[name].norm() <= ROUNDING * whole[name].norm() for name in whole)


@pytest.mark.parametrize("rank", [None, 1, 6, 50])
def test_svd_is_the_best_approximation_and_says_what_it_loses(rank, three, tmp_path):
    report = merge(three, tmp_path / "out", method="svd", weights=WEIGHTS, rank=rank)
    total = per_layer(three, WEIGHTS, weighted_sum)
    expected = agrees(
        report.out, three, WEIGHTS, lambda *given: best(weighted_sum(*given), rank or 4)
    )
    assert {layer.rank for layer in report.layers} == {min(rank or 4, 9)}
    for layer in report.layers:
        share = expected[layer.name].norm() ** 2 / total[layer.name].norm() ** 2
        assert layer.energy_kept == pytest.approx(float(share), abs=1e-5)
    kept = sum(matrix.norm() ** 2 for matrix in expected.values())
    assert report.energy_kept == pytest.approx(
        float(kept / sum(matrix.norm() ** 2 for matrix in total.values())), abs=1e-5
    )


@pytest.mark.parametrize("density", [0.31, 1.0])
@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
def test_trimming_on_deltas(method, density, three, tmp_path):
    def expected(parts, weights):
        parts = [trimmed(part, density) for part in parts]
        return (elected if method == "ties" else weighted_sum)(parts, weights)

    report = merge(
        three, tmp_path / "out", method=method, weights=WEIGHTS, density=density, rank=20
    )
    agrees(report.out, three, WEIGHTS, expected)
    assert report.energy_kept == pytest.approx(1)
    cut = merge(three, tmp_path / "cut", method=method, weights=WEIGHTS, density=density, rank=5)
    agrees(cut.out, three, WEIGHTS, lambda *given: best(expected(*given), 5))
    assert cut.energy_kept < 1


def test_dare_keeps_entries_by_chance_and_divides_by_it(write, tmp_path):
    one = write("one", 8, shapes={"wide": (200, 150)})
    report = merge([one], tmp_path / "out", method="dare_linear", density=0.25, rank=150)
    found, whole = deltas(report.out)["wide"], deltas(one)["wide"]
    ratio = found / whole
    kept = (ratio - 4).abs() < 0.1
    dropped = found.abs() < 1e-3
    assert (kept | dropped)[whole.abs() > 1e-2].all()
    assert float((kept & ~dropped).double().mean()) == pytest.approx(0.25, abs=0.02)


def test_dare_ties_elects_among_what_dare_keeps(equal, tmp_path):
    single = [
        deltas(merge([one], tmp_path / one.name / "alone", method="dare_linear", density=0.5,
                     rank=20).out)
        for one in equal
    ]  # fmt: skip
    report = merge(equal, tmp_path / "out", method="dare_ties", density=0.5, rank=20)
    clean = [{k: d.where(d.abs() > 1e-4, 0) for k, d in one.items()} for one in single]
    expected = {k: elected([one[k] for one in clean], [1.0] * 3) for k in clean[0]}
    assert distance(deltas(report.out), expected) < 1e-4


def test_dare_depends_on_seed_layer_and_adapter_and_on_no_order(equal, tmp_path, monkeypatch):
    def run(folders, name, seed=0):
        out = tmp_path / name
        return deltas(
            merge(folders, out, method="dare_linear", density=0.5, rank=20, seed=seed).out
        )

    first = run(equal, "first")
    assert distance(run(equal, "other", seed=1), first) > 0.1
    assert distance(run(equal[::-1], "reversed"), first) < 2 * ROUNDING
    monkeypatch.setattr(entrywise, "_BLOCK", 50)  # other pieces of the same matrices
    assert distance(run(equal, "blocks"), first) < 2 * ROUNDING
    same = deltas(equal[0])
    assert first["layers.0.q"].shape == first["layers.1.q"].shape
    assert float((first["layers.0.q"] - first["layers.1.q"]).norm()) > 0.1 * float(
        same["layers.0.q"].norm()
    )


def test_knots_is_ties_in_the_common_basis(three, tmp_path):
    def expected(parts, weights):
        u, s, vh = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)
        kept = s > 1e-9 * s[0]
        aligned = (s[kept, None] * vh[kept]).split(parts[0].shape[1], dim=1)
        return u[:, kept] @ elected([trimmed(part, 0.4) for part in aligned], weights)

    report = merge(three, tmp_path / "out", method="knots", weights=WEIGHTS, density=0.4)
    agrees(report.out, three, WEIGHTS, expected)
    assert {layer.rank for layer in report.layers} == {9}
    cut = merge(three, tmp_path / "cut", method="knots", weights=WEIGHTS, density=0.4, rank=3)
    agrees(cut.out, three, WEIGHTS, lambda *given: best(expected(*given), 3))


def test_tsv_makes_the_singular_vectors_orthogonal(three, tmp_path):
    def expected(parts, weights):
        us, ss, vs = [], [], []
        for part, weight, rank in zip(parts, weights, (4, 2, 3), strict=True):
            rank = min(rank, min(part.shape) // 3)
            u, s, vh = torch.linalg.svd(part)
            us, ss, vs = [*us, u[:, :rank]], [*ss, weight * s[:rank]], [*vs, vh[:rank].mT]
        return polar(torch.cat(us, 1)) @ torch.cat(ss).diag() @ polar(torch.cat(vs, 1)).mT

    report = merge(three, tmp_path / "out", method="tsv", weights=WEIGHTS)
    agrees(report.out, three, WEIGHTS, expected)
    assert {layer.name: layer.rank for layer in report.layers} == {
        "layers.0.q": 9, "layers.1.q": 9, "layers.0.up": 8
    }  # fmt: skip


def test_tsv_of_one_adapter_twice_is_that_adapter(write, tmp_path):
    one = write("one", 3)
    report = merge([one, one], tmp_path / "out", method="tsv", weights=[0.25, 0.75])
    agrees(report.out, [one], [0.5], weighted_sum)


def test_iso_c_has_a_flat_spectrum(three, tmp_path):
    def expected(parts, weights):
        u, s, vh = torch.linalg.svd(weighted_sum(parts, weights))
        return s[:9].mean() * u[:, :9] @ vh[:9]

    report = merge(three, tmp_path / "out", method="iso", weights=WEIGHTS)
    agrees(report.out, three, WEIGHTS, expected)
    cut = merge(three, tmp_path / "cut", method="iso", weights=WEIGHTS, rank=3)
    assert cut.energy_kept == pytest.approx(1 / 3, rel=1e-4)


def test_iso_cts_adds_what_each_task_has_alone(three, tmp_path):
    def expected(parts, weights):  # R = 9, of which 9 - 3 * round(5 / 3) = 3 are common
        u, s, vh = torch.linalg.svd(weighted_sum(parts, weights))
        us, ss, vs = [u[:, :3]], [s[:3]], [vh[:3].mT]
        for part, weight in zip(parts, weights, strict=True):
            rest = weight * (part - u[:, :3] @ u[:, :3].mT @ part)
            left, middle, right = torch.linalg.svd(rest)
            us, ss, vs = [*us, left[:, :2]], [*ss, middle[:2]], [*vs, right[:2].mT]
        return torch.cat(ss).mean() * polar(torch.cat(us, 1)) @ polar(torch.cat(vs, 1)).mT

    weights = [1.5, -0.5, -1.0]  # of the collected vectors none nearly depends on the others
    report = merge(three, tmp_path / "out", method="iso", weights=weights, common_fraction=0.5)
    agrees(report.out, three, weights, expected)


def test_iso_cts_of_equal_adapters_stays_finite(write, tmp_path):
    one = write("one", 4)
    report = merge([one, one], tmp_path / "out", method="iso", common_fraction=0.5, rank=4)
    found = deltas(report.out)
    assert all(bool(delta.isfinite().all()) for delta in found.values())
    u, _, _ = torch.linalg.svd(deltas(one)["layers.0.q"])
    outside = found["layers.0.q"] - u[:, :4] @ u[:, :4].mT @ found["layers.0.q"]
    assert float(outside.norm()) < 1e-4 * float(found["layers.0.q"].norm())  # nothing made up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.3, 0.77, 1.0])
def test_the_threshold_is_the_k_th_largest_magnitude(dtype, share, monkeypatch):
    monkeypatch.setattr(entrywise, "_BLOCK", 100)
    matrix = torch.randn(30, 12, dtype=dtype)
    matrix[matrix > 1.5] = 1.5  # many equal ones
    matrix[:3] = 0
    wanted = max(1, int(share * matrix.numel()))
    assert threshold(matrix, share) == matrix.abs().flatten().topk(wanted).values[-1]


def test_subspace_iteration_loses_hardly_more_than_the_best(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 400, generator=generator)  # as flat as what TIES leaves
    signal = torch.randn(300, 5, generator=generator) @ torch.randn(5, 400, generator=generator)
    matrix = noise + signal
    exact = truncate_dense(matrix, 12, seed=0)
    monkeypatch.setattr(dense_svd, "_SMALL", 10)
    close = truncate_dense(matrix, 12, seed=0)
    assert not torch.equal(close.a, exact.a)
    assert close.energy_kept == pytest.approx(exact.energy_kept, abs=1e-4)
    assert close.energy_kept <= exact.energy_kept + 1e-6
    left = (close.b.double() @ close.a.double() - matrix).norm() ** 2
    assert close.lost == pytest.approx(float(left), rel=1e-4)
    again = truncate_dense(matrix, 12, seed=0)
    assert torch.equal(close.a, again.a)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_on_factors_merges_both_sides_apart(method, equal, three, tmp_path):
    report = merge(equal, tmp_path / "out", method=method, density=0.5, merge_space="factors")
    assert {layer.rank for layer in report.layers} == {4}
    with pytest.raises(Exception, match=r"adapters of one rank, but layers.0.q has \[2, 3, 4\]"):
        merge(three, tmp_path / "no", method=method, density=0.5, merge_space="factors")


def test_every_method_is_defined_in_its_docstring():
    for name, method in MERGE_METHODS.items():
        assert len(method.merge.__doc__ or "") > 100, name
