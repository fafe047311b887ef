"""Training in as many processes as the configuration asks for.

`python -m lipcert.training.ranks OUT` is what torchrun starts for each rank. It reads the resolved configuration from
the run's directory and never enters Hydra: Lightning's own launch is silently wrong inside a sweep.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lipcert.configuration import build, check, offline
from lipcert.contracts import Logger
from lipcert.datasets.split import Dataset
from lipcert.errors import RanksFailed, message
from lipcert.files import read_regular, write_atomic
from lipcert.runs.config import read_config
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import CONFIG, FAILURE, RANKS_FOLDER, RANKS_LOG
from lipcert.training.devices import is_first_node
from lipcert.training.loggers import logging

RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
)
PATIENCE = 600.0  # seconds that other nodes wait for the first to make the run's directory


def train(run: RunDirectory, config: dict[str, Any], dataset: Dataset, logger: Logger | None = None) -> None:
    """Trains a run from its last checkpoint on, or from the start; returns when it is trained.

    logger  what a single process tells of each epoch; the first of several makes its own
    """
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if devices * num_nodes == 1:
        from lipcert.training.fit import fit_here  # with Lightning, which takes seconds to import

        fit_here(run, config, dataset, logger)
    else:
        if not is_first_node(num_nodes):
            wait_for(run / CONFIG)
        launch(run.path, devices, num_nodes)


def wait_for(path: Path) -> None:
    """Returns when there is a file; ValueError where it does not come."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise ValueError(f"the first node did not write {path} in {PATIENCE:.0f} s; do all have one `output_dir`?")
        time.sleep(0.2)


def launch(directory: Path, devices: int, num_nodes: int) -> None:
    """Starts the ranks by torchrun, and returns when all have ended.

    Of several nodes, each runs the same command, with MASTER_ADDR, MASTER_PORT and NODE_RANK set, on a file system that
    they share. RanksFailed where a rank ends with an error.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={devices}"]
    if num_nodes == 1:
        command.append("--standalone")
    else:
        command += [
            f"--nnodes={num_nodes}",
            f"--node-rank={os.environ['NODE_RANK']}",
            f"--master-addr={os.environ['MASTER_ADDR']}",
            f"--master-port={os.environ['MASTER_PORT']}",
        ]
    environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    node = "" if num_nodes == 1 else f"-{os.environ['NODE_RANK']}"
    log, folder = directory / RANKS_LOG.format(node), directory / RANKS_FOLDER.format(node)
    command += [f"--log-dir={folder}", "-m", "lipcert.training.ranks", str(directory)]
    failure = directory / FAILURE
    for path in (log, failure):
        path.unlink(missing_ok=True)
    pipe = subprocess.PIPE  # open as long as this process lives: its end tells the ranks
    with log.open("xb") as errors, subprocess.Popen(command, env=environment, stdin=pipe, stderr=errors) as ranks:
        status = ranks.wait()
    shutil.rmtree(folder, ignore_errors=True)
    reason = read_regular(failure, 1 << 20).decode() if failure.exists() else ""
    failure.unlink(missing_ok=True)
    if status and not reason:
        raise RanksFailed(f"a rank of {directory} ended with an error, which {log} tells")
    log.unlink()
    if status:
        raise RanksFailed(reason)


def work(directory: Path) -> None:
    """One rank of several. What a user can mend goes to a file, in one line: all ranks' terminals are one."""
    threading.Thread(target=follow_launcher, daemon=True).start()
    try:
        from lipcert.training.fit import fit_here

        run = RunDirectory(directory)
        config = read_config(directory, trust=True)  # written by the process that started this rank
        check(config)
        dataset = build(offline(config["dataset"]))  # what was missing, the launcher has downloaded
        with logging(directory, config if os.environ["RANK"] == "0" else {"logger": None}) as logger:
            fit_here(run, config, dataset, logger)
    except Exception as error:
        shown = message(error)
        if shown is None:
            raise
        write_atomic(directory / FAILURE, shown[0])
        sys.exit(shown[1])


def follow_launcher() -> None:
    """Ends this rank when the process that started it is no more, however it was killed: a rank that trained on would
    write into a directory which another process may have resumed."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
