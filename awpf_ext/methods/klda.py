"""KLDA (arXiv 2412.15571): linear discriminant analysis of random Fourier features.

    h = sqrt(2 / D) cos(R'n(f) / b + o),   R standard normal, o uniform in [0, 2 pi),

whose products approximate the Gaussian kernel of bandwidth b. On h it is `slda`: class means and
one covariance, from running sums. The paper adds 1e-6 to the covariance's diagonal; here it is
shrunk as Ledoit and Wolf propose.
"""

from __future__ import annotations

from typing import ClassVar

from awpf_ext.methods._base.closed_form import DiscriminantAnalysis
from awpf_ext.methods._base.feature_sums import Lift
from awpf_ext.methods._base.method import MethodConfig
from awpf_ext.methods._base.random_features import FourierConfig, FourierFeatures
from awpf_ext.methods.registry import register


@register("klda")
class KernelLda(DiscriminantAnalysis):
    """Linear discriminant analysis of random Fourier features."""

    Config: ClassVar[type[MethodConfig]] = FourierConfig
    config: FourierConfig
    large_state = True

    def make_lift(self, dim: int) -> tuple[Lift, int]:
        width, bandwidth = self.config.width, self.config.bandwidth
        return FourierFeatures(dim, width, bandwidth, self.seed, self.device), width
