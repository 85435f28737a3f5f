"""torch.func, vmap and torch.compile, nested: the same values as plain calls."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, grad_and_value, jacrev, vmap

import awpf_ext

BATCH = 3
torch.manual_seed(2)
GROUPS = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def points(n, d=4, batch=BATCH):
    return torch.randn(batch, n, d, dtype=torch.float64)


def labels(n, batch=BATCH):
    return torch.randint(0, 3, (batch, n))


def terms():
    u, v = torch.randn(2, BATCH, 2, 4, 3).double(), torch.randn(BATCH, 2, 5, 3).double()
    return (
        u[0],
        torch.rand(BATCH, 2, 3).double(),
        v,
        torch.rand(BATCH, 2).double(),
        torch.randn(BATCH, 4, 5).double(),
    )


# Each a function of one member of a batch, scalar in the end, differentiable in its first argument.
SCALARS = {
    "mmd": (lambda x, y: awpf_ext.mmd(x, y, bandwidth=[1.0, 2.0]), (points(7), points(5))),
    "mmd by median": (
        lambda x, y: awpf_ext.mmd(x, y, estimator="unbiased"),
        (points(7), points(5)),
    ),
    "mmd of ragged": (
        lambda x, y: awpf_ext.mmd(
            x, y, x_offsets=torch.tensor([0, 3, 7]), y_offsets=torch.tensor([0, 1, 5])
        ).sum(),
        (points(7), points(5)),
    ),
    "mmd_matrix": (
        lambda x: awpf_ext.mmd_matrix(x, GROUPS, num_groups=3, bandwidth=1.0).square().sum(),
        (points(7),),
    ),
    "scatter": (
        lambda x, y: sum(part.square().sum() for part in awpf_ext.scatter(x, y, 3)[:3]),
        (points(7), labels(7)),
    ),
    "trace": (lambda x, y: awpf_ext.separability(x, y, num_classes=3), (points(7), labels(7))),
    "fisher": (
        lambda x, y: awpf_ext.separability(x, y, "fisher", num_classes=3),
        (points(7), labels(7)),
    ),
    "low_rank_sum": (lambda *t: awpf_ext.low_rank_sum(*t).square().sum(), terms()),
}

VALUES = {
    "median_bandwidth": (lambda x, y: awpf_ext.median_bandwidth(x, y), (points(7), points(5))),
    "mmd_test": (
        lambda x, y: tuple(awpf_ext.mmd_test(x, y, permutations=11)),
        (points(7), points(5)),
    ),
    "scatter": (lambda x, y: tuple(awpf_ext.scatter(x, y, 3)), (points(7), labels(7))),
    "low_rank_sum": (awpf_ext.low_rank_sum, terms()),
}


def close(found, expected):
    found, expected = (v if isinstance(v, tuple) else (v,) for v in (found, expected))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        assert torch.allclose(one.double(), other.double(), rtol=1e-10, atol=1e-13)


def one_by_one(function, arguments):
    results = [function(*(a[k] for a in arguments)) for k in range(arguments[0].shape[0])]
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return torch.stack(results)


def plain_gradient(function, arguments):
    first, *rest = arguments
    first = first.clone().requires_grad_()
    return torch.autograd.grad(function(first, *rest), first)[0]


@pytest.mark.parametrize("name", SCALARS)
def test_vmap(name):
    function, arguments = SCALARS[name]
    if name == "mmd of ragged":
        arguments = tuple(a.contiguous() for a in arguments)
    close(vmap(function)(*arguments), one_by_one(function, arguments))


@pytest.mark.parametrize("name", VALUES)
def test_vmap_of_what_has_several_results(name):
    function, arguments = VALUES[name]
    close(vmap(function)(*arguments), one_by_one(function, arguments))


@pytest.mark.parametrize("name", SCALARS)
def test_grad(name):
    function, arguments = SCALARS[name]
    single = tuple(a[1] for a in arguments)
    close(grad(function)(*single), plain_gradient(function, single))
    gradient, value = grad_and_value(function)(*single)
    close(value, function(*single))
    close(gradient, plain_gradient(function, single))


@pytest.mark.parametrize("name", SCALARS)
def test_vmap_of_grad(name):
    function, arguments = SCALARS[name]
    expected = one_by_one(lambda *member: plain_gradient(function, member), arguments)
    close(vmap(grad(function))(*arguments), expected)


@pytest.mark.parametrize("name", SCALARS)
def test_grad_of_vmap(name):
    function, arguments = SCALARS[name]
    expected = one_by_one(lambda *member: plain_gradient(function, member), arguments)
    close(grad(lambda *batch: vmap(function)(*batch).sum())(*arguments), expected)


def test_vmap_over_one_argument_and_over_other_dimensions():
    x, y = points(7), points(5)

    def function(a, b):
        return awpf_ext.mmd(a, b, bandwidth=1.5)

    expected = torch.stack([function(x[k], y[0]) for k in range(BATCH)])
    close(vmap(function, in_dims=(0, None))(x, y[0]), expected)
    close(vmap(function, in_dims=(2, None))(x.movedim(0, 2), y[0]), expected)
    swapped = vmap(grad(function, argnums=1), in_dims=(None, 0))(x[0], y)
    close(swapped, torch.stack([grad(function, argnums=1)(x[0], y[k]) for k in range(BATCH)]))
    nested = vmap(vmap(function, in_dims=(None, 0)), in_dims=(0, None))(x, y)
    close(nested, torch.stack([torch.stack([function(a, b) for b in y]) for a in x]))


def test_vmap_over_bandwidths():
    x, y = points(7)[0], points(5)[0]
    sigmas = torch.tensor([0.5, 1.0, 3.0]).double()
    found = vmap(lambda sigma: awpf_ext.mmd(x, y, bandwidth=sigma))(sigmas)
    close(found, torch.stack([awpf_ext.mmd(x, y, bandwidth=float(s)) for s in sigmas]))


def test_jacobians():
    x = points(7)[0]

    def function(a):
        return awpf_ext.mmd_matrix(a, GROUPS, num_groups=3, bandwidth=1.0)

    expected = torch.autograd.functional.jacobian(function, x)
    close(jacrev(function)(x), expected)


# ---- compile: seconds each, so few; all but one stop before code is generated ----


def compiled(function, backend="aot_eager", dynamic=None):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend, dynamic=dynamic)


def test_compiled_to_code():
    x, y = points(7), points(5)
    a, b = (value.clone().requires_grad_() for value in (x, y))
    found = compiled(awpf_ext.mmd, backend="inductor")(a, b)
    close(found.detach(), awpf_ext.mmd(x, y))
    found.sum().backward()
    close(a.grad, plain_gradient(lambda c: awpf_ext.mmd(c, y).sum(), (x,)))


def test_compiled_mmd_with_its_gradient():
    x, y = points(7), points(5)

    def function(a, b):
        return awpf_ext.mmd(a, b, scales=(0.5, 1.0)), awpf_ext.mmd(a[0], b[0], bandwidth=[1.0, 2.0])

    expected = function(x, y)
    a, b = (value.clone().requires_grad_() for value in (x, y))
    found = compiled(function)(a, b)
    close(tuple(value.detach() for value in found), expected)
    (found[0].sum() + found[1]).backward()
    c, d = (value.clone().requires_grad_() for value in (x, y))
    values = function(c, d)
    (values[0].sum() + values[1]).backward()
    close((a.grad, b.grad), (c.grad, d.grad))


def test_compiled_values():
    x, y = points(7), points(5)
    every = labels(7)

    def function(a, b, c):
        test = awpf_ext.mmd_test(a, b, permutations=9)
        matrix = awpf_ext.mmd_matrix(a[0], GROUPS, num_groups=3)
        return (*test, matrix, awpf_ext.median_bandwidth(a, b), *awpf_ext.scatter(a, c, 3))

    close(compiled(function)(x, y, every), function(x, y, every))


def test_compiled_scatter_and_low_rank_sum_with_their_gradients():
    x, every = points(7), labels(7)
    parts = terms()

    def function(a, c, *t):
        fisher = awpf_ext.separability(a, c, "fisher", num_classes=3).sum()
        return fisher + awpf_ext.low_rank_sum(*t).square().sum()

    first = [value.clone().requires_grad_() for value in (x, *parts)]
    second = [value.clone().requires_grad_() for value in (x, *parts)]
    compiled(function)(first[0], every, *first[1:]).backward()
    function(second[0], every, *second[1:]).backward()
    close(tuple(v.grad for v in first), tuple(v.grad for v in second))


@pytest.mark.parametrize("dynamic", [True, None])
def test_compiled_with_sizes_and_bandwidths_that_change(dynamic):
    function = compiled(lambda a, b, s: awpf_ext.mmd(a, b, bandwidth=s), dynamic=dynamic)
    for n, sigma in ((5, 1.0), (8, 2.0), (13, 2.5)):
        x, y = torch.randn(n, 3), torch.randn(n + 2, 3)
        close(function(x, y, sigma), awpf_ext.mmd(x, y, bandwidth=sigma))


def test_what_needs_a_look_at_the_labels_says_so_when_compiled():
    x, every = points(7)[0], labels(7)[0]
    for function, name in (
        (lambda: awpf_ext.scatter(x, every), "num_classes"),
        (lambda: awpf_ext.mmd_matrix(x, every), "num_groups"),
    ):
        with pytest.raises(Exception, match=f"{name} must be given"):
            compiled(function)()
        with pytest.raises(ValueError, match=f"{name} must be given"):
            vmap(lambda _, function=function: function()[0].sum())(torch.zeros(2))


def test_fake_tensors_have_the_right_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, y = torch.randn(3, 7, 4), torch.randn(3, 5, 4)
        assert awpf_ext.mmd(x, y).shape == (3,)
        assert awpf_ext.mmd_test(x, y, permutations=9).null.shape == (3, 9)
        found = awpf_ext.scatter(x, torch.zeros(3, 7, dtype=torch.int64), 6)
        assert [tuple(part.shape) for part in found] == [(3, 4, 4), (3, 4, 4), (3, 6, 4), (3, 6)]
        labels = torch.zeros(7, dtype=torch.int64)
        assert awpf_ext.mmd_matrix(x[0], labels, num_groups=2).shape == (2, 2)
        assert awpf_ext.separability(x[0], labels, num_classes=2).shape == ()
        u = torch.randn(2, 5, 3)
        assert awpf_ext.low_rank_sum(u, None, u).shape == (5, 5)
