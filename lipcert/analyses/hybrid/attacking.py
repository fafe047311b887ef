"""Attacks on a hybrid classifier itself: what beats one of its networks alone need not beat the two together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipcert.attacks.batch import Answer
from lipcert.attacks.judge import attempt
from lipcert.certificates.pairwise import top_gap
from lipcert.contracts import Attack, AttackRow
from lipcert.datasets.split import Split
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.progress import Progress


class Hybrid:
    """A function from images (B, C, H, W) to logits (B, K): those of `first` where its gap is at least `threshold`,
    those of `second` elsewhere."""

    def __init__(self, first: Any, second: Any, threshold: float):
        self.first, self.second, self.threshold = first, second, threshold

    def __call__(self, x: Tensor) -> Tensor:
        own = self.first(x)
        return torch.where((top_gap(own) >= self.threshold)[:, None], own, self.second(x))


def attack_hybrid(
    attack: Attack, first: Network, second: Network, threshold: float, images: Split, radii: list[float], device: str
) -> list[AttackRow]:
    """A row for each of the `images` and `radii` (for each image, of an attack that looks for the smallest distance).

    The attack is run on the hybrid, on `first` and on `second`; each of the three candidates is judged by the hybrid in
    float64, and the nearest one that it misclassifies counts.
    """
    exact = Hybrid(first.on(device), second.on(device), threshold)
    one, two = (network.to(dtype=torch.float32, device=device) for network in (first, second))
    attackable: list[Answer] = [Hybrid(one, two, threshold), one, two]
    rows: list[AttackRow] = []
    tried: list[float | None] = [None] if attack.eps is None else list(radii)
    with exact_arithmetic(), torch.enable_grad(), Progress(attack.label, len(images) * len(tried)) as shown:
        for eps in tried:
            for start in range(0, len(images), attack.batch_size):
                block = range(start, min(start + attack.batch_size, len(images)))
                x = images.pixels()[block.start : block.stop].to(device).double() / 255
                y = images.labels[block.start : block.stop].to(device).long()
                at = None if eps is None else torch.full_like(x[:, 0, 0, 0], eps)
                found = [attempt(attack, each, exact, x, y, at) for each in attackable]
                distance, which = torch.stack([each.distance for each in found]).min(0)
                answers = torch.stack([each.prediction for each in found]).gather(0, which[None])[0]
                key = (str(attack.norm), attack.label, eps)
                values = zip(block, distance.isfinite().tolist(), distance.tolist(), answers.tolist(), strict=True)
                rows += [AttackRow("test", i, *key, hit, far, None, answer) for i, hit, far, answer in values]
                shown.move(len(rows))
                shown.tell()
    return rows
