"""Images of other classes that lie near: moving towards one must change the label, and needs no gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import Norm
from lipcert.datasets.split import Split
from lipcert.frozen import Network

MOST = 4096  # images to look for the nearest ones among
COUNT = 4  # nearest images that are tried
ORDERS = {Norm.L1: 1.0, Norm.L2: 2.0, Norm.LINF: math.inf}


class NearestImages:
    """A pool of images to move towards, of which `labels` (N,) is what the network says.

    network  in float64, on `device`
    images   whose first ones are the pool
    own      whether the network itself compares with images, a nearest-neighbour classifier: those are the pool then
    """

    def __init__(self, network: Network, images: Split, device: str):
        first: Any = network.operations[0]
        self.own = first.kind == "nearest_neighbour"
        if self.own:
            pool, self.labels = first.images, first.labels
        else:
            pool = images.head(MOST).pixels().to(device)
            self.labels = torch.cat([network(part.double() / 255).argmax(1) for part in pool.split(256)])
        self.images = pool.double() / 255

    def candidates(self, x: Tensor, y: Tensor, norm: Norm) -> list[Tensor]:
        """The `COUNT` images nearest to each x (B, C, H, W) whose label is not y (B,).

        Of a nearest-neighbour classifier they are points just beyond the planes between the nearest image of the class
        and those of other classes, nearest planes first.
        """
        flat, pool = x.flatten(1), self.images.flatten(1).to(x)
        apart = torch.cdist(flat, pool, 2.0 if self.own else ORDERS[norm])
        other = self.labels.to(y) != y[:, None]
        if not self.own:
            nearest = apart.masked_fill(~other, torch.inf).topk(min(COUNT, len(pool)), largest=False).indices
            return [pool[column].view_as(x) for column in nearest.T]
        home = pool[apart.masked_fill(other, torch.inf).argmin(1)]
        between = torch.cdist(home, pool).clamp_min(1e-300)
        planes = (apart.square() - (flat - home).square().sum(1, keepdim=True)) / (2 * between)
        nearest = planes.masked_fill(~other, torch.inf).topk(min(COUNT, len(pool)), largest=False).indices
        found = []
        for column in nearest.T:
            direction = pool[column] - home
            length = direction.norm(dim=1, keepdim=True).clamp_min(1e-300)
            ahead = planes.gather(1, column[:, None]) + 1e-6
            found.append((flat + 1.02 * ahead * direction / length).clamp(0, 1).view_as(x))
        return found
