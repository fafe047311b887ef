"""The interval certificate: the largest l_inf ball, cut at the range of pixels, that interval propagation proves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import BoundCertificate, Kind, Norm, Verdict
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.boxes import worst_margins
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.network import required

START = 1 / 16  # the eps that is tried first
NEAR = 2e-5  # a share of a radius: how far apart those in float32 and in float64 usually are
# What boxes in float32 are computed with: `lipcert verify` has boxes of its own, some of which are 1 % looser.
CAREFUL = replace(FLOAT32, unit=1.03 * FLOAT32.unit)


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

        def margin(x: Tensor, labels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
            """The least margin within eps (B,), which proves eps if it is above 0, and by how much eps can change (B,):
            up where it is proved, at least down where it is not."""
            margins = worst(network, x, labels, eps, FLOAT64)
            speed, lost = pairs.to(margins)[labels], errors.to(margins)
            lost = (lost[labels][:, None] + lost) * (1 + 1e-12)
            own = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, labels[:, None], True)
            least = least_of(margins, labels)
            ahead = (margins - torch.where(least > 0, 1.0, 0.0)[:, None] * lost) / speed
            ahead = (ahead.masked_fill(own, torch.inf).amin(1) * (1 - 1e-12)).nan_to_num(-1.0, neginf=-1.0)
            return least, torch.where(least > 0, ahead.clamp_min(0), ahead)

        def judge(x: Tensor, labels: Tensor) -> Verdict:
            verdict = lipschitz.judge(x, labels)
            low, found = verdict.radius.clamp(max=1), cast(Tensor, verdict.radius_float32)
            single, right = found, low > 0
            start = torch.full_like(low, START)
            step = start
            if deployed.bounded:  # boxes in float32 cost less, and end near those in float64
                single = in_float32(x, labels, found, right)
                start = torch.where(single > 0, single, start)
                step = torch.where(single > 0, NEAR * single, start)
            search = Search(low, torch.where(right, 1.0, 0.0), self.tolerance, start, step)
            while len(todo := search.todo()):
                eps = search.next(todo)
                search.tell(todo, eps, *margin(x[todo], labels[todo], eps))
            radius = torch.maximum(search.low, verdict.radius)
            if deployed.bounded:
                single = torch.maximum(found, torch.minimum(single, radius * (1 - unit)))
            return Verdict(verdict.prediction, verdict.margin, radius, verdict.radius, single, verdict.gap)

        def in_float32(x: Tensor, labels: Tensor, found: Tensor, right: Tensor) -> Tensor:
            """The radii (B,) of the network in float32: the largest that boxes in float32 prove, and at least `found`,
            what its Lipschitz bound proves. Boxes know nothing of overflow: it must be impossible."""
            wanted = right & ((x >= 0) & (x <= 1)).flatten(1).all(1)  # other images are none
            start = torch.full_like(found, START)
            search = Search(found, torch.where(wanted, 1.0, found), self.tolerance, start, start)
            while len(todo := search.todo()):
                eps = search.next(todo)
                margins = worst(deployed.network, x[todo], labels[todo], eps, CAREFUL)
                search.tell(todo, eps, least_of(margins, labels[todo]), torch.zeros_like(eps))
            return search.low

        return BoundCertificate(self.kind, Norm.LINF, judge, lipschitz.report, deployed=deployed)


def least_of(margins: Tensor, labels: Tensor) -> Tensor:
    """The least of the margins (B, K) of other classes than the label, (B,); −∞ where that is not a number."""
    others = margins.scatter(1, labels[:, None], torch.inf)
    return others.amin(1).nan_to_num(-torch.inf, torch.inf, -torch.inf)


class Search:
    """The largest eps of each image at which a margin that falls with eps is above 0, to within `tolerance`.

    The first eps is `start`. While all that were tried are proved, or none is, the next one is `step` farther up or
    down, and the step grows by a factor of 4; down, eps falls at most by a factor of 8. From then on, eps is where the
    line through the margins at both ends is 0 (regula falsi; the margin of an end that stays is halved, the Illinois
    method, Dowell & Jarratt, 1971), but at least half of the tolerance away from the ends, and half-way where that is
    slow.

    low    (B,), proved
    high   (B,), above which nothing is looked for; an image is done where it is `low` at the start
    start  (B,), and `step`, (B,): where it probably ends, and how far that may be off
    """

    def __init__(self, low: Tensor, high: Tensor, tolerance: float, start: Tensor, step: Tensor):
        self.low, self.high, self.tolerance = low.clone(), high.maximum(low), tolerance
        self.start, self.step = start, step.clone()
        self.points = torch.stack([self.low, self.high])  # where margins are known
        self.margins = torch.full_like(self.points, torch.nan)
        self.side = torch.zeros_like(low)  # of the last eps: 1 where it was not proved, −1 where it was
        self.width, self.slow = self.high - self.low, torch.zeros_like(low)

    def todo(self) -> Tensor:
        """The places of the images that are not done."""
        return (self.high - self.low > self.tolerance).nonzero()[:, 0]

    def next(self, todo: Tensor) -> Tensor:
        """The eps that is tried next, for each of those images."""
        low, high = self.low[todo], self.high[todo]
        (a, b), (above, below) = self.points[:, todo], self.margins[:, todo]
        between = a + (b - a) * (above / (above - below))
        halving = ~(above - below).isfinite() | (self.slow[todo] > 2)
        between = torch.where(halving, (low + high) / 2, between)
        least = (self.tolerance / 2 * torch.ones_like(low)).minimum((high - low) / 2)
        eps = between.maximum(low + least).minimum(high - least)
        step = self.step[todo].clamp_min(8 * self.tolerance)
        first = self.start[todo].maximum(low).minimum(high)
        up, down = (low + step).minimum(high), (high - step).maximum(high / 8).maximum(low)
        none_proved, all_proved = above.isnan(), below.isnan()
        eps = torch.where(none_proved, torch.where(all_proved, first, down), torch.where(all_proved, up, eps))
        self.step[todo] = torch.where(none_proved ^ all_proved, 4 * step, step)
        return eps

    def tell(self, todo: Tensor, eps: Tensor, margin: Tensor, ahead: Tensor) -> None:
        """The margins at `eps`, and by how much each of these can change and still be proved, or not be."""
        low, high, proved = self.low[todo], self.high[todo], margin > 0
        reached = ((eps + ahead) * (1 - 2 * FLOAT64.unit)).maximum(eps.where(ahead == 0, 0.0))
        self.low[todo] = torch.where(proved, reached.minimum(high).maximum(low), low)
        self.high[todo] = torch.where(proved, high, (eps + ahead).minimum(eps).maximum(self.low[todo]))
        again = torch.where(proved, -1.0, 1.0).to(low) == self.side[todo]
        for k, mine in enumerate((proved, ~proved)):
            kept = self.margins[k, todo]
            self.points[k, todo] = torch.where(mine, eps, self.points[k, todo])
            self.margins[k, todo] = torch.where(mine, margin, torch.where(again, kept / 2, kept))
        self.side[todo] = torch.where(proved, -1.0, 1.0).to(low)
        width = self.high[todo] - self.low[todo]
        halved = width <= self.width[todo] / 2
        self.slow[todo] = torch.where(halved, 0.0, self.slow[todo] + 1)
        self.width[todo] = torch.where(halved, width, self.width[todo])
