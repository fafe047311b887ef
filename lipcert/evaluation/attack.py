"""An attack on the test images of a run: judge what it finds, record it, and hold every success against the proofs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from lipcert.attacks.judge import Judged, distance, judge
from lipcert.configuration import build, check
from lipcert.contracts import Attack, AttackRow, Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.arithmetic import exact_arithmetic
from lipcert.evaluation.load import LoadedRun
from lipcert.files import read_regular, write_atomic
from lipcert.frozen import Network
from lipcert.runs.layout import ATTACK_FACTS, ATTACKED, ATTACKS, COUNTEREXAMPLES
from lipcert.runs.results import eps_key, read_facts, read_results, write_facts

SPLIT = "test"
MOST_BYTES = 1 << 28  # of a counter-example


class Proved(NamedTuple):
    """What the images of a split are certified for: `radii` {index: radius} in `norm`, of one certificate."""

    norm: Norm
    certificate: str
    radii: Mapping[int, float]


def attack_run(run: LoadedRun, node: dict[str, Any], *, device: str = "cpu") -> None:
    """Appends the rows of one attack to a run whose lock is held; it goes on where it was stopped.

    node    the attack's configuration
    device  where it runs

    CertificateBroken if it gets within a certified radius: the counter-example is saved, and its row is kept.
    """
    check(node, "attack")
    attack, directory = build(node), run.directory
    eps: list[float | None] = [None] if attack.eps is None else list(attack.eps)
    test = run.dataset.test.head(attack.images)
    directory.mend(*ATTACKED)
    facts = read_facts(directory, ATTACK_FACTS, SPLIT).get(attack.label, {"images": {}, "seconds": 0.0})
    facts |= {"target": node["_target_"], "norm": str(attack.norm)}
    for e in eps:
        facts["images"][eps_key(e)] = max(len(test), facts["images"].get(eps_key(e), 0))
    write_facts(directory, ATTACK_FACTS, attack.label, facts, SPLIT)
    before = [row for row in directory.read_rows(ATTACKS, AttackRow) if row.split == SPLIT]
    results = read_results(directory, SPLIT)
    proved = [
        Proved(Norm(rows[0].norm), label, {row.index: row.radius for row in rows})
        for label, rows in results.certificates.items()
        if rows[0].kind == Kind.PROOF
    ]
    network = run.network.on(device)
    started = time.perf_counter()
    try:
        with exact_arithmetic(), torch.enable_grad():
            Attacking(
                attack=attack,
                network=network.to(dtype=torch.float32, device=device),
                exact=network,
                images=test.pixels().to(device),
                labels=test.labels.to(device),
                proved=proved,
                folder=directory / COUNTEREXAMPLES,
            ).run(
                eps,
                append=lambda rows: directory.append_rows(ATTACKS, rows),
                done={(row.index, row.eps) for row in before if row.attack == attack.label},
            )
    finally:
        facts["seconds"] += time.perf_counter() - started
        write_facts(directory, ATTACK_FACTS, attack.label, facts, SPLIT)


class Attacking:
    """One attack on images of one network.

    attack   see contracts.Attack
    network  in float32, which is attacked
    exact    the same in float64, which judges
    images   uint8 (N, C, H, W), and their `labels` (N,), on the device of both networks
    proved   what the images are certified for; an attack in any norm is held against each
    folder   where counter-examples are saved
    """

    def __init__(
        self,
        *,
        attack: Attack,
        network: Network,
        exact: Network,
        images: Tensor,
        labels: Tensor,
        proved: list[Proved],
        folder: Path,
    ):
        self.attack, self.network, self.exact = attack, network, exact
        self.images, self.labels, self.proved, self.folder = images, labels, proved, folder

    def run(
        self,
        radii: list[float | None],
        *,
        append: Callable[[list[AttackRow]], None],
        done: Set[tuple[int, float | None]] = frozenset(),
    ) -> None:
        """Gives `append` a row an image and eps, by batch.

        Only images that are classified rightly are attacked. An (index, eps) in `done` is left out, and batches are cut
        by index, so that an attack which goes on computes what an uninterrupted one does. Raises CertificateBroken,
        after the rows were appended, where a misclassified image lies within its radius (a clean one too, at distance
        0). Counter-examples that an earlier attack left are tried first, so that going on can't walk past them.
        """
        self.retry_saved()
        count, label = len(self.images), self.attack.label
        with progress() as bar:
            task = bar.add_task(label, total=count * len(radii))
            for eps in radii:
                bar.update(task, description=label if eps is None else f"{label} at {eps:g}")
                for start in range(0, count, self.attack.batch_size):
                    block = range(start, min(start + self.attack.batch_size, count))
                    if index := [i for i in block if (i, eps) not in done]:
                        judged = self.attack_batch(index, eps)
                        append(self.rows(index, eps, judged))
                        self.hold(index, judged, label)
                    bar.advance(task, len(block))

    def clean(self, index: list[int]) -> tuple[Tensor, Tensor]:
        """The images in float64 and their labels."""
        where = torch.tensor(index, device=self.images.device)
        return self.images[where].double() / 255, self.labels[where].long()

    def attack_batch(self, index: list[int], eps: float | None) -> Judged:
        """The attack's candidates for these images, judged by the exact network."""
        x, y = self.clean(index)
        right = (~judge(self.exact, x, y, x, self.attack.norm).success).nonzero()[:, 0]
        candidate = x.clone()
        if len(right):
            radius = None if eps is None else torch.full((len(right),), eps, dtype=x.dtype, device=x.device)
            candidate[right] = self.attack(self.network, x[right].float(), y[right], radius).double()
        return judge(self.exact, x, y, candidate, self.attack.norm, eps)

    def rows(self, index: list[int], eps: float | None, judged: Judged) -> list[AttackRow]:
        """What was found of each image."""
        norm, label = str(self.attack.norm), self.attack.label
        found = zip(index, judged.success.tolist(), judged.distance.tolist(), strict=True)
        return [AttackRow(SPLIT, i, norm, label, eps, success, distance_) for i, success, distance_ in found]

    def hold(self, index: list[int], judged: Judged, name: str) -> None:
        """CertificateBroken where a misclassified image lies within its certified radius; those images are saved."""
        x, y = self.clean(index)
        for norm, certificate, certified in self.proved:
            within = distance(norm, judged.images, x)
            broken = [
                (row, certified[i])
                for row, i in enumerate(index)
                if judged.success[row] and 0 < certified.get(i, 0.0) >= within[row].item()
            ]
            if not broken:
                continue
            with torch.no_grad():
                prediction = self.exact(judged.images).argmax(1)
            for row, radius in broken:
                saved = {
                    "x": x[row].cpu(),
                    "x_adv": judged.images[row].cpu(),
                    "label": int(y[row]),
                    "prediction": int(prediction[row]),
                    "distance": within[row].item(),
                    "radius": radius,
                    "norm": str(norm),
                    "certificate": certificate,
                    "attack": name,
                    "index": index[row],
                }
                save_counterexample(self.folder / f"{name}-{index[row]}.npz", saved)
            row, radius = broken[0]
            raise CertificateBroken(
                f"image {index[row]}: {name} found an adversarial image at {norm} distance {within[row].item()!r}, "
                f"within the radius {radius!r} that {certificate} certified; see "
                f"{self.folder / f'{name}-{index[row]}.npz'}"
                + (f" and {len(broken) - 1} more there" if len(broken) > 1 else "")
            )

    def retry_saved(self) -> None:
        """Holds the counter-examples in the folder against the proofs again."""
        for file in sorted(self.folder.glob("*.npz")):
            index, name, candidate = read_counterexample(file, tuple(self.images.shape[1:]))
            if 0 <= index < len(self.images):
                x, y = self.clean([index])
                judged = judge(self.exact, x, y, torch.from_numpy(candidate)[None].to(x.device), self.attack.norm)
                self.hold([index], judged, name)


@contextmanager
def progress():
    """A progress bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as bar:
        yield bar


def save_counterexample(file: Path, values: Mapping[str, Any]) -> None:
    """Writes a counter-example: arrays and plain values by name."""
    if file.parent.is_symlink():
        raise ValueError(f"{file.parent} is a link: nothing is written through one")
    file.parent.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.savez(content, **values)
    write_atomic(file, content.getvalue())


def read_counterexample(file: Path, shape: tuple[int, ...]) -> tuple[int, str, np.ndarray]:
    """(index, attack, image float64 of `shape`) of a saved counter-example; ValueError where the file holds none."""
    try:
        with np.load(io.BytesIO(read_regular(file, MOST_BYTES)), allow_pickle=False) as kept:
            index, name, image = int(kept["index"]), str(kept["attack"])[:200], kept["x_adv"]
        if image.shape != shape or image.dtype != np.float64 or not ((image >= 0) & (image <= 1)).all():
            raise ValueError("it is not an image of this network")
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise ValueError(f"{file} can't be read as a counter-example ({error}): delete it") from None
    return index, name, image
