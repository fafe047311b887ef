"""`lipcert export`: a run's network, its proofs and what they rest on, as a folder that others can check."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lipcert.contracts import CertificateRow, Kind
from lipcert.evaluation.certify import certificate_label
from lipcert.evaluation.load import LoadedRun
from lipcert.export import card, manifest, onnx, source
from lipcert.files import as_json, write_atomic
from lipcert.frozen import Network
from lipcert.frozen.deployed import Deployed
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.file import save
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.pairs import BOUNDS, pair_bounds
from lipcert.frozen.rounding import rounding
from lipcert.runs import numbers
from lipcert.runs.layout import AUDIT_FACTS, SUMMARY
from lipcert.runs.naming import clean, free_directory
from lipcert.runs.results import Results, read_results
from lipcert.runs.rows import format_rows, header

FORMATS = {"folder": (), "onnx": (manifest.ONNX,), "torch": (manifest.SOURCE,)}  # the files that each adds
OF_TRAINING = ("model", "epochs", "parameters", "seed", "device", "versions", "git_commit")


def export(run: LoadedRun, output_dir: Path | None, form: str, images: int | None) -> Path:
    """Writes the folder of a run that is certified, and returns its path.

    output_dir  where it goes; None: a new directory below outputs/export
    form        folder, onnx or torch
    images      how many test images go into it; None: all

    Nothing is half-written: the folder takes its place when all files are in it. Raises ValueError where the place is
    taken, where the run has no whole proof, and where its network has no such form.
    """
    if output_dir is not None and os.path.lexists(output_dir):
        raise ValueError(f"`output_dir`: {output_dir} already exists; give another")
    results = read_results(run.directory)
    if Kind.PROOF not in results.kinds():
        raise ValueError(
            f"`run`: {run.directory} has no whole proof: `lipcert certify run={run.directory}` computes one"
        )
    name = "-".join(filter(None, (clean(run.directory.path.resolve().name), form)))
    place = output_dir or free_directory(Path("outputs/export"), name)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        fill(partial, run, results, form, images)
        if output_dir is not None and os.path.lexists(output_dir):
            raise ValueError(f"`output_dir`: {output_dir} already exists; give another")
        os.rename(partial, place)
    except OSError as error:
        raise ValueError(f"`output_dir`: {place} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if output_dir is None:
            with contextlib.suppress(OSError):  # of the place that was kept, if it was not needed
                place.rmdir()
    return place


def fill(folder: Path, run: LoadedRun, results: Results, form: str, images: int | None) -> None:
    """Writes all files into a new, empty folder."""
    network, rows = run.network, results.best(Kind.PROOF)
    save(network, folder)
    write_form(network, folder, form)
    write_atomic(folder / manifest.ROWS, header(CertificateRow) + format_rows(CertificateRow, rows))
    exported = run.dataset.test.head(images)
    if len(exported):
        content = io.BytesIO()
        np.savez_compressed(content, images=exported.pixels().cpu().numpy(), labels=exported.labels.cpu().numpy())
        write_atomic(folder / manifest.IMAGES, content.getvalue())
    found = content_of(run, results, rows, form, len(exported))
    write_atomic(folder / manifest.CARD, card.render(found))
    names = sorted(path.name for path in folder.iterdir())
    found["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = as_json(found)
    manifest.parse(text.encode(), manifest.MANIFEST)  # no reader may refuse what is written here
    write_atomic(folder / manifest.MANIFEST, text)


def write_form(network: Network, folder: Path, form: str) -> None:
    """Adds the file of `format=onnx` or `format=torch` to a folder; ValueError where the network has no such form."""
    if form == "onnx":
        onnx.write(network, folder / manifest.ONNX)
    if form == "torch":
        source.write(network, folder)


def content_of(
    run: LoadedRun, results: Results, rows: Sequence[CertificateRow], form: str, exported: int
) -> dict[str, Any]:
    """The content of manifest.json, without the hashes of files."""
    network, directory = run.network, run.directory
    label = results.kinds()[Kind.PROOF][0]
    node, facts = run.config["certificate"], results.facts[label]
    own = certificate_label(node) == label
    settings = {key: value for key, value in node.items() if key != "_target_"} if own else {}
    with exact_arithmetic():
        names = settings.get("bounds", BOUNDS)
        walk = Walk(network, network.norm)
        bounds, layers = pair_bounds(walk, names), manifest.layers(walk)
        errors, deployed = rounding(network, walk), Deployed(network, walk, names)
        float32 = None if deployed.refused else deployed.everywhere.logits[0].tolist()
    summary = directory.read_json(SUMMARY) if directory.has(SUMMARY) else {}
    return {
        "lipcert_export": manifest.VERSION,
        "lipcert": version("lipcert"),
        "format": form,
        "claim": {
            "kind": Kind.PROOF.value,
            "norm": network.norm.value,
            "certificate": label,
            "target": facts["target"],
            "settings": settings,
            "float32": all(row.radius_float32 is not None for row in rows),
        },
        "preprocessing": {
            "shape": list(network.shape),
            "range": [0.0, 1.0],
            "bytes": "byte / 255",
            "first_operations": manifest.first_operations(network),
        },
        "network": {
            "classes": network.classes,
            "operations": len(network.operations),
            "constants": manifest.constants(network.operations),
        },
        "bound": {
            "vector": bounds.of_vector,
            "logits": bounds.of_logits.tolist(),
            "pairs": bounds.smallest(names).tolist(),
            "layers": layers,
        },
        "rounding": {
            "float64": [manifest.finite(error) for error in errors.tolist()],
            "float32": float32 and [manifest.finite(error) for error in float32],
            "layer": deployed.report().get("layer"),
            "refused": deployed.refused,
        },
        "data": {
            "name": run.dataset.name,
            "dataset": run.config["dataset"],
            "sha256": directory.manifest()["data"],
            "images": len(rows),
            "exported": exported,
        },
        "training": {key: summary.get(key) for key in OF_TRAINING}
        | {"seconds": summary.get("seconds", {}).get("train")},
        "numbers": manifest.certified(rows, run.config["eps"])
        | {"attacks": attacks(results, run.config["eps"]), "audit": audit(run)},
        "files": {},
    }


def attacks(results: Results, eps: Sequence[float]) -> dict[str, Any]:
    """What attacks found, by their labels: of how many images, at which radii of their own norm."""
    found = {}
    norm = next(iter(results.facts.values()))["norm"]
    for label, tried in numbers.attacks(results.attacks):
        at = tried or (eps if numbers.attack_norm(label) == norm else ())
        found[label] = {
            "images": numbers.attacked_count(results.attacks, label),
            "robust_accuracy": {repr(float(e)): numbers.robust_accuracy(results.attacks, label, e) for e in at},
            "median_distance": None if tried else manifest.finite(numbers.median_distance(results.attacks, label)),
        }
    return found


def audit(run: LoadedRun) -> dict[str, Any] | None:
    """What the audit of a run found, without what each of its batches took; None where there is none."""
    if not run.directory.has(AUDIT_FACTS):
        return None
    return {key: value for key, value in run.directory.read_json(AUDIT_FACTS).items() if key != "blocks"}
