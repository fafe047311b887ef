"""Radii of images for `lipcert verify`: what is proved of each here, against what the rows of certificates.csv say."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipcert.contracts import CertificateRow, Norm
from lipcert.errors import NotConfirmed
from lipcert.export.verify_bounds import Bounds
from lipcert.export.verify_boxes import least_margins
from lipcert.export.verify_errors import Errors
from lipcert.frozen import Network
from lipcert.frozen.arithmetic import FLOAT32, FLOAT64, Arithmetic
from lipcert.frozen.ops.affine import ones

TOLERANCE, LEAST = 1e-9, 1e-12  # by which a radius may be larger than what is proved here: relative, and in pixels
DOWN, UP = 1 - 1e-12, 1 + 1e-12
ENTRIES = 1 << 22  # of all values of a batch together
STEPS = 16  # radii between that of the Lipschitz bound and the one in question, at which boxes are tried


class Judge:
    """Checks rows against images, batch by batch, and keeps what the table at the end says.

    stated  by how much a logit in float32 may be off, as the manifest says, (K,); None where it says nothing
    """

    def __init__(self, bounds: Bounds, stated: Sequence[float | None] | None):
        self.bounds, self.network = bounds, bounds.network
        self.pairs = bounds.pairs()
        try:
            self.rounded: Network | None = self.network.to(dtype=torch.float32).to(dtype=torch.float64)
        except ValueError:  # a constant is infinite in float32: there is no such network
            self.rounded = None
        self.in_float32 = None if self.rounded is None else Bounds(self.rounded)
        self.single = None if self.rounded is None else self.rounded.to(dtype=torch.float32)
        self.stated = None
        if stated is not None and len(stated) == self.network.classes:
            self.stated = torch.tensor([math.inf if e is None else e for e in stated], dtype=torch.float64)
        self.margin = self.ratio = 0.0
        self.differences: dict[str, list[float]] = {"radius": [], "radius_float32": []}
        self.boxed, self.unbounded = dict.fromkeys(self.differences, 0), dict.fromkeys(self.differences, 0)

    @functools.cached_property
    def everywhere(self) -> Errors | None:
        """The errors of float32 for all images in [0, 1], a batch of one; None where there is no network in float32."""
        if self.in_float32 is None or self.rounded is None:
            return None
        half = torch.full((1, *self.network.shape), 0.5, dtype=torch.float64)
        values = self.rounded.values(half)
        reach = half.flatten(1).amax(1) * ones(self.network.shape, self.network.norm)
        here = Errors(self.in_float32, FLOAT64, values, torch.zeros_like(reach))
        found = Errors(self.in_float32, FLOAT32, values, reach, here)
        found.overflows |= here.overflows
        return found

    @property
    def bounded(self) -> bool:
        """Whether nothing can overflow in float32, for any image in [0, 1]."""
        return self.everywhere is not None and not bool(self.everywhere.overflows.any())

    @property
    def batch_size(self) -> int:
        return max(1, ENTRIES // sum(math.prod(operation.shape) for operation in self.network.operations))

    def check(self, x: Tensor, labels: Tensor, rows: Sequence[CertificateRow]) -> None:
        """ValueError where a row is not of this image and network, NotConfirmed where a radius of it is too large."""
        values, zero = self.network.values(x), torch.zeros(len(x), dtype=torch.float64)
        logits = values[-1]
        errors = Errors(self.bounds, FLOAT64, values, zero)
        self._check_answers(logits, labels, rows)
        claimed = torch.tensor([row.radius for row in rows], dtype=torch.float64)
        proved = radii(self.bounds, logits, labels, [[errors]])
        self._confirm("radius", self.network, FLOAT64, x, labels, claimed, proved, rows)
        if all(row.radius_float32 is None for row in rows):
            return
        claimed = torch.tensor([row.radius_float32 or 0.0 for row in rows], dtype=torch.float64)
        proved = torch.zeros_like(claimed)
        if self.in_float32 is not None and self.rounded is not None and bool((claimed > 0).any()):
            values = self.rounded.values(x)
            here = Errors(self.in_float32, FLOAT64, values, zero)
            reach = claimed.clamp(max=ones(self.network.shape, self.network.norm))  # no two images are farther apart
            there = Errors(self.in_float32, FLOAT32, values, reach, here)
            proved = radii(self.in_float32, values[-1], labels, [[here], self.choice(there)])
            self._check_float32(x, values[-1], here)
        self._confirm("radius_float32", self.rounded or self.network, FLOAT32, x, labels, claimed, proved, rows)

    def choice(self, there: Errors) -> list[Errors]:
        """Errors of float32 that hold for the images: those near them, and those of all images, unless the latter hold
        around another image alone (see `Operation.rounded_near`)."""
        elsewhere = self.network.operations[-1].kind == "nearest_neighbour"
        return [there] if elsewhere or self.everywhere is None else [there, self.everywhere]

    def table(self) -> list[tuple[str, str]]:
        """What was found of all images."""
        found = [("largest difference of a margin", f"{self.margin:.2g}")]
        for name, differences in self.differences.items():
            if count := len(differences) + self.boxed[name] + self.unbounded[name]:
                said = [f"{count:,} confirmed"]
                if differences:
                    low, high = min(differences), max(differences)
                    said.append(f"proved here / stated - 1: {low:.2g} to {high:.2g}")
                for how, some in (("by boxes", self.boxed[name]), ("unbounded", self.unbounded[name])):
                    said += [f"{some:,} {how}"] if some else []
                found.append((name, "; ".join(said)))
        if self.ratio:
            found.append(("float32 logits / stated error", f"at most {self.ratio:.2g}"))
        return found

    def _check_answers(self, logits: Tensor, labels: Tensor, rows: Sequence[CertificateRow]) -> None:
        for row, label in zip(rows, labels.tolist(), strict=True):
            if row.label != label:
                where = f"certificates.csv: image {row.index}"
                raise ValueError(f"{where} has the label {row.label}, and the image has the label {label}")
        others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
        margins = logits.gather(1, labels[:, None])[:, 0] - others
        size = logits.abs().where(logits.isfinite(), 0.0).amax(1)
        for k, row in enumerate(rows):
            where = f"certificates.csv: image {row.index}"
            answer = int(logits[k].argmax())
            if not float(logits[k, row.prediction]) >= float(logits[k].max()) - LEAST * min(1.0, float(size[k])):
                raise ValueError(f"{where} has the prediction {row.prediction}, and the network says {answer}")
            difference = abs(row.margin - float(margins[k])) / (float(size[k]) or 1.0)
            of_no_images = float(logits[k, row.label]) == -math.inf and not math.isfinite(row.margin)
            if of_no_images or row.margin == float(margins[k]):  # these may be infinite
                difference = 0.0
            if not difference <= TOLERANCE:
                raise ValueError(f"{where} has the margin {row.margin!r}, and the network says {float(margins[k])!r}")
            self.margin = max(self.margin, difference)
            self._check_gap(row, logits[k], float(size[k]) or 1.0)

    def _check_gap(self, row: CertificateRow, logits: Tensor, size: float) -> None:
        """ValueError where the difference of the two largest of an image's `logits` (K,), relative to their `size`, is
        not the one that its row states."""
        if row.gap is None:
            return
        first, second = logits.topk(2).values.tolist() if len(logits) > 1 else (math.inf, 0.0)
        gap = 0.0 if first == second else first - second
        if row.gap != gap and not abs(row.gap - gap) / size <= TOLERANCE:
            raise ValueError(
                f"certificates.csv: image {row.index} has the gap {row.gap!r}, and the network says {gap!r}"
            )

    def _check_float32(self, x: Tensor, logits: Tensor, here: Errors) -> None:
        """Whether float32, as it runs on this machine, stays within the stated error."""
        if self.stated is None or self.single is None or self.in_float32 is None:
            return
        exact = self.rounded(x.float().double())  # type: ignore[misc]
        off = (self.single(x.float()).double() - exact).abs()
        own = torch.stack([here.of(self.in_float32.of(k)) for k in range(self.network.classes)], 1)
        ratio = float(((off - own) / self.stated).nan_to_num(0.0).max())
        self.ratio = max(self.ratio, ratio)
        if ratio > 1:
            raise NotConfirmed(
                f"manifest.json: `rounding.float32` is too small: float32 errs by {ratio:.3g} times that"
            )

    def _confirm(
        self,
        name: str,
        network: Network,
        arithmetic: Arithmetic,
        x: Tensor,
        labels: Tensor,
        claimed: Tensor,
        proved: Tensor,
        rows: Sequence[CertificateRow],
    ) -> None:
        enough = proved >= claimed * (1 - TOLERANCE) - LEAST
        some = claimed > 0
        finite = enough & some & claimed.isfinite()
        self.differences[name] += (proved[finite] / claimed[finite] - 1).tolist()
        self.unbounded[name] += int((enough & claimed.isinf()).sum())
        left = (~enough & some).nonzero()[:, 0]
        if len(left) and network.norm is Norm.LINF:
            found = self._by_boxes(network, arithmetic, x[left], labels[left], claimed[left], proved[left])
            self.boxed[name] += int(found.sum())
            left = left[~found]
        for k in left.tolist():
            raise NotConfirmed(
                f"certificates.csv: image {rows[k].index} has the {name} {float(claimed[k])!r}, and only "
                f"{float(proved[k])!r} can be proved here"
            )

    def _by_boxes(
        self, network: Network, arithmetic: Arithmetic, x: Tensor, labels: Tensor, claimed: Tensor, proved: Tensor
    ) -> Tensor:
        """Which radii (B,) interval propagation proves: by itself, or from a smaller radius on by the Lipschitz bound.

        A box of float32 says nothing of overflow, which must be impossible.
        """
        found = torch.zeros_like(claimed, dtype=torch.bool)
        if arithmetic is FLOAT32 and not self.bounded:
            return found
        eps, goal = claimed * (1 - TOLERANCE), claimed * (1 - TOLERANCE)
        for step in range(STEPS + 1):
            todo = (~found).nonzero()[:, 0]
            if not len(todo) or (step and arithmetic is FLOAT32):
                break
            eps = goal - (goal - proved.clamp(max=goal)) * step / STEPS
            reach = (eps[todo] + 4 * FLOAT64.unit).view(-1, *[1] * (x.dim() - 1))
            low, high = (x[todo] - reach).clamp(0, 1), (x[todo] + reach).clamp(0, 1)
            margins = least_margins(network, low, high, labels[todo], arithmetic)
            ahead = (goal - eps)[todo, None] * self.pairs[labels[todo]] * UP
            found[todo] = (margins > ahead).all(1)
        return found


def radii(bounds: Bounds, logits: Tensor, labels: Tensor, errors: Sequence[Sequence[Errors]]) -> Tensor:
    """The radii (B,) that computed logits prove: the least of (y_t − y_i − error)/(how far y_t − y_i moves). `errors`
    are to be added up, of each the smallest, of the difference or of both logits by themselves."""
    found = torch.full((len(labels),), math.inf, dtype=torch.float64)
    apart = [sum(_least([e.of(bounds.of(k)) for e in of]) for of in errors) for k in range(bounds.classes)]
    for t in labels.unique().tolist():
        rows = labels == t
        for i in range(bounds.classes):
            if i == t:
                continue
            parts = bounds.parts(t, i)
            moves = sum(part.constant for part in parts) * UP
            joint = sum(_least([sum(e.of(part) for part in parts) for e in of]) for of in errors)
            lost = torch.minimum(joint, apart[t] + apart[i])  # type: ignore[arg-type]
            gap = (logits[:, t] - logits[:, i] - lost * UP)[rows] * (1 - 4 * FLOAT64.unit)
            found[rows] = torch.minimum(found[rows], (gap / moves * DOWN).nan_to_num(-1.0, math.inf, -1.0))
    return found.clamp_min(0)


def _least(errors: Sequence[Any]) -> Tensor:
    return functools.reduce(torch.minimum, errors)
