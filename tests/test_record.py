"""What a run records of each image and epoch: gaps, labels after an attack, accuracies in training, kept weights."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from commandline import certified, lipcert

from lipcert.certificates.pairwise import top_gap
from lipcert.contracts import CertificateRow
from lipcert.evaluation.load import load_run
from lipcert.frozen.exact import exact
from lipcert.runs import numbers
from lipcert.runs.directory import RunDirectory
from lipcert.runs.results import read_results
from lipcert.runs.rows import format_rows, header, parse_rows

SMALL = ("dataset.subset=100", "schedule.batch_size=50", "model.depth=2", "model.width=8", "attack=none")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from lipcert import train

    path = tmp_path_factory.mktemp("record") / "run"
    train(*SMALL, "schedule.epochs=2", f"output_dir={path}")
    return path


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    return RunDirectory("run")


def test_the_gap_is_that_of_the_two_largest_logits(run):
    _, _, network, dataset = load_run("run")
    logits = network(exact(dataset.test.pixels().double() / 255)).sort(1).values
    rows = certified(run.path)
    assert [row.gap for row in rows] == pytest.approx((logits[:, -1] - logits[:, -2]).tolist(), rel=1e-12)
    right = [row.prediction == row.label for row in rows]
    assert 0 < sum(right) < len(rows)
    assert all(row.gap == row.margin if ok else row.gap > 0 >= row.margin for row, ok in zip(rows, right, strict=True))


def test_the_summary_has_the_mean_of_both(run, capsys):
    told = lipcert(capsys, "certify", "run=run", "split=train")
    assert told.status == 0, told.err
    summary, rows = run.read_json("summary.json"), certified(run.path)
    for split, content in (("test", summary), ("train", summary["splits"]["train"])):
        mine = [row for row in rows if row.split == split]
        assert content["mean_top_gap"] == pytest.approx(sum(row.gap for row in mine) / len(mine))
        assert content["mean_gap"] == pytest.approx(sum(max(row.margin, 0.0) for row in mine) / len(mine))
        assert content["clean_accuracy"] == sum(row.prediction == row.label for row in mine) / len(mine)
        assert content["mean_top_gap"] > content["mean_gap"]


def test_ties_and_infinite_logits_have_a_gap():
    logits = torch.tensor([[1.0, 1.0, 0.0], [2.0, -torch.inf, -torch.inf], [torch.inf, torch.inf, 0.0]])
    assert top_gap(logits.double()).tolist() == [0.0, math.inf, 0.0]
    assert top_gap(torch.zeros(2, 1)).tolist() == [math.inf, math.inf]


def older(run: RunDirectory, rows: list[CertificateRow]) -> None:
    """Writes rows as a version did that knew no gap."""
    lines = csv.reader(io.StringIO(header(CertificateRow) + format_rows(CertificateRow, rows)))
    with run.writing("test"):
        run.replace("certificates.csv", "".join(",".join(line[:-1]) + "\n" for line in lines))


def test_rows_of_before_there_were_gaps_are_read(run, capsys):
    rows = certified(run.path)
    older(run, rows)
    assert certified(run.path) == [row._replace(gap=None) for row in rows]
    assert numbers.mean_top_gap(certified(run.path)) is None
    told = lipcert(capsys, "certify", "run=run", "certificate=margin")  # another one beside it knows the gap
    assert told.status == 0, told.err
    results = read_results(run)
    assert [row.gap for row in results.certificates["pairwise"]] == [None] * len(rows)
    assert [row.gap for row in results.best(next(iter(results.kinds())))] == [row.gap for row in rows]
    assert json.loads(Path("run/summary.json").read_text())["mean_top_gap"] > 0
    text = header(CertificateRow).replace(",gap", "").encode()
    assert parse_rows(text, CertificateRow, "rows") == []
