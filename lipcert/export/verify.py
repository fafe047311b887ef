"""`lipcert verify`: whether an exported folder holds what its manifest says, and whether its radii can be proved anew.

Nothing in the folder is trusted, and nothing of it is executed. The bound is computed from the constants by the modules
`verify_*`, which share no code with what made it but the operations themselves: what they compute (`evaluate`), and
how far one of them moves and rounds (`moved`, `rounded`, `rounded_in_norm`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lipcert.configuration import check_trusted, radii
from lipcert.contracts import CertificateRow, Kind
from lipcert.errors import NotConfirmed, one_line
from lipcert.evaluation.load import build_dataset, fingerprints
from lipcert.export import card, manifest
from lipcert.export.folder import FORMATS, write_form
from lipcert.export.verify_bounds import Bounds
from lipcert.export.verify_images import Images, packed
from lipcert.export.verify_radii import Judge
from lipcert.files import opened, read_regular
from lipcert.frozen import Network
from lipcert.frozen.exact import exact_arithmetic
from lipcert.frozen.file import TENSORS, TEXT, load
from lipcert.frozen.ops.affine import Affine
from lipcert.frozen.ops.convolution import Convolution
from lipcert.frozen.ops.linear import Linear
from lipcert.progress import track
from lipcert.runs.rows import parse_rows

LARGEST, MOST_ROWS = 1 << 33, 1 << 30  # bytes of a file, and of certificates.csv
TOLERANCE = 1e-9  # relative: bounds that differ by less are equal, and a radius may be larger by as much
LEAST = 1e-250  # what is proved to be smaller may be stated to be 0
Table = list[tuple[str, str]]


def verify(folder: Path, data_dir: str | None = None) -> Table:
    """Checks an exported folder, and returns what was checked: pairs of what and with which result.

    data_dir  where the data set lies, if all of its test images are to be judged again, and not those in the folder

    Raises ValueError, in one line, where a file is missing, damaged, superfluous or not what the manifest says, and
    NotConfirmed where a bound or a radius is smaller or larger than what can be proved here.
    """
    content = manifest.parse(_read(folder, manifest.MANIFEST, manifest.MOST_BYTES), str(folder / manifest.MANIFEST))
    names = check_files(folder, content)
    network = load(folder)
    check_network(folder, content, network)
    rows = check_rows(folder, content, network)
    table = [
        ("files", f"{len(names)}, as in the manifest (SHA-256)"),
        ("network", f"{len(network.operations)} operations, {manifest.constants(network.operations):,} constants"),
        *((name, check_written(folder, content, network, name)) for name in names if name in _WRITTEN),
    ]
    images = all_images(content, data_dir) if data_dir else packed(folder, content, network)
    if data_dir and len(images.labels) != len(rows):
        raise ValueError(f"{folder / manifest.ROWS} has {len(rows)} rows, and the data set {len(images.labels)} images")
    with exact_arithmetic():
        bounds = Bounds(network)
        table += check_bounds(content, network, bounds)
        table += judge_images(content, bounds, rows, images)
    return table


# ---- files


def check_files(folder: Path, content: dict[str, Any]) -> list[str]:
    """The names of the files; ValueError unless they are those of the format, with the hashes of the manifest."""
    due = {TEXT, TENSORS, manifest.ROWS, manifest.CARD}
    form = content["format"]
    if form not in FORMATS:
        raise ValueError(f"{folder / manifest.MANIFEST}: `format` is {form!r}, not one of {', '.join(FORMATS)}")
    due |= {*FORMATS[form]} | ({manifest.IMAGES} if content["data"]["exported"] else set())
    if found := sorted(content["files"].keys() ^ due):
        what = "names the superfluous file" if found[0] in content["files"] else "does not name the file"
        raise ValueError(f"{folder / manifest.MANIFEST} {what} `{found[0][:100]}`")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name not in {*due, manifest.MANIFEST}:
            raise ValueError(f"{entry.path[:300]} is not in the manifest: take it away")
    for name in sorted(due):
        found_, path = hashlib.sha256(), folder / name
        try:
            with opened(path, LARGEST) as file:
                while chunk := file.read(1 << 20):
                    found_.update(chunk)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing") from None
        if found_.hexdigest() != content["files"][name]:
            raise ValueError(f"{path} is not what was exported: its SHA-256 is not the one in {manifest.MANIFEST}")
    return sorted(due)


def check_network(folder: Path, content: dict[str, Any], network: Network) -> None:
    """ValueError where the manifest says something else of the network than its file."""
    layers = [(k, o) for k, o in enumerate(network.operations, 1) if isinstance(o, Linear | Convolution)]
    stated, K = content["bound"]["layers"], network.classes
    due = {
        "claim.norm": network.norm.value,
        "preprocessing.shape": list(network.shape),
        "preprocessing.range": [0.0, 1.0],
        "preprocessing.bytes": "byte / 255",
        "preprocessing.first_operations": manifest.first_operations(network),
        "network.classes": K,
        "network.operations": len(network.operations),
        "network.constants": manifest.constants(network.operations),
    }
    for key, value in due.items():
        section, _, name = key.partition(".")
        if content[section][name] != value:
            raise ValueError(f"{folder / manifest.MANIFEST}: `{key}` is not that of the network in {TEXT}")
    shapes = [len(content["bound"]["logits"]), len(content["bound"]["pairs"]), len(content["rounding"]["float64"])]
    shapes += map(len, content["bound"]["pairs"])
    if any(shape != K for shape in shapes) or len(stated) != len(layers):
        raise ValueError(f"{folder / manifest.MANIFEST}: `bound` is not of {K} logits and {len(layers)} layers")
    single = content["rounding"]["float32"]
    if single is not None and (len(single) != K or any(e is not None and e < 0 for e in single)):
        raise ValueError(f"{folder / manifest.MANIFEST}: `rounding.float32` is not an error for each of {K} logits")
    for row, (k, operation) in zip(stated, layers, strict=True):
        same = {"operation": k, "kind": operation.kind, "shape": list(operation.weight.shape)}
        typed = type(row.get("operation")) is int and isinstance(row.get("name"), str)
        named = typed and row["name"].split("+")[0] == (operation.name or f"operation {k}")
        claim = max(operation.claim) if operation.claim else None
        if not named or any(row.get(key) != value for key, value in same.items()) or row.get("claim") != claim:
            raise ValueError(f"{folder / manifest.MANIFEST}: `bound.layers` does not say what operation {k} is")
        if set(row) - {*same, "name", "norm", "lipschitz", "claim"} or not all(
            isinstance(row.get(key), float) for key in ("norm", "lipschitz")
        ):
            raise ValueError(f"{folder / manifest.MANIFEST}: `bound.layers` is damaged at operation {k}")


def check_rows(folder: Path, content: dict[str, Any], network: Network) -> list[CertificateRow]:
    """The rows of certificates.csv; ValueError where they are not one for each image, or the manifest counts others."""
    path = folder / manifest.ROWS
    rows = parse_rows(_read(folder, manifest.ROWS, MOST_ROWS), CertificateRow, str(path))
    if len(rows) != content["data"]["images"] or not rows or not 0 <= content["data"]["exported"] <= len(rows):
        raise ValueError(f"{path} has {len(rows)} rows, and {content['data']['images']} images are due")
    for at, row in enumerate(rows):
        same = (row.split, row.index, row.norm, row.kind) == ("test", at, network.norm.value, Kind.PROOF.value)
        known = 0 <= row.label < network.classes and 0 <= row.prediction < network.classes
        others = [radius for radius in (row.radius_float32, row.lipschitz_radius) if radius is not None]
        fits = all(0 <= r <= row.radius for r in (0, *others)) and (row.radius == 0 or row.prediction == row.label)
        margin = row.margin == row.margin or row.radius == 0  # ∞ − ∞ of a label without images
        if not (same and known and fits and margin):
            raise ValueError(f"{path}: the row of image {at} is damaged")
    if content["claim"]["float32"] is not all(row.radius_float32 is not None for row in rows):
        raise ValueError(f"{folder / manifest.MANIFEST}: `claim.float32` is not what {manifest.ROWS} claims")
    try:
        eps = radii(list(map(float, content["numbers"]["certified_accuracy"])))
    except ValueError:
        raise ValueError(f"{folder / manifest.MANIFEST}: `numbers.certified_accuracy` is damaged") from None
    for key, value in manifest.certified(rows, eps).items():
        if content["numbers"][key] != value:
            raise ValueError(f"{folder / manifest.MANIFEST}: `numbers.{key}` is not that of {manifest.ROWS}")
    return rows


_WRITTEN = (manifest.CARD, manifest.ONNX, manifest.SOURCE)  # files that follow from the others


def check_written(folder: Path, content: dict[str, Any], network: Network, name: str) -> str:
    """The result of writing a file anew, from the manifest or from the network; ValueError where it is another one."""
    here = version("lipcert")
    if content["lipcert"] != here:
        return f"not compared: of lipcert {one_line(ValueError(content['lipcert']), 30)}, this is {here}"
    with tempfile.TemporaryDirectory() as place:
        if name == manifest.CARD:
            try:
                (Path(place) / name).write_text(card.render(content), encoding="utf-8")
            except Exception as error:  # whatever the manifest has in a place where something else is due
                raise ValueError(f"{folder / manifest.MANIFEST} can't be shown ({error})") from None
        else:
            form = next(form for form, files in FORMATS.items() if name in files)
            try:
                write_form(network, Path(place), form)
            except ValueError as error:
                if name == manifest.ONNX and find_spec("onnx") is None:
                    return f"not compared: {error}"
                raise ValueError(f"{folder / name} can't be what lipcert {here} wrote: {error}") from None
        if (Path(place) / name).read_bytes() != _read(folder, name, LARGEST):
            raise ValueError(f"{folder / name} is not what lipcert {here} writes of the other files")
    return "follows from the other files"


def all_images(content: dict[str, Any], data_dir: str) -> Images:
    """All test images of the data set that the manifest names; ValueError where they have another hash."""
    node = dict(content["data"]["dataset"])
    check_trusted({"dataset": node}, False, manifest.MANIFEST)
    if "data_dir" in node:
        node["data_dir"] = data_dir
    dataset = build_dataset(node, download=False)
    if fingerprints(dataset)["test"] != content["data"]["sha256"].get("test"):
        raise ValueError(f"`data_dir`: the test images in {data_dir} are not those that were certified")
    return Images(dataset.test.pixels(), dataset.test.labels)


def _read(folder: Path, name: str, limit: int) -> bytes:
    try:
        return read_regular(folder / name, limit)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder / name} is missing: is {folder} what `lipcert export` wrote?") from None


# ---- bounds


def check_bounds(content: dict[str, Any], network: Network, bounds: Bounds) -> Table:
    """NotConfirmed where a bound of the manifest is below what can be proved of the network here."""
    stated, K = content["bound"], network.classes
    last = len(network.operations)
    found = {"bound.vector": [(stated["vector"], bounds.constant(last), "")]}
    found["bound.logits"] = [(stated["logits"][k], bounds.of(k).constant, f" of logit {k}") for k in range(K)]
    pairs = bounds.pairs()
    found["bound.pairs"] = [
        (stated["pairs"][t][i], float(pairs[t, i]), f" of the logits {t} and {i}") for t in range(K) for i in range(K)
    ]
    for row in stated["layers"]:
        k, where = row["operation"], f" of `{str(row['name'])[:60]}`"
        scaling = _reader(network, k) if "+" in row["name"] else None
        up_to = bounds.constant(scaling or k)
        found.setdefault("bound.layers", []).extend(
            [(row["norm"], bounds.gain(k, scaling), where), (row["lipschitz"], up_to, where)]
        )
    table = []
    for key, values in found.items():
        differences = []
        for said, own, where in values:
            if not said >= own * (1 - TOLERANCE) - LEAST:
                raise NotConfirmed(
                    f"{manifest.MANIFEST}: `{key}`{where} is {said!r}, and only {own!r} can be proved here"
                )
            differences.append(said / own - 1 if own else 0.0)
        most = max(differences)
        table.append((key, "equal" if most <= TOLERANCE else f"confirmed; smaller here by up to {most:.2g}"))
    return table


def _reader(network: Network, number: int) -> int | None:
    """The scaling that reads a layer and is measured with it; ValueError where there is none."""
    for k, operation in enumerate(network.operations, 1):
        if number in operation.inputs:
            if isinstance(operation, Affine):
                return k
            break
    raise ValueError(f"{manifest.MANIFEST}: `bound.layers` names a scaling behind operation {number}, which has none")


# ---- images


def judge_images(content: dict[str, Any], bounds: Bounds, rows: list[CertificateRow], images: Images) -> Table:
    """Judges images again; NotConfirmed where a row says more of one than can be proved."""
    judge = Judge(bounds, content["rounding"]["float32"])
    step = judge.batch_size
    starts = range(0, len(images.labels), step)
    for at in track(starts, "verify", len(starts)):
        x, labels = images.pixels[at : at + step].double() / 255, images.labels[at : at + step]
        judge.check(x, labels, rows[at : at + len(labels)])
    table = [("images judged again", f"{len(images.labels):,} of {len(rows):,}"), *judge.table()]
    if left := len(rows) - len(images.labels):
        table.append(("radii not checked", f"{left:,}: their images are not in the folder; data_dir=PATH has them"))
    return table
