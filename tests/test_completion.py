"""What the TAB key completes: candidates for words that are being typed, and the scripts in the shells themselves."""

import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from functools import cache
from pathlib import Path

import pytest
from commandline import lipcert

from lipcert.cli.choices import Chosen, chosen, options
from lipcert.cli.completion import candidates, completion
from lipcert.cli.main import COMMANDS
from lipcert.cli.shells import SHELLS


@pytest.fixture(autouse=True)
def _in_a_directory_with_runs(tmp_path, monkeypatch):
    for place in ("outputs/train/abc", JOB, "apart"):
        Path(tmp_path, place).mkdir(parents=True)
        Path(tmp_path, place, "config.yaml").touch()
    Path(tmp_path, "own/model").mkdir(parents=True)
    Path(tmp_path, "own/model/mine.yaml").write_text(
        "# My own network. It is new.\n_target_: my.Net\nwidth: 3 # neurons\n"
    )
    Path(tmp_path, "own/data.npz").touch()
    monkeypatch.chdir(tmp_path)


JOB = "outputs/train/sweep-c/c=0.5-seed=1"


def found(line: str) -> list[str]:
    """The candidates for the last word of a command line."""
    return [word for word, _ in candidates(line.split(" "), COMMANDS)]


SO_FAR = "train model=convnet optimizer=adam schedule=cosine"
TYPED = [  # what is typed, and all candidates
    ("c", ["certify", "compare", "completion"]),
    ("nothing mo", []),
    ("completion ", ["bash", "zsh", "fish"]),
    ("train mo", ["model=", "monitor."]),
    ("train model=l2nnn_", ["model=l2nnn_cifar", "model=l2nnn_deep", "model=l2nnn_recurrent", "model=l2nnn_resnet"]),
    ("train -m model=l2nnn,linf_dist,linf_dist_", [f"model=l2nnn,linf_dist,linf_dist_{x}" for x in ("conv", "mlp")]),
    ("train -m model=convnet,conv", []),
    ("train model=m", []),
    ("train --config-dir own model=m", ["model=mine"]),
    ("train --config-dir=own model=mine model.", ["model.width="]),
    ("train +attack@loss.adversary=pgd_linf-", ["+attack@loss.adversary=pgd_linf-20"]),
    (f"{SO_FAR} model.", ["model.channels=", "model.hidden=", "model.dropout="]),
    (f"{SO_FAR} optimizer.be", ["optimizer.betas="]),
    (f"{SO_FAR} optimizer.lr=", ["optimizer.lr=0.001"]),
    (f"{SO_FAR} ++schedule.lr.e", ["++schedule.lr.end="]),
    (f"{SO_FAR} monitor.e", ["monitor.every="]),
    (f"{SO_FAR} attack.loss=", ["attack.loss=ce", "attack.loss=margin"]),
    (f"{SO_FAR} attack.random_start=", ["attack.random_start=true", "attack.random_start=false"]),
    (f"{SO_FAR} trainer.accelerator=g", ["trainer.accelerator=gpu"]),
    ("train model=nothing model.de", ["model.depth="]),
    ("train ep", ["eps="]),
    ("train debug=", ["debug=true", "debug=false"]),
    ("train --c", ["--cfg", "--config-dir"]),
    ("train --cfg ", ["job", "hydra", "all"]),
    ("train --config-dir o", ["outputs/", "own/"]),
    ("train --config-dir=ow", ["--config-dir=own/"]),
    ("train --help opt", ["optimizer"]),
    ("train --help model=linf_dist_m", ["model=linf_dist_mlp"]),
    ("attack run=", [f"run={x}" for x in ("apart", "outputs/", "own/", "outputs/train/abc", JOB)]),
    ("train resume=outputs/train/", ["resume=outputs/train/abc", "resume=outputs/train/sweep-c/"]),
    ("certify device=", ["device=cpu", "device=cuda"]),
    ("compare a", ["apart"]),
    (f"compare {JOB[:-4]}", [JOB]),
    ("train data_dir=ow", ["data_dir=own/"]),
    ("train dataset.path=own/", ["dataset.path=own/model/", "dataset.path=own/data.npz"]),
    ("separation dataset=sv", ["dataset=svhn"]),
    ("train nowhere/", []),
]


