"""Images of a run: those with the largest and smallest gaps under attack, and visibly different ones that are proved to
keep their label. All of it is judged by the frozen network in float64.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lipcert.analyses.audit.nearest_images import NearestImages
from lipcert.attacks.fast_minimum_norm import FastMinimumNorm
from lipcert.attacks.judge import attempt, distance, judge
from lipcert.contracts import CertificateRow, Kind, Norm
from lipcert.datasets.split import Split
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import load_run
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.report.deciles import gap_of
from lipcert.report.record import Record

INSIDE = 0.98  # of the certified radius: how far an image is moved that is proved to keep its label
POOL = 2000  # images that class means, and images to move towards, are taken of
HALVINGS = 40  # of the way to an image of another label


class Attacked(NamedTuple):
    """One image and the nearest image with another label that was found here.

    row        of its certificate
    image      (C, H, W) in [0, 1]
    changed    the same of the one that was found; None where none was
    answer     the label that the network gives to it
    distance   between the two, inf where none was found
    """

    row: CertificateRow
    image: np.ndarray
    changed: np.ndarray | None
    answer: int
    distance: float


class Kept(NamedTuple):
    """`changed` lies `distance` < the radius of `row` from `image`, towards the mean image of the class `towards`."""

    row: CertificateRow
    image: np.ndarray
    changed: np.ndarray
    towards: int
    distance: float


class Pictures(NamedTuple):
    """What a page shows of a run's images; `classes` is how many there are."""

    largest: Sequence[Attacked]
    smallest: Sequence[Attacked]
    kept: Sequence[Kept]


def pictures(record: Record, count: int, *, data_dir: str | None = None, trust: bool = False) -> Pictures:
    """The images of the `count` largest and smallest gaps among those that are classified rightly, under attack, and at
    most `count` moved images that are proved to keep their labels.

    data_dir  where the data lies, if no longer where the run found it
    trust     whether the run's configuration may name code outside lipcert

    ValueError or OSError, in one line, where the data or the network cannot be read. CertificateBroken where an image
    within a certified radius has another label.
    """
    loaded = load_run(record.run.path, data_dir=data_dir, trust=trust)
    network, test = loaded.network.on("cpu"), loaded.dataset.test
    right = sorted((r for r in record.rows if r.prediction == r.label and math.isfinite(r.margin)), key=gap_of)
    smallest, largest = right[:count], right[::-1][:count]
    chosen = [*largest, *smallest[: len(right) - len(largest)]]
    with exact_arithmetic():
        found = attacked(network, test, chosen, record.norm)
        moved = kept(network, test, record.rows, count) if record.proved else []
    return Pictures(found[: len(largest)], found[len(largest) :], moved)


def attacked(network: Network, test: Split, rows: Sequence[CertificateRow], norm: Norm) -> list[Attacked]:
    """The nearest image of another label to each of `rows`, by a minimum-norm attack and by moving towards images that
    the network gives other labels."""
    if not rows:
        return []
    index = torch.tensor([row.index for row in rows])
    x = test.take(index).pixels().double() / 255
    y = torch.tensor([row.label for row in rows])
    with torch.enable_grad():
        by_gradients = attempt(
            FastMinimumNorm(norm=norm, steps=100, seed=0), network.to(dtype=torch.float32, device="cpu"), network, x, y
        )
    best, nearest = by_gradients.images.clone(), by_gradients.distance.clone()
    for candidate in NearestImages(network, test.head(POOL), "cpu").candidates(x, y, norm):
        found = judge(network, x, y, bisected(network, x, y, candidate), norm)
        closer = found.distance < nearest
        best[closer], nearest[closer] = found.images[closer], found.distance[closer]
    answers = network(best).argmax(1)
    shown = []
    for i, row in enumerate(rows):
        reached = float(nearest[i])
        if row.kind == Kind.PROOF and 0 < row.radius >= reached:
            raise CertificateBroken(
                f"image {row.index}: an adversarial image was found at {norm} distance {reached!r}, within the radius "
                f"{row.radius!r} that {row.certificate} certified"
            )
        changed = best[i].numpy() if math.isfinite(reached) else None
        shown.append(Attacked(row, x[i].numpy(), changed, int(answers[i]), reached))
    return shown


def bisected(network: Network, x: Tensor, y: Tensor, far: Tensor) -> Tensor:
    """Of the lines from the images x (B, C, H, W) to those `far`, whose labels are not y (B,), the nearest points to x
    that halving finds and whose label is not y."""
    low, high = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype), torch.ones(len(x), 1, 1, 1, dtype=x.dtype)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        other = (network(torch.lerp(x, far, middle)).argmax(1) != y)[:, None, None, None]
        low, high = torch.where(other, low, middle), torch.where(other, middle, high)
    return torch.lerp(x, far, high)


def kept(network: Network, test: Split, rows: Sequence[CertificateRow], count: int) -> list[Kept]:
    """Of at most `count` labels the image with the largest radius, moved by `INSIDE` of it towards the nearest mean
    image of another class. CertificateBroken where the network changes its answer."""
    proved = [row for row in rows if row.prediction == row.label and 0 < row.radius < math.inf]
    best = {row.label: row for row in sorted(proved, key=lambda row: row.radius)}  # the last of a label stays
    chosen = sorted(best.values(), key=lambda row: -row.radius)[:count]
    pool = test.head(POOL)
    pixels, labels = pool.pixels(), pool.labels.tolist()
    means = {
        label: pixels[[i for i, other in enumerate(labels) if other == label]].double().mean(0) / 255
        for label in sorted(set(labels))
    }
    found = []
    for row in chosen:
        image = test.take(torch.tensor([row.index])).pixels().double() / 255
        others = {label: mean[None] for label, mean in means.items() if label != row.label}
        if others:
            towards = min(others, key=lambda label: float(distance(Norm.L2, others[label], image)))
            found.append(_moved(network, row, image, others[towards], towards))
    return found


def _moved(network: Network, row: CertificateRow, image: Tensor, other: Tensor, towards: int) -> Kept:
    norm, length = Norm(row.norm), INSIDE * row.radius
    step = other - image
    if norm is Norm.LINF:
        step = step.clamp(-length, length)
    else:
        step = step * min(1.0, length / float(distance(norm, other, image)))
    changed = (image + step).clamp(0, 1)
    apart = float(distance(norm, changed, image))
    prediction = int(network(changed).argmax(1))
    if prediction != row.label or not apart < row.radius:
        raise CertificateBroken(
            f"image {row.index}, moved by {apart!r} towards the mean of class {towards}, is taken for label "
            f"{prediction}, within its certified radius {row.radius!r}"
        )
    return Kept(row, image[0].numpy(), changed[0].numpy(), towards, apart)


def png(image: np.ndarray) -> bytes:
    """An image (C, H, W) in [0, 1], of one channel or three, as a PNG file."""
    from PIL import Image

    values = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(values[0] if len(values) == 1 else values[:3].transpose(1, 2, 0))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()
