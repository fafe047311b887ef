"""Killed at any moment and resumed, a run ends as one that was not killed: the same weights, bit for bit, and rows."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commandline import TINY, elsewhere, lipcert, refused, snapshot

from lipcert.commands import train
from lipcert.runs.directory import RunDirectory
from lipcert.training.module import Training

RUN = ("dataset.subset=200", "schedule.epochs=3", "schedule.batch_size=50", "attack.images=40", "attack.batch_size=20")
RUN += ("monitor.every=2", "attack@monitor.attack=pgd_l2", "monitor.attack.steps=2", "monitor.attack.seed=null")

# `lipcert train` with code before it that says where the kill strikes: `on(owner, name, n)` at the n-th call of
# owner.name, `on(..., after=True)` when that call is done.
DRIVER = """
import functools, os, signal, sys
from lipcert import files
from lipcert.cli import main
from lipcert.commands import train
from lipcert.runs.directory import RunDirectory
from lipcert.evaluation import attack, certify
from lipcert.frozen import file
from lipcert.runs.directory import RunDirectory
from lipcert.runs.metrics import Metrics
from lipcert.training import fit
from lipcert.training.module import Training
from lipcert.training.trainer import RegisteredCheckpointIO

def on(owner, name, n=1, after=False):
    original, calls = getattr(owner, name), []
    @functools.wraps(original)
    def fatal(*args, **kwargs):
        calls.append(1)
        if len(calls) == n and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, fatal)

