"""`lipcert reproduce`: rows that are run, goes on where it was stopped, ours beside what was published, verdicts."""

import copy
import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import lipcert
from test_tables import NAMES, TABLES

from lipcert.cli import main
from lipcert.commands import reproduce
from lipcert.errors import RowsFailed
from lipcert.reporting import published
from lipcert.reproduction import claims, running
from lipcert.reproduction.cells import OTHER, OURS, QUOTED, RIGHT, UNMEASURED, WITHIN, WRONG, cells, count
from lipcert.reproduction.jobs import jobs
from lipcert.reproduction.measured import Value, measure
from lipcert.runs.lock import held

# Claims about a number that the paper does not print.
AGAINST_PRINT = {("poster/table1", 1)}  # what is printed is masked gradients, as the claim says
NOT_IN_PRINT = {("lmt/svhn", 0), ("lmt/figure3", 0), ("lmt/figure3", 1), ("lmt/figure5", 0)}
NOT_IN_PRINT |= {("tulip/figure1", 0), ("tulip/figure1", 1), *(("tulip/section4_3", number) for number in range(4))}


def of(number: float, error: float | None = None) -> Value:
    return Value(number, None, 1, error)


# ---- claims


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_numbers_are_what_their_claims_say(name):
    table = TABLES[name]
    values = {row.name: {c: of(v) for c, v in row.published.items()} for row in table.rows.values()}
    for number, claim in enumerate(table.claims):
        if claim.test:
            named = claims.names_in(claim.test)
            assert named and all(row in table.rows and column in table.columns for row, column in named)
            due = claims.UNMEASURED if (name, number) in NOT_IN_PRINT else claims.HOLDS
            due = claims.FAILS if (name, number) in AGAINST_PRINT else due
            assert claims.judge(claim.test, values) == due, claim


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        ("a.x < b.x", claims.HOLDS),
        ("a.x > b.x", claims.FAILS),
        ("a.x < b.x < c.x", claims.UNDECIDED),
        ("a.x > b.x > c.x", claims.FAILS),
        ("3 * a.x < b.x + 0", claims.FAILS),
        ("b.x - a.x > 0.5 and c.x > a.x", claims.HOLDS),
        ("max(a.x, b.x) < c.x", claims.UNDECIDED),
        ("mean(a.x, b.x) < 1.9", claims.HOLDS),
        ("b.x / a.x > 1.5", claims.HOLDS),
        ("min(a.x, c.x) < b.x", claims.HOLDS),
        ("a.x < d.x", claims.UNMEASURED),
        ("a.y < a.x", claims.UNMEASURED),
        ("s.x < a.x", claims.HOLDS),
        ("s.x > a.x", claims.FAILS),
    ],
)
def test_a_claim_holds_where_the_spread_of_seeds_leaves_no_doubt(test, verdict):
    """b and c differ by less than twice their errors; s has one run, so that its sign counts."""
    values = {"a": {"x": of(1, 0.1)}, "b": {"x": of(2, 0.1)}, "c": {"x": of(2.1, 0.1)}, "s": {"x": of(0.5)}}
    assert claims.judge(test, values) == verdict


@pytest.mark.parametrize(
    "test", ["a.x", "a.x <= b.x", "a.x < f(b.x)", "a < 1", "a.x <", "__import__('os').x < 1", "a.x < 'b'"]
)
def test_what_is_no_comparison_is_refused(test):
    with pytest.raises(ValueError, match="is no comparison"):
        claims.judge(test, {"a": {"x": of(1)}, "b": {"x": of(1)}})


# ---- cells

SMALL = {
    "name": "own/table1",
    "title": "A table",
    "source": "Somebody (2020)",
    "place": "Table 1",
    "claims": [{"text": "More is better.", "test": "one.clean < two.clean"}, "It is nice."],
    "columns": {
        "clean": {"title": "Clean", "key": "clean_accuracy", "unit": "percent"},
        "error": {"title": "Error", "key": "clean_accuracy", "unit": "percent", "complement": True},
        "radius": {"title": "Radius", "key": "mean_radius", "unit": "number"},
        "lost": {"title": "Lost", "key": None, "unit": "number"},
    },
    "recipe": "l2nnn/mnist_convnet",
    "overrides": [
        "dataset=digits",
        "model=l2nnn",
        "model.depth=2",
        "model.width=8",
        "dataset.subset=100",
        "attack=none",
    ],
    "rows": {
        "one": {"title": "first", "overrides": ["schedule.epochs=1"], "published": {"clean": 50.0, "lost": 1.0}},
        "two": {"title": "second", "overrides": ["schedule.epochs=2"], "published": {"clean": 60.0, "radius": 0.5}},
        "other": {"title": "quoted", "trained": False, "published": {"clean": 70.0}},
    },
    "laptop": {
        "note": "one epoch stands for two",
        "overrides": ["schedule.epochs=1"],
        "seeds": [3],
        "rows": {"two": {}},
    },
}


