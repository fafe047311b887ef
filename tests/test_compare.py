"""What `lipcert compare` finds, what it calls runs, and tables that fit everywhere."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from test_reporting import configuration, console, written

from lipcert.contracts import Norm
from lipcert.reporting.groups import differing_keys, group_by_seed, group_names
from lipcert.reporting.table import MISSING, UNITS, Cell, Column, Table, comparison
from lipcert.reporting.terminal import fitted
from lipcert.runs import find, numbers
from lipcert.runs.directory import RunDirectory
from lipcert.runs.find import Run, find_runs, run_directories, title_of
from lipcert.runs.layout import CERTIFICATES, CONFIG, SUMMARY


def test_runs_are_found_at_any_depth(tmp_path, monkeypatch):
    for name in ("sweep/0", "sweep/2", "sweep/10", "a/b/c/d/0", ".hidden/0", "sweep/0/network/x"):
        written(tmp_path / name, configuration())
    (tmp_path / "a" / "config.yaml").touch()  # of something else: what lies beside it is found
    (tmp_path / "loop").mkdir()
    for name in ("loop/x", "loop/y"):
        (tmp_path / name).symlink_to(tmp_path)

    def names(*paths):
        return [str(run.relative_to(tmp_path)) for run in run_directories([tmp_path / path for path in paths])]

    assert names("sweep") == names("sweep/*") == ["sweep/0", "sweep/2", "sweep/10"]
    assert names("") == ["a", "a/b/c/d/0", "sweep/0", "sweep/2", "sweep/10"]
    assert names("sweep/2", "*", "a/b") == ["sweep/2", "a", "a/b/c/d/0", "sweep/0", "sweep/10"]
    for nothing in ("nowhere", "no*where", "loop", "sweep/0/summary.json", "x" * 300, "x\0", "[" * 300):
        with pytest.raises(ValueError, match=r"lipcert train"):
            names(nothing)
    monkeypatch.setattr(find, "MOST_DIRECTORIES", 5)
    for many in ("", "**"):
        with pytest.raises(ValueError, match="more than 5"):
            names(many)


def test_unfinished_and_damaged_runs_are_left_out_and_named(tmp_path, capsys):
    written(tmp_path / "0", configuration())
    written(tmp_path / "1", configuration(), finished=False)
    RunDirectory(written(tmp_path / "2", configuration())).forget(SUMMARY)
    (written(tmp_path / "3", configuration()) / CERTIFICATES).write_text("")
    for named in ([tmp_path], [tmp_path / "1", tmp_path / "2", tmp_path / "3", tmp_path / "0"]):
        assert [run.path.name for run in find_runs(named)] == ["0"]
        told = capsys.readouterr().err.splitlines()
        assert [line.startswith("lipcert: left out: ") for line in told] == [True] * 3
        assert f"no finished summary.json in {tmp_path}/1: `lipcert train resume={tmp_path}/1`" in told[0]
        assert "3/certificates.csv is not what was written" in told[2]
    for i in range(4, 9):
        written(tmp_path / str(i), configuration(), finished=False)
    find_runs([tmp_path])
    assert capsys.readouterr().err.splitlines()[5:] == [
        "lipcert: left out: 3 further runs that are unfinished or damaged"
    ]
    with pytest.raises(ValueError, match="none of 2 runs: no finished .*/1: `lipcert train resume="):
        find_runs([tmp_path / "1", tmp_path / "2"])
    for name, text in ((SUMMARY, "{"), (SUMMARY, '{"finished": true}'), (CONFIG, "a: ["), (CERTIFICATES, "a\n")):
        path = written(tmp_path / name / str(len(text)), configuration())
        (path / name).write_text(text)
        for says in ("no finished summary" if name == SUMMARY else "is not what was written", name):
            with pytest.raises(ValueError, match=says) as error:
                find_runs([path])
            assert "\n" not in str(error.value)
            RunDirectory(path).register(name)  # as if its writer had written that


def test_tags_choose_and_names_are_titles(tmp_path):
    tagged = {"a": ["x", "y"], "b": ["x"], "c": [], "d": ["xy"], "sweep/c=1": ["y"]}
    for name, tags in tagged.items():
        written(tmp_path / name, configuration() | {"tags": tags, "name": f"named {name}"})
    (tmp_path / "sweep/sweep.json").touch()
    for tags, names in ((["x"], "ab"), (["x", "y"], "a"), ([], "abcd1")):
        assert "".join(run.path.name[-1] for run in find_runs([tmp_path], tags=tags)) == names
    with pytest.raises(ValueError, match="`tags`: of 5 runs none has x and z among its tags"):
        find_runs([tmp_path], tags=["x", "z"])
    titles = [title_of(run.path, run.config) for run in find_runs([tmp_path])]
    assert titles == ["named a", "named b", "named c", "named d", "named sweep/c=1, c=1"]
    assert title_of(tmp_path / "a", {}) == "a"


def test_only_seeds_are_averaged(tmp_path):
    configs = [configuration(1), configuration(2), configuration(1, omega=3.0), configuration(1)]
    runs = find_runs([written(tmp_path / str(i), c, data_seed=i) for i, c in enumerate(configs)])
    assert differing_keys(configs) == ["dataset.seed", "loss.omega", "seed"]
    groups = group_by_seed(runs)
    assert [[run.path.name for run in group] for group in groups] == [["0", "1"], ["2"], ["3"]]  # a repeat is no sample
    assert group_names(groups) == (["omega=1 (0)", "omega=3", "omega=1 (3)"], [])
    table = comparison(runs[:3])
    values = [numbers.certified_accuracy(run.certificate_rows, 0.3) for run in runs[:2]]
    column = [c.title for c in table.columns].index("certified l2 0.3")
    mean, std, n = table.cells[0][column]
    assert (mean, std, n) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)), 2)
    assert table.cells[1][column].std is None
    first, second = table.markdown().splitlines()[2:]
    assert "±" in first and "±" not in second
    header, line, *_ = table.csv().splitlines()
    assert line.split(",")[header.split(",").index("certified l2 0.3 mean")] == repr(mean)
    assert first.endswith("| – | – | 1.5 ± 0.0 |")  # parameters, epochs, training seconds


def changed(config, **changes):
    """A configuration with other values at dotted keys (with __ for the dots); None deletes a part's keys."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        *parts, last = key.split("__")
        node = config
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return config


