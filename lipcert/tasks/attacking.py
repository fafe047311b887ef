"""The loop of an attack over test images: attack, judge, record, and hold every success against the certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lipcert.attacks.judge import Judged, distance, judge
from lipcert.contracts import Attack, AttackRow, CertificateBroken, Norm
from lipcert.frozen import Network


def attack_images(
    attack: Attack,
    network: Network,
    exact: Network,
    images: Tensor,
    labels: Tensor,
    *,
    append: Callable[[list[AttackRow]], None],
    done: Set[tuple[int, float | None]] = frozenset(),
    certified: Mapping[int, float],
    certified_norm: Norm,
    counterexamples: Path,
) -> None:
    """Attacks uint8 `images` (N, C, H, W) of `network` (float32) and gives `append` a row per image and eps, by batch.

    `exact` is the same network in float64; images, labels and both networks are on one device.
    Only images that it classifies correctly are attacked. An (index, eps) in `done` is left out, and batches are cut by
    index, so that a resumed run attacks the remaining batches as an uninterrupted one would.

    `certified` maps an index to its radius in `certified_norm`; {} where nothing is certified. Raises
    CertificateBroken, after the rows were appended, when a misclassified image lies within its radius (a clean one too,
    at distance 0), in whichever norm it was found. Counter-examples that an earlier run left in the folder are tried
    first, so that resuming can't walk past them.
    """
    count = len(images) if attack.images is None else min(attack.images, len(images))
    radii: list[float | None] = [None] if attack.eps is None else list(attack.eps)

    def clean(index: list[int]) -> tuple[Tensor, Tensor]:
        where = torch.tensor(index, device=images.device)
        return images[where].double() / 255, labels[where].long()

    def hold_against_certificate(index: list[int], judged: Judged, name: str) -> None:
        x, y = clean(index)
        within = distance(certified_norm, judged.images, x)
        broken = [
            (row, certified[i])
            for row, i in enumerate(index)
            if judged.success[row] and 0 < certified.get(i, 0.0) >= within[row].item()
        ]
        if not broken:
            return
        with torch.no_grad():
            prediction = exact(judged.images).argmax(1)
        files = [counterexamples / f"{name}-{index[row]}.npz" for row, _ in broken]
        for file, (row, radius) in zip(files, broken, strict=True):
            _write(
                file,
                x=x[row].cpu(),
                x_adv=judged.images[row].cpu(),
                label=int(y[row]),
                prediction=int(prediction[row]),
                distance=within[row].item(),
                radius=radius,
                norm=str(certified_norm),
                attack=name,
                index=index[row],
            )
        row, radius = broken[0]
        raise CertificateBroken(
            f"image {index[row]}: {name} found an adversarial image at {certified_norm} distance "
            f"{within[row].item()!r}, within its certified radius {radius!r}; see {files[0]}"
            + (f" and {len(files) - 1} more there" if len(files) > 1 else "")
        )

    for file in sorted(counterexamples.glob("*.npz")):
        with np.load(file) as kept:
            index, name, candidate = [int(kept["index"])], str(kept["attack"]), kept["x_adv"][None]
        x, y = clean(index)
        judged = judge(exact, x, y, torch.from_numpy(candidate).to(x.device), certified_norm)
        hold_against_certificate(index, judged, name)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(attack.label, total=count * len(radii))
        for eps in radii:
            progress.update(bar, description=attack.label if eps is None else f"{attack.label} at {eps:g}")
            for start in range(0, count, attack.batch_size):
                block = range(start, min(start + attack.batch_size, count))
                index = [i for i in block if (i, eps) not in done]
                if index:
                    x, y = clean(index)
                    judged = _attack_batch(attack, network, exact, x, y, eps)
                    append(
                        [
                            AttackRow(i, attack.label, eps, success, found)
                            for i, success, found in zip(
                                index, judged.success.tolist(), judged.distance.tolist(), strict=True
                            )
                        ]
                    )
                    hold_against_certificate(index, judged, attack.label)
                progress.advance(bar, len(block))


def _attack_batch(attack: Attack, network: Network, exact: Network, x: Tensor, y: Tensor, eps: float | None) -> Judged:
    right = (~judge(exact, x, y, x, attack.norm).success).nonzero()[:, 0]
    candidate = x.clone()
    if len(right):
        radius = None if eps is None else torch.full((len(right),), eps, dtype=x.dtype, device=x.device)
        candidate[right] = attack(network, x[right].float(), y[right], radius).double()
    return judge(exact, x, y, candidate, attack.norm, eps)


def _write(file: Path, **values: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **values)
    partial.replace(file)
