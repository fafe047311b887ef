"""`lipcert export` and `lipcert verify`: what is exported is confirmed, and whatever is changed in it is found."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from configurations import CONF, built, composed, names, shape
from torch import Tensor, nn

from lipcert.contracts import CertificateRow
from lipcert.datasets.split import Dataset, LabelNoise, Split
from lipcert.errors import NotConfirmed
from lipcert.evaluation.certify import certify
from lipcert.evaluation.load import LoadedRun, fingerprints
from lipcert.export import card, manifest
from lipcert.export.folder import export
from lipcert.export.verify import verify
from lipcert.frozen import Network, file, freeze
from lipcert.models.linf_dist_mlp import LinfDistMLP
from lipcert.models.nearest_neighbour import NearestNeighbour
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import NETWORK
from lipcert.runs.rows import format_rows, header, parse_rows

SHAPE, CLASSES, IMAGES = (1, 4, 4), 3, 12


def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, *SHAPE), generator=generator, dtype=torch.uint8)
    split = Split(pixels, torch.arange(IMAGES) % CLASSES)
    nothing = torch.zeros(0, dtype=torch.int64)
    return Dataset("noise", split, split.head(0), split, CLASSES, LabelNoise(nothing, nothing, nothing))


def certified(path: Path, network: Network, certificate: str, data: Dataset | None = None) -> LoadedRun:
    """A run that holds no more than a frozen network and its radii; the labels of its images are the answers."""
    data, run = data or dataset(), RunDirectory(path)
    answers = network(data.test.images.double() / 255).argmax(1)
    answers[0] = (answers[0] + 1) % CLASSES  # and one is wrong
    data = replace(data, test=replace(data.test, labels=answers))
    config = {
        "certificate": {"_target_": f"lipcert.certificates.{certificate.lower()}.{certificate}"},
        "dataset": {"_target_": "lipcert.datasets.digits.digits"},
        "eps": [0.01, 0.1],
    }
    path.mkdir()
    loaded = LoadedRun(run, config, network, data)
    with run.writing("train"):
        run.create_manifest(fingerprints(data))
        file.save(network, path / NETWORK)
        run.register(f"{NETWORK}/network.json", f"{NETWORK}/network.safetensors")
        certify(loaded)
    return loaded


def dense(norm: str = "l2") -> Network:
    """Normalisation, a layer and its batch normalisation, which are measured as one, and a head."""
    torch.manual_seed(1)
    scaled = nn.BatchNorm1d(6)
    scaled.weight.data.uniform_(0.5, 2)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), scaled, nn.ReLU(), nn.Linear(6, CLASSES))
    network = freeze(layers.eval(), SHAPE, norm)
    first = network.operations[1]
    return replace(network, operations=(network.operations[0], replace(first, claim=(9.0,)), *network.operations[2:]))


def convolutional() -> Network:
    """A strided convolution, a residual block, pooling."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x.relu())

    torch.manual_seed(2)
    head = (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES))
    return freeze(nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), Block(), *head), SHAPE, "l2")


def distances() -> Network:
    torch.manual_seed(3)
    model = LinfDistMLP(input_shape=SHAPE, num_classes=CLASSES, width=8, depth=2, hidden=8)
    return freeze(model.eval(), SHAPE, "linf")


