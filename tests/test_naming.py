"""What runs, sweeps and their jobs are called."""

from pathlib import Path

import pytest
from commandline import TINY, lipcert, refused

from lipcert.cli.arguments import complete, quoted_path, value_of
from lipcert.cli.naming import fixed_keys, job_name, run_name, sweep_name
from lipcert.runs.naming import clean, free_directory
from lipcert.runs.sweep import Sweep


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_is_called_after_its_model_and_data_set():
    assert run_name({"model": "l2nnn", "dataset": "mnist", "loss": "x"}) == "l2nnn-mnist"
    assert run_name({"model": "mine/deep net", "dataset": None}) == "mine_deep_net"


def test_a_job_is_called_after_what_it_varies():
    asked = ["model=l2nnn,convnet", "++optimizer.lr=0.1,0.2", "seed=1", "dataset.subset=100"]
    same = fixed_keys(asked)
    assert same == ["seed", "dataset.subset"] and sweep_name(asked) == "sweep-model-lr"
    job = ["model=l2nnn", "++optimizer.lr=0.1", "seed=1", "dataset.subset=100"]
    assert job_name(job, same) == "model=l2nnn-lr=0.1"
    assert job_name(["model.depth=1", "schedule.depth=[2, 3]"], []) == "model.depth=1-schedule.depth=_2_3"
    assert job_name(["seed=1"], ["seed"]) == "job" and job_name(["~attack"], []) == "job"


@pytest.mark.parametrize("text", ["..", "../../x", "a/b", "a\nb", ".hidden", "x" * 300, "é.ü", "-rf"])
def test_a_name_is_one_part_of_a_path(text):
    name = clean(text)
    assert Path(name).name == name and not name.startswith((".", "-")) and len(name) <= 100 and clean(name) == name


def test_of_two_in_one_second_each_gets_a_directory():
    made = [free_directory(Path("outputs/train"), "l2nnn-digits") for _ in range(3)]
    assert len(set(made)) == 3 and all(path.is_dir() and path.name.startswith("l2nnn-digits-20") for path in made)


def test_a_path_with_an_equals_sign_needs_no_quotes():
    assert quoted_path("run=s/c=0.5-seed=1") == "run='s/c=0.5-seed=1'"
    for other in ("run='s/a=1'", "run=a=1,b=2", "run=s/x", "seed=1", "optimizer.lr=a=b"):
        assert quoted_path(other) == other


def test_what_debug_stands_for_gives_way_to_what_is_written():
    words = complete("train", [], ["debug=true", "schedule.epochs=3"])
    found = {key: value_of(key, words) for key in ("schedule.epochs", "dataset.subset", "attack.images", "debug")}
    assert found == {"schedule.epochs": "3", "dataset.subset": "100", "attack.images": "20", "debug": None}
    assert complete("train", [], ["debug=false"]) == []
    with pytest.raises(ValueError, match="`debug` must be true or false, got 1"):
        complete("train", [], ["debug=1"])


def test_jobs_of_one_name_get_directories_of_their_own():
    sweep = Sweep("s", "train")
    claimed = [sweep.claim({"x": x}, "job").name for x in (1, 2, 1, 3)]
    assert claimed == ["job", "job-2", "job", "job-3"]


def test_a_run_has_its_name_in_its_directory_and_its_configuration(capsys):
    told = lipcert(capsys, "train", *TINY, "name=baseline", "model=nearest_neighbour")
    (run,) = Path("outputs/train").iterdir()
    assert (
        told.status == 0
        and run.name.startswith("baseline-20")
        and "name: baseline" in (run / "config.yaml").read_text()
    )
    assert "`name` may have letters" in refused(capsys, "train", *TINY, "name=a/b")
    assert "`hydra`: say output_dir=PATH" in refused(capsys, "train", *TINY, "hydra={run: {dir: x}}")
