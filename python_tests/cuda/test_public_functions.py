"""The public functions on the CUDA kernels against the CPU kernels: on the emulator and, if there
is one, on a GPU. Tests that need a GPU are at the end."""

from __future__ import annotations

import error_bounds
import pytest
import torch

import awpf_ext

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


@pytest.fixture
def points():
    """x (2, 40, 9), y (2, 30, 9) and labels (40,) of three classes."""
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(2, n, 9, generator=generator) for n in (40, 30))
    return x, y + 0.3, torch.arange(40) % 3


def mmd(x, y, labels):
    return awpf_ext.mmd(x, y, bandwidth=4.0, scales=SCALES)


def mmd_by_median(x, y, labels):
    return awpf_ext.mmd(x, y, scales=SCALES, estimator="unbiased")


def mmd_ragged(x, y, labels):
    offsets = torch.tensor([0, 11, 40]), torch.tensor([0, 25, 30])
    return awpf_ext.mmd(x[0], y[0], x_offsets=offsets[0], y_offsets=offsets[1], bandwidth=3.0)


def mmd_gradient(x, y, labels):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(awpf_ext.mmd(leaf, y, bandwidth=[2.0, 5.0]).sum(), leaf)[0]


def mmd_matrix(x, y, labels):
    return awpf_ext.mmd_matrix(x[0], labels, num_groups=3)


def mmd_test(x, y, labels):
    found = awpf_ext.mmd_test(x, y, permutations=60, seed=5)
    return torch.cat([found.statistic[:, None], found.p_value[:, None], found.null], 1)


def median_bandwidth(x, y, labels):
    return awpf_ext.median_bandwidth(x, y)


def scatter(x, y, labels):
    return torch.cat(awpf_ext.scatter(x[0], labels, 3)[:3])


def separability(x, y, labels):
    return awpf_ext.separability(x[0], labels, "fisher", num_classes=3)


def low_rank_sum(x, y, labels):
    return awpf_ext.low_rank_sum(
        x, None, x + 1, weights=torch.tensor([0.5, -1.0]), base=x[0] @ x[1].T
    )


def truncate(x, y, labels):
    u, s, v = awpf_ext.truncate(x, None, x + 1, 4)
    return u * s @ v.mT


def fuse(x, y, labels):
    return awpf_ext.fuse(x[0, :9], x[1, :9], "delta_stack", weight=0.3, rank=5)


CALLS = [mmd, mmd_by_median, mmd_ragged, mmd_gradient, mmd_matrix, mmd_test, median_bandwidth,
         scatter, separability, low_rank_sum, truncate, fuse]  # fmt: skip


@pytest.fixture
def expected(points, request):
    """Results of the CPU kernels in float64, found before `device` replaces these kernels."""
    x, y, labels = points
    return request.param(x.double(), y.double(), labels)


SINGULAR_VECTORS = {truncate, fuse}  # held to bounds of their own
OTHERS = [call for call in CALLS if call not in SINGULAR_VECTORS]


@pytest.mark.parametrize(
    ("expected", "call"),
    [(call, call) for call in OTHERS],
    indirect=["expected"],
    ids=[call.__name__ for call in OTHERS],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_as_on_the_cpu(expected, points, device, call, dtype):
    x, y = (value.to(device, dtype) for value in points[:2])
    found = call(x, y, points[2].to(device))
    assert found.device.type == device.type
    bound = 1e-11 if dtype == torch.float64 else 2e-5
    assert torch.allclose(found.cpu().double(), expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_truncate_gives_singular_triplets(points, device, dtype):
    x = points[0].to(device, dtype)
    u, v = (side.cpu().double() for side in (x, x + 1))
    found = awpf_ext.truncate(x, None, x + 1, 4)
    assert found.u.device.type == device.type
    error_bounds.check_truncation(found, (u @ v.mT).sum(0), u.norm() * v.norm())


@pytest.mark.parametrize("expected", [fuse], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_fuse_as_on_the_cpu(expected, points, device, dtype):
    """w svd_r(new - old) moves as far as the truncated change, the sum on `old` by a rounding."""
    old, new = points[0][0, :9].double(), points[0][1, :9].double()
    found = fuse(*(value.to(device, dtype) for value in points[:2]), None)
    assert found.device.type == device.type
    backward = error_bounds.backward_error(dtype, (new - old).norm(), 9)
    bound = 0.3 * error_bounds.truncation_error(new - old, 5, backward)
    bound += error_bounds.backward_error(dtype, old.norm(), 1)
    assert (found.cpu().double() - expected).norm() <= bound


# ---- on a GPU alone ----


@pytest.fixture
def on_gpu(points, gpu):
    return tuple(value.to(gpu) for value in points)


LINEAR_ALGEBRA = {"truncate", "fuse", "separability"}  # torch's own, which may wait
SYNCHRONOUS = {"mmd_ragged", "low_rank_sum"}  # given small tensors of the CPU
ASYNCHRONOUS = [c for c in CALLS if c.__name__ not in LINEAR_ALGEBRA | SYNCHRONOUS]


@pytest.mark.parametrize("call", ASYNCHRONOUS)
def test_nothing_waits_for_the_gpu(on_gpu, call):
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("call", [c for c in ASYNCHRONOUS if c is not mmd_gradient])
def test_graphs_replay_on_new_values(on_gpu, call):
    x, y, labels = on_gpu
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(x, y, labels)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call(x, y, labels)
    x.copy_(x.flip(-1) * 1.5)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found, call(x, y, labels))


@pytest.mark.parametrize("call", CALLS)
def test_the_same_bits_again_and_on_another_stream(on_gpu, call):
    expected = call(*on_gpu)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = call(*on_gpu)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)
    assert torch.equal(call(*on_gpu), expected)


@pytest.mark.parametrize("call", [mmd, mmd_matrix, scatter, low_rank_sum])
def test_compiled_whole(on_gpu, call):
    expected = call(*on_gpu)
    found = torch.compile(call, fullgraph=True)(*on_gpu)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_values_are_looked_at_on_request(on_gpu):
    x, y, labels = on_gpu
    x[0, 7, 2] = torch.nan
    for call in (
        lambda **options: awpf_ext.mmd(x, y, bandwidth=1.0, **options),
        lambda **options: awpf_ext.scatter(x[0], labels, 3, **options).within,
        lambda **options: awpf_ext.mmd_matrix(x[0], labels, num_groups=3, bandwidth=1.0, **options),
    ):
        assert call().isnan().any()
        with pytest.raises(ValueError, match="NaN"):
            call(validate=True)
    with pytest.raises(ValueError, match="labels must be between 0 and 1"):
        awpf_ext.scatter(y[0, :30], labels[:30], 2, validate=True)


def test_labels_of_no_group_do_not_count(on_gpu):
    x, _, labels = on_gpu
    odd = torch.where(labels == 2, torch.tensor(2**40, device=labels.device), labels)
    found = awpf_ext.mmd_matrix(x[0], odd, num_groups=2, bandwidth=2.0)
    kept = labels < 2
    assert torch.equal(found, awpf_ext.mmd_matrix(x[0][kept], labels[kept], bandwidth=2.0))


def test_a_large_problem_without_a_large_matrix(gpu):
    x, y = torch.randn(2, 20_000, 64, device=gpu)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = awpf_ext.mmd(x, y, bandwidth=8.0)
    assert torch.cuda.max_memory_allocated() - before < 200 << 20  # a matrix would take 6.4 GB
    assert 0 <= float(value) < 1e-3