def neighbours() -> Network:
    model = NearestNeighbour(input_shape=SHAPE, num_classes=CLASSES)
    stored = torch.randint(0, 256, (20, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    model.memorise(stored, torch.arange(20) % CLASSES)
    return freeze(model, SHAPE, "l2")


FAMILIES = {
    "dense": (dense, "Pairwise"),
    "convolutional": (convolutional, "Pairwise"),
    "dense in linf": (lambda: dense("linf"), "Interval"),
    "distances": (distances, "Interval"),
    "neighbours": (neighbours, "Pairwise"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_is_confirmed(family, tmp_path):
    make, certificate = FAMILIES[family]
    run = certified(tmp_path / "run", make(), certificate)
    told = dict(verify(export(run, tmp_path / "out", "folder", None)))
    assert told["images judged again"] == f"{IMAGES} of {IMAGES}"
    for column in ("radius", "radius_float32"):
        assert told[column].startswith(f"{IMAGES - 1} confirmed"), told
    for key in ("bound.vector", "bound.logits", "bound.pairs"):
        assert told[key] == "equal" or "smaller here" in told[key]
    assert not list(tmp_path.glob(".*")) and file.load(tmp_path / "out").classes == CLASSES


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    return export(certified(folder / "run", dense(), "Pairwise"), folder / "out", "torch", None)


@pytest.fixture
def forged(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "out")


def sealed(folder: Path, change: Callable[[dict], None] = lambda content: None) -> None:
    """Changes the manifest, and makes the card and all hashes those that it should have."""
    content = json.loads((folder / manifest.MANIFEST).read_text())
    change(content)
    (folder / manifest.CARD).write_text(card.render(content))
    content["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
    (folder / manifest.MANIFEST).write_text(json.dumps(content))


def weights(change: Callable[[Network], tuple]) -> Callable[[Path], None]:
    """Another network, in all of its files."""

    def forge(folder: Path) -> None:
        network = file.load(folder)
        network = replace(network, operations=change(network))
        file.save(network, folder)
        from lipcert.export import source

        source.write(network, folder)
        sealed(folder)

    return forge


def times(factor: float, number: int) -> Callable[[Network], tuple]:
    def change(network: Network) -> tuple:
        found = list(network.operations)
        found[number - 1] = replace(found[number - 1], weight=found[number - 1].weight * factor)
        return tuple(found)

    return change


def field(number: int, **values: object) -> Callable[[Network], tuple]:
    def change(network: Network) -> tuple:
        found = list(network.operations)
        found[number - 1] = replace(found[number - 1], **values)
        return tuple(found)

    return change


def row(index: int, change: Callable[[CertificateRow], dict]) -> Callable[[Path], None]:
    """Another row of the radii, with the numbers that follow from it."""

    def forge(folder: Path) -> None:
        path = folder / manifest.ROWS
        rows = parse_rows(path.read_bytes(), CertificateRow, "")
        rows[index] = rows[index]._replace(**change(rows[index]))
        path.write_text(header(CertificateRow) + format_rows(CertificateRow, rows))
        numbers = manifest.certified([row_._replace(kind="proof") for row_ in rows], [0.01, 0.1])
        sealed(folder, lambda content: content["numbers"].update(numbers))

    return forge


def stated(key: str, change: Callable) -> Callable[[Path], None]:
    """Another value in the manifest."""

    def forge(folder: Path) -> None:
        def inside(content: dict) -> None:
            *way, last = key.split(".")
            for part in way:
                content = content[int(part)] if part.isdigit() else content[part]
            last_ = int(last) if last.isdigit() else last
            content[last_] = change(content.get(last_) if isinstance(content, dict) else content[last_])

        sealed(folder, inside)

    return forge


def no_eps(folder: Path) -> None:
    keys = ("certified_accuracy", "certified_accuracy_float32")
    sealed(folder, lambda content: content["numbers"].update({key: {"nan": 0.0} for key in keys}))


def float32_in_part(folder: Path) -> None:
    """Radii of float32 that are too large, of a network that has them of some images alone."""
    for index in range(4):
        row(index, lambda r, index=index: {"radius_float32": r.radius if index else None})(folder)
        stated("claim.float32", lambda x: False)(folder)


def pixel(folder: Path) -> None:
    with np.load(folder / manifest.IMAGES) as found:
        images, labels = found["images"].copy(), found["labels"]
    images[5, 0, 2, 2] ^= 1
    content = io.BytesIO()
    np.savez_compressed(content, images=images, labels=labels)
    (folder / manifest.IMAGES).write_bytes(content.getvalue())
    sealed(folder)


def byte(name: str) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))

    return forge


def text(name: str, old: str, new: str, seal: bool = True) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))
        if seal:
            content = json.loads((folder / manifest.MANIFEST).read_text())
            content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            (folder / manifest.MANIFEST).write_text(json.dumps(content))

    return forge


def linked(folder: Path) -> None:
    (folder / manifest.ROWS).rename(folder.parent / "rows.csv")
    (folder / manifest.ROWS).symlink_to(folder.parent / "rows.csv")


def bomb(folder: Path) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, images=np.zeros((1000, 1000, 5), np.uint8), labels=np.zeros(IMAGES, np.int64))
    (folder / manifest.IMAGES).write_bytes(content.getvalue())
    sealed(folder)


