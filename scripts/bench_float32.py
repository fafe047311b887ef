"""What arithmetic takes from each radius, and what it costs to know that. Usage: bench_float32.py RUN [RUN …]

For each run, by its own kind of proof (intervals in l_inf, pairs of logits otherwise), over the images that have a
radius: the mean and the largest loss from real arithmetic (the same computation, with nothing subtracted and no box
rounded outward) to `radius`, and from `radius` to `radius_float32`, relative to the former; the seconds that the bound
and the images take without and with float32, the best of three; and the operation that costs float32 most.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from lipcert.certificates import interval, pairwise
from lipcert.certificates.interval import Interval
from lipcert.certificates.pairwise import Pairwise
from lipcert.contracts import Norm
from lipcert.datasets import batches
from lipcert.evaluation.load import LoadedRun, load_run
from lipcert.frozen.arithmetic import EXACT
from lipcert.frozen.error_walk import Errors
from lipcert.frozen.exact import exact, exact_arithmetic


class Without:
    """Takes the place of the network in float32 where the time without it is measured."""

    refused, bounded = "left out", False

    def __init__(self, *given: Any):
        pass

    def report(self) -> dict[str, Any]:
        return {}


def timed(run: LoadedRun) -> tuple[float, list[Any], dict[str, Any]]:
    """(seconds, the verdicts on the test images, the report) of one certification."""
    images = [(exact(x), y) for x, y in batches(run.dataset.test, 500, device="cpu")]
    started = time.perf_counter()
    bound = (Interval if run.network.norm is Norm.LINF else Pairwise)()(run.network)
    verdicts = [bound.judge(x, y) for x, y in images]
    return time.perf_counter() - started, verdicts, bound.report


class NoRoundings:
    """Takes the place of the rounding errors where there are to be none."""

    def __init__(self, network: Any, walk: Any):
        self.in_float64 = Errors(logits=torch.zeros(1, network.classes, dtype=torch.float64))


def real(run: LoadedRun) -> Tensor:
    """The radii that nothing is subtracted from: no proofs."""
    kept = pairwise.Roundings, interval.FLOAT64, pairwise.Deployed
    pairwise.Roundings = NoRoundings  # type: ignore[misc, assignment]
    interval.FLOAT64 = EXACT
    pairwise.Deployed = Without  # type: ignore[misc, assignment]
    try:
        return torch.cat([verdict.radius for verdict in timed(run)[1]])
    finally:
        pairwise.Roundings, interval.FLOAT64, pairwise.Deployed = kept  # type: ignore[misc]


def columns(run: LoadedRun) -> tuple[float, float, Tensor, Tensor, dict[str, Any]]:
    """Seconds without and with float32, the radii, those in float32, and the report."""
    deployed, seconds = pairwise.Deployed, ([], [])
    for _ in range(3):
        for kept, kind in zip(seconds, (Without, deployed), strict=True):
            pairwise.Deployed = kind  # type: ignore[misc, assignment]
            took, verdicts, report = timed(run)
            kept.append(took)
    radius, single = (torch.cat([v[k] for v in verdicts]) for k in (2, 4))
    return min(seconds[0]), min(seconds[1]), radius, single, report["float32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    titles = ["run", "images", "mean radius", "loss to float64", "largest", "in float32", "loss to float32", "largest"]
    print("|", " | ".join([*titles, "without, s", "with, s", "costs most"]), "|")
    print("|---|" + "---:|" * 9 + "---|")
    for path in parser.parse_args().runs:
        run = load_run(path)
        with exact_arithmetic():
            without, with_, radius, single, report = columns(run)
            exactly = real(run)
        has = radius > 0
        first, second = (1 - b[has] / a[has] for a, b in ((exactly, radius), (radius, single)))
        cells = [path, str(len(radius)), f"{radius.mean():.5f}", f"{first.mean():.1e}", f"{first.max():.1e}"]
        cells += [f"{single.mean():.5f}", f"{second.mean():.1e}", f"{second.max():.1e}"]
        cells += [f"{without:.3f}", f"{with_:.3f} (× {with_ / without:.2f})"]
        print("|", " | ".join([*cells, report.get("refused") or f"`{report['layer']}`"]), "|", flush=True)


if __name__ == "__main__":
    main()
