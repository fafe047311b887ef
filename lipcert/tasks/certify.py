"""`lipcert certify`: a radius for every test image of a trained network."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from lipcert.contracts import BoundCertificate, CertificateRow, Kind
from lipcert.datasets import batches
from lipcert.datasets.split import Dataset, Split
from lipcert.frozen import Network
from lipcert.reporting.files import write_atomic
from lipcert.reporting.rows import write_rows
from lipcert.reporting.stability import StabilityRow
from lipcert.tasks import record, stability, store
from lipcert.tasks.arithmetic import exact, exact_arithmetic
from lipcert.tasks.devices import check_device
from lipcert.tasks.settings import build, check


def run(
    *,
    run: str,
    certificate: dict | None,
    analysis: Literal["tightness", "stability"] | None,
    attack: dict | None,
    draws: int,
    noise: float,
    data_dir: str | None,
    device: str,
    batch_size: int,
    trust: bool,
    seed: int,
    output_dir: str | None,
) -> None:
    """The command: certifies the run of directory `run` and rewrites its record.

    `attack`, `draws` and `noise` are the analysis's.
    """
    from lipcert.tasks import tightness  # which attacks, and attacks load runs as this module does

    check_device(device)
    directory = Path(run)
    config, network, dataset = load_run(directory, data_dir=data_dir, trust=trust)
    if analysis == "tightness":
        tightness.check(network.norm, certificate or config["certificate"], attack, draws, noise)
    bound = certify(directory, config, network, dataset, certificate=certificate, device=device, batch_size=batch_size)
    record.write(directory)
    if analysis == "stability":
        stability.analyse(directory, network, dataset, device=device, batch_size=batch_size)
    if analysis == "tightness" and attack:
        tightness.analyse(
            directory,
            config,
            network,
            dataset,
            bound,
            attack=attack,
            draws=draws,
            noise=noise,
            seed=seed,
            device=device,
            batch_size=batch_size,
        )
    record.show(directory, layers=True)
    if analysis:
        (tightness if analysis == "tightness" else stability).show(directory)


def load_run(directory: Path, *, data_dir: str | None = None, trust: bool = False) -> tuple[dict, Network, Dataset]:
    """The configuration, the frozen network and the data of a run; `data_dir` replaces where the run found its data."""
    config = store.read_config(directory, trust=trust, parts=("dataset", "certificate", "attack"))
    network = store.read_network(directory)
    if data_dir is not None and "data_dir" in config["dataset"]:
        config["dataset"]["data_dir"] = data_dir
    check(config["dataset"], "dataset")
    dataset = build(config["dataset"])
    due = (tuple(dataset.input_shape), dataset.num_classes)
    if (network.shape, network.classes) != due:
        raise ValueError(
            f"the network of {directory} takes images of {network.shape} to {network.classes} classes, but its data "
            f"set has {due[0]} and {due[1]}"
        )
    return config, network, dataset


def certify(
    directory: Path,
    config: dict[str, Any],
    network: Network,
    dataset: Dataset,
    *,
    certificate: dict | None = None,
    device: str = "cpu",
    batch_size: int = 500,
) -> BoundCertificate:
    """Writes certificates.csv, one row a test image, and certificate.json: the bound and what it was measured on. A
    nominal certificate looks at all images first, and what it sees goes to stability.csv.

    Returns the certificate as it is bound to the network."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    chosen = certificate or config["certificate"]
    with exact_arithmetic():
        started = time.perf_counter()
        with Console(stderr=True).status("measuring the layers' norms"):
            bound = build(chosen)(network)
        bounding = time.perf_counter() - started
        if bound.observe:
            seen = stability.look(bound.observe, dataset.test, dataset.num_classes, device, batch_size)
            write_rows(directory / store.STABILITY, StabilityRow, seen)
        rows = list(certify_images(bound, dataset.test, device, batch_size))
    write_rows(directory / store.CERTIFICATES, CertificateRow, rows)
    facts = {
        "certificate": chosen["_target_"].rpartition(".")[2],
        "target": chosen["_target_"],
        "kind": bound.kind.value,
        "norm": bound.norm.value,
        "device": device,
        "seconds": {"bound": bounding, "certify": time.perf_counter() - started},
        **bound.report,
    }
    write_atomic(directory / store.CERTIFICATE, json.dumps(facts, indent=1))
    return bound


def certify_images(bound: BoundCertificate, test: Split, device: str, batch_size: int) -> Iterator[CertificateRow]:
    """One row an image of `test`, in its order."""
    index = 0
    loader = batches(test, batch_size, device=device)
    console = Console(stderr=True)
    verb = "certify" if bound.kind is Kind.PROOF else "judge"
    for x, y in track(loader, verb, len(loader), console=console, disable=not console.is_terminal):
        verdict = bound.judge(exact(x), y)
        columns = [column.tolist() for column in (y, verdict.prediction, verdict.margin, verdict.radius)]
        plain = verdict.lipschitz_radius
        columns += [[bound.kind.value] * len(y), [None] * len(y) if plain is None else plain.tolist()]
        for row in zip(*columns, strict=True):
            yield CertificateRow(index, *row)
            index += 1