LESS = 1 - 1e-7
NOT_CONFIRMED = {  # what is forged, and what the message names
    "a radius": (row(3, lambda r: {"radius": r.radius / LESS}), "image 3 has the radius"),
    "a radius of float32": (row(3, lambda r: {"radius_float32": r.radius}), "image 3 has the radius_float32"),
    "some radii of float32": (float32_in_part, "image 1 has the radius_float32"),
    "the bound of a pair": (stated("bound.pairs.0.1", lambda x: x * LESS), "`bound.pairs` of the logits 0 and 1"),
    "the bound of a logit": (stated("bound.logits.2", lambda x: x * LESS), "`bound.logits` of logit 2"),
    "the bound of the vector": (stated("bound.vector", lambda x: x * LESS), "`bound.vector`"),
    "the norm of a layer": (stated("bound.layers.1.norm", lambda x: x * LESS), "`bound.layers` of `4`"),
    "the bound up to a layer": (stated("bound.layers.0.lipschitz", lambda x: x * LESS), "`bound.layers` of `1"),
    "the error of float32": (stated("rounding.float32", lambda x: [1e-300] * len(x)), "`rounding.float32`"),
}
REFUSED = {
    "a byte of the constants": (byte("network.safetensors"), "network.safetensors is not what was exported"),
    "a byte of the network": (byte("network.json"), "network.json is not what was exported"),
    "a byte of the images": (byte(manifest.IMAGES), "images.npz is not what was exported"),
    "a byte of the radii": (byte(manifest.ROWS), "certificates.csv is not what was exported"),
    "smaller weights": (weights(times(0.5, 5)), "has the margin"),
    "another function": (weights(field(4, function="abs")), "has the margin"),
    "a promise of a layer": (weights(field(2, claim=(1.0,))), "`bound.layers` does not say what operation 2 is"),
    "a label": (row(4, lambda r: {"label": (r.label + 1) % 3, "radius": 0, "radius_float32": 0}), "image 4 has the"),
    "a prediction": (row(0, lambda r: {"prediction": r.label}), "image 0 has the prediction"),
    "a margin": (row(4, lambda r: {"margin": r.margin + 1e-6}), "image 4 has the margin"),
    "a gap": (row(4, lambda r: {"gap": r.gap + 1e-6}), "image 4 has the gap"),
    "a radius without a label": (row(0, lambda r: {"radius": 0.1}), "the row of image 0 is damaged"),
    "an infinite margin": (row(2, lambda r: {"margin": float("nan")}), "the row of image 2 is damaged"),
    "another kind of claim": (row(2, lambda r: {"kind": "nominal"}), "the row of image 2 is damaged"),
    "a radius above that of reals": (row(2, lambda r: {"radius_float32": 9.0}), "the row of image 2 is damaged"),
    "an image": (pixel, "image 5 has the margin"),
    "an archive that unpacks to much": (bomb, "images.npz can't be read"),
    "the number of images": (stated("data.images", lambda x: x - 1), "certificates.csv has 12 rows"),
    "a number": (stated("numbers.clean_accuracy", lambda x: 1.0), "`numbers.clean_accuracy`"),
    "an eps that is none": (no_eps, "is damaged"),
    "a negative error": (stated("rounding.float32", lambda x: [-1.0] * len(x)), "`rounding.float32` is not"),
    "errors of fewer logits": (stated("rounding.float32", lambda x: x[:1]), "`rounding.float32` is not"),
    "a radius of a Lipschitz bound": (row(2, lambda r: {"lipschitz_radius": 9.0}), "the row of image 2 is damaged"),
    "the number of an operation": (stated("bound.layers.1.operation", float), "`bound.layers` does not say"),
    "the norm": (stated("claim.norm", lambda x: "linf"), "`claim.norm`"),
    "the kind": (stated("claim.kind", lambda x: "nominal"), "`claim.kind`"),
    "a shape": (stated("bound.layers.0.shape", lambda x: [6, 15]), "`bound.layers` does not say"),
    "what is done first": (stated("preprocessing.first_operations", lambda x: [{"kind": "affine"}]), "first_op"),
    "an unknown key": (stated("claim.more", lambda x: 1), "unknown key, `claim.more`"),
    "a key that lacks": (text(manifest.MANIFEST, '"norm"', '"nörm"', seal=False), "key, `claim.n"),
    "a number that is none": (text(manifest.MANIFEST, '"vector": ', '"vector": NaN, "v": ', seal=False), "no manifest"),
    "the card": (text(manifest.CARD, "is a proof", "is a fact"), "MODEL_CARD.md is not what lipcert"),
    "the source": (text(manifest.SOURCE, "import torch", "import os, torch"), "network.py is not what lipcert"),
    "a file that lacks": (lambda folder: (folder / manifest.CARD).unlink(), "MODEL_CARD.md is missing"),
    "no manifest": (lambda folder: (folder / manifest.MANIFEST).unlink(), "manifest.json is missing"),
    "one file more": (lambda folder: (folder / "more").write_text(""), "more is not in the manifest"),
    "a link": (linked, "no regular file"),
}  # fmt: skip


