"""The visual head: linear discriminant analysis of the features, beside the comparison with texts.

    logits = a t + b v,   t = the method's scaled cosines with the texts, v = LDA's scores,

with one LDA for all classes seen, from the class statistics. It sees features at the length of the
training images (root mean square), so that images to classify may be normalised or not. a and b
minimise the cross-entropy of the held-out rows of all classes seen, under the learner that never
saw them and the LDA without them, plus

    log(b / (a share_0))^2 / rows,

which keeps the share b / a near share_0 while there are few held-out rows. LDA is overconfident,
more so in more dimensions; with both scales free the likelihood corrects this. A class without
images has no score of its own: v is then the mean over the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from awpf_ext.methods._base.class_statistics import ClassStatistics
from awpf_ext.methods._base.lda import LinearClassifier, lda_classifier

PRIOR_SHARE = 0.02  # share_0
STEPS = 100


class HeadScales(NamedTuple):
    """The scales of the two parts of the logits."""

    text: float = 1.0
    visual: float = 0.0

    @property
    def share(self) -> float:
        return self.visual / self.text


class VisualScores:
    """LDA of the class statistics, for features of any length."""

    def __init__(self, classifier: LinearClassifier, length: float) -> None:
        self.classifier = classifier
        self.length = length

    @classmethod
    def of(cls, statistics: ClassStatistics) -> VisualScores:
        images = statistics.counts.double()
        squares = images @ statistics.means.double().square().sum(1) + statistics.scatter().trace()
        return cls(lda_classifier(statistics), float((squares / images.sum()).sqrt()))

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (n, C); a class without images gets the mean over the others."""
        scores = self.classifier.scores(self.length * normalize(x, dim=-1))
        known = self.classifier.known
        if bool(known.all()):
            return scores
        return torch.where(known, scores, scores[:, known].mean(1, keepdim=True))


class VisualHead(NamedTuple):
    """LDA's scores, and the scales that they and the texts have in the logits."""

    scores: VisualScores
    scales: HeadScales

    @property
    def classes(self) -> int:
        return len(self.scores.classifier.bias)

    def logits(self, text_logits: Tensor, x: Tensor) -> Tensor:
        """a t + b v for features x (n, d) and their comparison with the texts of all classes."""
        return self.scales.text * text_logits + self.scales.visual * self.scores(x)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "weight": self.scores.classifier.weight,
            "bias": self.scores.classifier.bias,
            "scales": torch.tensor([*self.scales, self.scores.length], dtype=torch.float64),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], device: torch.device) -> VisualHead:
        classifier = LinearClassifier(state["weight"].to(device), state["bias"].to(device))
        text, visual, length = state["scales"].tolist()
        return cls(VisualScores(classifier, length), HeadScales(text, visual))


def fit_scales(text_logits: Tensor, scores: Tensor, labels: Tensor) -> HeadScales:
    """The scales that minimise the cross-entropy of held-out rows; without rows no visual part.

    What is the same for all classes cancels in the softmax, so rows are centred for accuracy.
    """
    if not len(labels):
        return HeadScales()
    text = (text_logits - text_logits.mean(1, keepdim=True)).double()
    visual = (scores - scores.mean(1, keepdim=True)).double()
    prior = torch.tensor(PRIOR_SHARE, dtype=torch.float64, device=text.device).log()
    logs = torch.stack([torch.zeros_like(prior), prior]).requires_grad_()
    optimizer = torch.optim.LBFGS([logs], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        a, b = logs.exp()
        penalty = (logs[1] - logs[0] - prior).square() / len(labels)
        loss = cross_entropy(a * text + b * visual, labels) + penalty
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return HeadScales(*logs.detach().exp().tolist())
