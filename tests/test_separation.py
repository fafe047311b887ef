"""Distances between labels: the integers of all pairs one by one, whatever the blocks, the ties and the copies."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import lipcert, refused

from lipcert.analyses.separation.distances import Separation, separation
from lipcert.analyses.separation.figures import stability_curve
from lipcert.analyses.separation.rows import ROWS, SeparationRow, read_separation, separation_table
from lipcert.commands.separation import CONTENT, FIGURE, PICTURE
from lipcert.datasets.digits import digits

FILES = {ROWS, CONTENT, *(f"{name}.{form}" for name in (FIGURE, PICTURE) for form in ("png", "svg"))}


def bytes_of(count: int, pixels: int, levels: int = 256) -> torch.Tensor:
    return torch.randint(0, levels, (count, pixels), dtype=torch.uint8)


def brute(images: torch.Tensor, labels: torch.Tensor) -> Separation:
    """What `separation` must find, pair by pair in int64."""
    x, y = images.flatten(1).to(torch.int64).numpy(), labels.numpy()
    order = np.lexsort((np.arange(len(y)), y))
    squared, nearest, least, pair = [], [], math.inf, (0, 0)
    for i in range(len(y)):
        others = order[y[order] != y[i]]
        d = ((x[others] - x[i]) ** 2).sum(1)
        squared.append(d.min())
        nearest.append(others[d.argmin()])
        above = np.where(d > 0, d, d.max() + 1)
        if d.max() and above.min() < least:
            least, pair = above.min(), (i, others[above.argmin()])
    copies = defaultdict(list)
    for i, row in enumerate(x):
        copies[row.tobytes()].append(i)
    duplicates = sorted(group for group in copies.values() if len({y[i] for i in group}) > 1)
    return Separation(torch.tensor(squared), torch.tensor(nearest), int(least), pair, duplicates)


def same(found: Separation, expected: Separation) -> None:
    assert found.squared.tolist() == expected.squared.tolist()
    assert found.nearest.tolist() == expected.nearest.tolist()
    assert (found.least, found.pair, found.duplicates) == (expected.least, expected.pair, expected.duplicates)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 1000])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("pixels,levels", [(2, 3), (3, 4), (9, 2), (30, 256), (1100, 2)])
def test_all_pairs(pixels, levels, classes, batch_size):
    """Few levels make ties and copies; labels need not be 0, 1, 2, ..., nor come in order."""
    images, labels = bytes_of(40, pixels, levels), 7 * torch.randint(0, classes, (40,)) - 3
    expected = brute(images, labels)
    assert pixels > 3 or expected.duplicates
    same(separation(images.view(40, 1, 1, pixels), labels, batch_size=batch_size), expected)


@pytest.mark.parametrize("pixels", [1, 783, 1024, 1025, 3072, 32767, 32768, 40000])
def test_what_float32_can_not_tell_apart(pixels):
    """Black against white but for one pixel: the largest distances there are, that differ by a few units."""
    images = torch.full((7, pixels), 255, dtype=torch.uint8)
    images[0] = 0
    images[:, -1] = torch.tensor([5, 9, 8, 6, 7, 10, 255], dtype=torch.uint8)
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1])
    found = separation(images, labels, batch_size=2)
    same(found, brute(images, labels))
    assert found.pair == (0, 3) and found.least == (pixels - 1) * 255**2 + 1
    if pixels > 1000:  # the control
        x = images.float()
        assert (x.square().sum(1) - 2 * (x @ x[0]) + x[0].square().sum())[1:].tolist() != found.squared[1:].tolist()


def test_values_at_the_edge_of_exactness():
    """Products of −128 by −128, 1024 of them, and an odd one: sums of 2²⁵."""
    images = torch.zeros(6, 2048, dtype=torch.uint8)
    images[range(1, 6), torch.arange(5) * 400] = torch.tensor([1, 2, 3, 4, 5], dtype=torch.uint8)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    same(separation(images, labels), brute(images, labels))
    same(separation(255 - images, labels), brute(255 - images, labels))


def test_in_units_of_pixels():
    found = separation(torch.tensor([[0, 0], [3, 4], [0, 255]], dtype=torch.uint8), torch.tensor([0, 1, 1]))
    assert found.distance == 5 / 255 and found.lipschitz == 255 / 5
    assert found.distances.dtype == torch.float64
    assert found.distances.tolist() == pytest.approx([5 / 255, 5 / 255, 1], rel=1e-15)


def test_copies_are_at_distance_0_and_skipped():
    """... in the constant: the next distance of an image that recurs still counts."""
    images = torch.tensor([[10], [50], [10], [12], [10], [50]], dtype=torch.uint8)
    found = separation(images, torch.tensor([2, 0, 1, 1, 2, 0]))
    assert found.duplicates == [[0, 2, 4]]  # not 1 and 5, which agree
    assert found.squared.tolist() == [0, 38**2, 0, 4, 0, 38**2]
    assert found.nearest.tolist() == [2, 3, 0, 0, 2, 3]
    assert (found.least, found.pair) == (4, (0, 3))
    both = separation(torch.tensor([[1], [1], [4], [4]], dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    assert both.duplicates == [[0, 1], [2, 3]] and (both.least, both.pair) == (9, (0, 3))


@pytest.mark.parametrize(
    ("images", "labels", "batch_size", "match"),
    [
        (bytes_of(3, 2), [1, 1, 1], 8, "`dataset` has 3 images and no two labels"),
        (bytes_of(3, 2), [1, 1, 2], 0, "`batch_size` must be at least 1, got 0"),
        (torch.zeros(3, 2), [1, 1, 2], 8, "images must be bytes, got torch.float32"),
        (torch.ones(3, 2, dtype=torch.uint8), [1, 1, 2], 8, "`dataset` has 3 copies of one image"),
    ],
)
def test_what_has_no_separation(images, labels, batch_size, match):
    with pytest.raises(ValueError, match=match):
        separation(images, torch.tensor(labels), batch_size=batch_size)


def test_the_curve_counts_images():
    rows = [SeparationRow(i, 0, 0, distance) for i, distance in enumerate([2.0, 0.0, 1.0, 1.0])]
    curve = stability_curve(rows)
    assert curve.steps == "post" and curve.kind is None
    for eps in (0, 0.5, 1, 1.5, 2, 3):
        last = np.searchsorted(curve.x, eps, side="right") - 1
        assert curve.y[last] == np.mean([row.distance <= eps for row in rows])
    with pytest.raises(ValueError, match="there are no rows to count"):
        stability_curve([])


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def archive(path: Path, images: torch.Tensor, labels: list[int]) -> Path:
    x, y = images.numpy(), np.array(labels)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def test_the_command(directory, capsys):
    """All training images of digits: what is printed, what is written, and that its numbers are those of its rows."""
    told = lipcert(capsys, "separation")
    assert told.status == 0, told.err
    (where,) = Path("outputs/separation").iterdir()
    assert {path.name for path in where.iterdir()} == FILES and f"written: {where}" in told.out
    content = json.loads((where / CONTENT).read_text())
    rows = read_separation(where)
    train = digits().train
    found = brute(train.images, train.labels)
    assert [row.distance for row in rows] == (found.squared.double().sqrt() / 255).tolist()
    assert [row.nearest for row in rows] == found.nearest.tolist()
    assert [row.label for row in rows] == train.labels.tolist() and [row.index for row in rows] == list(range(1438))
    assert content["squared_distance_of_bytes"] == found.least and content["lipschitz"] == found.lipschitz
    assert content["distance"] == min(row.distance for row in rows) == math.sqrt(found.least) / 255
    assert content["closest"] == {"indices": list(found.pair), "labels": train.labels[list(found.pair)].tolist()}
    assert content["duplicates"] == [] and content["images"] == 1438 and content["labels"] == 10
    for number in (content["lipschitz"], content["distance"], content["median_distance"]):
        assert f"{number:.6g}" in told.out
    again = lipcert(capsys, "separation", "batch_size=100", "output_dir=small")
    assert again.status == 0 and Path("small", ROWS).read_text() == (where / ROWS).read_text()


def test_copies_are_reported(directory, capsys):
    images = bytes_of(30, 3 * 16).view(30, 3, 4, 4)
    images[20:] = images[:10]
    images[15] = images[0]
    labels = [0] * 15 + [1] * 15
    archive(directory / "set.npz", images, labels)
    told = lipcert(capsys, "separation", "dataset=npz", "dataset.path=set.npz", "dataset.name='a[b]'", "output_dir=out")
    assert told.status == 0, told.err
    content = json.loads(Path("out", CONTENT).read_text())
    assert content["duplicates"][0] == {"indices": [0, 15, 20], "labels": [0, 1, 1]}
    assert len(content["duplicates"]) == 10 and 0 < content["lipschitz"] < math.inf
    assert "0 (label 0), 15 (label 1), 20 (label 1)" in told.out and "and more" in told.out and "a[b]" in told.out
    rows = read_separation(Path("out", ROWS))
    assert [row.index for row in rows if row.distance == 0] == [*range(10), 15, *range(20, 30)]
    assert all(row.distance == rows[row.nearest].distance == 0 for row in rows if row.distance == 0)


def test_many_copies_of_one_image_take_one_line():
    group = {"indices": list(range(9)), "labels": [0, 1] * 4 + [0]}
    content = dict.fromkeys(("lipschitz", "distance", "median_distance", "seconds"), 1.0)
    content |= {"name": "x", "images": 9, "labels": 2, "closest": group, "duplicates": [group]}
    table = separation_table(content)
    assert list(table.columns[1].cells)[-2].endswith("3 (label 1) and 5 more")


@pytest.mark.slow
def test_a_sweep_and_the_data_sets_own_keys(directory, capsys):
    told = lipcert(capsys, "separation", "-m", "dataset.subset=100,200", "output_dir=sweep")
    assert told.status == 0, told.err
    for job, images in (("subset=100", 100), ("subset=200", 200)):
        with Path("sweep", job, ROWS).open() as file:
            assert len(list(csv.DictReader(file))) == images


def test_what_is_told_in_one_line(directory, capsys):
    archive(directory / "one.npz", bytes_of(5, 48).view(5, 3, 4, 4), [0] * 5)
    Path("file").write_text("")
    for written, line in (
        ("dataset=npz dataset.path=one.npz", "`dataset`: npz has 1 class, and a classifier needs 2"),
        ("dataset=npz", "`dataset.path` must be a file with x_train, y_train, x_test, y_test"),
        ("~dataset._target_", "`dataset._target_` must be given"),
        ("dataset=digts", "`dataset=digts`: there is no such option; did you mean `digits`?"),
        ("batch_size=0", "`batch_size` must be at least 1, got 0"),
        ("device=foo", "`device`=foo can't be used here"),
        ("norm=linf", "`norm` is not a key of `lipcert separation`"),
        ("digits", "`digits` is not of the form key=value"),
        ("output_dir=file", "`output_dir`: file is a file"),
        ("output_dir=file/below", "`output_dir`: file/below cannot be written (Not a directory)"),
    ):
        assert line in refused(capsys, "separation", *written.split()), written


@pytest.mark.slow
def test_mnist(mnist_dir, directory, capsys):
    """TULIP's Table 2: 0.417."""
    told = lipcert(capsys, "separation", "dataset=mnist", f"data_dir={mnist_dir}", "output_dir=out")
    assert told.status == 0, told.err
    content = json.loads(Path("out", CONTENT).read_text())
    assert round(content["lipschitz"], 3) == 0.417 and content["squared_distance_of_bytes"] == 374141
    assert content["images"] == 60000 and content["duplicates"] == []
    assert content["closest"] == {"indices": [12132, 32835], "labels": [1, 7]}