@pytest.mark.parametrize(("line", "due"), TYPED, ids=[line for line, _ in TYPED])
def test_what_a_word_may_become(line, due, monkeypatch):
    monkeypatch.setattr("lipcert.cli.completion.chosen", lambda command, words, own: composed(command, *words, own=own))
    assert sorted(found(line)) == sorted(due)


@cache
def composed(command: str, *words: str, own: str | None) -> Chosen:
    return chosen(command, words, own)


def test_every_option_of_every_group_can_be_completed():
    for command, group in (("train", "experiment"), ("train", "schedule"), ("reproduce", "table")):
        assert found(f"{command} {group}=") == [f"{group}={name}" for name in options(group)]


def test_candidates_come_with_what_they_are(capsys):
    told = lipcert(capsys, "completion", "--words", "train", "model=convnet", "model.d").out
    assert told == "model.dropout=\tprobability in training, before the last layer\n"
    told = lipcert(capsys, "completion", "--words", "train", "--config-dir", "own", "model=m").out
    assert told == "model=mine\tMy own network\n"
    assert lipcert(capsys, "completion", "--words").out.startswith("train\t")


def test_a_prompt_is_never_disturbed(capsys):
    for line in (
        "train =",
        "train '",
        "train model=\x00",
        "train -",
        "train ~",
        "train a=b=c",
        "train --config-dir",
        "'",
    ):
        for words in (line.split(), [*line.split(), ""]):
            told = lipcert(capsys, "completion", "--words", *words)
            assert told.status == 0 and not told.err


def test_the_command_itself(capsys):
    for shell, script in SHELLS.items():
        assert lipcert(capsys, "completion", shell).out.strip() == script.strip()
        assert f"lipcert completion {shell}" in script and script.lstrip().startswith("#")
        assert f"  {shell}" in completion(["--help"], COMMANDS)
    for given, line in (
        ([], "`completion`: name one shell (bash, zsh, fish)"),
        (["bas"], "`completion bas`: name one shell; did you mean `bash`? (bash, zsh, fish)"),
    ):
        told = lipcert(capsys, "completion", *given)
        assert told.status == 2 and told.err == f"lipcert: {line}\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_one_of_its_shell(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    flag = "--no-execute" if shell == "fish" else "-n"
    done = subprocess.run([shell, flag], input=SHELLS[shell], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_completes_what_is_typed(tmp_path):
    """An interactive bash, where = ends a word unless the script minds it."""
    Path(tmp_path, "bin").mkdir()
    command = Path(tmp_path, "bin/lipcert")
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lipcert.cli.main "$@"\n')
    command.chmod(0o755)
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 500, 0, 0))  # lines are not to be wrapped
    changes = {"PATH": f"{command.parent}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ ", "INPUTRC": "/dev/null"}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env={**os.environ, **changes},
        start_new_session=True,
    )
    os.close(inside)
    try:
        os.write(terminal, b'eval "$(lipcert completion bash)"; echo rea""dy\n')
        read_until(terminal, "ready\n$ ")
        for typed, due in (
            ("lipcert train -m mod\t", "lipcert train -m model="),
            ("l2nnn,linf_dist_c\t", "l2nnn,linf_dist_conv "),
            (f"resume={JOB[:-9]}\t", f"resume={JOB} "),
        ):
            os.write(terminal, typed.encode())
            assert read_until(terminal, due) == due
    finally:
        bash.kill()
        bash.wait()
        os.close(terminal)


def read_until(terminal: int, due: str) -> str:
    """What a terminal shows until that ends as is due."""
    shown, end = "", time.monotonic() + 30
    while not shown.endswith(due):
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace").replace("\r", "").replace("\a", "")
    return shown