def table() -> published.Table:
    return published.read(copy.deepcopy(SMALL), "own.yaml")


def test_a_cell_is_near_or_on_the_right_side_or_not():
    def verdict(one: float | None, two: float | None) -> str:
        values = {name: {"clean": of(v)} for name, v in (("one", one), ("two", two)) if v is not None}
        return cells(table(), values)["two"]["clean"].verdict

    assert verdict(50.0, 60.5) == WITHIN and verdict(None, 59.6) == WITHIN
    assert verdict(50.0, 61.0) == RIGHT and verdict(70.0, 61.0) == WRONG and verdict(None, 61.0) == OTHER
    found = cells(table(), {"one": {"clean": of(55), "radius": of(1)}, "two": {"radius": of(0.52)}})
    assert {c: cell.verdict for c, cell in found["one"].items()} == {"clean": OTHER, "radius": OURS, "lost": UNMEASURED}
    assert {c: cell.verdict for c, cell in found["two"].items()} == {"clean": UNMEASURED, "radius": WITHIN}
    assert found["other"]["clean"].verdict == QUOTED
    assert count(found) == {WITHIN: 1, OTHER: 1, UNMEASURED: 2, OURS: 1, QUOTED: 1}


def test_a_scale_chooses_rows_seeds_and_settings():
    full, laptop = jobs(table(), "full", None, 2, "out", "data"), jobs(table(), "laptop", None, None, "out", None)
    assert [(job.row.name, job.seed) for job in full] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert full[3].shell()[0].endswith("seed=1 data_dir=data output_dir=out/own/table1/full/two/seed=1")
    ((job,), (line,)) = laptop, laptop[0].lines
    assert (job.row.name, job.seed) == ("two", 3)
    assert line[-4:] == [
        "schedule.epochs=2",
        "schedule.epochs=1",
        "seed=3",
        "output_dir=out/own/table1/laptop/two/seed=3",
    ]
    with pytest.raises(ValueError, match="`rows`: own/table1 has no row tow; did you mean `two`?"):
        jobs(table(), "full", ["tow"], None, "out", None)
    with pytest.raises(ValueError, match="`seeds`: got 0"):
        jobs(table(), "full", None, 0, "out", None)
    with pytest.raises(ValueError, match="`scale` must be one of full, laptop, smoke, got 'small'"):
        jobs(table(), "small", None, None, "out", None)
    without = published.read({key: value for key, value in SMALL.items() if key != "laptop"}, "own.yaml")
    with pytest.raises(ValueError, match="nobody has said how own/table1 is trained on a laptop"):
        jobs(without, "laptop", None, None, "out", None)


# ---- running


@pytest.fixture
def here(tmp_path, monkeypatch) -> list[list[str]]:
    """Commands run in this process, in a directory of their own; the list is of those that ran."""
    ran: list[list[str]] = []

    def spawn(arguments, log) -> int:
        ran.append(arguments)
        status = main.run(arguments[0], arguments[1:])
        with log.open("a") as output:
            output.write("lipcert: it did not work\n" if status else "")
        return status

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "spawn", spawn)
    return ran


def reproduced(capsys, **changes) -> str:
    given = {"table": copy.deepcopy(SMALL), "scale": "full", "rows": None, "seeds": 2, "print": False}
    places = {"output_dir": "out", "results_dir": None, "data_dir": None}
    reproduce.run(**{**given, **places, "seed": 0, **changes})
    return capsys.readouterr().out


@pytest.mark.slow
def test_rows_are_run_once_and_stand_beside_what_was_published(here, capsys):
    told = reproduced(capsys)
    assert [line[0] for line in here] == ["train"] * 4
    assert "(50)" in told and "Claim: More is better. [" in told and "It is nice. [not tested by numbers]" in told
    rows = list(csv.DictReader(Path("out/own/table1/full/table.csv").read_text().splitlines()))
    assert {(row["row"], row["column"]) for row in rows} >= {("one", "clean"), ("two", "radius"), ("other", "clean")}
    values = measure(table(), published.Scale(), jobs(table(), "full", None, 2, "out", None))
    clean, error = values["one"]["clean"], values["one"]["error"]
    assert clean.runs == 2 and clean.spread is not None and abs(clean.number + error.number - 100) < 1e-9
    summaries = [json.loads(Path(f"out/own/table1/full/one/seed={k}/summary.json").read_text()) for k in (0, 1)]
    assert abs(clean.number - 50 * sum(s["clean_accuracy"] for s in summaries)) < 1e-9
    assert f"**{clean.number:.2f} ± " in Path("out/own/table1/full/table.md").read_text()
    here.clear()
    again = reproduced(capsys)
    assert told.endswith(again) and again.startswith("A table\n") and not here
    told = reproduced(capsys, rows=["two"], seeds=3, data_dir="elsewhere")
    assert [line[-1] for line in here] == ["output_dir=out/own/table1/full/two/seed=2"]
    assert f"{clean.number:.2f} ± " in told  # the other row is not run again, and stands there


