"""A disk that is full, a directory that is gone or may not be written, a file that is cut: one line, and going on.

The disk is full for one file: the process may write no file longer than a few bytes while it writes that one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import elsewhere, lipcert
from test_writers import record

RUN = ("model=l2nnn", "model.depth=1", "model.width=8", "dataset.subset=60", "schedule.epochs=2", "trainer=cpu")
RUN += ("attack.images=5", "attack.steps=2", "dataset.label_noise=0.1")

# `lipcert` where the n-th writing of a file meets a full disk, or something happens before it.
DRIVER = """
import contextlib, os, resource, shutil, sys
from lipcert import files
from lipcert.cli import main

name, n, event = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = []

@contextlib.contextmanager
def disaster(path):
    calls.append(os.path.basename(path) == name)
    strikes = calls[-1] and sum(calls) == n
    if strikes and event == "removed":
        shutil.rmtree("run")
    if strikes and event == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (7, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def around(function):
    def wrapped(path, *args, **kwargs):
        with disaster(path):
            return function(path, *args, **kwargs)
    return wrapped

replacing = files.replacing

@contextlib.contextmanager
def replacing_(path):
    with disaster(path), replacing(path) as file:
        yield file

files.append, files.replacing = around(files.append), replacing_
sys.exit(main.run(sys.argv[4], sys.argv[5:]))
"""


def struck(name: str, n: int, event: str, *command: str) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", DRIVER, name, str(n), event, *command]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    done = elsewhere("train", *RUN, f"output_dir={run}")
    assert done.returncode == 0, done.stderr
    return run


FULL = {  # what can't be written, the how-manieth time
    "the configuration": ("config.yaml", 1),
    "the manifest": ("manifest.json", 1),
    "the manifest, of a checkpoint": ("manifest.json", 3),
    "the epochs": ("metrics.csv", 1),
    "the first checkpoint": ("last.ckpt", 1),
    "the second checkpoint": ("last.ckpt", 2),
    "the network's tensors": ("network.safetensors", 1),
    "the network": ("network.json", 1),
    "the noisy labels": ("label_noise.csv", 1),
    "rows of certificates": ("certificates.csv", 1),
    "what certificates rest on": ("certificates.json", 2),
    "rows of attacks": ("attacks.csv", 1),
    "further rows of attacks": ("attacks.csv", 2),
    "what attacks were asked for": ("attacks.json", 1),
    "the curves": ("curves.png", 1),
    "the summary": ("summary.json", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_line_and_the_training_goes_on(what, whole):
    name, n = FULL[what]
    failed = struck(name, n, "full", "train", *RUN, "output_dir=run")
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.startswith("lipcert: ") and failed.stderr.count("\n") == 1, failed.stderr
    assert name in failed.stderr and failed.stderr.endswith(": File too large\n"), failed.stderr
    assert not list(Path("run").rglob("*.partial"))
    begun = (Path("run") / "config.yaml").exists()
    again = elsewhere("train", "resume=run") if begun else elsewhere("train", *RUN, "output_dir=run")
    assert again.returncode == 0, again.stderr
    assert record(Path("run")) == record(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n"), [("metrics.csv", 1), ("last.ckpt", 2), ("certificates.csv", 1), ("summary.json", 1)])
def test_a_directory_that_is_removed_while_it_is_written(name, n):
    failed = struck(name, n, "removed", "train", *RUN, "output_dir=run")
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.startswith("lipcert: run") and failed.stderr.count("\n") == 1, failed.stderr
