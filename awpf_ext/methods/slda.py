"""SLDA: streaming linear discriminant analysis (Hayes and Kanan 2020), here with the shrinkage of
Ledoit and Wolf instead of a fixed one.

    logits_c = x'S^-1 mu_c - mu_c'S^-1 mu_c / 2,   x = n(f),

the log posterior of Gaussian classes with equal priors, up to a constant. S is the covariance of
the images around the means of their classes, shrunk (_base/pooled_covariance.py). It is exact: the
sums are those of training on everything at once.

In the domain protocol a class comes back, and its mean moves. S and the means stay exact. Only the
sum of |x - mean|^4, which fixes the amount of shrinkage, cannot be moved without third moments, and
is then taken around the mean of the class in its domain.
"""

from __future__ import annotations

from awpf_ext.methods._base.closed_form import DiscriminantAnalysis
from awpf_ext.methods.registry import register


@register("slda")
class StreamingLda(DiscriminantAnalysis):
    """Linear discriminant analysis of CLIP's features, from running sums."""
