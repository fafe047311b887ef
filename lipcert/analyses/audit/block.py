"""The images of an audit, block by block, so that one which is stopped goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipcert.analyses.audit.nearest_images import NearestImages
from lipcert.analyses.audit.search import Networks, Search
from lipcert.analyses.audit.settings import Settings
from lipcert.analyses.audit.suite import Suite, suite
from lipcert.contracts import Norm
from lipcert.datasets.split import Split
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.progress import Progress


class Claim(NamedTuple):
    """What is said of one image: test image `index` keeps its label within `radius`, in float32 within the other."""

    index: int  # type: ignore[assignment]
    radius: float
    radius_float32: float | None = None


class Block(NamedTuple):
    """What was found of a block of images.

    start   the place of its first claim
    claims  all of the block
    due     the places in the block of those that were asked for, and of those that were done but are broken now
    search  that has ended
    facts   {seconds, cpu_seconds, attacks: {attack: {tried, found}}}
    """

    start: int
    claims: Sequence[Claim]
    due: list[int]
    search: Search
    facts: dict[str, Any]


def blocks(
    network: Network,
    norm: Norm,
    images: Split,
    claims: Sequence[Claim],
    settings: Settings,
    done: Callable[[Claim], bool] = lambda claim: False,
    what: str = "audit",
) -> Iterator[Block]:
    """Searches the claims in blocks of `settings.batch_size`; those of which all are `done` are left out.

    A block is always searched whole, so that what is found of an image depends on neither when the audit was stopped
    nor on which images were done before.
    """
    size = settings.batch_size
    with Progress(what, len(claims)) as shown, exact_arithmetic():
        auditor = Auditor(network, norm, images, settings)
        for start in range(0, len(claims), size):
            block = claims[start : start + size]
            due = [place for place, claim in enumerate(block) if not done(claim)]
            if due:
                wall, cpu = time.perf_counter(), time.process_time()

                def tell(name: str, start: int = start) -> None:
                    shown.move(start, f"{what}, {name}")
                    shown.tell()

                search = auditor.search(block, settings.seed + start, tell)
                whole = search.whole().tolist()
                due = [place for place in range(len(block)) if place in due or not whole[place]]
                facts = {
                    "seconds": time.perf_counter() - wall,
                    "cpu_seconds": time.process_time() - cpu,
                    "attacks": search.counts,
                }
                yield Block(start, block, due, search, facts)
            shown.move(start + len(block), what)
            shown.tell()


class Auditor:
    """A suite, ready for the images of one network in one norm."""

    def __init__(self, network: Network, norm: Norm, images: Split, settings: Settings):
        self.settings, self.norm, self.images = settings, norm, images
        self.networks = Networks.of(network, settings.device)
        chosen = suite(network, norm, settings.steps, settings.restarts)
        self.suite: Suite = chosen if self.networks.single else chosen.in_float64()
        self.near = NearestImages(self.networks.double, images, settings.device)

    def search(self, claims: Sequence[Claim], seed: int, tell: Callable[[str], None]) -> Search:
        device = self.settings.device
        taken = self.images.take(torch.tensor([claim.index for claim in claims]))

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        search = Search(
            self.networks,
            self.norm,
            taken.pixels().to(device).double() / 255,
            taken.labels.to(device).long(),
            column([claim.radius for claim in claims]),
            column([claim.radius_float32 or 0.0 for claim in claims]),
            seed=seed,
            tell=tell,
        )
        search.run(self.suite, self.settings.factors, self.near)
        return search
