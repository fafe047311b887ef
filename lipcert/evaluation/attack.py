"""An attack on the test images of a run: judge what it finds, record it, and hold every success against the proofs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipcert.attacks.judge import Judged, attempt, distance, judge
from lipcert.configuration import build, check
from lipcert.contracts import Attack, AttackRow, Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import LoadedRun
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.progress import Progress
from lipcert.runs import adversarial, counterexamples
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import ATTACK_FACTS, ATTACKED, ATTACKS, COUNTEREXAMPLES
from lipcert.runs.results import drop_rows, network_hash, read_facts, read_results, write_facts
from lipcert.runs.tried import Tried, read, without_words

SPLIT = "test"
UNSETTLED = ("eps", "images", "batch_size", "radii")  # settings that may differ between rows of one label


class Proved(NamedTuple):
    """What the images of a split are certified for: `radii` {index: radius} in `norm`, of one certificate."""

    norm: Norm
    certificate: str
    radii: Mapping[int, float]


def attack_run(run: LoadedRun, node: dict[str, Any], *, device: str = "cpu", save_images: bool = False) -> None:
    """Appends the rows of one attack to a run whose lock is held; it goes on where it was stopped.

    node    the attack's configuration; its `eps` may name multiples of the certified radius, as in "1.05*certified"
    device  where it runs
    save_images  whether the images that it finds are kept (see `runs.adversarial`); rows whose images were not are
                 computed anew

    ValueError where no radius is proved that a multiple could be taken of.
    CertificateBroken if it gets within a certified radius: the counter-example is saved, and its row is kept.
    """
    check(plain := without_words(node), "attack")
    attack, directory = build(plain), run.directory
    tried = [Tried()] if attack.eps is None else read(node.get("eps") or list(attack.eps))
    test = run.dataset.test.head(attack.images)
    directory.mend(attack.label, *ATTACKED)
    own = own_radii(directory, attack.norm, len(test)) if any(each.factor is not None for each in tried) else {}
    facts = begin(directory, attack, node, tried, len(test), own)
    if save_images:
        adversarial.drop_unsaved(directory, SPLIT, attack.label, tried, len(test))
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
                directory=directory,
                own=own,
            ).run(
                tried,
                append=lambda rows: directory.append_rows(ATTACKS, rows),
                keep=(lambda images: adversarial.append(directory, attack.label, images)) if save_images else None,
                done={(row.index, Tried.of(row)) for row in before if row.attack == attack.label},
            )
        facts["images"] |= {each.key: facts["wanted"][each.key] for each in tried}
    finally:
        facts["seconds"] += time.perf_counter() - started
        write_facts(directory, ATTACK_FACTS, attack.label, facts, SPLIT)


def own_radii(directory: RunDirectory, norm: Norm, images: int) -> Mapping[int, float]:
    """The largest radius that was proved of each image in a norm. ValueError where none was of the first `images`."""
    results = read_results(directory, SPLIT)
    own = results.own_radii(norm)
    if not any(index < images for index in own):
        norms = sorted({facts["norm"] for facts in results.facts.values() if facts["kind"] == Kind.PROOF})
        proofs = f"its proofs are in {' and '.join(norms)}" if norms else "it has no whole proof"
        raise ValueError(
            f"`eps`: {directory} has no radius certified in {norm} for these images, of which a multiple could be "
            f"taken ({proofs}); give radii, or an attack in the norm of a proof"
        )
    return own


def begin(
    directory: RunDirectory,
    attack: Attack,
    node: dict[str, Any],
    tried: list[Tried],
    images: int,
    own: Mapping[int, float],
) -> dict[str, Any]:
    """The facts of an attack that begins or goes on: `images` are finished at each eps, and so many `wanted`.

    Rows at multiples of radii that are no longer the certified ones, `own`, are dropped. ValueError where the run has
    rows of the same label that other settings made.
    """
    settings = {key: value for key, value in node.items() if key not in UNSETTLED}
    fresh = {"images": {}, "wanted": {}, "seconds": 0.0, "settings": settings, "network": network_hash(directory)}
    facts = read_facts(directory, ATTACK_FACTS, SPLIT).get(attack.label, fresh)
    if facts["network"] != fresh["network"]:
        drop_rows(directory, ATTACKS, AttackRow, lambda row: row.attack == attack.label)
        directory.forget(adversarial.file_of(attack.label))
        facts = fresh
    if different := [key for key in settings if facts["settings"].get(key) != settings[key]]:
        key = different[0]
        raise ValueError(
            f"`attack.{key}`: {directory} has rows of {attack.label} with {key}={facts['settings'].get(key)}, and "
            f"can't have those of {key}={settings[key]} besides"
        )
    factors = {each.factor for each in tried}
    drop_rows(
        directory,
        ATTACKS,
        AttackRow,
        lambda row: (
            (row.split, row.attack) == (SPLIT, attack.label)
            and row.factor is not None
            and row.factor in factors
            and row.eps != row.factor * own.get(row.index, 0.0)
        ),
    )
    facts |= {"target": node["_target_"], "norm": str(attack.norm)}
    if "radii" in node:  # where smallest distances are reported
        facts["radii"] = list(node["radii"] or [])
    for e in (each.key for each in tried):
        facts["wanted"][e] = max(images, facts["images"].get(e, 0))
        facts["images"].setdefault(e, 0)
    write_facts(directory, ATTACK_FACTS, attack.label, facts, SPLIT)
    return facts


class Attacking:
    """One attack on images of one network.

    attack   see contracts.Attack
    network  in float32, which is attacked
    exact    the same in float64, which judges
    images   uint8 (N, C, H, W), and their `labels` (N,), on the device of both networks
    proved   what the images are certified for; an attack in any norm is held against each
    directory  of the run, where counter-examples are saved
    own      {index: certified radius in the attack's norm}, for attacks at multiples of it
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
        directory: RunDirectory,
        own: Mapping[int, float] | None = None,
    ):
        self.own = own or {}
        self.attack, self.network, self.exact = attack, network, exact
        self.images, self.labels, self.proved, self.directory = images, labels, proved, directory

    def run(
        self,
        radii: list[Tried],
        *,
        append: Callable[[list[AttackRow]], None],
        keep: Callable[[dict[adversarial.Place, Any]], None] | None = None,
        done: Set[tuple[int, Tried]] = frozenset(),
    ) -> None:
        """Gives `append` a row an image and what is tried, by batch; at a multiple of `own` only for images in it.

        Only images that are classified rightly are attacked. What is in `done` is left out, and batches are cut by
        index, so that an attack which goes on computes what an uninterrupted one does. `keep` is given the images that
        were found, (C, H, W) in float64, before `append` their rows. Raises CertificateBroken,
        after the rows were appended, where a misclassified image lies within its radius (a clean one too, at distance
        0). Counter-examples that an earlier attack left are tried first, so that going on can't walk past them.
        """
        self.retry_saved()
        count, label = len(self.images), self.attack.label
        with Progress(label, count * len(radii)) as shown:
            for number, tried in enumerate(radii):
                shown.move(number * count, label if tried == Tried() else f"{label} at {tried.key}")
                for start in range(0, count, self.attack.batch_size):
                    block = range(start, min(start + self.attack.batch_size, count))
                    block_ = block if tried.factor is None else [i for i in block if i in self.own]
                    if index := [i for i in block_ if (i, tried) not in done]:
                        judged = self.attack_batch(index, tried)
                        rows = self.rows(index, tried, judged)
                        if keep:
                            pairs = zip(rows, judged.images.cpu().numpy(), strict=True)
                            keep({adversarial.Place.of(row): x for row, x in pairs if adversarial.is_kept(row)})
                        append(rows)
                        self.hold(index, judged, label)
                    shown.move(number * count + block.stop)
                    shown.tell()

    def clean(self, index: list[int]) -> tuple[Tensor, Tensor]:
        """The images in float64 and their labels."""
        where = torch.tensor(index, device=self.images.device)
        return self.images[where].double() / 255, self.labels[where].long()

    def eps(self, index: int, tried: Tried) -> float | None:
        """The radius at which an image is attacked."""
        return tried.eps if tried.factor is None else tried.factor * self.own[index]

    def attack_batch(self, index: list[int], tried: Tried) -> Judged:
        """The attack's candidates for these images, judged by the exact network."""
        x, y = self.clean(index)
        each = [self.eps(i, tried) for i in index]
        eps = None if tried == Tried() else torch.tensor(each, dtype=x.dtype, device=x.device)
        return attempt(self.attack, self.network, self.exact, x, y, eps)

    def rows(self, index: list[int], tried: Tried, judged: Judged) -> list[AttackRow]:
        """What was found of each image."""
        norm, label = str(self.attack.norm), self.attack.label
        found = zip(index, *(column.tolist() for column in judged[1:]), strict=True)
        return [
            AttackRow(SPLIT, i, norm, label, self.eps(i, tried), success, distance_, tried.factor, prediction)
            for i, success, distance_, prediction in found
        ]

    def hold(self, index: list[int], judged: Judged, name: str, keep: bool = True) -> None:
        """CertificateBroken where a misclassified image lies within its certified radius; `keep`: those are saved."""
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
            files = [
                counterexamples.save(
                    self.directory,
                    {
                        "x": x[row].cpu(),
                        "x_adv": judged.images[row].cpu(),
                        "label": int(y[row]),
                        "prediction": int(judged.prediction[row]),
                        "distance": within[row].item(),
                        "radius": radius,
                        "norm": str(norm),
                        "certificate": certificate,
                        "attack": name,
                        "index": index[row],
                    },
                )
                for row, radius in (broken if keep else [])
            ]
            row, radius = broken[0]
            more = f" and {len(files) - 1} more there" if len(files) > 1 else ""
            raise CertificateBroken(
                f"image {index[row]}: {name} found an adversarial image at {norm} distance {within[row].item()!r}, "
                f"within the radius {radius!r} that {certificate} certified"
                + (f"; see {files[0]}{more}" if files else f"; it was saved in {self.directory / COUNTEREXAMPLES}")
            )

    def retry_saved(self) -> None:
        """Holds the saved counter-examples against the proofs again."""
        for file, found in counterexamples.saved(self.directory):
            if found.image.shape != tuple(self.images.shape[1:]):
                raise ValueError(f"{file} is no image of this network: delete it")
            if 0 <= found.index < len(self.images):
                x, y = self.clean([found.index])
                candidate = torch.from_numpy(found.image)[None].to(x.device)
                judged = judge(self.exact, x, y, candidate, self.attack.norm)
                self.hold([found.index], judged, found.attack, keep=False)
