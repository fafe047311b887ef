"""The interval certificate: the largest l_inf ball, cut at the range of pixels, that interval propagation proves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import BoundCertificate, Kind, Norm, Verdict
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT64
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.network import required


class Interval:
    """The radius is the largest eps at which propagating the box {x' in [0, 1]: ‖x' − x‖_∞ ≤ eps} proves every
    y_t − y_j positive (Zhang et al., ICML 2021, §5; the boxes are those of Gowal et al., ICCV 2019).

    It is found to within `tolerance`, and is never below the radius that the network's Lipschitz bound proves, which
    the verdict holds as well. Every step of the search is a proof at its eps, and the Lipschitz bound extends it: a
    margin of M at that eps lasts for another M/(speed of y_t − y_j), less the rounding errors there.

    Raises ValueError for a network that is not certified in l_inf.
    """

    kind = Kind.PROOF

    def __init__(self, tolerance: float = 1e-6):
        if not tolerance > 0:
            raise ValueError(f"`certificate.tolerance` must be positive, got {tolerance}")
        self.tolerance = tolerance

    def __call__(self, network: Network) -> BoundCertificate:
        if required(network).norm is not Norm.LINF:
            raise ValueError(f"`certificate=interval` proves l_inf radii, this model is certified in {network.norm}")
        lipschitz = Pairwise()(network)
        pairs: Any = lipschitz.pairs
        errors: Any = lipschitz.errors
        unit = FLOAT64.unit

        def prove(x: Tensor, labels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
            """Whether eps (B,) is proved, and by how much it can change (B,): up where it is, at least down if not."""
            reach = eps.view(-1, *[1] * (x.dim() - 1)) + 2 * unit  # because x ± eps rounds once
            low, high = (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)
            margins = worst_margins(network.on(x.device), low, high, labels, FLOAT64)
            speed, lost = pairs.to(margins)[labels], errors.to(margins)
            lost = (lost[labels][:, None] + lost) * (1 + 1e-12)
            own = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, labels[:, None], True)
            proved = ((margins > 0) | own).all(1)
            ahead = ((margins - torch.where(proved[:, None], lost, 0.0)) / speed).masked_fill(own, torch.inf).amin(1)
            ahead = (ahead * (1 - 1e-12)).nan_to_num(-1.0, neginf=-1.0)
            return proved, torch.where(proved, ahead.clamp_min(0), ahead)

        def judge(x: Tensor, labels: Tensor) -> Verdict:
            verdict = lipschitz.judge(x, labels)
            low, high = verdict.radius.clamp(max=1).clone(), torch.ones_like(verdict.radius)
            step = torch.zeros_like(low)
            todo = (low > 0).nonzero()[:, 0]
            while len(todo):
                eps = torch.minimum(low[todo] + step[todo], (low[todo] + high[todo]) / 2)
                proved, ahead = prove(x[todo], labels[todo], eps)
                reached = ((eps + ahead) * (1 - 2 * unit)).clamp(max=1)  # the sum and the product, rounded down
                low[todo] = torch.where(proved, torch.maximum(reached, low[todo]), low[todo])
                high[todo] = torch.where(proved, high[todo], (eps + ahead).clamp_min(low[todo]))
                step[todo] = torch.where(
                    proved, (4 * torch.maximum(ahead, step[todo])).clamp_min(self.tolerance), step[todo] / 2
                )
                todo = todo[high[todo] - low[todo] > self.tolerance]
            return verdict._replace(radius=torch.maximum(low, verdict.radius), lipschitz_radius=verdict.radius)

        return BoundCertificate(self.kind, Norm.LINF, judge, lipschitz.report)
