"""The shared covariance is scikit-learn's Ledoit-Wolf, from sums alone; LDA is scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awpf_ext.methods._base.class_statistics import ClassStatistics, StatisticsBlock
from awpf_ext.methods._base.lda import lda_classifier
from awpf_ext.methods._base.pooled_covariance import pooled_covariance


def classes(counts: list[int], dim: int = 12) -> tuple[Tensor, Tensor]:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    centres = torch.randn(len(counts), dim)
    scales = torch.linspace(0.2, 1.5, dim)
    return centres[labels] + scales * torch.randn(len(labels), dim), labels


def statistics_of(x: Tensor, labels: Tensor, count: int, step: int = 2, **settings: int):
    statistics = ClassStatistics(x.shape[1], **settings)
    for start in range(0, count, step):
        span = range(start, min(start + step, count))
        rows = (labels >= span.start) & (labels < span.stop)
        statistics.add(x[rows], labels[rows], span)
    return statistics


def residuals(x: Tensor, labels: Tensor) -> Tensor:
    x = x.double()
    return torch.cat([x[labels == label] - x[labels == label].mean(0) for label in labels.unique()])


@pytest.mark.parametrize(
    "counts", [[9, 4, 7, 30], [2, 3, 2], [1, 6, 0, 5, 1], [40, 50, 30], [200], [2, 0]]
)
def test_the_covariance_is_that_of_scikit_learn(counts):
    covariance = pytest.importorskip("sklearn.covariance")
    x, labels = classes(counts)
    images, present = len(x), sum(count > 0 for count in counts)
    matrix, shrinkage = covariance.ledoit_wolf(residuals(x, labels).numpy(), assume_centered=True)
    found = pooled_covariance(statistics_of(x, labels, len(counts)))
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-4, abs=2e-6)
    expected = torch.from_numpy(matrix) * images / (images - present)
    atol = 1e-5 * float(expected.diagonal().mean())
    torch.testing.assert_close(found.covariance, expected, rtol=1e-4, atol=atol)


def test_the_scores_are_those_of_scikit_learn():
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    x, labels = classes([9, 4, 7, 30])
    statistics = statistics_of(x, labels, 4)
    covariance = pooled_covariance(statistics).covariance.numpy()

    class Given:
        """The covariance that scikit-learn asks for, whichever rows it passes."""

        def fit(self, rows):
            self.covariance_ = covariance
            return self

    lda = discriminant.LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=Given(), priors=[0.25] * 4
    ).fit(x.double().numpy(), labels.numpy())
    classifier = lda_classifier(statistics)
    probed = torch.randn(20, 12)
    expected = lda.predict_log_proba(probed.double().numpy())
    found = classifier.scores(probed).log_softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-3)


def test_tasks_and_a_resumed_run_give_the_same_covariance():
    x, labels = classes([5, 3, 1, 8, 0, 4])
    whole = pooled_covariance(statistics_of(x, labels, 6, step=6))
    statistics = statistics_of(x, labels, 6, step=1)
    pooled_covariance(statistics)
    torch.testing.assert_close(pooled_covariance(statistics), whole, rtol=1e-6, atol=1e-7)
    restored = ClassStatistics(12)
    for block in statistics.blocks:
        restored.append(StatisticsBlock(**block.tensors()))
    assert torch.equal(pooled_covariance(restored).covariance, pooled_covariance(statistics)[0])


def test_a_covariance_that_was_asked_for_does_not_change():
    x, labels = classes([5, 4])
    statistics = statistics_of(x[labels == 0], labels[labels == 0], 1)
    scatter = statistics.scatter()
    before = scatter.clone()
    statistics.add(x[labels == 1], labels[labels == 1], range(1, 2))
    statistics.scatter()
    assert torch.equal(scatter, before)


def test_truncated_factors_keep_the_whole_variance():
    x, labels = classes([30, 20])
    whole = pooled_covariance(statistics_of(x, labels, 2))
    few = pooled_covariance(statistics_of(x, labels, 2, max_rank=3))
    assert float(few.covariance.trace()) == pytest.approx(float(whole.covariance.trace()), rel=1e-5)
    assert lda_classifier(statistics_of(x, labels, 2, max_rank=3)).weight.isfinite().all()


@pytest.mark.parametrize("counts", [[1, 1, 1], [1, 0], [2], [1, 2, 1]])
def test_with_next_to_no_images_each_is_still_nearest_to_its_class(counts):
    x, labels = classes(counts)
    classifier = lda_classifier(statistics_of(x, labels, len(counts)))
    assert classifier.weight.isfinite().all()
    assert classifier.scores(x).argmax(1).tolist() == labels.tolist()


def test_equal_images_are_nearest_to_their_class():
    x = torch.eye(3).repeat_interleave(2, 0)
    labels = torch.arange(3).repeat_interleave(2)
    classifier = lda_classifier(statistics_of(x, labels, 3))
    assert classifier.scores(x).argmax(1).tolist() == labels.tolist()


def test_a_class_without_images_is_never_predicted():
    x, labels = classes([4, 0, 6])
    classifier = lda_classifier(statistics_of(x, labels, 3))
    assert classifier.known.tolist() == [True, False, True]
    probabilities = classifier.scores(100 * torch.randn(50, 12)).softmax(1)
    assert probabilities.isfinite().all()
    assert (probabilities[:, 1] == 0).all()
