"""Gradient masking: networks that stop an attack without being robust, found by what such networks have in common.

An attack follows gradients. Where these are 0, are lost to rounding or lead nowhere, it fails, and its failure looks
like robustness. Here what tells one from the other is measured; `masking_signs` says what the numbers mean. Nothing of
this is a proof: the smallest robust accuracy is what these attacks leave, and others may leave less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipcert.analyses.audit.masking_attacks import PlainGradient, Transfer, gradient, random_start
from lipcert.analyses.audit.masking_signs import sentences, signs
from lipcert.attacks.auto_projected_gradient import AutoProjectedGradient
from lipcert.attacks.batch import wrong_by
from lipcert.attacks.judge import definite, judge
from lipcert.attacks.settings import seeded
from lipcert.attacks.square import Square
from lipcert.contracts import Attack, Norm
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic

REPORTED = "pgd-40"
AT_ONCE = 250  # images whose gradients are computed together


class Trial(NamedTuple):
    """An attack, and what it is for.

    name    of its number
    attack  with an eps for each image
    single  whether it attacks the network in float32, as papers do, or the one in float64
    images  which ones it is given: "all", "left" by PGD-40, or the "rest" that no attack before it broke
    random  whether it starts at random images, which are the same for all such attacks: these differ by one thing each
    """

    name: str
    attack: Attack
    single: bool = False
    images: str = "left"
    random: bool = False


def trials(norm: Norm, queries: int) -> list[Trial]:
    """All attacks, in order; `queries` of the network for each image in the search without gradients."""

    def plain(name: str, steps: int, stepsize: float, loss: str = "ce", single: bool = True, **kwargs: Any) -> Trial:
        attack = PlainGradient(norm=norm, steps=steps, rel_stepsize=stepsize, loss=loss)
        return Trial(name, attack, single, **{"random": True, **kwargs})

    usual = 1 / 30  # 0.01 at l_inf 0.3, the default of cleverhans
    return [
        plain("fgsm", 1, 1.0, images="all", random=False),
        plain("pgd-10", 10, 0.25, images="all"),
        plain(REPORTED, 40, usual, images="all"),
        plain("pgd-200", 200, usual),
        plain("float64", 40, usual, single=False),
        plain("rescaled", 40, usual, "margin"),
        plain("rescaled_float64", 40, usual, "margin", single=False),
        Trial("square", Square(norm=norm, eps=[1.0], steps=queries), single=True),
        Trial("transfer", Transfer(norm=norm)),
        Trial("apgd", AutoProjectedGradient(norm=norm, eps=[1.0]), images="rest"),
    ]


@dataclass(frozen=True)
class Diagnosis:
    """What was measured of a network on some images, and what it means.

    numbers          by name. Fractions of all images: `clean` (rightly classified); `fgsm`, `pgd-10`, `pgd-40` (left
                     by that attack, judged in float32 as papers do); `pgd-200`, `float64`, `rescaled`,
                     `rescaled_float64`, `square`, `transfer` (left by PGD-40 and then by that attack); `apgd` (left by
                     all attacks, of which this is the last); `flat` (whose gradient of the cross-entropy in float32 is
                     0 or not finite); `saturated` (whose label has the probability 1 in float32); `float32_differs`
                     (which float32 classifies differently). Medians of what is finite: `gap` (of the label's logit to
                     the largest other one, in size) and `gradient` (that gradient's l2 norm). And `images`, `eps`
    findings         sentences: the signs of masking, with their numbers; or that there is none
    masked           whether there is any
    reported         the robust accuracy that PGD-40 on the cross-entropy in float32 gives
    left             which images no attack broke, (N,), judged in float64
    """

    numbers: dict[str, float]
    findings: list[str]
    masked: bool
    reported: float
    left: Tensor

    @property
    def robust_accuracy(self) -> float:
        """The smallest that was found: the fraction of images that no attack broke."""
        return float(self.left.double().mean())


def diagnose(
    network: Network,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm | str,
    eps: float,
    seed: int = 0,
    device: str = "cpu",
    queries: int = 1000,
    tell: Callable[[str], None] = lambda name: None,
) -> Diagnosis:
    """Measures whether gradients are masked, and how robust the network really is as far as attacks can tell.

    network    frozen, in float64
    images     (N, C, H, W) in [0, 1], float64, and their labels (N,)
    norm, eps  of the ball
    seed       of all random numbers
    device     where it is computed
    queries    of the network for each image in the search without gradients
    tell       is told which attack comes next

    Raises ValueError where the network can't be held in float32, or there are no images.
    """
    if not len(images):
        raise ValueError("there are no images to attack")
    norm, x, y = Norm(norm), images.to(device).double(), labels.to(device)
    double, single = network.on(device), network.to(dtype=torch.float32, device=device)
    with exact_arithmetic(), seeded(seed, x.device):
        numbers = {"images": float(len(y)), "eps": eps, **_measured(double, single, x, y)}
        starts = random_start(norm, x, eps)
        left = torch.ones_like(y, dtype=torch.bool)  # by PGD-40
        rest = left.clone()  # by all attacks so far
        for trial in trials(norm, queries):
            tell(trial.name)
            network = single if trial.single else double
            given = {"all": torch.ones_like(left), "left": left, "rest": rest}[trial.images]
            fell, fell_single = ~given, ~given
            for rows in given.nonzero()[:, 0].split(trial.attack.batch_size):
                radius = torch.full((len(rows),), eps, dtype=network.dtype, device=x.device)
                start = {"start": starts[rows].to(network.dtype)} if trial.random else {}
                found = trial.attack(network, x[rows].to(network.dtype), y[rows], radius, **start)
                judged = judge(double, x[rows], y[rows], found, norm, eps)
                fell[rows] = judged.success
                fell_single[rows] = ~definite(single(judged.images.float()), y[rows])
            rest = rest & ~fell
            left = ~fell if trial.name == REPORTED else left
            numbers[trial.name] = float((~(fell_single if trial.images == "all" else fell)).double().mean())
    return Diagnosis(numbers, sentences(numbers), bool(signs(numbers)), numbers[REPORTED], rest.cpu())


def _measured(double: Network, single: Network, x: Tensor, y: Tensor) -> dict[str, float]:
    """What the clean images x, (N, C, H, W) in float64, tell: logits and gradients, without an attack."""
    rows = []
    for images, labels in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True):
        logits, (slope, rounded) = double(images), gradient(single, images.float(), labels)
        length = torch.linalg.vector_norm(slope.double().flatten(1), dim=1)
        sure = rounded.softmax(1).gather(1, labels[:, None])[:, 0] == 1
        differs = logits.argmax(1) != rounded.argmax(1)
        flat = ~length.isfinite() | (length == 0)
        rows.append(
            torch.stack([definite(logits, labels), flat, sure, differs, wrong_by(logits, labels).abs(), length])
        )
    clean, flat, sure, differs, gap, length = torch.cat(rows, 1)
    return {
        "clean": float(clean.mean()),
        "flat": float(flat.mean()),
        "saturated": float(sure.mean()),
        "float32_differs": float(differs.mean()),
        "gap": _median(gap),
        "gradient": _median(length),
    }


def _median(values: Tensor) -> float:
    """Of those that are finite; 0 where none is."""
    finite = values[values.isfinite()]
    return float(finite.median()) if len(finite) else 0.0
