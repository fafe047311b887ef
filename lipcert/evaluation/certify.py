"""A radius for every test image of a run, by one certificate."""

from __future__ import annotations

import inspect
import itertools
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch import Tensor

from lipcert.configuration import build, locate
from lipcert.contracts import BoundCertificate, CertificateRow, Kind, StabilityRow
from lipcert.datasets import batches
from lipcert.datasets.split import Split
from lipcert.evaluation.load import LoadedRun
from lipcert.frozen.exact import exact, exact_arithmetic, images_at_once
from lipcert.progress import track, waiting
from lipcert.runs.layout import CERTIFICATE_FACTS, CERTIFICATES, CERTIFIED, STABILITY
from lipcert.runs.results import drop_rows, network_hash, read_facts, whole, write_facts


def certify(
    run: LoadedRun,
    *,
    certificate: dict[str, Any] | None = None,
    split: str = "test",
    device: str = "cpu",
    batch_size: int = 500,
) -> BoundCertificate:
    """Certifies the images of a run whose lock is held, and writes a row an image and the certificate's facts.

    certificate  its node; None: the run's own
    split        which images: test, val or train
    device       where images are judged
    batch_size   how many at once

    Rows of other certificates stay as they are. A certificate that was stopped goes on where it was; one whose rows are
    whole is computed anew, and its rows are replaced in the end. A nominal certificate looks at all images first, and
    what it sees goes to stability.csv.

    Returns the certificate, bound to the network. Raises ValueError where it can't be computed.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    chosen = certificate or run.config["certificate"]
    label, directory, images = certificate_label(chosen), run.directory, getattr(run.dataset, split)
    if not len(images):
        raise ValueError(f"`split`: this data set has no {split} images")
    directory.mend(label, *CERTIFIED)
    with exact_arithmetic():
        started = time.perf_counter()
        with waiting("measuring the layers' norms"):
            bound = build(chosen)(run.network)
        bounding = time.perf_counter() - started
        if bound.norm is not run.network.norm:
            raise ValueError(
                f"`certificate`: {label} is of radii in {bound.norm}, those of {directory} are in {run.network.norm}"
            )
        if bound.observe:
            kept = [row for row in directory.read_rows(STABILITY, StabilityRow) if row.split != split]
            seen = steepest_images(bound.observe, images, run.dataset.num_classes, device, batch_size, split)
            directory.write_rows(STABILITY, StabilityRow, itertools.chain(kept, seen))
        facts = {
            "certificate": chosen["_target_"].rpartition(".")[2],
            "target": chosen["_target_"],
            "images": len(images),
            "kind": bound.kind.value,
            "norm": bound.norm.value,
            "network": network_hash(directory),
            "device": device,
            "seconds": {"bound": bounding, "certify": 0.0},
            **bound.report,
        }
        before = read_facts(directory, CERTIFICATE_FACTS, split).get(label, facts)
        if before["target"] != facts["target"]:
            raise ValueError(
                f"`certificate`: {label} is what {directory} calls {before['target']}: name yours otherwise"
            )
        if before["network"] != facts["network"]:
            drop_rows(
                directory, CERTIFICATES, CertificateRow, lambda row: (row.split, row.certificate) == (split, label)
            )
        rows = directory.read_rows(CERTIFICATES, CertificateRow)
        own = [row for row in rows if (row.split, row.certificate) == (split, label)]
        if not whole(own, before["images"], f"{directory / CERTIFICATES}: {label}"):
            write_facts(directory, CERTIFICATE_FACTS, label, facts, split)
            for block in certify_images(bound, images, label, device, batch_size, {row.index for row in own}, split):
                directory.append_rows(CERTIFICATES, block)
        else:
            others = [row for row in rows if (row.split, row.certificate) != (split, label)]
            blocks = certify_images(bound, images, label, device, batch_size, split=split)
            found = [row for block in blocks for row in block]
            radii = {row.index: row.radius for row in own}
            if smaller := sum(row.radius < radii[row.index] for row in found):
                print(f"lipcert: {smaller} radii of {label} are smaller than they were before", file=sys.stderr)
            directory.write_rows(CERTIFICATES, CertificateRow, [*others, *found])
    facts["seconds"] = {"bound": bounding, "certify": time.perf_counter() - started}
    write_facts(directory, CERTIFICATE_FACTS, label, facts, split)
    return bound


def certify_images(
    bound: BoundCertificate,
    images: Split,
    label: str,
    device: str,
    batch_size: int,
    done: Collection[int] = (),
    split: str = "test",
) -> Iterator[list[CertificateRow]]:
    """The rows of `images` in their order, by batch; those of the indices in `done` are left out.

    Batches are cut by index, so that one which goes on computes what an uninterrupted one does.
    """
    verb = "certify" if bound.kind is Kind.PROOF else "judge"
    loader = batches(images, batch_size, device=device)
    starts = range(0, len(images), batch_size)
    for at, (x, y) in track(zip(starts, loader, strict=True), verb, len(loader)):
        if all(at + i in done for i in range(len(y))):
            continue
        verdict = bound.judge(exact(x), y)
        columns = [column.tolist() for column in (y, verdict.prediction, verdict.margin, verdict.radius)]
        for column in (verdict.lipschitz_radius, verdict.radius_float32, verdict.gap):
            columns.append([None] * len(y) if column is None else column.tolist())
        key = (bound.norm.value, label, bound.kind.value)
        rows = [CertificateRow(split, at + i, *key, *row) for i, row in enumerate(zip(*columns, strict=True))]
        yield [row for row in rows if row.index not in done]


def steepest_images(
    observe: Callable[[Tensor, Tensor], Sequence[Tensor]],
    images: Split,
    classes: int,
    device: str,
    batch_size: int,
    split: str = "test",
) -> Iterator[StabilityRow]:
    """One row an image, in their order, of what `observe` sees of each in float64."""
    loader = batches(images, images_at_once(classes, images.input_shape, device, batch_size), device=device)
    index = 0
    for x, y in track(loader, "gradients", len(loader)):
        for values in zip(*(column.tolist() for column in observe(exact(x), y)), strict=True):
            yield StabilityRow(split, index, *values)
            index += 1


def certificate_label(node: dict[str, Any]) -> str:
    """What a certificate is called in rows: its file's name, and its parameters where they are not the usual ones.

    node  its configuration: a `_target_` and keywords
    """
    usual = inspect.signature(locate(node["_target_"], "certificate")).parameters
    unusual = {
        key: value
        for key, value in node.items()
        if key not in ("_target_", "_partial_") and (key not in usual or _plain(usual[key].default) != _plain(value))
    }
    *_, module, name = node["_target_"].split(".")
    own = node["_target_"].startswith("lipcert.certificates.")
    return "-".join([module if own else f"{module}.{name}", *(f"{key}={_plain(v)}" for key, v in unusual.items())])


def _plain(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
