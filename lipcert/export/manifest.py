"""manifest.json of an exported network: what is claimed of it, what the claim rests on, and the hash of every file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor

from lipcert.configuration import check_plain, fits
from lipcert.contracts import CertificateRow, Kind
from lipcert.frozen import Network
from lipcert.frozen.lipschitz import Walk
from lipcert.frozen.operation import Operation
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.convolution import Convolution
from lipcert.frozen.ops.linear import Linear
from lipcert.frozen.ops.moves import Move
from lipcert.frozen.report import layer_rows, scaled_behind
from lipcert.runs import numbers

VERSION = 1
MANIFEST, ROWS, IMAGES, CARD, ONNX, SOURCE = (
    "manifest.json",
    "certificates.csv",
    "images.npz",
    "MODEL_CARD.md",
    "network.onnx",
    "network.py",
)
MOST_BYTES, MOST_DEPTH = 1 << 26, 20  # of the file; of what stands in one another

# Every key in one phrase, with the form of its value. Radii, eps and bounds are in pixels of [0, 1].
KEYS: dict[str, tuple[Any, str]] = {
    "lipcert_export": (int, f"the version of this format, {VERSION}"),
    "lipcert": (str, "the version of lipcert that wrote it"),
    "format": (str, "folder, onnx or torch"),
    "claim.kind": (str, "what a radius claims: proof"),
    "claim.norm": (str, "the norm of images in which radii are: l2, linf or l1"),
    "claim.certificate": (str, "the label of the certificate; of several the one whose bound is stated"),
    "claim.target": (str, "what computed it"),
    "claim.settings": (dict, "its settings, where it is the one that the run was trained with"),
    "claim.float32": (bool, "whether `radius_float32` is claimed of every image"),
    "preprocessing.shape": (list[int], "of one image, (C, H, W)"),
    "preprocessing.range": (list[float], "of a pixel"),
    "preprocessing.bytes": (str, "what image a picture of bytes stands for"),
    "preprocessing.first_operations": (list[dict], "what the network does first, such as to normalise, and counts"),
    "network.classes": (int, "the number of logits, K"),
    "network.operations": (int, "the number of operations"),
    "network.constants": (int, "the number of entries of all constants"),
    "bound.vector": (float, "how far the vector of logits moves at most while the image moves by 1"),
    "bound.logits": (list[float], "the same of each logit, (K,)"),
    "bound.pairs": (list[list[float]], "the same of each difference of two logits, (K, K): what radii rest on"),
    "bound.layers": (list[dict], "for each linear layer its operation's number, name, kind and shape; its norm, the "
                     "bound up to it, and what its construction promises, if anything"),
    "rounding.float64": (list[float | None], "by how much a logit in float64 may be wrong, for all images, (K,)"),
    "rounding.float32": (list[float | None] | None, "the same in float32, of the network with constants in float32"),
    "rounding.layer": (str | None, "the operation that costs float32 most"),
    "rounding.refused": (str | None, "why there is no network in float32"),
    "data.name": (str, "of the data set"),
    "data.dataset": (dict, "what builds it"),
    "data.sha256": (dict[str, str], "{split: hash of its images and labels}"),
    "data.images": (int, "the number of test images, each with a row in certificates.csv"),
    "data.exported": (int, "how many of them are in images.npz"),
    "training": (dict, "epochs, seconds, parameters, seed, device, versions and commit, as far as they are known"),
    "numbers.clean_accuracy": (float, "fraction of test images classified rightly"),
    "numbers.certified_accuracy": (dict[str, float], "{eps: fraction with a radius of eps or more}"),
    "numbers.certified_accuracy_float32": (dict[str, float] | None, "the same with `radius_float32`"),
    "numbers.mean_radius": (float | None, "mean radius, misclassified images counting 0; null where it is infinite"),
    "numbers.mean_radius_float32": (float | None, "the same of `radius_float32`"),
    "numbers.attacks": (dict[str, dict], "{attack: images, robust_accuracy by eps, median_distance}"),
    "numbers.audit": (dict | None, "what `lipcert audit` found; null where it did not run"),
    "files": (dict[str, str], "{file: its SHA-256}, of every other file"),
}  # fmt: skip


def layers(walk: Walk) -> list[dict[str, Any]]:
    """For each linear layer of the network that `walk` is on, what it is, its operator norm and the bound up to it.

    If a scaling behind it is measured with it as one operator, the name is that of both, joined by a +.
    """
    found = []
    linear = [(k, o) for k, o in enumerate(walk.network.operations, 1) if isinstance(o, Linear | Convolution)]
    for row, (k, operation) in zip(layer_rows(walk), linear, strict=True):
        behind = scaled_behind(walk, k) or 0
        norm = max(norm for key, norm in walk.norms.items() if key[0] == k and key[2:] == (None, behind))
        what = {"operation": k, "name": row["layer"], "kind": operation.kind, "shape": list(operation.weight.shape)}
        claim = {"claim": max(operation.claim)} if operation.claim else {}
        found.append(what | {"norm": norm, "lipschitz": row["lipschitz"]} | claim)
    return found


def first_operations(network: Network) -> list[dict[str, Any]]:
    """What is done to an image before the first operation that is more than scaling, shifting and moving entries."""
    found: list[dict[str, Any]] = []
    for operation in network.operations:
        if not isinstance(operation, Affine | Move):
            break
        found.append({"kind": operation.kind} | {n: _constant(c) for n, c in operation.constants().items()})
    return found if any(isinstance(o, Affine) for o in network.operations[: len(found)]) else []


def finite(value: float) -> float | None:
    """A number as JSON has it, null for infinity."""
    return value if math.isfinite(value) else None


def _constant(constant: Tensor) -> Any:
    return constant.flatten().tolist() if constant.numel() <= 16 else f"{constant.numel()} numbers"


def constants(operations: Sequence[Operation]) -> int:
    """The number of entries of all constants."""
    return sum(constant.numel() for operation in operations for constant in operation.constants().values())


def certified(rows: Sequence[CertificateRow], eps: Sequence[float]) -> dict[str, Any]:
    """The numbers that are queries on the rows of certificates.csv."""
    single = None
    if all(row.radius_float32 is not None for row in rows):
        single = [row._replace(radius=row.radius_float32 or 0.0) for row in rows]
    return {
        "clean_accuracy": numbers.clean_accuracy(rows),
        "certified_accuracy": {repr(float(e)): numbers.certified_accuracy(rows, e) for e in eps},
        "certified_accuracy_float32": single and {repr(float(e)): numbers.certified_accuracy(single, e) for e in eps},
        "mean_radius": finite(numbers.mean_radius(rows)),
        "mean_radius_float32": finite(numbers.mean_radius(single)) if single else None,
    }


def parse(content: bytes, source: str) -> dict[str, Any]:
    """A manifest, from the content of the file `source`; ValueError, in one line, where it holds anything else."""
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"{source} is no manifest: {str(error)[:100]}") from None
    _shallow(found, source)
    check_plain(found, source)
    _of(found, isinstance(found, dict), source, "it")
    if found.get("lipcert_export") != VERSION:
        raise ValueError(f"{source}: `lipcert_export` is {found.get('lipcert_export')!r}, and {VERSION} is read")
    sections = {key.partition(".")[0] for key in KEYS}
    _same_keys(found, sections, source, "")
    for section in sorted(sections - KEYS.keys()):
        _of(found[section], isinstance(found[section], dict), source, f"`{section}`")
        _same_keys(found[section], {k.partition(".")[2] for k in KEYS if k.startswith(f"{section}.")}, source, section)
    for key, (form, _) in KEYS.items():
        section, _, name = key.partition(".")
        _of(found, fits(found[section][name] if name else found[section], form), source, f"`{key}`")
    if found["claim"]["kind"] != Kind.PROOF:
        raise ValueError(f"{source}: `claim.kind` is {found['claim']['kind']!r}, and only proofs can be verified")
    return found


def _same_keys(found: Mapping[str, Any], due: set[str], source: str, section: str) -> None:
    for key in sorted(found.keys() ^ due):
        what = "has an unknown key" if key in found else "lacks the key"
        raise ValueError(f"{source} {what}, `{f'{section}.{key}'.strip('.')[:100]}`")


def _of(_: Any, fine: bool, source: str, what: str) -> None:
    if not fine:
        raise ValueError(f"{source}: {what} is not of the form that is due")


def _shallow(value: Any, source: str, depth: int = 0) -> None:
    if depth > MOST_DEPTH:
        raise ValueError(f"{source} is nested too deeply")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _shallow(item, source, depth + 1)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{source} has a number that is not finite")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        raise ValueError("a key appears twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
