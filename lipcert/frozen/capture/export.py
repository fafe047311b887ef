"""torch.export, and what its errors mean."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import nn

from lipcert.frozen.capture.refusals import Refused, operation_name
from lipcert.frozen.operation import Shape

HINTS = (
    ("mutat", "its `forward` changes a buffer, so that it is no fixed function: compute that elsewhere"),
    ("data-dependent", "its `forward` chooses by the values of the image: use operations instead of `if`"),
    ("Could not guard", "its `forward` chooses by the values of the image: use operations instead of `if`"),
    (
        "fake tensor in the exported",
        "its `forward` reads a tensor past what can be traced, as `.data` does: use `.detach()`",
    ),
    ("missing a required argument", "its `forward` takes more than one batch of images"),
    (
        "mismatch between the structure",
        "its `forward` has other arguments than one batch of images (DataParallel: `.module`)",
    ),
    ("missing 1 required positional", "its `forward` takes more than one batch of images"),
)


def export(module: nn.Module, shape: Shape, like: torch.dtype, known: Container[str]) -> Any:
    """The ExportedProgram of `module` on batches of any size; Refused, in one line, where there is none.

    In-place operations become plain ones, and operations whose names are not `known` what torch makes of them; where
    there are neither, that step is left out, which takes longer than all the rest."""
    images = torch.rand(3, *shape, dtype=like)
    batch = ({0: torch.export.Dim.AUTO},)
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(module, (images,), dynamic_shapes=batch, strict=False)
            if any(writes(node.target) for node in program.graph.nodes) or not covered(program, known):
                program = program.run_decompositions({})
        except Exception as error:  # whatever a user's forward does, or torch.export makes of it
            raise Refused(f"{type(module).__name__} can't be captured: {reason(error)}") from None
    changed = [spec for spec in program.graph_signature.output_specs if spec.kind.name != "USER_OUTPUT"]
    if changed:
        raise Refused(
            f"{type(module).__name__} can't be captured: its `forward` changes `{changed[0].target}`, so that it is no "
            "fixed function"
        )
    return program


def covered(program: Any, known: Container[str]) -> bool:
    """Whether all operations on what depends on the image are `known`; constants are computed by whatever it takes."""
    inputs = set(program.graph_signature.user_inputs)
    reached: set[torch.fx.Node] = set()
    for node in program.graph.nodes:
        if node.name in inputs or reached & set(node.all_input_nodes):
            reached.add(node)
    calls = (node.target for node in reached if node.op == "call_function")
    return all(operation_name(target) in known for target in calls)


def writes(target: Any) -> bool:
    """Whether an operation changes one of its inputs."""
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def reason(error: Exception) -> str:
    """The first line of an error, or what it means."""
    text = str(error)
    for sign, meaning in HINTS:
        if sign in text:
            return meaning
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings, prints and log lines of torch.export, which are meant for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
