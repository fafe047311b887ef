"""The pairwise certificate: each margin, divided by how fast that difference of two logits can change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.attacks.judge import definite
from lipcert.contracts import BoundCertificate, Kind, Verdict
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT64
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.error_walk import of_margins
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.network import required
from lipcert.frozen.pairs import BOUNDS, PairBounds, pair_bounds
from lipcert.frozen.report import ClaimedWalk, layer_rows
from lipcert.frozen.rounding import Roundings

COARSE = 1e-8  # a share of a margin


class Pairwise:
    """The radius is min_i (y_t − y_i)/M_ti, where M_ti bounds the Lipschitz constant of y_t − y_i. It is the smallest
    of those `bounds` that apply to the pair:

    "vector"  √2·L in l2 and 2·L in l_inf, where the logits as one vector are L-Lipschitz (Tsuzuku et al., NeurIPS 2018,
              Prop. 1);
    "logits"  L_t + L_i, where each logit has its own constant (2 for L = 1: Qian & Wegman, ICLR 2019, §2.1);
    "rows"    L·‖w_t − w_i‖, with the rows of the last linear layer and the constant L of its input (Tsuzuku, Prop. 2).

    The report says for how many pairs each of them is the smallest.
    """

    kind = Kind.PROOF

    def __init__(self, bounds: Sequence[str] = BOUNDS):
        if not bounds or set(bounds) - set(BOUNDS):
            raise ValueError(f"`certificate.bounds` must be some of {', '.join(BOUNDS)}, got {list(bounds)}")
        self.bounds = tuple(bounds)

    def __call__(self, network: Network) -> BoundCertificate:
        walk = self.walk(required(network))
        found = pair_bounds(walk, self.bounds)
        pairs = found.smallest(self.bounds)
        schemes = any(operation.claim for operation in network.operations)
        claimed = pair_bounds(claimed_walk(walk), self.bounds) if schemes else found
        report = bound_report(found, claimed, self.bounds, layer_rows(walk))
        roundings = Roundings(network, walk)
        errors = roundings.in_float64.logits[0]
        if self.kind is not Kind.PROOF:
            return BoundCertificate(
                self.kind, network.norm, pairwise_judge(network, pairs, errors), report, pairs, errors
            )
        deployed = Deployed(network, walk, self.bounds)
        report["float32"] = deployed.report()
        judge = pairwise_judge(network, pairs, errors, roundings, deployed)
        return BoundCertificate(self.kind, network.norm, judge, report, pairs, errors, deployed)

    def walk(self, network: Network) -> Walk:
        """The walk that bounds the Lipschitz constants of the network's values."""
        return Walk(network, network.norm)


def claimed_walk(walk: Walk) -> Walk:
    """The walk with the norms that the layers' schemes promise; a norm that was measured is not measured again."""
    claimed = ClaimedWalk(walk.network, walk.norm, walk.measure)
    claimed.norms = walk.norms
    return claimed


