"""What part of the variance of LoRAs the principal components and the network explain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from awpf_ext.lora.icm.pca import Pca, explained_variance


def pca_curve(pca: Pca, vectors: Tensor, places: Tensor, means: Tensor) -> list[dict[str, Any]]:
    """The explained variance of vectors (N, P) by 1, 2, 4 ... components, about the mean.

    means: (T, P), of the tasks' LoRAs that `pca` was fitted to; places: the task of each vector. A
    vector's deviation is that of its task's mean (between tasks) plus its own (within tasks).
    """
    between = means[places] - pca.mean
    within = vectors - means[places]
    most = len(pca.variance)
    counts = [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]
    found = []
    for count in counts:
        basis = pca.basis[:count]
        row: dict[str, Any] = {"components": count}
        parts = {"both": vectors - pca.mean, "between": between, "within": within}
        for name, part in parts.items():
            approximated = (part @ basis.T) @ basis
            row[name] = explained_variance(part, approximated, torch.zeros_like(pca.mean))
        found.append(row)
    return found


def task_means(vectors: Tensor, places: Tensor) -> Tensor:
    """(T, P): the mean of each task's vectors."""
    count = int(places.max()) + 1
    return torch.stack([vectors[places == place].float().mean(dim=0) for place in range(count)])


def on_plane(pca: Pca, scores: Tensor) -> list[list[float]]:
    """Vectors with these scores (N, k) on the first two principal directions, in their own unit."""
    spots = scores[:, :2] * pca.variance[:2][: scores.shape[1]].sqrt()
    padded = torch.nn.functional.pad(spots, (0, 2 - spots.shape[1]))
    return [[float(f"{value:.4g}") for value in row] for row in padded.tolist()]
