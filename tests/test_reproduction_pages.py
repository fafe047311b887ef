"""What `lipcert reproduce` writes of a table: numbers of any file and of other tables' rows, pages; scale=smoke."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import lipcert
from test_tables import NAMES, TABLES

from lipcert.reporting import published
from lipcert.reproduction import claims, measured, page, report, running, smoke
from lipcert.reproduction.cells import cells
from lipcert.reproduction.jobs import jobs
from lipcert.reproduction.measured import Value, measure

OWN = {
    "name": "own/table1",
    "title": "A table",
    "source": "Somebody, A paper (2020)",
    "place": "Table 1",
    "claims": [{"text": "It is long.", "test": "one.each > 1"}],
    "columns": {
        "ratio": {"title": "Ratio", "key": "tightness.json:ratios/above/below", "unit": "number"},
        "each": {"title": "Seconds an epoch", "key": "seconds/train", "per": "epochs", "times": 2, "unit": "number"},
        "best": {
            "title": "Best",
            "key": "clean_accuracy",
            "unit": "percent",
            "of": ["l2nnn/table7/{row}_wd", "b/c/{row}"],
        },
    },
    "recipe": "l2nnn/mnist",
    "rows": {"one": {"title": "first", "published": {"ratio": 1.5, "each": 8.0}}},
}


def of_directories(*names: str) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            table=name.rpartition("/")[0],
            row=SimpleNamespace(name=name.rpartition("/")[2], command=""),
            seed=0,
            tried=(),
            directory=Path(name),
        )
        for name in names
    ]


def test_numbers_are_of_any_file_of_a_run_and_of_other_tables_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {
        "own/table1/one": {"seconds": {"train": 12.0}, "epochs": 3, "clean_accuracy": 0.99},
        "l2nnn/table7/one_wd": {"clean_accuracy": 0.5},
        "b/c/one": {"clean_accuracy": 0.75},
    }
    for name, content in contents.items():
        Path(name).mkdir(parents=True)
        Path(name, "summary.json").write_text(json.dumps(content))
    Path("own/table1/one/tightness.json").write_text(json.dumps({"ratios": {"above/below": 1.25, "above": 3}}))
    table = published.read(OWN, "own.yaml")
    found = measure(table, published.Scale(), of_directories(*contents))["one"]
    assert {name: value.number for name, value in found.items()} == {"ratio": 1.25, "each": 8.0, "best": 75.0}
    without = published.Scale(without=["b/c"])
    assert measure(table, without, of_directories(*contents))["one"]["best"].number == 50.0
    Path("own/table1/one/tightness.json").write_text("{")
    with pytest.raises(ValueError, match="tightness.json is damaged"):
        measure(table, published.Scale(), of_directories(*contents))


def test_a_number_that_no_run_has_is_not_there():
    assert measured._at({"a": {"b": float("nan")}}, "a/b") is None
    assert measured._at({"a": 1}, "a/b") is None and measured._at({"a": {"b": 1}}, "a") is None


def test_the_page_has_numbers_verdicts_commands_and_no_places_of_this_machine(tmp_path):
    table = published.read(
        OWN | {"columns": {**OWN["columns"], "best": {"title": "B", "key": None, "unit": "percent"}}}, "own.yaml"
    )
    due = jobs(table, "full", None, 2, tmp_path / "secret", "/secret/data")
    values = {"one": {"ratio": Value(1.51, 0.01, 2, 0.01), "each": Value(10.0, 1.0, 2, 1.0)}}
    found = cells(table, values)
    judged = [(claim.text, claims.judge(claim.test, values)) for claim in table.claims]
    page.write(table, "full", published.Scale(note="Less."), found, judged, due, tmp_path / "own/table1/full")
    text = (tmp_path / "own/table1/full/table.md").read_text()
    assert (
        "**1.51 ± 0.01** = (1.5)" in text and "- **holds**: It is long." in text and "**At this scale:** Less." in text
    )
    assert "lipcert train experiment=l2nnn/mnist seed=0 output_dir=RUN" in text and "secret" not in text
    assert (tmp_path / "own/table1/full/table.svg").read_bytes().startswith(b"<?xml")
    index = page.write_index(tmp_path).read_text()
    assert (
        "| [own/table1](own/table1/full/table.md) | A table | full | 1 within, 1 differs | 1 of 1 claims hold | 0 |"
        in index
    )
    assert list(page.results(tmp_path / "own/table1")) == [
        "measured at scale=full: 1 within, 1 differs; 1 of 1 claims hold"
    ]


def test_commands_name_the_runs_of_other_rows_without_the_place_of_this_machine(tmp_path):
    lines = list(page.commands(jobs(TABLES["l2nnn/table1"], "full", None, 1, tmp_path / "secret", None)))
    assert any("other=RUNS/l2nnn/table1/full/model1/seed=0" in line for line in lines)
    assert not any(str(tmp_path) in line for line in lines)


def test_a_paper_has_a_page_of_its_measured_tables(tmp_path):
    table = TABLES["tulip/table2"]
    output = tmp_path / "out"
    (job,) = jobs(table, "laptop", None, None, output, None)
    job.directory.mkdir(parents=True)
    (job.directory / "separation.json").write_text(json.dumps({"lipschitz": 0.417}))
    assert not report.of_paper("tulip", "laptop", output)  # nothing says that the table is finished
    found = report.Found(table, "laptop", None, output)
    page.write(table, "laptop", found.of, found.cells, found.claims, found.jobs, output / "tulip/table2/laptop")
    text = report.render(report.of_paper("tulip", "laptop", output))
    assert "<td>0.417 = (0.417)</td>" in text and "At this scale: MNIST alone, whole." in text
    assert "lipcert separation dataset=mnist output_dir=RUN" in text and "http" not in text.replace(
        "http://www.w3.org", ""
    )
    assert '<th scope="row">The labels of CIFAR-100 are by far the steepest.</th><td>not measured</td>' in text


def test_the_listing_has_every_table_and_claim(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = lipcert(capsys, "reproduce").out
    for table in TABLES.values():
        assert f"  {table.name} " in told and all(f"claim: {claim.text}" in told for claim in table.claims)


# ---- smoke


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_small_at_scale_smoke(name, tmp_path):
    for job in jobs(TABLES[name], "smoke", None, None, tmp_path, None):
        assert "dataset=npz" in job.lines[0], job.row.name
        if job.row.command == "train":
            assert smoke.chosen("model", job.row.arguments()) in smoke.NARROW, job.row.name


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """Where rows are run once, though several tables read them."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def one_process():
    with running.one_process() as runner:
        yield runner


