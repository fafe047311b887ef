"""A disk that is full, a directory that is gone or may not be written, a file that is cut: one line, and going on.

The disk is full for one file: while it is written, no file of this process may be longer than a few bytes.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import lipcert
from test_writers import record

from lipcert import files
from lipcert.cli import main
from lipcert.runs import tensorboard

RUN = ("model=l2nnn", "model.depth=1", "model.width=8", "dataset.subset=60", "schedule.epochs=2", "trainer=cpu")
RUN += ("attack.images=5", "attack.steps=2", "dataset.label_noise=0.1")
START, RESUME = ("train", *RUN, "output_dir=run"), ("train", "resume=run")
UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    """The record of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    lipcert_quietly(*START[:-1], f"output_dir={run}")
    return record(run)


def lipcert_quietly(*command: str) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        assert main.run(command[0], list(command[1:])) == 0


@contextlib.contextmanager
def striking(name: str, number: int, event: str) -> Iterator[None]:
    """Where a file of this name is written for the `number`-th time, the disk is "full", or the run "removed"."""
    replacing, append, add, written = files.replacing, files.append, tensorboard.Events._add, []

    @contextlib.contextmanager
    def during(path: Path) -> Iterator[None]:
        written.append(name in Path(path).name)
        strikes = written[-1] and sum(written) == number
        if strikes and event == "removed":
            shutil.rmtree("run")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (7 if strikes and event == "full" else UNLIMITED, UNLIMITED))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @contextlib.contextmanager
    def struck_replacing(path):
        with during(path), replacing(path) as file:
            yield file

    def struck_append(path, *args):
        with during(path):
            append(path, *args)

    def struck_add(self, **entry):
        with during(self.path):
            add(self, **entry)

    files.replacing, files.append, tensorboard.Events._add = struck_replacing, struck_append, struck_add
    try:
        yield
    finally:
        files.replacing, files.append, tensorboard.Events._add = replacing, append, add


def one_line(err: str) -> str:
    """The error on stderr, after what a training that came to its end told of its last epoch."""
    *before, error = err.splitlines()
    assert error.startswith("lipcert: ") and [line[:6] for line in before] in ([], ["epoch "]), err
    return error


FULL = {  # what can't be written: the file, the how-manieth time, whether there is a run before
    "the manifest": ("manifest.json", 1, False),
    "the configuration": ("config.yaml", 1, False),
    "what TensorBoard shows": ("tfevents", 1, True),
    "the epochs": ("metrics.csv", 2, True),
    "the first checkpoint": ("last.ckpt", 1, True),
    "the second checkpoint": ("last.ckpt", 2, True),
    "the manifest of a checkpoint": ("manifest.json", 4, True),
    "what was trained": ("training.json", 1, True),
    "the network's tensors": ("network.safetensors", 1, True),
    "the network": ("network.json", 1, True),
    "the noisy labels": ("label_noise.csv", 1, True),
    "what certificates rest on": ("certificates.json", 1, True),
    "rows of certificates": ("certificates.csv", 1, True),
    "seconds of certificates": ("certificates.json", 2, True),
    "what attacks were asked for": ("attacks.json", 1, True),
    "rows of attacks": ("attacks.csv", 1, True),
    "further rows of attacks": ("attacks.csv", 2, True),
    "the curves": ("curves.png", 1, True),
    "the curves as SVG": ("curves.svg", 1, True),
    "the summary": ("summary.json", 1, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_line_and_the_run_goes_on(what, whole, capsys):
    name, number, begun = FULL[what]
    with striking(name, number, "full"):
        failed = lipcert(capsys, *START)
    assert failed.status == 2, failed
    error = one_line(failed.err)
    assert name in error and error.endswith("File too large"), failed.err
    assert not list(Path("run").rglob("*.partial"))
    again = lipcert(capsys, *(RESUME if begun else START))
    assert again.status == 0, again.err
    assert record(Path("run")) == whole


@pytest.mark.slow
def test_a_process_that_may_write_no_long_file(whole):
    """The same from without, in a process of its own: rows are what gets too long."""
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000)); "
        "from lipcert.cli import main; sys.argv[0] = 'lipcert'; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", program, *START], capture_output=True, text=True, timeout=300)
    assert (done.returncode, one_line(done.stderr)) == (2, "lipcert: run/certificates.csv: File too large")
    lipcert_quietly(*RESUME)
    assert record(Path("run")) == whole


@pytest.mark.parametrize(
    "name", ["tfevents", "metrics.csv", "last.ckpt", "network.json", "certificates.csv", "summary.json"]
)
def test_a_directory_that_is_removed_while_it_is_written(name, capsys):
    with striking(name, 1, "removed"):
        failed = lipcert(capsys, *START)
    assert failed.status == 2, failed
    assert one_line(failed.err).startswith("lipcert: run"), failed.err
    assert not Path("run/config.yaml").exists()


@pytest.mark.parametrize("command", ["certify", "attack"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_only_be_read(command, capsys):
    lipcert_quietly(*START)
    Path("run").chmod(0o500)
    try:
        failed = lipcert(capsys, command, "run=run")
    finally:
        Path("run").chmod(0o700)
    assert failed.status == 2 and failed.err.startswith("lipcert: run"), failed
    assert failed.err.rstrip().endswith("Permission denied") and failed.err.count("\n") == 1, failed.err


FILES = ("config.yaml", "manifest.json", "checkpoints/last.ckpt", "metrics.csv", "network/network.json")
FILES += ("network/network.safetensors", "certificates.csv", "certificates.json", "attacks.csv", "attacks.json")
FILES += ("summary.json", "training.json")
CERTIFY, ATTACK = ("certify", "run=run"), ("attack", "run=run", "attack.images=5", "attack.steps=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    lipcert_quietly(*START[:-1], f"output_dir={run}")
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_is_named_or_made_anew(name, finished, whole, capsys):
    """Never is less than all of it taken for all of it: a command says so, or leaves the run as it was."""
    for command in (CERTIFY, ATTACK, ("compare", "run", "output_dir=compared"), RESUME):
        shutil.copytree(finished, "run")
        os.truncate(Path("run") / name, (Path("run") / name).stat().st_size // 2)
        told = lipcert(capsys, *command)
        assert told.status in (0, 2) and all(line.startswith("lipcert: ") for line in told.err.splitlines()), told
        assert not told.err or Path(name).name in told.err, told.err
        assert told.status == 0 or told.err.count("\n") == 1, told.err
        if told.status == 0 and command is CERTIFY:
            assert record(Path("run"))["certificates"] == whole["certificates"]
        shutil.rmtree("run")