def named(*configs):
    """The names of runs with these configurations, and what they leave out."""
    runs = [Run(Path(f"runs/{i}"), config, {}, [], []) for i, config in enumerate(configs)]
    return group_names(group_by_seed(runs))


def test_names_are_what_differs():
    one = configuration() | {"tags": [], "logger": None, "monitor": True}
    schedule = {"schedule__epochs": 40, "schedule__batch_size": 64}
    long = changed(one, **schedule, name="other", tags=["x"], logger={"_target_": "a.b"}, objective="clean")
    assert named(one, {**one, "seed": 2}) == (["mine"], [])
    assert named(one, {**one, "name": "other", "monitor": False})[0] == ["mine", "other"]  # the same experiment twice
    assert named(one, one, long)[0] == ["mine (0)", "mine (1)", "epochs=40 batch_size=64"]
    # What a reader looks for first is there though another choice goes with it, unless that is the model.
    brief = changed(one, schedule__epochs=2, schedule__batch_size=64)
    loss = {"_target_": "lipcert.losses.hinge.Hinge", "eps": 0.1 + 0.2}
    assert named(brief, {**long, "loss": loss}) == (["loss=l2nnn epochs=2", "loss=hinge epochs=40"], [])
    assert named(brief, changed(long, model___target_="lipcert.models.other.Model"))[1] == ["schedule.epochs"]
    wrote = changed(
        brief, model___target_="lipcert.models.other.Model", chosen={"schedule.epochs": "2", "output_dir": "x"}
    )
    assert named(wrote, long) == (["model=other epochs=2", "model=l2nnn epochs=40"], [])
    wide = changed(wrote, model__width=8, chosen={"model.width": "8"})
    assert named(wide, changed(one, model__width=9))[0] == ["model=other width=8", "model=l2nnn"]
    # Nothing is said of what a run does not have; short where it is clear.
    none, some = {**one, "attack": None}, changed(one, attack___target_="lipcert.attacks.projected_gradient.PGD")
    assert named(none, changed(some, attack__steps=40))[0] == ["attack=none", "attack=projected_gradient"]
    assert named(none, changed(some, model__width=8))[0] == ["mine", "width=8"]  # columns have the attack's name
    assert named(one, changed(one, model__width=8))[0] == ["mine", "width=8"]
    both = changed(one, model__eps=True, loss__eps=[0.1, 2], schedule__eps__end=[0.1, 2])
    assert named(one, both)[0] == ["mine", "model.eps=true loss.eps=[0.1,2]"]
    optimizers = [changed(one, optimizer___target_=f"torch.optim.{name}") for name in ("SGD", "Adam")]
    assert named(*optimizers)[0] == ["optimizer=SGD", "optimizer=Adam"]
    odd = [changed(one, model__width=value) for value in (0.1, 0.1 + 1e-9, "a\x1b\udcff")]
    assert named(*odd)[0] == ["width=0.1", "width=0.100000001", "width=a??"]


