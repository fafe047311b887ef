"""The interval certificate: the largest l_inf ball, cut at the range of pixels, that interval propagation proves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import BoundCertificate, Kind, Norm, Verdict
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.deployed import Deployed
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
        deployed: Deployed = lipschitz.deployed
        unit = FLOAT64.unit

        def worst(of: Network, x: Tensor, labels: Tensor, eps: Tensor, arithmetic: Arithmetic) -> Tensor:
            """The least margins (B, K) of a network within eps (B,)."""
            reach = eps.view(-1, *[1] * (x.dim() - 1)) + 2 * unit  # because x ± eps rounds once
            low, high = (x - reach).clamp(0, 1), (x + reach).clamp(0, 1)
            return worst_margins(of.on(x.device), low, high, labels, arithmetic)

        def prove(x: Tensor, labels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
            """Whether eps (B,) is proved, and by how much it can change (B,): up where it is, at least down if not."""
            margins = worst(network, x, labels, eps, FLOAT64)
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
            radius = torch.maximum(low, verdict.radius)
            single: Any = verdict.radius_float32
            if deployed.bounded:
                single = in_float32(x, labels, radius, verdict.radius, single)
            return Verdict(verdict.prediction, verdict.margin, radius, verdict.radius, single)

        def in_float32(x: Tensor, labels: Tensor, radius: Tensor, by_lipschitz: Tensor, found: Tensor) -> Tensor:
            """The radii (B,) of the network in float32: `radius` less the smallest of growing steps at which boxes in
            float32 prove it. They are at least `found`, what its Lipschitz bound proves, whose loss from `by_lipschitz`
            says how small the first step should be. Boxes know nothing of overflow: it must be impossible."""
            step = 2 * (1 - found / by_lipschitz).nan_to_num(0.0).clamp(1e-6, 1e-5)
            found = found.clone()
            inside = ((x >= 0) & (x <= 1)).flatten(1).all(1)  # other images are none
            todo = ((found < radius) & inside).nonzero()[:, 0]
            while len(todo):
                eps = radius[todo] * (1 - step[todo])
                margins = worst(deployed.network, x[todo], labels[todo], eps, FLOAT32)
                own = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, labels[todo, None], True)
                proved = ((margins > 0) | own).all(1)
                found[todo] = torch.where(proved, torch.maximum(eps, found[todo]), found[todo])
                step[todo] *= 2
                todo = todo[~proved & (radius[todo] * (1 - step[todo]) > found[todo])]
            return found

        return BoundCertificate(self.kind, Norm.LINF, judge, lipschitz.report, deployed=deployed)