def bound_report(
    measured: PairBounds, claimed: PairBounds, bounds: Sequence[str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The bounds by the measured norms of layers, those by construction, and how much larger the former make radii."""
    pairs, promised = measured.smallest(bounds), claimed.smallest(bounds)
    moving = pairs > 0
    slack = torch.tensor([row.get("gram_slack", 1.0) for row in rows], dtype=torch.float64).prod()
    return {
        "lipschitz_bound": measured.of_vector,
        "lipschitz_of_logits": float(measured.of_logits.max()),
        "lipschitz_of_pairs": float(pairs.max()),
        "smallest_bound": measured.winners(bounds),
        "lipschitz_by_construction": claimed.of_vector,
        "enlargement": float((promised[moving] / pairs[moving]).max()) if bool(moving.any()) else 1.0,
        "gram_slack": float(slack),
        "layers": rows,
    }


def pairwise_judge(
    network: Network,
    pairs: Tensor,
    errors: Tensor,
    roundings: Roundings | None = None,
    deployed: Deployed | None = None,
) -> Callable[[Tensor, Tensor], Verdict]:
    """A function from images (B, C, H, W) and labels (B,) to a Verdict.

    `pairs` (K, K) bounds the Lipschitz constant of each difference of logits, and `errors` (K,) the rounding error of
    each logit, for all images in [0, 1]. With `roundings`, these errors are computed for images near it where they
    would take more than COARSE of its margin. With `deployed`, the verdict holds the radii of the network in float32
    too.
    """

    def judge(x: Tensor, labels: Tensor) -> Verdict:
        logits = network.on(x.device)(x)
        radius = proved_radius(logits, labels, pairs, of_margins(errors.to(logits), labels))
        if roundings is not None:
            most = proved_radius(logits, labels, pairs, torch.zeros_like(logits))
            radius = refined(roundings, x, labels, pairs, radius, most)
        margin = margins(logits, labels).amin(1)
        single = None if deployed is None else radius_float32(deployed, x, labels, radius)
        return Verdict(logits.argmax(1), margin, radius, radius_float32=single, gap=top_gap(logits))

    return judge


def refined(roundings: Roundings, x: Tensor, labels: Tensor, pairs: Tensor, radius: Tensor, most: Tensor) -> Tensor:
    """`radius` (B,), with the errors near the image where it is below `most`, the radius without any error, by more
    than COARSE of that. Those at the image would do, but those on the ball are subtracted from the other radii too."""
    image = ((x >= 0) & (x <= 1)).flatten(1).all(1)
    todo = (radius < most * (1 - COARSE)) & most.isfinite() & image
    if not bool(todo.any()):
        return radius
    parts, at = [], labels[todo]
    for logits, errors in roundings.by_batch(x[todo], most[todo], FLOAT64):
        own, at = at[: len(logits)], at[len(logits) :]
        parts.append(proved_radius(logits, own, pairs, errors.of_margins(own)))
    return torch.maximum(radius, torch.zeros_like(radius).masked_scatter(todo, torch.cat(parts)))


def radius_float32(deployed: Deployed, x: Tensor, labels: Tensor, radius: Tensor) -> Tensor:
    """The radii (B,) of the network in float32, on images of float32 in [0, 1]; none is above `radius`.

    As errors grow with the ball, those on the ball of that radius hold on any smaller one. 0 where x is no image.
    """
    found = torch.zeros_like(radius)
    image = ((x >= 0) & (x <= 1)).flatten(1).all(1)
    if deployed.refused or not bool((todo := (radius > 0) & image).any()):
        return found
    parts, at = [], labels[todo]
    for logits, errors in deployed.around(x[todo], radius[todo]):
        own, at = at[: len(logits)], at[len(logits) :]
        lost = errors.of_margins(own) + of_margins(deployed.errors.to(logits), own)
        parts.append(proved_radius(logits, own, deployed.pairs, lost))
    return found.masked_scatter(todo, torch.minimum(torch.cat(parts), radius[todo]))


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus each other one, (B, K); infinite at the label. Logits of −∞, which are those of classes
    without images, are equal."""
    own = logits.gather(1, labels[:, None])
    apart = torch.where((own == -torch.inf) & (logits == -torch.inf), 0.0, own - logits)
    return apart.scatter(1, labels[:, None], torch.inf)


def top_gap(logits: Tensor) -> Tensor:
    """The largest logit minus the second largest, (B,), of `logits` (B, K); equal ones are 0 apart, also where they are
    infinite, and a single class is infinitely far ahead."""
    if logits.shape[1] < 2:
        return torch.full_like(logits[:, 0], torch.inf)
    first, second = logits.topk(2, 1).values.unbind(1)
    return torch.where(first == second, 0.0, first - second)


def proved_radius(logits: Tensor, labels: Tensor, pairs: Tensor, lost: Tensor) -> Tensor:
    """The radii (B,) that computed logits prove, `pairs` (K, K) bounding the Lipschitz constants of their differences.

    Margins y_t − y_i are reduced by their errors, `lost` (B, K), and the operations on them round down. An image whose
    prediction is wrong, or whose logits are not finite, has radius 0.
    """
    gaps, slopes = margins(logits, labels), pairs.to(logits)[labels]
    unit = torch.finfo(logits.dtype).eps
    proven = (gaps - lost) * (1 - 8 * unit)
    ratio = torch.where(slopes > 0, proven / slopes, torch.where(proven > 0, torch.inf, -torch.inf))
    ratio = ratio.scatter(1, labels[:, None], torch.inf)
    radius = ratio.amin(1).clamp_min(0).nan_to_num(0.0, posinf=torch.inf)
    right = definite(logits, labels) & (gaps.amin(1) > 0)
    return torch.where(right, radius * (1 - 4 * unit), 0.0)
