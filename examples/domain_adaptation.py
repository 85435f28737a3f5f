"""MMD as a loss: train a classifier for a domain without labels.

A source domain has labels. A target domain has none, and its classes are shifted and stretched. A
small network is trained twice from the same initial weights and on the same batches: with the
cross-entropy on the source only, and with the squared MMD between the hidden features of the two
domains added. This term makes the features of the two domains similar.

The data is synthetic and suits the method: both domains have the same class proportions. If the
proportions differ, aligning the domains mixes up the classes, and the term can be harmful.

    python examples/domain_adaptation.py
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import awpf_ext

CLASSES, DIM, POINTS = 8, 16, 512
STEPS, BATCH = 150, 128
MMD_WEIGHT = 1.0
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # a mixture, so that no single bandwidth has to fit


class Domain(NamedTuple):
    """Points and their classes."""

    x: Tensor
    y: Tensor


class Accuracies(NamedTuple):
    """Accuracies on the target domain, one per seed."""

    source_only: list[float]
    with_mmd: list[float]


def source_target_test() -> tuple[Domain, Domain, Domain]:
    """Three sets of the same clusters; target and test set are shifted and stretched."""
    centres, shift = 0.5 * torch.randn(CLASSES, DIM), 0.6 * torch.randn(DIM)
    stretch = torch.linspace(0.6, 1.4, DIM)
    y = torch.arange(POINTS) % CLASSES
    source, target, test = (centres[y] + 0.5 * torch.randn(POINTS, DIM) for _ in range(3))
    return Domain(source, y), Domain(target * stretch + shift, y), Domain(test * stretch + shift, y)


def network() -> tuple[nn.Module, nn.Module]:
    """The feature network and the classifier on top of it."""
    return nn.Sequential(nn.Linear(DIM, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, CLASSES)


def accuracy(features: nn.Module, classifier: nn.Module, data: Domain) -> float:
    with torch.no_grad():
        correct = classifier(features(data.x)).argmax(1) == data.y
    return float(correct.float().mean())


def train(source: Domain, target: Tensor, mmd_weight: float) -> tuple[nn.Module, nn.Module]:
    """Train on the labels of the source and, if mmd_weight is not 0, on points of the target."""
    features, classifier = network()
    parameters = [*features.parameters(), *classifier.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    for _ in range(STEPS):
        rows = torch.randint(0, len(source.x), (BATCH,))
        hidden = features(source.x[rows])
        loss = cross_entropy(classifier(hidden), source.y[rows])
        if mmd_weight:
            others = features(target[torch.randint(0, len(target), (BATCH,))])
            loss = loss + mmd_weight * awpf_ext.mmd(hidden, others, scales=SCALES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return features, classifier


def main(seeds: int = 5) -> Accuracies:
    found = Accuracies([], [])
    for seed in range(seeds):
        torch.manual_seed(seed)
        source, target, test = source_target_test()
        for values, weight in ((found.source_only, 0.0), (found.with_mmd, MMD_WEIGHT)):
            torch.manual_seed(100 + seed)  # the same initial weights and batches for both
            values.append(accuracy(*train(source, target.x, weight), test))
    for name, values in (("source only", found.source_only), ("with MMD", found.with_mmd)):
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name:12s} target accuracy {statistics.mean(values):.1%} (std {std:.1%})")
    return found


if __name__ == "__main__":
    main()