@pytest.mark.slow
def test_of_what_is_tuned_the_most_accurate_on_validation_images_counts(here, capsys):
    tuned = copy.deepcopy(SMALL)
    tuned["rows"]["one"] |= {"tune": {"optimizer.lr": ["1e-9", "1e-3"]}}
    tuned["rows"]["one"]["overrides"] = ["dataset.val_size=100"]
    told = reproduced(capsys, table=tuned, rows=["one"], seeds=1)
    assert [line[0] for line in here] == ["train", "certify"] * 2 and here[1][-1] == "split=val"
    folder = Path("out/own/table1/full")
    runs = [folder / "one" / f"seed=0_optimizer.lr={lr}" for lr in ("1e-9", "1e-3")]
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    validated = [summary["splits"]["val"]["clean_accuracy"] for summary in summaries]
    assert validated[0] < validated[1] and f"{100 * summaries[1]['clean_accuracy']:.2f}" in told
    page = (folder / "table.md").read_text()
    assert "- one, seed 0: optimizer.lr=1e-3, by validation images, of 2 tried" in page
    tuned["rows"]["one"]["tune"] = {"optimizer.lr": "1e-3"}
    with pytest.raises(ValueError, match="`rows.one.tune` must give a list of values for each key"):
        reproduced(capsys, table=tuned)


@pytest.mark.slow
def test_a_row_that_fails_stops_no_other_and_is_tried_again(here, capsys):
    spoilt = copy.deepcopy(SMALL)
    spoilt["rows"]["one"]["overrides"] = ["model.activation=none"]
    with pytest.raises(
        RowsFailed, match=re.escape("1 of 2 jobs failed, first one/seed=0: lipcert train: lipcert: it did")
    ):
        reproduced(capsys, table=spoilt, seeds=1)
    assert Path("out/own/table1/full/two/seed=0/summary.json").exists()
    here.clear()
    with pytest.raises(RowsFailed):
        reproduced(capsys, table=spoilt, seeds=1)
    assert len(here) == 1
    Path("out/own/table1/full/one/seed=0").mkdir(parents=True)
    with pytest.raises(ValueError, match="was made by other settings: lipcert train .*model.activation=none"):
        reproduced(capsys, seeds=1)
    Path("out/own/table1/full/one/seed=0").rmdir()  # what nobody has is made anew
    reproduced(capsys, seeds=1)
    Path("out/own/table1/full/reproduce.json").write_text("[]")
    with pytest.raises(ValueError, match="reproduce.json is damaged"):
        reproduced(capsys, seeds=1)


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on(here, capsys, monkeypatch):
    from lipcert.evaluation import certify

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lipcert.commands.train.certify", stopped)
        with pytest.raises(RowsFailed):
            reproduced(capsys, rows=["one"], seeds=1)
    assert certify and not Path("out/own/table1/full/one/seed=0/summary.json").exists()
    reproduced(capsys, rows=["one"], seeds=1)
    assert here[-1] == ["train", "resume=out/own/table1/full/one/seed=0"]


@pytest.mark.slow
def test_commands_run_in_processes_of_their_own_and_end_with_this_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    long = copy.deepcopy(SMALL) | {"laptop": {"overrides": ["schedule.epochs=100000"]}}
    script = f"from lipcert.commands import reproduce\nreproduce.run(table={long!r}, scale='laptop', rows=['one'], "
    script += "seeds=1, print=False, output_dir='out', results_dir=None, seed=0, data_dir=None)"
    driver = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    log = Path("out/own/table1/laptop/logs/one-seed=0-0.log")
    while not (log.exists() and "epoch" in log.read_text()):
        assert driver.poll() is None
        time.sleep(0.2)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 128 + signal.SIGTERM
    with held(Path("out/own/table1/laptop/one/seed=0"), "test"):  # its writer is gone
        pass
    told = reproduced(capsys, scale="laptop", seeds=None)
    assert "At this scale: one epoch stands for two" in told
    assert Path("out/own/table1/laptop/logs/two-seed=3-0.log").read_text().startswith("run: ")


def test_print_shows_the_commands_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = lipcert(capsys, "reproduce", "table=tulip/table2", "rows=[mnist]", "--print")
    assert told.status == 0 and told.out.strip().splitlines() == [
        "# mnist: MNIST",
        "lipcert separation dataset=mnist output_dir=outputs/reproduce/tulip/table2/full/mnist/run",
    ]
    assert not list(tmp_path.iterdir())
