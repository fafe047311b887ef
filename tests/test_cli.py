"""The console command: what it says of itself, the forms in which it can be called, and what it leaves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commandline import TINY, attacked, lipcert

from lipcert import __version__
from lipcert.cli import main
from lipcert.cli.arguments import complete, value_of
from lipcert.cli.choices import keys, nearest_key, options

GROUPS = ("attack", "certificate", "dataset", "experiment", "loss", "model", "optimizer", "schedule", "trainer")
HEAVY = {"torch", "hydra", "numpy"}


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("flags", [["--help"], ["--version"], []])
def test_answers_without_loading_anything(flags):
    code = f"import sys; from lipcert.cli import main; sys.argv[1:] = {flags}; main.main(); "
    done = python(code + f"assert not {HEAVY} & sys.modules.keys()")
    assert done.returncode == 0, done.stderr
    if flags == ["--version"]:
        assert done.stdout == f"lipcert {__version__}\n"
    else:
        assert done.stdout.startswith("usage: lipcert COMMAND")
        assert all(f"  {command} " in done.stdout for command in main.COMMANDS)


def test_a_composition_needs_no_torch():
    asked = [["--help"], ["--cfg", "job"], ["model=l2nn"], ["sed=1"], ["attack=null"]]
    code = f"import sys; from lipcert.cli import main; print([main.run('train', given) for given in {asked}]); "
    done = python(code + "assert 'torch' not in sys.modules")
    assert done.returncode == 0 and done.stdout.endswith("[0, 0, 2, 2, 2]\n"), done.stderr
    assert not list(Path().iterdir())


def test_help_lists_groups_options_and_ten_overrides(capsys):
    told = lipcert(capsys, "train", "--help")
    assert told.status == 0 and not told.err and "$" not in told.out.replace("$LIPCERT_DATA", "")
    words = set(re.split(r"[\s,:=]+", told.out))
    for group in GROUPS:
        assert group in words
        assert {name.rpartition("/")[2] for name in options(group)} <= words, group
    newcomers = told.out.partition("newcomer needs:\n")[2].partition("\n\n")[0].splitlines()
    assert len(newcomers) == 10
    assert {line.split("=")[0].strip() for line in newcomers} <= {*keys("train"), "experiment"}


@pytest.mark.parametrize("command", [name for name in main.COMMANDS if name != "train"])
def test_help_of_other_commands_lists_what_they_take(command, capsys):
    told = lipcert(capsys, command, "--help")
    assert told.status == 0 and "${" not in told.out
    taken = [
        line.split("=")[0].strip() for line in told.out.partition("What it takes:\n")[2].split("\n") if "=" in line
    ]
    real = {*keys(command), "certificate", "attack.KEY", "dataset.KEY"}
    assert taken and set(taken) <= real
    if group := {"certify": "certificate", "attack": "attack", "separation": "dataset"}.get(command):
        assert all(name in told.out for name in options(group))


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
    assert "mine" in lipcert(capsys, "train", "--help", "--config-dir", "myconf").out
    told = lipcert(capsys, "train", "--config-dir", "myconf", "model=mina")
    assert told.status == 2 and "did you mean `mine`?" in told.err


def test_what_the_user_writes_wins_over_what_a_model_brings(capsys):
    written = ("model=l2nnn", "loss=cross_entropy", "optimizer=sgd", "schedule=constant", "certificate=margin")
    for arguments in (written, written[::-1]):
        config = yaml.safe_load(lipcert(capsys, "train", *arguments, "--cfg", "job", "--resolve").out)
        assert config["loss"]["_target_"].endswith("CrossEntropy") and config["optimizer"]["_target_"].endswith("SGD")
        assert config["certificate"]["bounds"] == ["vector", "logits"] and "lr" not in config["schedule"]


def test_a_misspelt_key_is_compared_with_its_neighbours():
    names = ["model", "model.channels", "model.depth", "optimizer.lr", "seed"]
    assert nearest_key("model.chanels", names) == "; did you mean `model.channels`?"
    assert nearest_key("optimizer.betas", names) == nearest_key("nothing.like.it", names) == ""
    assert nearest_key("modle.channels", names) == "; did you mean `model.channels`?"


def test_from_training_to_comparing(capsys):
    """A sweep, a second certificate and a second attack of one of its jobs, and all forms of naming runs."""
    swept = ("-m", "seed=1,2", "dataset.subset=100", "schedule.epochs=1", "attack.images=10", "output_dir=sweep")
    told = lipcert(capsys, "train", *swept)
    assert told.status == 0, told.err
    assert "record: sweep/0" in told.out and "record: sweep/1" in told.out
    run = Path("sweep/1")
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

    for number, named in enumerate((["sweep/0", "sweep/1"], ["sweep"], ["sweep/*[0-9]"])):
        told = lipcert(capsys, "compare", *named, f"output_dir=table{number}")
        assert told.status == 0, told.err
        assert {path.name for path in Path(f"table{number}").iterdir()} == {"compare.md", "compare.csv", "curves.png"}
    tables = {Path(f"table{number}/compare.csv").read_text() for number in range(3)}
    assert len(tables) == 1


@pytest.mark.parametrize("command", ["train", "compare", "separation"])
def test_everything_gets_a_directory_of_its_own(command):
    one, two = (value_of("output_dir", complete(command, [], [])) for _ in range(2))
    assert one != two and Path(one).parent == Path(two).parent == Path("outputs", command)


def test_a_sweep_may_set_keys_of_the_parts_that_it_sweeps_over(capsys, tmp_path, monkeypatch):
    """Hydra looks at a sweep's other overrides before any of its jobs, when `model` is still the default one."""
    monkeypatch.chdir(tmp_path)
    swept = ("-m", "model=linf_dist,linf_dist_mlp", "model.width=8", "schedule.p.even=true", *TINY)
    assert lipcert(capsys, "train", *swept, "output_dir=sweep").status == 0
    for job in ("0", "1"):
        assert yaml.safe_load(Path("sweep", job, "config.yaml").read_text())["schedule"]["p"]["even"] is True
    told = lipcert(capsys, "train", "-m", "model=linf_dist,convnet", "schedule.p.evn=true", *TINY, "output_dir=typo")
    assert told.status == 2
    assert "job 0: `schedule.p.evn` is not a key of Exponential; did you mean `even`?" in told.err
    assert not list(Path("typo").glob("*/config.yaml"))
