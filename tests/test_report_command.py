"""`lipcert report` on a trained run: its pictures, where the page goes, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import TINY, lipcert, refused, snapshot
from PIL import Image
from test_report_page import checked

from lipcert.cli.main import run as main
from lipcert.contracts import Kind, Norm
from lipcert.errors import CertificateBroken
from lipcert.evaluation.load import load_run
from lipcert.report import page
from lipcert.report.pictures import INSIDE, attacked, kept, pictures, png
from lipcert.report.record import read_record
from lipcert.runs.find import find_runs

MODELS = {"l2": ("model=lmt_convnet",), "linf": ("model=linf_dist_mlp", "model.width=16")}
ORDERS = {"l2": 2.0, "linf": np.inf}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on digits for each norm, {norm: directory}."""
    found = {}
    for norm, words in MODELS.items():
        found[norm] = tmp_path_factory.mktemp("report") / norm
        assert main("train", [*words, *TINY, f"output_dir={found[norm]}"]) == 0
    return found


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("norm", MODELS)
def test_pictures_are_what_they_are_said_to_be(trained, norm):
    record = read_record(find_runs([trained[norm]])[0], norm)
    found = pictures(record, 3)
    loaded = load_run(trained[norm])
    test, network = loaded.dataset.test.pixels().double() / 255, loaded.network.on("cpu")

    def answer(image):
        return int(network(torch.from_numpy(image)[None]).argmax(1))

    def apart(one):
        return np.linalg.norm((one.image - one.changed).ravel(), ORDERS[norm])

    assert found.kept and len(found.largest) == 3
    assert min(one.row.margin for one in found.largest) >= max(one.row.margin for one in found.smallest)
    for one in found.kept:
        assert np.array_equal(one.image, test[one.row.index].numpy())
        assert (
            answer(one.changed) == one.row.label == answer(one.image)
            and 0 <= one.changed.min() <= one.changed.max() <= 1
        )
        assert apart(one) <= one.distance < one.row.radius and one.distance > 0.5 * INSIDE * one.row.radius
    assert len({one.row.label for one in found.kept}) == len(found.kept)
    for one in [*found.largest, *found.smallest]:
        assert answer(one.changed) == one.answer != one.row.label == answer(one.image)
        assert one.row.radius < one.distance and apart(one) <= one.distance


def test_a_broken_proof_is_no_picture(trained):
    loaded = load_run(trained["l2"])
    record = read_record(find_runs([trained["l2"]])[0], "l2")
    rows = [row._replace(radius=60.0) for row in record.rows if row.prediction == row.label][:2]
    network, test = loaded.network.on("cpu"), loaded.dataset.test
    with pytest.raises(CertificateBroken, match=f"image {rows[0].index}: .* within the radius 60.0"):
        attacked(network, test, rows, Norm.L2)
    far = [row._replace(radius=60.0, label=int(row.label == 0), prediction=int(row.label == 0)) for row in rows]
    with pytest.raises(CertificateBroken, match="within its certified radius"):
        kept(network, test, far, 2)
    estimates = [row._replace(kind=Kind.NOMINAL) for row in rows]
    assert len(attacked(network, test, estimates, Norm.L2)) == 2  # an estimate can't be broken


def test_the_page_of_a_run_lies_in_it(trained, capsys):
    run = trained["l2"]
    told = lipcert(capsys, "report", run, "images=2", "figures=true")
    assert told.status == 0 and told.out.splitlines()[-2] == f"written: {run}/report.html"
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 12 and "proved to keep" in html
    names = {path.name for path in (run / "report_figures").iterdir()}
    assert {"accuracy-l2.svg", "layers.png", "kept-1-changed.png", "largest-2-attacked.png"} <= names
    with Image.open(run / "report_figures/kept-1.png") as image:
        assert image.size == (8, 8)
    assert find_runs([run])  # the page is no part of the record, and does no harm to it
    checked([run], images=1)


@pytest.mark.slow
def test_of_several_runs_it_goes_elsewhere(trained, capsys):
    told = lipcert(capsys, "report", *trained.values(), "images=0")
    (place,) = Path("outputs/report").glob("*/report.html")
    assert told.status == 0 and f"written: {place}" in told.out
    told = lipcert(capsys, "report", *trained.values(), "images=0", "output=new/a=b.html", "title=Both")
    assert told.status == 0 and "<h1>Both</h1>" in Path("new/a=b.html").read_text()
    assert not list(Path("new").glob(".*"))
    told = lipcert(capsys, "report", trained["l2"], "images=0", "output_dir=folder")
    assert told.status == 0 and Path("folder/report.html").exists()


def test_what_is_refused_leaves_nothing(trained, capsys):
    run = trained["l2"]
    Path("file").touch()
    for words, says in {
        (): "`lipcert report` needs runs: ",
        ("nowhere",): "`nowhere` is not a directory: name directories",
        (run, "images=-1"): "`images`: got -1, must be at least 0; images=0 makes",
        (run, "output=thesis.pdf"): "`output`: thesis.pdf must end in .html, as output=report.html does",
        (run, "output=file/report.html", "images=0"): "`output`: file/report.html cannot be written",
        (run, "tags=[none]"): "`tags`: of 1 runs none has none",
        (run, "data_dri=x"): "did you mean `data_dir`?",
    }.items():
        assert says in refused(capsys, "report", *words, leaves=(run,)), words


def test_without_data_the_page_says_why_there_are_no_pictures(trained, monkeypatch):
    def gone(*_, **__):
        raise ValueError("`dataset.data_dir`: nowhere has no such <files>")

    monkeypatch.setattr("lipcert.report.pictures.load_run", gone)
    before = snapshot(trained["linf"])
    html = page.render(find_runs([trained["linf"]]))
    assert "There are no pictures: `dataset.data_dir`: nowhere has no such &lt;files&gt;" in html
    assert "data:image/png" not in html and snapshot(trained["linf"]) == before


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_become_png_files(channels):
    content = png(np.full((channels, 4, 6), 0.5))
    assert content.startswith(b"\x89PNG") and re.search(rb"IHDR\x00\x00\x00\x06\x00\x00\x00\x04", content)
