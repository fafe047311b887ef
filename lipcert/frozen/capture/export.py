"""Calls torch.export and explains its errors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import nn

from lipcert.frozen.capture.refusals import Refused, first_line, operation_name
from lipcert.frozen.operation import Shape

CHOICE = "its `forward` chooses by the values of the image: use operations instead of `if`"
ARGUMENTS = "its `forward` takes more than one batch of images"
HINTS = {  # what an error of torch.export means, by a part of its text
    "mutat": "its `forward` changes a buffer, so that it is no fixed function: compute that elsewhere",
    "data-dependent": CHOICE,
    "Could not guard": CHOICE,
    "fake tensor in the exported": "its `forward` reads a tensor that is not traced, as `.data`: use `.detach()`",
    "missing a required argument": ARGUMENTS,
    "missing 1 required positional": ARGUMENTS,
    "mismatch between the structure": "its `forward` has other arguments than one batch (DataParallel: `.module`)",
}


def export(module: nn.Module, shape: Shape, like: torch.dtype, known: Container[str]) -> Any:
    """The ExportedProgram of `module` on batches of any size, of images of `shape` in the precision `like`.

    Where an operation works in place, or its name is not `known`, torch decomposes the program; otherwise that step,
    which takes longer than all others, is left out. Raises Refused, in one line, where there is no such program.
    """
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
    """Whether all operations on what depends on the image are `known`. Constants may be computed by any operation."""
    inputs = set(program.graph_signature.user_inputs)
    reached: set[torch.fx.Node] = set()
    for node in program.graph.nodes:
        if node.name in inputs or reached & set(node.all_input_nodes):
            reached.add(node)
    calls = (node.target for node in reached if node.op == "call_function")
    return all(operation_name(target) in known for target in calls)


def writes(target: Any) -> bool:
    """Whether an operation changes one of its inputs in place."""
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def reason(error: Exception) -> str:
    """What an error of torch.export means to a user, or its first line."""
    return next((meaning for sign, meaning in HINTS.items() if sign in str(error)), first_line(error))


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences the warnings, prints and log lines of torch.export, which are meant for its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
