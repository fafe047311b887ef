"""The logger of a run that trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lipcert.configuration import build
from lipcert.contracts import Logger


@contextmanager
def logging(directory: Path, config: Mapping[str, Any]) -> Iterator[Logger | None]:
    """The logger that a run's configuration asks for, which ends with the block; None where metrics.csv is all."""
    if not config["logger"]:
        yield None
        return
    logger, whole = build(config["logger"]), False
    logger.begin(directory, config)
    try:
        yield logger
        whole = True
    finally:
        logger.end(whole)
