"""Writes docs/operations.md, the page of what can be frozen, from the tables in the code. Usage: write_operations.py"""

from __future__ import annotations

import dis
import inspect
import math
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lipcert.frozen.capture.lowering import RULES, Rule
from lipcert.frozen.capture.program import TABLES
from lipcert.frozen.capture.refusals import REASONS
from lipcert.frozen.fields import plain, required, schema
from lipcert.frozen.operation import Operation, plain_fields
from lipcert.frozen.ops import OPERATIONS
from lipcert.frozen.ops.functions import FUNCTIONS, Function

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
INTRO = """# What a frozen network may compute

<!-- Written by scripts/write_operations.py from the code. Do not edit this page: run the script. -->

`lipcert.freeze` turns a module of PyTorch into a list of the operations below, and everything that is proved is proved
of that list. The first two tables are all that the list can hold, and all that a file of a network can hold. The third
table says which operations of torch are understood, and what they become. What is in none of these tables is refused,
with an error that names it; the last table has the reasons for the most frequent ones.

Shapes have no axis for the batch: a network is a function of one image.
"""


def page() -> str:
    """The page, from what the code has now."""
    parts = [
        INTRO,
        "## Operations\n",
        "A constant in brackets may be left out. The attributes are fixed numbers, flags and words.\n",
        table(("kind", "computes", "constants", "attributes"), map(operation_row, OPERATIONS)),
        "## Functions\n",
        "The operation `pointwise` applies one of these to each entry. A slope is the largest |f′| over all numbers.\n",
        table(("function", "f(x)", "parameters", "slope"), map(function_row, FUNCTIONS)),
        "## Operations of torch that are captured\n",
        "An operation of torch may become several of ours, or one of several, as its arguments have it. What is "
        "computed from constants alone, such as a weight that is normalised, may use any operation: it is computed "
        "once. The names are those that `torch.export` uses.\n",
        table(("torch", "becomes"), captured_rows()),
        "## What is refused, and why\n",
        "Some of these are captured where an argument is a constant, and refused where both depend on the image.\n",
        table(("torch", "reason"), refused_rows()),
    ]
    return "\n".join(parts)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def operation_row(kind: str) -> tuple[str, ...]:
    operation = OPERATIONS[kind]
    first = " ".join((operation.__doc__ or "").split("\n\n")[0].split()).replace("*", "\\*")
    names = schema()[kind]["properties"]["constants"]["properties"]
    constants = (f"`{name}`" if name in required(operation) else f"[`{name}`]" for name in names)
    types_of = {f.name: str(f.type) for f in plain(operation)}
    attributes = (f"`{name}`: {readable(types_of[name])}" for name in plain_fields(operation))
    return f"`{kind}`", first, ", ".join(constants) or "–", ", ".join(attributes) or "–"


def readable(annotation: str) -> str:
    one = {"int": "whole number", "float": "number", "bool": "flag", "str": "word"}
    item = annotation.removeprefix("tuple[").removesuffix(", ...]")
    return one[item] if item == annotation else f"{one[item]}s"


def function_row(name: str) -> tuple[str, ...]:
    function = FUNCTIONS[name]
    fixed = not inspect.signature(function.slope).parameters or function.slope is Function.slope
    slope = f"{math.ceil(function.slope() * 1e4) / 1e4:g}" if fixed else "by its parameters"
    return f"`{name}`", function.text, code(function.parameters), slope


def captured_rows() -> list[tuple[str, ...]]:
    """Each set of kinds with the names of torch's operations that may become one of them."""
    assert TABLES  # importing them has filled the rules
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, rule in RULES.items():
        if any(step.opname.startswith("RETURN") for step in dis.get_instructions(rule)):  # others only refuse
            found = kinds(rule, set())
            rows.setdefault(tuple(kind for kind in OPERATIONS if kind in found), []).append(name)
    order = list(OPERATIONS)
    ranked = sorted(rows.items(), key=lambda row: [order.index(kind) for kind in row[0]])
    return [
        (code(sorted(names)), code(becomes) if becomes else "no operation: it passes on") for becomes, names in ranked
    ]


def kinds(rule: Rule, seen: set[Any]) -> set[str]:
    """The operations that a rule names, itself or in the functions of `capture` that it calls."""
    found: set[str] = set()
    codes = [] if rule in seen else [inspect.unwrap(rule).__code__]
    seen.add(rule)
    while codes:
        block = codes.pop()
        codes += [inner for inner in block.co_consts if isinstance(inner, types.CodeType)]
        for name in block.co_names:
            thing = rule.__globals__.get(name)
            if isinstance(thing, type) and issubclass(thing, Operation) and thing in OPERATIONS.values():
                found.add(thing.kind)
            elif isinstance(thing, types.FunctionType) and thing.__module__.startswith("lipcert.frozen.capture"):
                found |= kinds(thing, seen)
    return found


def refused_rows() -> list[tuple[str, ...]]:
    """Each reason with the names that it is given for."""
    rows: dict[str, list[str]] = {}
    for name, reason in REASONS.items():
        rows.setdefault(reason, []).append(name)
    return [(code(names), reason) for reason, names in rows.items()]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
