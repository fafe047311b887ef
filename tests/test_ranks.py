"""Several ranks: the numbers of one, a directory a job, one line for an error, and nothing left running."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commandline import elsewhere

pytestmark = [pytest.mark.slow, pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: one rank")]

# SGD, because Adam divides by what it has seen of a gradient: where that is nearly 0, rounding becomes a step.
# Measured: losses agree to 3e-7 of their size, weights to 4e-5 of their layer's largest.
RUN = ("attack=none", "schedule.epochs=3", "loss=cross_entropy", "optimizer=sgd", "optimizer.lr=0.03")
RUN += ("monitor.every=1",)
TWO = ("trainer=ddp", "trainer.accelerator=cpu")
LOSS, WEIGHTS = 1e-5, 1e-3


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def losses(run: Path) -> list[float]:
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert all(0 <= float(row["val/certified_accuracy/0.1"]) <= 1 for row in rows)  # the first rank looks, others wait
    return [float(row[key]) for row in rows for key in ("train/loss", "val/cross_entropy")]


def accuracies(run: Path) -> list[float]:
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    return [float(row["train/accuracy"]) for row in rows]


def agree(run: Path, other: Path) -> None:
    assert losses(run) == pytest.approx(losses(other), rel=LOSS)
    assert accuracies(run) == pytest.approx(accuracies(other), abs=0.01)  # rounding may decide about an image
    one, two = weights(run), weights(other)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=WEIGHTS * float(value.abs().max()), msg=key)


def left_running(directory: Path) -> list[str]:
    """The command lines of ranks that work on `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "lipcert.training.ranks" in line and str(directory) in line:
            found.append(line)
    return found


def test_a_sweep_over_ranks_gives_the_same_numbers(tmp_path):
    """One rank, two ranks, and between them a job that can't be: the others end, each in a directory of its own."""
    swept = ("-m", "trainer.devices=1,1000,2", "trainer.accelerator=cpu", "output_dir=sweep")
    done = elsewhere("train", *RUN, *swept)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("lipcert:")]
    assert len(lines) == 1 and "job 1: `trainer.devices`=1000 is more than this machine has" in lines[0]
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr and "lightning" not in done.stderr.lower()
    assert sorted(path.name for path in Path("sweep").iterdir()) == [
        ".lock",
        "devices=1",
        "devices=2",
        "multirun.yaml",
        "sweep.json",
    ]
    agree(Path("sweep/devices=1"), Path("sweep/devices=2"))
    # Each of two processes wrote its events, training and record: no rank above 0 wrote any.
    for job in ("sweep/devices=1", "sweep/devices=2"):
        assert len(list(Path(job).glob("events.*"))) == 2
        assert len(losses(Path(job))) == 6
    one, two = ({p.name for p in Path("sweep", job).rglob("*")} for job in ("devices=1", "devices=2"))
    assert one ^ two <= {p.name for p in Path("sweep").rglob("events.*")}


def test_early_stopping_stops_all_ranks(tmp_path):
    stopping = ("schedule.epochs=30", "schedule.early_stopping=1", "optimizer.lr=0.3", "dataset.subset=100")
    stopping += ("schedule.keep=best",)
    done = elsewhere("train", *RUN, *TWO, *stopping, "output_dir=run")
    assert done.returncode == 0, done.stderr
    assert len(losses(Path("run"))) < 2 * 30
    kept = json.loads(Path("run/training.json").read_text())["kept_epoch"]
    validation = losses(Path("run"))[1::2]
    assert kept == 1 + validation.index(min(validation)) == len(validation) - 1


def test_a_diverging_rank_is_one_line(tmp_path):
    model = ("model=convnet", "model.channels=[4,4]", "optimizer.lr=1e30")
    done = elsewhere("train", *RUN, *TWO, *model, f"output_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith("lipcert: the loss is ") and done.stderr.count("\n") == 1
    assert not left_running(tmp_path / "run")
    assert sorted(path.name for path in Path("run").iterdir()) == [".lock", "config.yaml", "manifest.json"]


def test_a_rank_that_crashes_leaves_its_last_words(tmp_path):
    """A model that raises what no user can mend, in training only: the terminal says where its traceback is."""
    Path("myconf/model").mkdir(parents=True)
    Path("myconf/model/mine.yaml").write_text("_target_: mypkg.Mine\n")
    Path("mypkg.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    norm = 'l2'\n"
        "    def __init__(self, *, input_shape, num_classes):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            raise AttributeError('a defect')\n"
        "        return self.layers(x)\n"
    )
    mine = ("--config-dir", "myconf", "model=mine", "output_dir=run")
    done = elsewhere("train", *RUN, *TWO, *mine)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "run/ranks.log" in done.stderr
    assert "AttributeError: a defect" in Path("run/ranks.log").read_text()


def test_ranks_end_with_the_command_that_started_them(tmp_path):
    directory = tmp_path / "run"
    arguments = ("train", *RUN, *TWO, "schedule.epochs=100000", f"output_dir={directory}")
    with subprocess.Popen([sys.executable, "-m", "lipcert.cli.main", *arguments], stdout=subprocess.DEVNULL) as process:
        wait(lambda: (directory / "metrics.csv").exists())
        assert left_running(directory)
        process.send_signal(signal.SIGKILL)
    wait(lambda: not left_running(directory))


def wait(condition, seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_nodes_run_the_same_command(tmp_path):
    """Both on this machine: the first keeps the record, the other only trains."""
    arguments = ("train", *RUN, "trainer.accelerator=cpu")
    assert elsewhere(*arguments, "output_dir=one").returncode == 0
    command = [sys.executable, "-m", "lipcert.cli.main", *arguments, "trainer.num_nodes=2", "output_dir=two"]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29417"}
    with subprocess.Popen(command, env=environment | {"NODE_RANK": "1"}, stdout=subprocess.DEVNULL) as second:
        first = subprocess.run(
            command, env=environment | {"NODE_RANK": "0"}, capture_output=True, text=True, timeout=200
        )
        assert first.returncode == 0, first.stderr
        assert second.wait(60) == 0
    agree(Path("one"), Path("two"))
    assert Path("two/summary.json").exists()


def test_the_environment_of_a_cluster_does_not_make_ranks(tmp_path):
    """Variables that a scheduler leaves behind must not turn one rank into one of many."""
    left = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "1",
        "SLURM_JOB_NAME": "x",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
    }
    done = elsewhere("train", *RUN, "dataset.subset=100", "trainer=cpu", "output_dir=run", env=os.environ | left)
    assert done.returncode == 0, done.stderr
    assert Path("run/summary.json").exists()


def test_two_ranks_subtract_one_mean():
    """l_inf-distance nets subtract the mean of the whole batch, whichever rank has its images; p stays where sums are
    smooth: at the end a rounding could decide which of two differences is the largest."""
    run = (*RUN, "model=linf_dist", "model.width=16", "schedule.p.finish=1.0", "certificate=margin")
    for name, ranks in (("one", ()), ("two", TWO)):
        done = elsewhere("train", *run, *ranks, f"output_dir={name}")
        assert done.returncode == 0, done.stderr
    agree(Path("one"), Path("two"))
    assert any("running_mean" in key for key in weights(Path("one")))
