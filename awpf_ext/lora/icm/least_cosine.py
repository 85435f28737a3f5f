"""The direction whose smallest cosine with several vectors is the largest, from their Gram matrix.

With unit vectors d_i this direction is that of the shortest vector of their convex hull: for
u = sum a_i d_i of least norm, <u, d_i> >= |u|^2 for every i, with equality where a_i > 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from awpf_ext.errors import UserError

_CANCELLED = 1e-5  # a smaller largest smallest cosine cannot be told from 0


def least_cosine_weights(gram: Tensor, weights: Sequence[float]) -> list[float]:
    """c_i so that sum c_i x_i has the direction that maximises min_i cos(x_i) / w_i.

    gram: (T, T), the inner products of the x_i. weights: w_i >= 0; vectors with weight 0, and
    vectors that are 0, have no part in the direction. The norm of the sum is the weighted mean of
    the |x_i|. UserError if the vectors cancel, so that no direction has a positive cosine with all.
    """
    given = torch.tensor(weights, dtype=torch.float64)
    if bool((given < 0).any()) or not bool((given > 0).any()):
        raise UserError(
            "icm looks for a direction that is near all adapters, so no weight may be negative and "
            f"not all may be 0; got {list(weights)}"
        )
    norms = gram.diagonal().double().clamp_min(0).sqrt()
    used = ((given > 0) & (norms > 0)).nonzero().flatten()
    found = torch.zeros(len(given), dtype=torch.float64)
    if len(used):
        share = given[used] / given[used].mean()
        scale = (norms[used] * share).reciprocal()
        own = gram.double()[used][:, used] * scale[:, None] * scale
        mix = shortest_of_hull(own)
        # Rounding can make the square of a vector that cancels negative.
        length = max(float(mix @ own @ mix), 0.0) ** 0.5
        if length <= _CANCELLED:
            raise UserError(
                "the adapters cancel: no direction has a positive cosine with all of them; leave "
                "one out or merge with linear"
            )
        wanted = float((given * norms).sum() / given.sum())
        found[used] = wanted / length * mix * scale
    return [float(value) for value in found]


def shortest_of_hull(gram: Tensor) -> Tensor:
    """a >= 0 with sum 1 that minimises a' gram a, exactly (active sets).

    It is the solution of the least-squares problem min |sum a_i d_i|^2 + (sum a_i - 1)^2 with
    a >= 0, divided by its sum, which the algorithm of Lawson and Hanson solves.
    """
    count = len(gram)
    scale = float(gram.diagonal().mean()) or 1.0
    normal = gram / scale + 1
    solution = torch.zeros(count, dtype=gram.dtype)
    chosen = torch.zeros(count, dtype=torch.bool)
    tolerance = 1e-12 * count
    for _ in range(10 * count):
        residual = (1 - normal @ solution).masked_fill(chosen, -torch.inf)
        best = int(residual.argmax())
        if residual[best] <= tolerance:
            break
        chosen[best] = True
        solution, chosen = _feasible(normal, solution, chosen)
    return solution / solution.sum()


def _feasible(normal: Tensor, solution: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The optimum over the chosen entries, less those that have to be 0 for it."""
    while True:
        inside = chosen.nonzero().flatten()
        ones = torch.ones(len(inside), 1, dtype=normal.dtype)
        best = torch.zeros_like(solution)
        best[inside] = torch.linalg.lstsq(normal[inside][:, inside], ones).solution[:, 0]
        low = chosen & (best <= 0)
        if not bool(low.any()):
            return best, chosen
        steps = solution[low] / (solution[low] - best[low]).clamp_min(1e-300)
        solution = solution + float(steps.min()) * (best - solution)
        chosen = chosen & (solution > 1e-14)
        solution = torch.where(chosen, solution, 0.0)