@pytest.mark.parametrize("what", {**NOT_CONFIRMED, **REFUSED})
def test_whatever_is_changed_is_found(what, forged):
    forge, message = {**NOT_CONFIRMED, **REFUSED}[what]
    forge(forged)
    with pytest.raises(NotConfirmed if what in NOT_CONFIRMED else ValueError) as error:
        verify(forged)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_was_changed_back_is_confirmed(forged):
    """The control: to seal a folder anew changes nothing, and a smaller claim is no wrong one."""
    row(3, lambda r: {"radius": r.radius * 0.9, "radius_float32": r.radius * 0.5})(forged)
    stated("bound.pairs.0.1", lambda x: x * 2)(forged)
    assert "smaller here by up to 1" in dict(verify(forged))["bound.pairs"]


def test_all_images_of_the_data_set(exported, monkeypatch):
    """Those of `data_dir` are judged if they are those that were certified."""
    from lipcert.export import verify as module

    data = certified(exported.parent / "again", dense(), "Pairwise").dataset
    monkeypatch.setattr(module, "build_dataset", lambda node, download: data)
    assert dict(verify(exported, "here"))["images judged again"] == "12 of 12"
    fewer = shutil.copytree(exported, exported.parent / "fewer")
    row(-1, lambda r: {"index": 99})(fewer)
    text(manifest.ROWS, (fewer / manifest.ROWS).read_text().splitlines(keepends=True)[-1], "")(fewer)
    stated("data.exported", lambda x: x - 1)(fewer)
    left = parse_rows((fewer / manifest.ROWS).read_bytes(), CertificateRow, "")
    numbers = manifest.certified(left, [0.01, 0.1])
    sealed(fewer, lambda content: [content["data"].update(images=IMAGES - 1), content["numbers"].update(numbers)])
    with pytest.raises(ValueError, match="has 11 rows, and the data set 12 images"):
        verify(fewer, "here")
    monkeypatch.setattr(module, "build_dataset", lambda node, download: dataset())
    with pytest.raises(ValueError, match="are not those that were certified"):
        verify(exported, "here")


