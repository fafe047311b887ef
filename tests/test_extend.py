"""Making a run longer, and the numbers of images other than the test images."""

import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from commandline import certified, lipcert, refused
from hydra.core.plugins import Plugins

from lipcert.evaluation.objective import check_objective, measure
from lipcert.runs import numbers
from lipcert.runs.directory import RunDirectory
from lipcert.runs.results import read_results

SMALL = ("dataset.subset=100", "schedule.batch_size=50", "attack.images=3", "model.depth=2", "model.width=8")
CONSTANT = ("loss=cross_entropy", "schedule=constant")  # a longer training begins like a shorter one


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    from lipcert import train

    place = tmp_path_factory.mktemp("trained")
    for name, epochs in (("short", 1), ("long", 3)):
        train(*SMALL, *CONSTANT, f"schedule.epochs={epochs}", f"output_dir={place / name}")
    return place


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "short", "run")
    return RunDirectory("run")


@pytest.mark.slow
def test_a_longer_run_is_what_a_long_one_would_have_been(run, trained, capsys):
    """Where the schedule does not depend on the length. All that was found of the old network is computed anew."""
    assert lipcert(capsys, "certify", "run=run", "split=val").status == 0
    told = lipcert(capsys, "train", "resume=run", "extend=2")
    assert told.status == 0, told.err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["schedule"]["epochs"] == 3 and config["extended"] == [1]
    weights = [torch.load(path / "checkpoints/last.ckpt")["state_dict"] for path in (Path("run"), trained / "long")]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    assert certified(Path("run")) == certified(trained / "long")
    assert lipcert(capsys, "train", "resume=run").out == "run is finished: nothing to resume\n"


def test_what_can_not_be_made_longer(run, capsys):
    assert "`extend` must be at least 1 epoch, got 0" in refused(capsys, "train", "resume=run", "extend=0")
    assert "say which, as in resume=RUN extend=2" in refused(capsys, "train", "extend=2")
    checkpoint = torch.load("run/checkpoints/last.ckpt")
    checkpoint["optimizer_states"] = []
    with run.writing("test"), run.replacing("checkpoints/last.ckpt") as file:
        torch.save(checkpoint, file)
    assert "run is not trained by gradients" in refused(capsys, "train", "resume=run", "extend=1")


def test_images_of_each_split(run, capsys):
    before = certified(run.path)
    for split in ("val", "train"):
        assert lipcert(capsys, "certify", "run=run", f"split={split}").status == 0
    rows = certified(run.path)
    assert rows[: len(before)] == before
    assert {split: sum(row.split == split for row in rows) for split in ("train", "val")} == {"train": 100, "val": 144}
    found = run.read_json("summary.json")["splits"]
    for split in ("train", "val"):
        mine = [row for row in rows if row.split == split]
        assert found[split]["images"] == len(mine)
        assert found[split]["clean_accuracy"] == numbers.clean_accuracy(mine)
        assert found[split]["certified_accuracy"]["0.1"] == numbers.certified_accuracy(mine, 0.1)
    assert "leave out split=val" in refused(capsys, "certify", "run=run", "split=val", "analysis=stability")


def test_the_objective_is_of_validation_images(run):
    assert not read_results(run, "val").certificates
    at = measure(run.path, "certified@0.1")
    rows = read_results(run, "val").certificates["pairwise"]
    assert at == numbers.certified_accuracy(rows, 0.1)
    clean, mean = measure(run.path, ["clean", "certified"])
    assert clean == numbers.clean_accuracy(rows) and measure(run.path, None) == mean
    assert mean == pytest.approx(sum(numbers.certified_accuracy(rows, e) for e in (0.1, 0.3, 0.5, 1.0)) / 4)
    with pytest.raises(ValueError, match="of kind proof, so ask for clean or certified"):
        measure(run.path, "nominal")


@pytest.mark.parametrize("asked", ["accuracy", "clean@0.1", "certified@", "certified@x", "certified@1e", ["clean", ""]])
def test_what_is_no_objective(asked):
    with pytest.raises(ValueError, match="`objective` must be clean, certified or certified@EPS"):
        check_objective(asked, {}, {"_target_": "lipcert.certificates.pairwise.Pairwise"})


SWEEPER = '''
from hydra.plugins.sweeper import Sweeper


class Seeds(Sweeper):
    """Asks for the objective of two seeds, as a plugin would that looks for the best of them."""

    found = []

    def __init__(self, max_batch_size=None, params=None):
        pass

    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins

        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        jobs = [[*arguments, f"seed={seed}"] for seed in (1, 2)]
        self.found += [job.return_value for job in self.launcher.launch(jobs, initial_job_idx=0)]
'''


@pytest.mark.slow
def test_a_sweeper_gets_the_objective(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "site" / "hydra_plugins" / "seeds.py").write_text(SWEEPER)
    monkeypatch.syspath_prepend(tmp_path / "site")
    Plugins.instance().register(import_module("hydra_plugins.seeds").Seeds)
    words = ("-m", "model=nearest_neighbour", "attack=none", "hydra.sweeper._target_=hydra_plugins.seeds.Seeds")
    told = lipcert(capsys, "train", *words, "dataset.subset=100", "objective=[clean,certified@0.1]", "output_dir=s")
    assert told.status == 0, told.err
    found = sys.modules["hydra_plugins.seeds"].Seeds.found  # Hydra may have imported it anew
    for seed, (clean, at) in zip((1, 2), found, strict=True):
        rows = read_results(RunDirectory(f"s/seed={seed}"), "val").certificates["pairwise"]
        assert (clean, at) == (numbers.clean_accuracy(rows), numbers.certified_accuracy(rows, 0.1))
    told = lipcert(capsys, "train", *words, "dataset.subset=100", "objective=nominal", "output_dir=none")
    assert told.status == 2 and "of kind proof, so ask for clean or certified" in told.err and not Path("none").exists()
    told = lipcert(capsys, "train", *words, "dataset.subset=100", "dataset.val_size=0", "output_dir=none")
    assert told.status == 2 and "`objective` is measured on validation images" in told.err and not Path("none").exists()
