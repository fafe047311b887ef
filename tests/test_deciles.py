"""Images by the gap of their two largest logits, in ten groups: every number is the query on its rows that it says."""

import csv
import shutil
import statistics
from pathlib import Path

import pytest
from commandline import attacked, certified, lipcert, refused
from test_record import older

from lipcert.analyses.deciles.groups import flat, grouped
from lipcert.contracts import AttackRow, CertificateRow
from lipcert.runs.directory import RunDirectory

SMALL = ("dataset.subset=100", "schedule.epochs=3", "model.depth=2", "model.width=16", "attack.steps=3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from lipcert import train

    path = tmp_path_factory.mktemp("deciles") / "run"
    train(*SMALL, "attack.images=100", f"output_dir={path}")
    return path


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    return RunDirectory("run")


def test_each_group_says_what_its_rows_say(run, capsys):
    told = lipcert(capsys, "certify", "run=run", "analysis=deciles")
    assert told.status == 0, told.err
    content, rows, attempts = run.read_json("deciles.json"), certified(run.path), attacked(run.path)
    groups = content["groups"]
    assert len(groups) == 10 and sum(group["images"] for group in groups) == len(rows) == content["images"]
    assert max(group["images"] for group in groups) - min(group["images"] for group in groups) <= 1
    edges = [edge for group in groups for edge in (group["least_gap"], group["mean_gap"], group["largest_gap"])]
    assert edges == sorted(edges)
    left = sorted(rows, key=lambda row: row.gap)
    for group in groups:
        mine, left = left[: group["images"]], left[group["images"] :]
        assert group["mean_gap"] == pytest.approx(statistics.fmean(row.gap for row in mine))
        assert group["clean_accuracy"] == statistics.fmean(row.prediction == row.label for row in mine)
        assert group["certified_accuracy"]["0.1"] == statistics.fmean(row.radius >= 0.1 for row in mine)
        ((attack, robust),) = group["robust_accuracy"].items()
        hit = [row.success for row in attempts if row.eps == 0.3 and row.index in {row.index for row in mine}]
        assert robust["0.3"] == (statistics.fmean(not success for success in hit) if hit else None)
        assert group["attacked_images"] == {attack: len(hit)}
    lines = list(csv.DictReader(Path("run/deciles.csv").read_text().splitlines()))
    assert [float(line["mean_gap"]) for line in lines] == [group["mean_gap"] for group in groups]
    assert [float(line["certified_0.3"]) for line in lines] == [g["certified_accuracy"]["0.3"] for g in groups]
    assert [line[f"{attack}_0.3"] for line in lines] == [
        "" if value is None else repr(value) for value in (g["robust_accuracy"][attack]["0.3"] for g in groups)
    ]
    assert "ten groups" not in told.out and "mean gap" in told.out and (run / "deciles.svg").stat().st_size > 1000


def rows_of(count: int, kind: str = "proof") -> list[CertificateRow]:
    key = ("l2", "pairwise", kind, 1)
    return [CertificateRow("test", i, *key, i % 2, 1.0, 0.1, gap=float(count - i)) for i in range(count)]


def test_estimates_are_called_what_they_are():
    groups = grouped(rows_of(23, "nominal"), [], [0.1])
    assert [group["images"] for group in groups] == [2, 3, 2, 2, 3, 2, 2, 2, 3, 2]
    assert all("nominal 0.1" in flat(group) and "certified 0.1" not in flat(group) for group in groups)
    assert groups[0]["least_gap"] == 1.0 and groups[-1]["largest_gap"] == 23.0


def test_an_attack_in_another_norm_has_its_own_radii():
    hits = [AttackRow("test", i, "linf", "pgd_linf-40", 0.1, i == 0, 0.1) for i in range(3)]
    smallest = [AttackRow("test", i, "linf", "fmn_linf-9", None, True, 0.1) for i in range(3)]
    groups = grouped(rows_of(10), [*hits, *smallest], [0.5])
    assert [group["robust_accuracy"]["pgd_linf-40"]["0.1"] for group in groups] == [*[None] * 7, 1.0, 1.0, 0.0]
    assert all(group["robust_accuracy"]["fmn_linf-9"] == {} for group in groups)


def test_what_has_no_groups(run, capsys):
    with pytest.raises(ValueError, match="needs 10 images at least, and there are 9"):
        grouped(rows_of(9), [], [0.1])
    with pytest.raises(ValueError, match="needs the gaps of all images"):
        grouped([row._replace(gap=None) for row in rows_of(10)], [], [0.1])
    older(run, certified(run.path))  # certifying writes the gaps that rows of an older version lack
    assert lipcert(capsys, "certify", "run=run", "analysis=deciles").status == 0
    assert "is of the test images" in refused(capsys, "certify", "run=run", "split=val", "analysis=deciles")
