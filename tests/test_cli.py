"""The console command: what it says of itself, the forms in which it can be called, and what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commandline import TINY, attacked, lipcert

from lipcert import __version__
from lipcert.cli import main

HEAVY = {"torch", "hydra", "numpy"}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("flags", [["--help"], ["--version"], []])
def test_answers_without_loading_anything(flags):
    asked = [["--help"], ["model", "--help"], ["--help", "model=l2nnn", "seed"]]
    typed = ["--words", "train", "model=convnet", "model=l2"]
    code = f"import sys; from lipcert.cli import main; sys.argv[1:] = {flags}; main.main(); sys.stdout = sys.stderr; "
    code += f"print([main.run('train', words) for words in {asked}]); main.run('completion', {typed}); "
    done = python(code + f"assert not {HEAVY} & sys.modules.keys()")
    assert done.returncode == 0, done.stderr
    if flags == ["--version"]:
        assert done.stdout == f"lipcert {__version__}\n"
    else:
        assert done.stdout.startswith("usage: lipcert COMMAND")
        assert all(f"  {command} " in done.stdout for command in (*main.COMMANDS, "completion"))


def test_a_composition_needs_no_torch():
    asked = [["--help"], ["--cfg", "job"], ["model=l2nn"], ["sed=1"], ["attack=null"]]
    code = f"import sys; from lipcert.cli import main; print([main.run('train', given) for given in {asked}]); "
    done = python(code + "assert 'torch' not in sys.modules")
    assert done.returncode == 0 and done.stdout.endswith("[0, 0, 2, 2, 2]\n"), done.stderr
    assert not list(Path().iterdir())


def test_flags_may_stand_anywhere(capsys):
    first = lipcert(capsys, "train", "--cfg", "job", "seed=3", "output_dir=x")
    for arguments in (["seed=3", "output_dir=x", "--cfg=job"], ["seed=3", "-c", "job", "output_dir=x"]):
        assert lipcert(capsys, "train", *arguments) == first
    assert yaml.safe_load(first.out)["seed"] == 3


def test_a_directory_of_ones_own_adds_options(capsys):
    Path("myconf/model").mkdir(parents=True)
    Path("myconf/model/mine.yaml").write_text("_target_: mypkg.Mine\n")
    for arguments in (["--config-dir", "myconf", "model=mine"], ["model=mine", "--config-dir=myconf"]):
        told = lipcert(capsys, "train", *arguments, "--cfg", "job", "--resolve")
        assert yaml.safe_load(told.out)["model"]["_target_"] == "mypkg.Mine"
    assert "model=mine" in lipcert(capsys, "train", "--help", "--config-dir", "myconf").out
    told = lipcert(capsys, "train", "--config-dir", "myconf", "model=mina")
    assert told.status == 2 and "did you mean `mine`?" in told.err


def test_what_the_user_writes_wins_over_what_a_model_brings(capsys):
    written = ("model=l2nnn", "loss=cross_entropy", "optimizer=sgd", "schedule=constant", "certificate=margin")
    for arguments in (written, written[::-1]):
        config = yaml.safe_load(lipcert(capsys, "train", *arguments, "--cfg", "job", "--resolve").out)
        assert config["loss"]["_target_"].endswith("CrossEntropy") and config["optimizer"]["_target_"].endswith("SGD")
        assert config["certificate"]["bounds"] == ["vector", "logits"] and "lr" not in config["schedule"]


def test_from_training_to_comparing(capsys):
    """A sweep, a second certificate and a second attack of one of its jobs, and all forms of naming runs."""
    swept = ("-m", "seed=1,2", "dataset.subset=100", "schedule.epochs=1", "attack.images=10", "output_dir=sweep")
    told = lipcert(capsys, "train", *swept)
    assert told.status == 0, told.err
    assert "record: sweep/seed=1" in told.out and "record: sweep/seed=2" in told.out
    run = Path("sweep/seed=2")
    assert {"config.yaml", "metrics.csv", "certificates.csv", "attacks.csv", "summary.json", "curves.png"} <= {
        path.name for path in run.iterdir()
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 2

    before = json.loads((run / "summary.json").read_text())
    assert lipcert(capsys, "certify", f"run={run}", "certificate=margin").status == 0
    after = json.loads((run / "summary.json").read_text())
    assert list(before["certificates"]) == ["pairwise"] and len(after["certificates"]) == 2
    # The largest proved radius counts, and a margin's is never that.
    assert {**after, "certificates": None, "seconds": None} == {**before, "certificates": None, "seconds": None}
    rows = attacked(run)
    told = lipcert(capsys, "attack", f"run={run}", "attack=fgsm", "attack.images=10", "attack.eps=[0.1]")
    assert told.status == 0, told.err
    more = attacked(run)
    assert more[: len(rows)] == rows and len({row.attack for row in more}) == 2

    for number, named in enumerate((["sweep/seed=1", "sweep/seed=2"], ["sweep"], ["sweep/*[0-9]"])):
        told = lipcert(capsys, "compare", *named, f"output_dir=table{number}")
        assert told.status == 0, told.err
        names = {path.name for path in Path(f"table{number}").iterdir()}
        assert names == {"compare.md", "compare.csv", "curves.png", "curves.svg"}
    tables = {Path(f"table{number}/compare.csv").read_text() for number in range(3)}
    assert len(tables) == 1


@pytest.mark.slow
def test_a_sweep_may_set_keys_of_the_parts_that_it_sweeps_over(capsys, tmp_path, monkeypatch):
    """Hydra looks at a sweep's other overrides before any of its jobs, when `model` is still the default one."""
    monkeypatch.chdir(tmp_path)
    swept = ("-m", "model=linf_dist,linf_dist_mlp", "model.width=8", "schedule.p.even=true", *TINY)
    assert lipcert(capsys, "train", *swept, "output_dir=sweep").status == 0
    for job in ("model=linf_dist", "model=linf_dist_mlp"):
        assert yaml.safe_load(Path("sweep", job, "config.yaml").read_text())["schedule"]["p"]["even"] is True
    told = lipcert(capsys, "train", "-m", "model=linf_dist,convnet", "schedule.p.evn=true", *TINY, "output_dir=typo")
    assert told.status == 2
    assert "job 0: `schedule.p.evn` is not a key of Exponential; did you mean `schedule.p.even`?" in told.err
    assert not list(Path("typo").glob("*/config.yaml"))
