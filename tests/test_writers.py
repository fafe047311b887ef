"""Several processes on one run at once: no row is lost, none is there twice, and the numbers are one process's."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commandline import attacked, certified

from lipcert.runs.directory import RunDirectory
from lipcert.runs.results import read_results

TRIALS = int(os.environ.get("LIPCERT_TRIALS", "2"))  # of each pair, and of each kill
RUN = ("dataset.subset=200", "schedule.epochs=4", "schedule.batch_size=50", "attack.images=60", "attack.batch_size=20")
NOTED = ("seconds", "git_commit")  # what differs between two runs of the same

pytestmark = pytest.mark.slow


def start(*arguments: object) -> subprocess.Popen:
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lipcert.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def together(*commands: tuple) -> list[tuple[int, str]]:
    """Exit status and stderr of commands that run at once."""
    running = [start(*command) for command in commands]
    ended = [process.communicate(timeout=200) for process in running]
    return [(process.returncode, err) for process, (_, err) in zip(running, ended, strict=True)]


def attack_with(name: str, *more: str) -> tuple:
    return ("attack", f"attack={name}", "attack.images=60", "attack.batch_size=20", *more)


def attack(run: Path, name: str, *more: str) -> tuple:
    return (*attack_with(name, *more), f"run={run}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start("train", *RUN, f"output_dir={run}")
    assert process.communicate(timeout=200) and process.returncode == 0
    return run


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def record(run: Path) -> dict:
    """What a run is: its rows and numbers, and the names of its files."""
    summary = json.loads((run / "summary.json").read_text())
    files = sorted(path.name for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name)
    return {
        "certificates": sorted(certified(run)),
        "attacks": sorted((row.attack, row.eps or 0, row.index, row.success, row.distance) for row in attacked(run)),
        "weights": (run / "network/network.safetensors").read_bytes(),
        "summary": {key: value for key, value in summary.items() if key not in NOTED},
        "files": files,
    }


@pytest.mark.parametrize("trial", range(TRIALS))
def test_two_resume_one_training(whole, tmp_path, trial):
    run = tmp_path / "run"
    first = start("train", *RUN, f"output_dir={run}")
    while not (run / "checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    first.kill()
    first.communicate()
    ended = together(("train", f"resume={run}"), ("train", f"resume={run}"))
    assert [status for status, _ in ended] == [0, 0], ended
    assert record(run) == record(whole)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_two_attack_one_run(copy, trial):
    ended = together(attack(copy, "smallest_fgsm"), attack(copy, "pgd_l2", "attack.steps=5"))
    assert [status for status, _ in ended] == [0, 0], ended
    results = read_results(RunDirectory(copy))
    assert results.unfinished == []
    rows = [(row.attack, row.eps, row.index) for row in attacked(copy)]
    assert len(rows) == len(set(rows))
    labels = {row.attack for row in attacked(copy)}
    assert len(labels) == 3 and labels == json.loads((copy / "summary.json").read_text())["attacked_images"].keys()


@pytest.mark.parametrize("trial", range(TRIALS))
def test_one_attacks_and_one_certifies_a_run(copy, whole, trial):
    ended = together(attack(copy, "pgd_l2", "attack.steps=5"), ("certify", f"run={copy}", "certificate=margin"))
    assert [status for status, _ in ended] == [0, 0], ended
    assert certified(copy)[: len(certified(whole))] == certified(whole)
    assert {row.certificate for row in certified(copy)} == {"pairwise", "pairwise-bounds=vector+logits"}
    assert read_results(RunDirectory(copy)).unfinished == []


def killed(*command: object, until: Path, seconds: float) -> None:
    """Runs a command, waits for a file and some seconds, and kills it with all that it started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "lipcert.cli.main", *map(str, command)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(arguments, stdout=quiet, stderr=quiet, env=environment, start_new_session=True)
    while not until.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


KILLED = {
    "train": (("train", *RUN), "config.yaml", 2.5),
    "train on two ranks": (("train", *RUN, "trainer=ddp"), "config.yaml", 14.0),
    "certify": (("certify", "batch_size=20"), ".lock.json", 0.4),
    "attack": (attack_with("pgd_l2", "attack.steps=30"), ".lock.json", 1.0),
}


@pytest.fixture(scope="module")
def expected(whole, tmp_path_factory) -> dict[str, dict]:
    """The records that the commands make when nobody kills them."""
    found = {"train": record(whole)}
    for what, (command, _, _) in KILLED.items():
        if what == "train":
            continue
        run = tmp_path_factory.mktemp("expected") / "run"
        if command[0] != "train":
            shutil.copytree(whole, run)
        key = "output_dir" if command[0] == "train" else "run"
        [(status, err)] = together((*command, f"{key}={run}"))
        assert status == 0, err
        found[what] = record(run)
    return found


@pytest.mark.parametrize("trial", range(TRIALS))
@pytest.mark.parametrize("what", KILLED)
def test_killed_at_a_random_moment(expected, whole, tmp_path, what, trial):
    command, appears, longest = KILLED[what]
    run, key = tmp_path / "run", "output_dir" if command[0] == "train" else "run"
    if command[0] != "train":
        shutil.copytree(whole, run)
    seconds = random.Random(f"{what} {trial}").uniform(0, longest)
    killed(*command, f"{key}={run}", until=run / appears, seconds=seconds)
    again = ("train", f"resume={run}") if command[0] == "train" else (*command, f"run={run}")
    [(status, err)] = together(again)
    assert status == 0, err
    assert record(run) == expected[what], f"killed after {seconds:.3f} s"
