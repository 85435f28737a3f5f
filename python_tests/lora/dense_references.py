"""Definitions of merge methods on matrices in full size, in double."""

from __future__ import annotations

import torch
from small_adapters import rounded


def weighted_sum(parts, weights):
    return sum(weight * part for weight, part in zip(weights, parts, strict=True))


def best(matrix, rank):
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def trimmed(part, density):
    wanted = int(density * part.numel())
    kept = torch.zeros(part.numel(), dtype=torch.bool)
    kept[part.abs().flatten().topk(wanted).indices] = True
    return part * kept.reshape(part.shape)


def elected(parts, weights):
    parts = torch.stack(parts)
    sign = torch.where(parts.sum(0) >= 0, 1, -1)
    agree = parts.sign() == sign
    scale = torch.tensor(weights)[:, None, None]
    return (parts * agree * scale).sum(0) / agree.sum(0).clamp(min=1)


def polar(columns):
    """By the inverse root of the Gram matrix, not by an SVD."""
    columns = rounded(columns)
    values, vectors = torch.linalg.eigh(columns.mT @ columns)
    return columns @ (vectors / values.sqrt()) @ vectors.mT