exec(sys.argv[1])
sys.exit(main.run("train", sys.argv[2:]))
"""

MOMENTS = {
    "config.yaml is there, training has not begun": "on(fit, 'fit_here')",
    "in the first epoch": "on(Training, 'training_step', 3)",
    "the first epoch is logged, not yet saved": "on(Metrics, 'epoch', 1, after=True)",
    "the first checkpoint is written, not yet known": "on(RunDirectory, '_write', 2)",
    "the second epoch is logged, not yet saved": "on(Metrics, 'epoch', 2, after=True)",
    "the last checkpoint is there": "on(RegisteredCheckpointIO, 'save_checkpoint', 3, after=True)",
    "the network is half written": "on(file, 'write_atomic', 2)",
    "while certifying": "on(certify, 'exact')",
    "certified, how long it took not yet written": "on(certify, 'write_facts', 2)",
    "in the middle of an attack": "on(attack.Attacking, 'rows', 2)",
    "the curves are drawn, the summary is not yet written": "on(RunDirectory, 'write_json', 6)",
}


def drive(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", DRIVER, code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    done = drive("", *RUN, "output_dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_like_a_whole_one(moment, whole, tmp_path):
    killed = drive(MOMENTS[moment], *RUN, "output_dir=run", cwd=tmp_path)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    done = drive("", "resume=run", cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr.startswith("lipcert:"), done.stderr
    same(tmp_path / "run", whole)


@pytest.mark.slow
def test_what_a_schedule_drives_is_resumed_too(tmp_path):
    """p grows, the decay follows it, and the running means are those of every step."""
    run = (*RUN, "model=linf_dist_mlp", "model.width=16", "output_dir=run")
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder, code in zip(folders, ("", "on(Training, 'training_step', 6)"), strict=True):
        folder.mkdir()
        assert drive(code, *run, cwd=folder).returncode == (-9 if code else 0)
    early = elsewhere("certify", "run=run", cwd=folders[1])
    assert early.returncode == 2 and "no network at run/network" in early.stderr
    assert drive("", "resume=run", cwd=folders[1]).returncode == 0
    same(folders[1] / "run", folders[0] / "run")


def same(run: Path, whole: Path) -> None:
    """All of the run's record but times: weights, numbers of every epoch, rows, summary; and no leftovers."""
    weights, expected = (torch.load(p / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for p in (run, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)
    assert epochs(run) == epochs(whole)
    for name in (
        "config.yaml",
        "network/network.json",
        "network/network.safetensors",
        "certificates.csv",
        "attacks.csv",
    ):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert summary(run) == summary(whole)
    assert scalars(run) == scalars(whole)
    leftovers = {p.name for p in run.rglob("*")} - {p.name for p in whole.rglob("*")}
    assert {name for name in leftovers if not name.startswith("events.") and not name.endswith(".partial")} == set()


def epochs(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def summary(run: Path) -> dict:
    content = json.loads((run / "summary.json").read_text())
    return {key: value for key, value in content.items() if key not in ("seconds", "git_commit")}


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of training: (step, value) of every scalar."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(("train/", "val/", "schedule/"))]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.slow
def test_stopped_in_training_and_resumed(capsys, tmp_path, monkeypatch):
    """The same in this process, by an exception in the second epoch: quick enough to be run always."""
    monkeypatch.chdir(tmp_path)
    run = (*TINY, "schedule.epochs=2", "schedule.batch_size=25")
    assert lipcert(capsys, "train", *run, "output_dir=whole").status == 0
    step = Training.training_step

    def stop(module, batch, batch_idx):
        if module.global_step == 6:
            raise KeyboardInterrupt
        return step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "training_step", stop)
        told = lipcert(capsys, "train", *run, "output_dir=run")
    assert told.status == 130 and told.err == "lipcert: interrupted; `lipcert train resume=run` goes on\n"
    for task in ("certify", "attack"):  # there is nothing yet that could be certified
        told = refused(capsys, task, "run=run", leaves=(Path("run"),))
        assert "no network at run/network, the run was stopped before its training ended" in told
        assert "`lipcert train resume=run` goes on" in told

    def stop_again(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "certify", stop_again)
        assert lipcert(capsys, "train", "resume=run").status == 130
    assert not Path("run/certificates.csv").exists()
    assert "is not certified yet" in refused(capsys, "attack", "run=run", "attack=deepfool_l2")
    # A record of what there is doesn't make a finished run of it.
    assert lipcert(capsys, "certify", "run=run").status == 0
    assert not json.loads(Path("run/summary.json").read_text())["finished"]
    assert lipcert(capsys, "train", "resume=run").status == 0
    assert json.loads(Path("run/summary.json").read_text())["finished"]
    assert epochs(Path("run")) == epochs(Path("whole"))
    assert Path("run/certificates.csv").read_bytes() == Path("whole/certificates.csv").read_bytes()

    before = snapshot(Path())
    told = lipcert(capsys, "train", "resume=run")
    assert told.status == 0 and "finished" in told.out and snapshot(Path()) == before


@pytest.mark.slow
def test_the_network_of_a_run_is_what_was_certified(capsys, tmp_path, monkeypatch):
    """By nothing else than it the same rows come again, bit for bit; and by another one, other rows."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        told = lipcert(capsys, "train", *TINY, f"seed={seed}", "dataset.seed=0", f"output_dir=run{seed}")
        assert told.status == 0, told.err
    one, two = (Path(run, "certificates.csv").read_bytes() for run in ("run1", "run2"))
    shutil.rmtree("run1/checkpoints")
    assert lipcert(capsys, "certify", "run=run1").status == 0
    assert Path("run1/certificates.csv").read_bytes() == one != two
    shutil.rmtree("run1/network")
    names = [f"network/{path.name}" for path in Path(shutil.copytree("run2/network", "run1/network")).iterdir()]
    assert "is not what was written" in refused(capsys, "certify", "run=run1")
    RunDirectory("run1").register(*names)
    assert lipcert(capsys, "certify", "run=run1").status == 0
    assert Path("run1/certificates.csv").read_bytes() == two


@pytest.mark.slow
def test_early_stopping_is_not_undone_by_resuming(capsys, tmp_path, monkeypatch):
    """Killed after training had been ended by early stopping, a resumed run must not train on."""
    monkeypatch.chdir(tmp_path)
    run = (*TINY, "schedule.epochs=20", "schedule.early_stopping=1", "optimizer.lr=0.5")
    assert lipcert(capsys, "train", *run, "output_dir=run").status == 0
    stopped = epochs(Path("run"))
    assert len(stopped) < 20
    RunDirectory("run").forget("summary.json")
    assert lipcert(capsys, "train", "resume=run").status == 0
    assert epochs(Path("run")) == stopped


def test_resume_takes_no_other_overrides(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "leave out seed=1" in refused(capsys, "train", "resume=run", "seed=1")
    assert "leave out -m" in refused(capsys, "train", "resume=run", "-m")
    assert "`resume`: run is not a run's directory" in refused(capsys, "train", "resume=run")
    assert "`resume`: run is not a run's directory" in refused(capsys, "train", "resume=run", "trust=true")
