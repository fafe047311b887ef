"""A network as it is deployed in float32: constants rounded to float32, and what float32 makes of its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lipcert.frozen.arithmetic import FLOAT32
from lipcert.frozen.error_walk import Errors
from lipcert.frozen.lipschitz import Walk, up
from lipcert.frozen.network import Network
from lipcert.frozen.pairs import BOUNDS, pair_bounds
from lipcert.frozen.rounding import Roundings
from lipcert.norms import Operator, growth


class Deployed:
    """The network in float32 on images in [0, 1] of float32, in any order of summation, with or without fused
    multiply-add, and with subnormal numbers or without. `walk` is the walk of the network in float64.

    Everything here is of the list whose constants are rounded to float32, which `network` holds in float64.

    network  that list; None where float32 has no such constants
    pairs    (K, K), how far y_t − y_i moves at most while the image moves by 1
    errors   (K,), how far a logit that float64 computes of `network` lies at most from the exact one
    refused  why there is no such list; None where there is
    """

    network: Network
    pairs: Tensor
    errors: Tensor

    def __init__(self, network: Network, walk: Walk, bounds: Sequence[str] = BOUNDS):
        self.refused: str | None = None
        try:
            self.network = network.to(dtype=torch.float32).to(dtype=torch.float64)
        except ValueError as error:
            self.refused = f"{error} in float32"
            return
        near = NearbyWalk(self.network, walk)
        self.pairs = pair_bounds(near, bounds).smallest(bounds)
        self.roundings = Roundings(self.network, near)
        self.errors = self.roundings.in_float64.logits[0]

    @property
    def everywhere(self) -> Errors:
        """The errors of float32 for all images in [0, 1], a batch of one."""
        return self.roundings.everywhere(FLOAT32)

    @property
    def bounded(self) -> bool:
        """Whether there is a network in float32, and nothing overflows in it for any image in [0, 1]."""
        return self.refused is None and bool(self.everywhere.logits.isfinite().all())

    def around(self, x: Tensor, reach: Tensor) -> Iterator[tuple[Tensor, Errors]]:
        """For images (B, *shape) in [0, 1], batch by batch: the logits (b, K), computed in float64, and the errors of
        float32 at all images in [0, 1] that lie within `reach` (B,) (see `Roundings.around`)."""
        return self.roundings.by_batch(x, reach, FLOAT32)

    def report(self) -> dict[str, Any]:
        """What the loss of radius to float32 comes from, over all images in [0, 1].

        error  the largest bound of the error of a logit; None where there is none
        layer  the operation with the largest share in it, or the first one without a bound
        share  its share, of 1, if each error grows by the ratio of Lipschitz constants up to the logits
        refused  why there is no network in float32
        """
        if self.refused:
            return {"refused": self.refused}
        found, speeds = self.everywhere, self.roundings.speeds
        costs = [float(own) / speed if speed else 0.0 for own, speed in zip(found.own, speeds, strict=True)]
        largest = max(costs)
        layer = self.network.operations[costs.index(largest) - 1]
        error = float(found.logits.max())
        total = sum(costs)
        return {
            "error": error if error < math.inf else None,
            "layer": layer.name or layer.kind,
            "share": largest / total if 0 < total < math.inf else 1.0,
        }


class NearbyWalk(Walk):
    """The walk of a network whose constants differ little from those of the network that `base` is on.

    The norms of its operators are bounded by ‖W'‖ ≤ ‖W‖ + ‖W' − W‖, where the second is cheap to bound, as it is small.
    """

    def __init__(self, network: Network, base: Walk):
        super().__init__(network, base.norm, base.measure)
        self.base = base

    def computed(self, key: tuple, operator: Callable[[], Operator]) -> float:
        known = self.base.operators.get(key)
        if known is None:
            return super().computed(key, operator)
        own, other = operator(), known()
        difference = replace(own, weight=own.weight - other.weight)  # type: ignore[type-var]
        return up(self.base.norms[key] + up(float(growth(difference, self.norm, steps=0).max())))