def test_nothing_is_written_over(exported, tmp_path):
    run = certified(tmp_path / "run", neighbours(), "Pairwise")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (exported, tmp_path / "link"):
        with pytest.raises(ValueError, match="already exists"):
            export(run, taken, "folder", 0)
    assert not (tmp_path / "nowhere").exists()
    for count in (0, 5):
        folder = export(run, tmp_path / f"with {count}", "folder", count)
        assert (manifest.IMAGES in os.listdir(folder)) == (count > 0)
        told = dict(verify(folder))
        assert told["images judged again"] == f"{count} of 12"
        assert told["radii not checked"].startswith(f"{12 - count}: ")


def test_only_proofs_are_exported(tmp_path):
    run = certified(tmp_path / "run", dense(), "Statistical")
    with pytest.raises(ValueError, match="has no whole proof"):
        export(run, tmp_path / "out", "folder", None)
    assert not (tmp_path / "out").exists()


def test_tiny_logits_are_judged_as_others_are(tmp_path):
    """A wrong prediction is found among logits of 1e-14, and so is a margin."""
    network = dense()
    *body, head = network.operations
    head = replace(head, weight=head.weight * 1e-14, bias=head.bias * 1e-14)  # type: ignore[attr-defined]
    run = certified(tmp_path / "run", replace(network, operations=(*body, head)), "Pairwise")
    folder = export(run, tmp_path / "out", "folder", None)
    again = shutil.copytree(folder, tmp_path / "again")
    verify(folder)
    row(0, lambda r: {"prediction": r.label})(folder)
    with pytest.raises(ValueError, match="image 0 has the prediction"):
        verify(folder)
    row(0, lambda r: {"margin": -r.margin})(again)
    with pytest.raises(ValueError, match="image 0 has the margin"):
        verify(again)


def test_a_form_that_the_network_has_not(tmp_path):
    """A file of ONNX is no file of a network that can't be written as one."""
    pytest.importorskip("onnx")
    network = dense()
    *body, head = network.operations
    head = replace(head, weight=head.weight * 1e100)  # type: ignore[attr-defined]
    run = certified(tmp_path / "run", replace(network, operations=(*body, head)), "Pairwise")
    folder = export(run, tmp_path / "out", "folder", None)
    (folder / manifest.ONNX).write_bytes(b"something")
    sealed(folder, lambda content: [content.update(format="onnx"), content["files"].update({manifest.ONNX: ""})])
    with pytest.raises(ValueError, match=r"network\.onnx can't be what lipcert"):
        verify(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(CONF / "model"))
def test_the_bound_of_every_model_is_confirmed(name):
    """By other code, up to 1e-9, for statistics of batch normalisation that are no ones and zeros."""
    from lipcert.export.verify_bounds import Bounds
    from lipcert.frozen.exact import exact_arithmetic
    from lipcert.frozen.lipschitz import Walk
    from lipcert.frozen.pairs import BOUNDS, pair_bounds

    config = composed(f"model={name}")
    model, *_ = built(config)
    if hasattr(model, "memorise"):
        model.memorise(torch.randint(0, 256, (30, *shape(config)), dtype=torch.uint8), torch.arange(30) % 10)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network = freeze(model.eval(), shape(config), getattr(model, "norm", "l2"))
    with exact_arithmetic():
        stated_ = pair_bounds(Walk(network, network.norm))
        own = Bounds(network)
        assert bool((own.pairs() <= stated_.smallest(BOUNDS) * (1 + 1e-9)).all())
        assert own.constant(len(network.operations)) <= stated_.of_vector * (1 + 1e-9)
