"""Images and visibly different ones that are proved to keep their label (LMT's Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lipcert.attacks.judge import distance
from lipcert.contracts import CertificateRow, Norm
from lipcert.errors import CertificateBroken
from lipcert.frozen import Network

FACTS = ("number", "label", "other", "distance", "radius")  # what tightness.json says of a picture
INSIDE = 0.999  # of the way to the ball's edge


class Kept(NamedTuple):
    """`changed` lies `distance` < `radius` from `image`, which is test image `number`, towards one labelled `other`."""

    number: int
    label: int
    image: Tensor
    changed: Tensor
    other: int
    distance: float
    radius: float


def kept_labels(
    network: Network, pixels: Tensor, rows: Sequence[CertificateRow], device: str, count: int = 4
) -> list[Kept]:
    """Of at most `count` labels, the image with the largest l2 radius, moved as far towards the nearest one of another
    label. Fewer where fewer have a radius.

    `rows` are of the images `pixels`, uint8. CertificateBroken where the float64 `network` changes its answer.
    """
    proved = [row for row in rows if row.prediction == row.label and row.radius > 0]
    best = {row.label: row for row in sorted(proved, key=lambda row: row.radius)}  # the last of a label stays
    chosen = sorted(best.values(), key=lambda row: -row.radius)[:count] if len(best) > 1 else []
    return [_moved(network, pixels, row, _nearest(pixels, row, proved), device) for row in chosen]


def _nearest(pixels: Tensor, row: CertificateRow, among: Sequence[CertificateRow]) -> CertificateRow:
    """The one of another label whose image is nearest to the row's."""
    others = [other for other in among if other.label != row.label]
    images = pixels[[other.index for other in others]].flatten(1).float() / 255
    apart = (images - pixels[row.index].flatten().float() / 255).norm(dim=1)
    return others[int(apart.argmin())]


def _moved(network: Network, pixels: Tensor, row: CertificateRow, towards: CertificateRow, device: str) -> Kept:
    image, other = (pixels[i].double() / 255 for i in (row.index, towards.index))
    part = INSIDE * row.radius / float(distance(Norm.L2, other[None], image[None]))
    changed = torch.lerp(image, other, min(1.0, part)).clamp(0, 1)
    apart = float(distance(Norm.L2, changed[None], image[None]))
    prediction = int(network.on(device)(changed[None].to(device)).argmax(1))
    if prediction != row.label or not apart < row.radius:
        raise CertificateBroken(
            f"image {row.index}, moved by {apart!r} towards image {towards.index}, is taken for label {prediction}, "
            f"within its certified radius {row.radius!r}"
        )
    return Kept(row.index, row.label, image, changed, towards.label, apart, row.radius)
