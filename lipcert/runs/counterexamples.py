"""Images that broke a certificate, one file each, as they were found."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lipcert.contracts import Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.files import read_regular, write_atomic
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import ATTACKS, COUNTEREXAMPLES
from lipcert.runs.numbers import broken_certificates
from lipcert.runs.results import Results

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 1 << 26  # of a file, packed and unpacked
FIELDS = frozenset(
    {"x", "x_adv", "label", "prediction", "distance", "radius", "norm", "certificate", "attack", "index", "claim"}
)
NEWER = frozenset({"certificate", "claim"})  # fields that older files lack


class Counterexample(NamedTuple):
    """What a file says: test image `index` is misclassified at `distance` in `norm`, found by `attack`.

    `image` is (C, H, W) in float64, in [0, 1]; `clean` is the test image, which has the label `label`. `claim` names
    the column of certificates.csv that held `radius`: radius, or radius_float32.
    """

    index: int  # type: ignore[assignment]
    attack: str
    norm: Norm
    distance: float
    image: np.ndarray
    clean: np.ndarray
    label: int
    prediction: int
    radius: float
    claim: str


def save(run: RunDirectory, values: Mapping[str, Any]) -> Path:
    """Writes a counter-example: arrays and plain values by the names of `FIELDS`. Returns its file."""
    import numpy as np

    name = re.sub(r"[^\w.+-]", "_", str(values["attack"]))[:100]
    folder = run / COUNTEREXAMPLES
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link: nothing is written through one")
    folder.mkdir(exist_ok=True)
    content = io.BytesIO()
    np.savez(content, **values)
    single = "-float32" if values.get("claim") == "radius_float32" else ""  # both claims may be broken by one attack
    path = folder / f"{name}-{int(values['index'])}{single}.npz"
    write_atomic(path, content.getvalue())
    return path


def saved(run: RunDirectory) -> Iterator[tuple[Path, Counterexample]]:
    """Every saved counter-example with its file, in the order of their names. ValueError where a file holds none."""
    folder = run / COUNTEREXAMPLES
    for path in sorted(folder.glob("*.npz")) if folder.is_dir() and not folder.is_symlink() else ():
        yield path, read(path)


def read(path: Path) -> Counterexample:
    """The counter-example that a file holds; ValueError, in one line, where it holds none."""
    try:
        return _read(io.BytesIO(read_regular(path, MOST_BYTES)))
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        raise ValueError(f"{path} can't be read as a counter-example ({error}): delete it") from None


def _read(content: io.BytesIO) -> Counterexample:
    import numpy as np

    with zipfile.ZipFile(content) as archive:
        if sum(item.file_size for item in archive.infolist()) > MOST_BYTES:
            raise ValueError("it is too large")
    with np.load(content, allow_pickle=False) as kept:
        if not FIELDS >= set(kept.files) >= FIELDS - NEWER:
            raise ValueError("it holds other fields")
        images = kept["x_adv"], kept["x"]
        for image in images:
            if image.ndim != 3 or image.dtype != np.float64 or not ((image >= 0) & (image <= 1)).all():
                raise ValueError("it holds no image in [0, 1]")
        if images[0].shape != images[1].shape:
            raise ValueError("its images are of different shapes")
        claim = str(kept["claim"]) if "claim" in kept.files else "radius"
        if claim not in ("radius", "radius_float32"):
            raise ValueError("it speaks of another radius")
        return Counterexample(
            int(kept["index"]),
            str(kept["attack"])[:200],
            Norm(str(kept["norm"])),
            float(kept["distance"]),
            *images,
            int(kept["label"]),
            int(kept["prediction"]),
            float(kept["radius"]),
            claim,
        )


def check_unbroken(run: RunDirectory, results: Results) -> None:
    """CertificateBroken where an attack, finished or not, or a saved counter-example lies within a certified radius."""
    for rows in results.certificates.values():
        norm = rows[0].norm
        for proof, attack in broken_certificates(rows, results.attempts, norm)[:1]:
            raise CertificateBroken(
                f"image {proof.index} in {run / ATTACKS}: {attack.attack} found an adversarial image at {norm} "
                f"distance {attack.distance!r}, within the radius {proof.radius!r} that {proof.certificate} certified: "
                "the certificate is wrong, or the files are of different networks"
            )
        proved = {row.index: row for row in rows if row.kind == Kind.PROOF and row.prediction == row.label}
        for file, found in saved(run):
            radius = (getattr(proved[found.index], found.claim) or 0.0) if found.index in proved else 0.0
            if found.norm == norm and 0 < radius >= found.distance:
                raise CertificateBroken(
                    f"image {found.index}: {file} is an adversarial image at {norm} distance {found.distance!r}, "
                    f"within the {found.claim} {radius!r} that {rows[0].certificate} certified"
                )