def test_what_follows_from_the_model_is_not_in_the_name(tmp_path):
    configs = [configuration(1), configuration(1, "other", _target_="lipcert.losses.other.Loss", kappa=2)]
    configs += [configuration(1, "other", _target_="lipcert.losses.other.Loss", kappa=3)]
    names, left_out = named(*configs)
    assert names == ["model=l2nnn", "model=other kappa=2", "model=other kappa=3"]
    assert left_out == ["loss._target_"]
    assert named(configs[0]) == (["mine"], [])


def test_no_number_is_cut_at_any_width(tmp_path):
    """Names that are long, have no blank or wide characters; and ten digits where others have two."""
    odd = ["c=0.5 epochs=40", "a" * 90, "漢字" * 30, "model=l2nnn channels=[32,32,64,64] epochs=400 batch_size=512"]
    columns = [Column(f"number {i}", unit, block=f"block {i // 4}") for i, unit in enumerate([*UNITS] * 3)]
    draw = np.random.default_rng(0)
    cells = [[Cell(draw.random() * 10 ** draw.integers(9), draw.random(), 2) for _ in columns] for _ in odd]
    cells[1][4:8] = [None] * 4
    table = Table(columns, odd, [2, 2, 3, 2], cells, "a note " * 20)
    due = [text for row in table.shown() for text in row[2:] if text != MISSING]
    for width in (60, 80, 120, 200, 10_000):
        text = "".join(console(part, width) for part in fitted(table, width))
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" not in text and sorted(re.findall(r"\S+ ± \S+(?: \(of 2\))?", text)) == sorted(due)
        assert text.count("number") == len(columns) and text.count("block") == 3
    assert len(list(fitted(table, 10_000))) == 3 * 3 + 1


def test_a_nominal_run_never_enters_a_certified_column(tmp_path):
    paths = [
        written(tmp_path / "0", configuration()),
        written(tmp_path / "1", configuration(1, "tulip"), kind="nominal"),
    ]
    paths += [written(tmp_path / "2", configuration(1, "distance"), norm=Norm.LINF.value)]
    table = comparison(find_runs(paths))
    for j, column in enumerate(table.columns):
        filled = [row[j] is not None for row in table.cells]
        if column.title.startswith("certified"):
            assert filled == ([False, False, True] if "linf" in column.title else [True, False, False])
        elif column.title.startswith("nominal"):
            assert filled == [False, True, False]
    titles = [column.title for column in table.columns]
    assert {"nominal l2 0.3", "certified l2 0.3", "certified linf 0.1", "nominal median l2 radius"} <= set(titles)