def sort_of(row: published.Row) -> tuple:
    """What rows have in common that differ in numbers alone, such as the share of random labels."""
    shapes = tuple(re.sub(r"=\[?[\d.,e+-]+\]?$", "=", override) for override in row.overrides)
    return (row.command, str(row.recipe), row.of, *row.tune, shapes)


SORTS: dict[tuple, tuple[str, str]] = {}
for table in TABLES.values():
    for row in table.rows.values():
        SORTS.setdefault(sort_of(row), (table.name, row.name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, _ in SORTS.values()}))
def test_a_row_of_every_sort_runs(name, shared, one_process):
    rows = [row for table, row in SORTS.values() if table == name]
    failed = running.run_jobs(jobs(TABLES[name], "smoke", rows, None, shared, None), print, one_process)
    assert not failed


@pytest.mark.slow
def test_a_command_that_fails_in_the_one_process_does_not_end_it(tmp_path):
    with running.one_process() as run:
        assert run(["reproduce", "table=nothing"], tmp_path / "log") == 2
        assert run(["reproduce", "table=tulip/table2", "print=true"], tmp_path / "log") == 0
    assert "lipcert separation dataset=mnist" in (tmp_path / "log").read_text()


RESULT = {
    "table": "a/b",
    "title": "T",
    "scale": "full",
    "cells": {"within": 1},
    "claims": [["C", "holds"]],
    "minutes": 2,
}


@pytest.mark.parametrize("spoilt", ["", "[]", "{}", *({"claims": x} for x in (3, [1], [["a"]])), {"cells": {"a": "b"}}])
def test_a_damaged_result_is_one_line_that_names_the_file(tmp_path, spoilt):
    path = tmp_path / "a" / "b" / "full" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(RESULT))
    assert list(page.results(tmp_path / "a" / "b")) == ["measured at scale=full: 1 within; 1 of 1 claims hold"]
    assert "2 |" in page.write_index(tmp_path).read_text()
    path.write_text(spoilt if isinstance(spoilt, str) else json.dumps(RESULT | spoilt))
    for read in (lambda: list(page.results(tmp_path / "a" / "b")), lambda: page.write_index(tmp_path)):
        with pytest.raises(ValueError, match=r"result.json is damaged: [^\n]*$"):
            read()


@pytest.mark.parametrize(
    "job",
    [
        {},
        {"made_by": "a"},
        {"made_by": 5, "commands": {}},
        {"made_by": "a", "commands": 3},
        {"made_by": "a", "commands": {"a": 3}},
        {"made_by": "a", "commands": {"a": {"status": 0, "seconds": "x"}}},
        {"made_by": "a", "commands": {"a": {"status": 0, "seconds": float("nan")}}},
    ],
)
def test_a_damaged_state_of_a_job_is_refused(tmp_path, job):
    whole = {"made_by": "a", "commands": {"a": {"status": 1, "seconds": 2, "error": "e"}}}
    (tmp_path / "reproduce.json").write_text(json.dumps({"jobs": {"row/seed=0": whole}}))
    assert running.State(tmp_path).jobs == {"row/seed=0": whole}
    (tmp_path / "reproduce.json").write_text(json.dumps({"jobs": {"row/seed=0": job}}))
    with pytest.raises(ValueError, match=r"reproduce\.json is damaged: it does not say what was done"):
        running.State(tmp_path)
