"""Loggers that tell a service of a run (see `contracts.Logger`): Weights & Biases and MLflow, by Lightning's loggers.

None is used on the word of a configuration that somebody else wrote.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lipcert.errors import one_line
from lipcert.runs.directory import RunDirectory
from lipcert.runs.layout import LOGGER
from lipcert.runs.logged import final_numbers, hyperparameters


class Service:
    """What the loggers below share. A service that fails while a run trains is told no more: the run goes on.

    `theirs` is Lightning's logger, which is made when it is first told something; the run is known to it by an id, so
    that a training which is resumed goes on there too.
    """

    name = ""  # of the package, and of the option of conf/logger

    def begin(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.run, self.config, self.failed = RunDirectory(directory), config, False

    def epoch(self, numbers: Mapping[str, float]) -> None:
        known = {key: value for key, value in numbers.items() if key not in ("epoch", "step")}
        self._tell(lambda: self.theirs.log_metrics(known, step=int(numbers["epoch"])))

    def record(self, summary: Mapping[str, Any], curves: bytes) -> None:
        self._tell(lambda: self.theirs.log_metrics(final_numbers(summary), step=summary["epochs"] or 0))

    def end(self, whole: bool) -> None:
        if "theirs" in self.__dict__:
            self._tell(lambda: self.close(whole))

    @cached_property
    def theirs(self) -> Any:
        known = self.run.read_json(LOGGER).get(self.name) if self.run.has(LOGGER) else None
        made = self.make(str(known) if known else None)
        made.log_hyperparams(hyperparameters(self.config))
        self.run.write_json(LOGGER, {self.name: made.version})
        return made

    def make(self, identity: str | None) -> Any:
        """Lightning's logger of the run that the service knows by `identity`; None: a new one."""
        raise NotImplementedError

    def close(self, whole: bool) -> None:
        """Ends what `make` began; `whole`: the run came to its end."""
        raise NotImplementedError

    def _tell(self, something: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            something()
        except Exception as error:  # whatever happens in their packages
            self.failed = True
            print(
                f"lipcert: `logger`={self.name} fails, and is told no more: {one_line(error)}; metrics.csv has it all",
                file=sys.stderr,
            )

    def _ready(self, check: Callable[[], object]) -> None:
        """ValueError where the package is missing, or where `check` fails."""
        try:
            check()
        except (ImportError, AttributeError):
            what = f"needs a package that is not installed: pip install 'lipcert[{self.name}]'"
            raise ValueError(f"`logger`={self.name} {what}") from None
        except Exception as error:  # whatever happens in their packages
            raise ValueError(f"`logger`={self.name} can't be used: {one_line(error)}") from None


class Wandb(Service):
    """Weights & Biases. What it writes on the disk lies below ./wandb: a run's directory has no place for its links.

    `project` and `entity` (None: the user's own) say where a run is shown; `offline`: nothing is sent, and
    `wandb sync` does so later.
    """

    name = "wandb"

    def __init__(self, *, project: str = "lipcert", entity: str | None = None, offline: bool = False):
        self.project, self.entity = project, entity
        self.offline = offline or os.environ.get("WANDB_MODE", "online") != "online"
        self._ready(self._log_in)

    def _log_in(self) -> None:
        import wandb

        if not self.offline:
            wandb.login()
        wandb.Settings  # noqa: B018 - a folder called wandb can be imported too

    def make(self, identity: str | None) -> Any:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(
            project=self.project,
            entity=self.entity,
            name=self.config["name"],
            tags=self.config["tags"],
            id=identity or uuid.uuid4().hex[:8],
            save_dir=os.environ.get("WANDB_DIR", "."),
            offline=self.offline,
            settings=wandb.Settings(console="off"),
        )

    def close(self, whole: bool) -> None:
        self.theirs.experiment.finish(exit_code=0 if whole else 1)


class MLflow(Service):
    """MLflow: a server, or a file like sqlite:///mlflow.db, at `tracking_uri`; runs are shown below `experiment`."""

    name = "mlflow"

    def __init__(self, *, experiment: str = "lipcert", tracking_uri: str = "sqlite:///mlflow.db"):
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self._ready(self._look)

    def _look(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7, which are minutes
        from mlflow.tracking import MlflowClient

        MlflowClient(self.tracking_uri).get_experiment_by_name(self.experiment)

    def make(self, identity: str | None) -> Any:
        from lightning.pytorch.loggers import MLFlowLogger

        return MLFlowLogger(
            experiment_name=self.experiment,
            run_name=self.config["name"],
            tracking_uri=self.tracking_uri,
            tags=dict.fromkeys(self.config["tags"], "true"),
            run_id=identity,
        )

    def close(self, whole: bool) -> None:
        self.theirs.finalize("success" if whole else "failed")
