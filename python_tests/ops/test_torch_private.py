"""Without the private names of torch, the public ways that replace them give the same results."""

from __future__ import annotations

import subprocess
import sys

import torch

from awpf_ext.ops import _torch_private

# The names are hidden while the package is imported: torch's own transforms need them later.
WITHOUT_PRIVATE_NAMES = """
from types import SimpleNamespace
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap
from torch._subclasses.fake_tensor import FakeTensorMode

names = ("_are_functorch_transforms_active", "_len_torch_dispatch_stack")
hidden = {name: getattr(torch._C, name) for name in names}
for name in names:
    delattr(torch._C, name)
import awpf_ext
from awpf_ext.ops import _torch_private
for name, value in hidden.items():
    setattr(torch._C, name, value)
assert _torch_private.transform_active is _torch_private._unknown
assert _torch_private.dispatch_mode_active is _torch_private._unknown

x, y, labels = torch.randn(3, 6, 2), torch.randn(3, 5, 2), torch.tensor([0, 1, 1, 0, 2, 2])
single = torch.stack([awpf_ext.mmd(a, b, estimator="unbiased") for a, b in zip(x, y)])
assert torch.equal(vmap(lambda a, b: awpf_ext.mmd(a, b, estimator="unbiased"))(x, y), single)
assert awpf_ext.scatter(x, labels).counts.shape == (3, 3)  # the labels can be read

leaf = x[0].clone().requires_grad_()
awpf_ext.mmd(leaf, y[0]).backward()
assert torch.equal(grad(lambda a: awpf_ext.mmd(a, y[0]))(x[0]), leaf.grad)
for_all = vmap(grad(lambda a, b: awpf_ext.mmd(a, b)))(x, y)
assert torch.allclose(for_all[0], leaf.grad)

def refused(call, kind, words):
    try:
        call()
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)

refused(lambda: vmap(lambda a, c: awpf_ext.scatter(a, c).within)(x, labels.expand(3, -1)),
        ValueError, "num_classes must be given under torch.compile and torch.func")
refused(lambda: jvp(lambda a: awpf_ext.mmd(a, y[0]), (x[0],), (x[0],)), RuntimeError, "jvp")

_torch_private.forward_ad = SimpleNamespace(unpack_dual=forward_ad.unpack_dual)
with forward_ad.dual_level():
    dual = forward_ad.make_dual(x[0], torch.ones_like(x[0]))
    assert _torch_private.has_tangent(None, dual)
    assert not _torch_private.has_tangent(x[0], None)
    refused(lambda: awpf_ext.mmd(dual, y[0]), RuntimeError, "jvp")

import torch.distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
whole = awpf_ext.mmd(x[0], y[0])
assert torch.allclose(awpf_ext.mmd(x[0], y[0], group=dist.group.WORLD), whole, atol=1e-6)
refused(lambda: vmap(lambda a, b: awpf_ext.mmd(a, b, group=dist.group.WORLD))(x, y),
        ValueError, "group= works in eager mode only")

with FakeTensorMode():
    awpf_ext.mmd(torch.randn(7, 2), torch.randn(9, 2))
awpf_ext.mmd(torch.randn(7, 2), torch.randn(9, 2)).item()  # nothing fake was cached
print("equal")
"""


def test_without_the_private_names_transforms_and_caches_work():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PRIVATE_NAMES], capture_output=True, text=True, check=False
    )
    assert done.stdout == "equal\n", done.stderr


def test_torch_has_the_private_names():
    assert _torch_private.transform_active is not _torch_private._unknown
    assert _torch_private.dispatch_mode_active is not _torch_private._unknown


def test_the_mark_of_constant_results_is_that_of_torch():
    ours = _torch_private.assume_constant_result(lambda: True)
    public = torch.compiler.assume_constant_result(lambda: True)
    assert vars(ours) == vars(public) != {}
