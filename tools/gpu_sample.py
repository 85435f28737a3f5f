"""Every CUDA kernel once, on small and odd sizes: what compute-sanitizer watches.

compute-sanitizer --tool memcheck python tools/gpu_sample.py
"""

from __future__ import annotations

import torch

import awpf_ext

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)


def sample(dtype: torch.dtype) -> None:
    """Shapes that end within tiles, slabs and pieces; groups and classes that are empty."""
    torch.manual_seed(0)
    x, y = (torch.randn(2, n, 67, device="cuda", dtype=dtype) for n in (150, 43))
    labels = torch.randint(0, 4, (150,), device="cuda") * 2  # odd classes are empty
    x.requires_grad_()
    awpf_ext.mmd(x, y, scales=SCALES).sum().backward()
    awpf_ext.mmd(x.detach(), y, bandwidth=3.0, estimator="unbiased")
    ends = torch.tensor([0, 7, 150], device="cuda"), torch.tensor([0, 42, 43], device="cuda")
    awpf_ext.mmd(x[0].detach(), y[0], x_offsets=ends[0], y_offsets=ends[1])
    awpf_ext.mmd_matrix(x[0].detach(), labels, num_groups=8, bandwidth=5.0)
    many = torch.randn(700, 67, device="cuda", dtype=dtype)  # enough for products of halves
    awpf_ext.mmd_matrix(many, torch.arange(700, device="cuda") % 5, num_groups=5, bandwidth=20.0)
    awpf_ext.mmd_test(x[0].detach(), y[0], permutations=33)
    odd = labels.clone()
    odd[::10] = 2**40
    awpf_ext.scatter(x[0].detach(), odd, 8)
    awpf_ext.scatter(1e6 * labels[:, None].to(dtype) + x[0].detach(), labels, 8)  # in double
    u, v = (torch.randn(2, 3, n, 11, device="cuda", dtype=dtype) for n in (130, 45))
    awpf_ext.low_rank_sum(u, None, v, base=torch.zeros(2, 130, 45, device="cuda", dtype=dtype))
    torch.cuda.synchronize()


if __name__ == "__main__":
    for element in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        sample(element)
    print("done")
