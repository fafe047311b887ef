"""Statements of Python, laid out as formatters do it: in one line if that has at most 88 letters, else in several."""

from __future__ import annotations

from collections.abc import Iterator

from lipcert.export.source_statements import Call, Statement, Sum

WIDTH, STEP = 88, 4


def assigned(target: str, value: Statement, indent: int) -> str:
    """`target = value`, each line with a line break."""
    before = f"{' ' * indent}{target} = "
    lines = _call(before, value, indent) if isinstance(value, Call) else _expression(before, value, indent)
    return "".join(f"{line}\n" for line in lines)


def _call(before: str, call: Call, indent: int) -> Iterator[str]:
    arguments = ", ".join(map(_text, call.arguments))
    if len(whole := f"{before}{call.function}({arguments})") <= WIDTH:
        yield whole
        return
    yield f"{before}{call.function}("
    inside = " " * (indent + STEP)
    if len(inside + arguments) <= WIDTH:
        yield inside + arguments
    else:
        for argument in call.arguments:
            yield from _argument(argument, inside)
    yield " " * indent + ")"


def _argument(argument: str | tuple[str, ...], inside: str) -> Iterator[str]:
    if isinstance(argument, str) or len(f"{inside}{_text(argument)},") <= WIDTH:
        yield f"{inside}{_text(argument)},"
        return
    yield f"{inside}("
    for entry in argument:
        yield f"{inside}{' ' * STEP}{entry},"
    yield f"{inside}),"


def _text(argument: str | tuple[str, ...]) -> str:
    if isinstance(argument, str):
        return argument
    return f"({', '.join(argument)})" if len(argument) > 1 else f"({argument[0]},)"


def _expression(before: str, value: Sum | str, indent: int) -> Iterator[str]:
    text = value if isinstance(value, str) else f"{value.first} {value.operator} {value.second}"
    inside = " " * (indent + STEP)
    if len(before + text) <= WIDTH:
        yield before + text
        return
    yield f"{before}("
    if isinstance(value, str) or len(inside + text) <= WIDTH:
        yield inside + text
    else:
        yield inside + value.first
        yield f"{inside}{value.operator} {value.second}"
    yield " " * indent + ")"
