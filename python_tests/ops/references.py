"""The operations written down naively, in float64 and plain torch: what kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from awpf_ext._library import sampled_rows

FIVE = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The usual mixture: multiples of sigma^2 in ratio 2."""


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    """By differences, never by inner products."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a.double(), b.double(), compute_mode=exact) ** 2


def kernel(a: Tensor, b: Tensor, gammas: list[float]) -> Tensor:
    """mean_s exp(-gamma_s |a_i - b_j|^2)."""
    squares = square_distances(a, b)
    return torch.stack([torch.exp(-gamma * squares) for gamma in gammas]).mean(0)


def kernel_sum(a: Tensor, b: Tensor, gammas: list[float]) -> Tensor:
    return kernel(a, b, gammas).sum()


def block_sums(z: Tensor, rows: Tensor, columns: Tensor | None, gamma: Tensor) -> Tensor:
    """What torch.ops.awpf.rbf_sums returns."""
    columns = rows if columns is None else columns
    sums = torch.zeros(rows.shape[0], rows.shape[1], columns.shape[1], dtype=torch.float64)
    for p in range(rows.shape[0]):
        for g, (begin, end) in enumerate(rows[p].tolist()):
            for h, (first, last) in enumerate(columns[p].tolist()):
                sums[p, g, h] = kernel_sum(z[begin:end], z[first:last], gamma[p].tolist())
    return sums


def estimate(xx: Tensor, xy: Tensor, yy: Tensor, n: int, m: int, estimator: str) -> Tensor:
    """Squared MMD from sums over all pairs, the diagonals included."""
    if estimator == "biased":
        return xx / n**2 + yy / m**2 - 2 * xy / (n * m)
    return (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m)


def mmd(x: Tensor, y: Tensor, gammas: list[float], estimator: str = "biased") -> Tensor:
    xx, xy, yy = (kernel_sum(a, b, gammas) for a, b in ((x, x), (x, y), (y, y)))
    return estimate(xx, xy, yy, len(x), len(y), estimator)


def gammas_of(sigmas: list[float], scales: tuple[float, ...] = (1.0,)) -> list[float]:
    return [1 / (2 * scale * sigma**2) for sigma in sigmas for scale in scales]


def autograd_mmd(x: Tensor, y: Tensor, gammas: list[float], estimator: str = "biased") -> Tensor:
    """Differentiable everywhere: squared distances by differences, without a square root."""

    def total(a: Tensor, b: Tensor) -> Tensor:
        squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
        return torch.stack([torch.exp(-gamma * squares) for gamma in gammas]).mean(0).sum()

    x, y = x.double(), y.double()
    return estimate(total(x, x), total(x, y), total(y, y), len(x), len(y), estimator)


def block_gradient(z: Tensor, sizes: list[int], gammas: list[float], weights: Tensor) -> Tensor:
    """d/dz of sum_gh weights[g, h] S[g, h] for consecutive groups: sum_j P_ij (z_j - z_i)."""
    z = z.double()
    squares = square_distances(z, z)
    slopes = sum(2 * gamma * torch.exp(-gamma * squares) for gamma in gammas) / len(gammas)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    both = (weights + weights.T)[group][
        :, group
    ]  # every pair is met twice, as (i, j) and as (j, i)
    pulls = both * slopes
    return pulls @ z - pulls.sum(1, keepdim=True) * z


def mmd_weights(n: int, m: int, estimator: str) -> Tensor:
    """The squared MMD as weights of block sums, but for a constant."""
    unbiased = int(estimator == "unbiased")
    xx, yy, xy = 1 / (n * (n - unbiased)), 1 / (m * (m - unbiased)), -1 / (n * m)
    return torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64)


def median_distance(z: Tensor) -> Tensor:
    """Lower median over the pairs of different points."""
    pairs = torch.pdist(z.double())
    return pairs.sort().values[(len(pairs) - 1) // 2]


def sampled_median_distance(z: Tensor) -> Tensor:
    """The same over the pairs that the default bandwidth looks at: up to 1,024 rows in a random
    order around a circle, each with the next few."""
    z, total = z.double(), len(z)
    rows = min(total, 1024)
    partners = max(2, -(-1024 // rows))
    if 2 * partners >= rows - 1:
        return median_distance(z)
    if rows < total:
        z = z[sampled_rows(0, total, rows)]
    z = z[sampled_rows(0, rows, rows)]
    pairs = torch.cat([(z - z.roll(-step, 0)).norm(dim=1) for step in range(1, partners + 1)])
    return pairs.sort().values[(len(pairs) - 1) // 2]


def split_sums(z: Tensor, first: Tensor, gammas: list[float]) -> Tensor:
    """(xx, xy, yy) when the rows named by the boolean vector `first` are x and the others y."""
    matrix = kernel(z, z, gammas)
    a, b = first.double(), (~first).double()
    return torch.stack([a @ matrix @ a, a @ matrix @ b, b @ matrix @ b])


def scatter(x: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Within, between, means, counts by a loop over the rows."""
    x = x.double()
    d = x.shape[1]
    counts = torch.bincount(labels, minlength=classes)
    within, between = torch.zeros(2, d, d, dtype=torch.float64)
    means = torch.zeros(classes, d, dtype=torch.float64)
    grand = x.mean(0)
    for c in range(classes):
        if counts[c] == 0:
            continue
        members = x[labels == c]
        means[c] = members.mean(0)
        for row in members:
            within = within + torch.outer(row - means[c], row - means[c])
        between = between + counts[c] * torch.outer(means[c] - grand, means[c] - grand)
    return within, between, means, counts


def low_rank_sum(
    us: list[Tensor], ss: list[Tensor], vs: list[Tensor], weights: list[float], base: Tensor | None
) -> Tensor:
    """The terms one after the other."""
    total = torch.zeros(us[0].shape[0], vs[0].shape[0], dtype=torch.float64)
    for u, s, v, weight in zip(us, ss, vs, weights, strict=True):
        total = total + weight * (u.double() @ torch.diag(s.double()) @ v.double().T)
    return total if base is None else total + base.double()


def best_of_rank(matrix: Tensor, rank: int) -> Tensor:
    """Eckart and Young: the full SVD, cut."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
