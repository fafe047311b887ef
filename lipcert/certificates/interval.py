"""The interval certificate: the largest l_inf ball, cut off at the pixels' range, that interval propagation proves."""

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
    """Radius: the largest eps, found to within `tolerance`, at which every y_t − y_j is proved positive on the box
    {x' in [0, 1]: ‖x' − x‖_∞ ≤ eps} by propagating it; at least what the network's Lipschitz bound proves, which the
    verdict holds as well.

    Every step of the search is a proof at its eps, which the Lipschitz bound carries further: a margin of M there still
    stands M/(speed of y_t − y_j) further out, less what rounding may take from it there. Zhang et al., ICML 2021, §5;
    the boxes are those of Gowal et al., ICCV 2019. ValueError where the network isn't certified in l_inf.
    """

    kind = Kind.PROOF

    def __init__(self, tolerance: float = 1e-6):
        if not tolerance > 0:
            raise ValueError(f"`certificate.tolerance` must be positive, got {tolerance}")
        self.tolerance = tolerance

    def __call__(self, network: Network) -> BoundCertificate:
        if required(network).norm is not Norm.LINF:
            raise ValueError(f"`certificate=interval` proves l_inf radii, this model is for {network.norm}")
        lipschitz = Pairwise()(network)
        pairs: Any = lipschitz.pairs
        errors: Any = lipschitz.errors
        unit = FLOAT64.unit

        def prove(x: Tensor, labels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
            """Whether eps is proved, and how much further still is; where it is not, how much less would be at most."""
            reach = eps.view(-1, *[1] * (x.dim() - 1)) + 2 * unit  # of x ± eps, which rounds once
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
