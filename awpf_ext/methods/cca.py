"""CCA-CL (CVPR 2026), reconstructed from its abstract: CLIP's texts and images in the subspace of
canonical correlation analysis.

With the random Fourier feature h of an image, the text t of its class, and covariances over all
images so far, of which only sums are kept:

    U diag(rho) V' = L_h^-1 Cov(h, t) L_t^-T,   L_h L_h' = Cov(h) + r I,   L_t L_t' = Cov(t) + r I,
    logits_c = (s / 5) cos(U_k'L_h^-1 (h - mean h),  V_k'L_t^-1 (t_c - mean t)).

k is the smallest number of directions with sum rho^2 >= eta of the whole. The paper uses 6,144
features and eta = 0.99; what eta is a share of, r (relative to the mean variance of each side) and
the scale, for cosines that spread five times as far as CLIP's, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from awpf_ext.data.stream import Task
from awpf_ext.errors import UserError
from awpf_ext.methods._base.feature_sums import FeatureSums
from awpf_ext.methods._base.method import EpochProgress, Method, MethodConfig
from awpf_ext.methods._base.random_features import FourierConfig, FourierFeatures
from awpf_ext.methods._base.states import joined_states, part_of_state, without_part
from awpf_ext.methods.registry import register

SPREAD = 5.0  # of cosines in the subspace, where CLIP's have 1


class CcaConfig(FourierConfig):
    eta: float = Field(
        0.99, gt=0, le=1, description="Share of the squared correlations that the subspace holds"
    )
    penalty: float = Field(
        1.0,
        gt=0,
        description="r: added to both covariances, in units of their mean variance",
    )


@register("cca")
class CanonicalCorrelation(Method):
    """Cosines of images and texts in the subspace of canonical correlation analysis."""

    Config: ClassVar[type[MethodConfig]] = CcaConfig
    config: CcaConfig
    protocols = ("class", "domain")
    large_state = True

    def __init__(self, config: CcaConfig, *, text: Tensor, **given: Any) -> None:
        super().__init__(config, text=text, **given)
        dim = text.shape[1]
        self.lift = FourierFeatures(dim, config.width, config.bandwidth, self.seed, self.device)
        self.sums = FeatureSums(config.width, with_gram=True, device=self.device)
        self.images = torch.zeros(config.width + 1, 0, device=self.device)
        self.names = torch.zeros(dim + 1, 0, device=self.device)

    def learn(self, task: Task, progress: EpochProgress) -> None:
        with self.timed("statistics"):
            self.sums.add(self.lift, task.train_x, task.train_y, task.classes.stop)
        with self.timed("solve"):
            self.images, self.names, kept = self.solve()
        mean = float(kept.mean()) if len(kept) else 0.0
        self.records.append({"task": task.index, "directions": len(kept), "correlation": mean})
        progress(1, 1)

    def solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """The maps of images and texts to the subspace, with an offset each, and rho."""
        sums, config = self.sums, self.config
        share = sums.counts.double() / sums.counts.sum().clamp_min(1)
        text = self.text[: len(share)].double()
        mean_h = sums.totals.sum(0) / sums.counts.sum().clamp_min(1)
        mean_t = share @ text
        centred = text - mean_t
        cov_h = sums.second_moments() / sums.counts.sum().clamp_min(1)
        cov_h.addr_(mean_h, mean_h, alpha=-1)
        cov_t = (centred * share[:, None]).mT @ centred
        cross = (sums.means * share[:, None]).mT @ centred
        lower_h, lower_t = (_root(matrix, config.penalty) for matrix in (cov_h, cov_t))
        half = torch.linalg.solve_triangular(lower_h, cross, upper=False)
        whitened = torch.linalg.solve_triangular(lower_t, half.mT, upper=False)
        v, rho, u = torch.linalg.svd(whitened, full_matrices=False)
        power = rho.square()
        kept = int((power.cumsum(0) < config.eta * power.sum()).sum()) + 1
        kept = min(kept, int((rho > 1e-6).sum()))
        images = torch.linalg.solve_triangular(lower_h.mT, u[:kept].mT, upper=True)
        names = torch.linalg.solve_triangular(lower_t.mT, v[:, :kept], upper=True)
        return (
            torch.cat([images, -(mean_h @ images)[None]]).float(),
            torch.cat([names, -(mean_t @ names)[None]]).float(),
            rho[:kept],
        )

    def logits(self, x: Tensor, classes: int | None = None) -> Tensor:
        """Scaled cosines in the subspace; those of CLIP before there is one."""
        if not self.images.shape[1]:
            return super().logits(x, classes)
        text = self.text[: self.seen if classes is None else classes]
        cosines = _mapped(self.lift(x), self.images) @ _mapped(text, self.names).mT
        return self.logit_scale / SPREAD * cosines

    def state_dict(self) -> dict[str, Tensor]:
        maps = {"images": self.images, "names": self.names}
        return {**super().state_dict(), **maps, **joined_states({"sums": self.sums.state_dict()})}

    def learned_state(self) -> dict[str, Tensor]:
        return without_part(super().learned_state(), "sums")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.images = state["images"].to(self.device, copy=True)
        self.names = state["names"].to(self.device, copy=True)
        self.sums.load_state_dict(part_of_state(state, "sums"))


def _root(covariance: Tensor, penalty: float) -> Tensor:
    """The Cholesky factor of a covariance with `penalty` mean variances added."""
    added = penalty * float(covariance.trace()) / len(covariance)
    penalised = covariance.clone()
    penalised.diagonal().add_(max(added, 1e-9))
    factorised = torch.linalg.cholesky_ex(penalised)
    if factorised.info:
        raise UserError(
            f"penalty is {penalty:g}; expected a larger one: with it the covariance is singular"
        )
    root: Tensor = factorised.L
    return root


def _mapped(x: Tensor, mapping: Tensor) -> Tensor:
    """Rows of x in the subspace, L2-normalised; the last row of the mapping is an offset."""
    return normalize(torch.addmm(mapping[-1], x, mapping[:-1]), dim=-1)
